"""The made-up language of the sample: words by syllables, spelling variants, category names."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass

import numpy as np

VARIANTS, CASES = 4, 3  # as written, without accents, a letter lost, two letters swapped; Title, lower, UPPER

_SYLLABLES = {
    "spanish": """
ba be bo bri ca ce co cha cue da de di do fa fi fu ga go gra gui ha hi ja jo la le li lo lla lle ma me mi mo
mue na ne ni no ña ñe pa pe pi po pla pre que qui ra re ri ro rra sa se si so su ta te ti to tra tre va ve vi
za zo
""",
    "portuguese": """
ba be bo bri ca ce co cha da de di do fa fi fu ga go gra gui ja jo la le li lo lha lhe ma me mi mo na ne ni no
nha nhe pa pe pi po pla pre que qui ra re ri ro rra sa se si so su ta te ti to tra tre va ve vi xa xe ça ço
""",
}
_ENDINGS = {
    "spanish": """
a o e as os es ción dor dora illo illa era ero ía tón ado ada ivo mán bés cú nés rón
""",
    "portuguese": """
a o e as os es ção dor dora inho inha eira eiro ão ões ado ada ivo ã ês ô ável nê mãe
""",
}
CONNECTORS = {
    "spanish": ("para", "con", "de", "y", "en", "por"),
    "portuguese": ("para", "com", "de", "e", "em", "por"),
}
_FUNCTION = {
    "spanish": """
de para con y el la los las en por sin al del color nuevo original oferta envío gratis kit juego set par
garantía oficial mejor precio grande mini modelo tipo talle unidad marca importado calidad cuotas local
""",
    "portuguese": """
de para com e o a os as em por sem ao do da cor novo original oferta frete grátis kit jogo conjunto par
garantia oficial melhor preço grande mini modelo tipo tamanho unidade marca importado qualidade parcelas loja
""",
}
_THINGS = """
CASES LAMPS CHAIRS TABLES PUMPS BRAKES FILTERS CABLES TOYS PANTS SHIRTS SHOES WATCHES CAMERAS PHONES TABLETS
BOOKS ENGINES TIRES MIRRORS BAGS KNIVES POTS OVENS FANS HEATERS DRILLS SAWS GUITARS DRUMS BIKES HELMETS GLOVES
TENTS LOCKS RUGS CURTAINS SHEETS PILLOWS BOTTLES
"""
_KINDS = """
CAR BABY KITCHEN GARDEN BEDROOM OFFICE SPORT PET MUSIC SCHOOL TRAVEL BEACH WINTER SUMMER FOLDING ELECTRIC
WOODEN STEEL PLASTIC LEATHER COTTON WATERPROOF WIRELESS PORTABLE INDUSTRIAL PROFESSIONAL VINTAGE MODERN SMART
SOLAR DIGITAL MANUAL HEAVY LIGHT SMALL LARGE DOUBLE OUTDOOR INDOOR TACTICAL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """A language's words: runs of positions in ``words`` for each use, most frequent first."""

    words: tuple[str, ...]
    connectors: range
    common: range
    brands: range
    models: range
    own: range


def lexicon(language: str, generator: np.random.Generator, own: int) -> Lexicon:
    """Function words, common words, brands, model numbers, and ``own`` words for categories; all distinct."""
    taken = dict.fromkeys((*CONNECTORS[language], *_FUNCTION[language].split()))
    connectors = len(CONNECTORS[language])
    ends = [connectors]
    for count, make in ((6000, _word), (600, _brand), (4000, _model), (own, _word)):
        target = (len(taken) if ends[1:] else connectors) + count
        while len(taken) < target:
            taken.setdefault(make(language, generator))
        ends.append(len(taken))
    runs = [range(low, high) for low, high in itertools.pairwise(ends)]
    return Lexicon(
        words=tuple(taken), connectors=range(connectors), common=runs[0], brands=runs[1], models=runs[2], own=runs[3]
    )


def _word(language: str, generator: np.random.Generator) -> str:
    syllables, endings = _SYLLABLES[language].split(), _ENDINGS[language].split()
    size = int(generator.integers(1, 4))
    body = "".join(syllables[at] for at in generator.integers(0, len(syllables), size))
    return body + endings[int(generator.integers(0, len(endings)))]


def _brand(language: str, generator: np.random.Generator) -> str:
    syllables = _SYLLABLES[language].split()
    body = "".join(syllables[at] for at in generator.integers(0, len(syllables), 2))
    return body + str(generator.choice(["x", "tek", "son", "k", "max", "lux"]))


def _model(_: str, generator: np.random.Generator) -> str:
    number = int(10 ** generator.uniform(1, 4))
    unit = str(generator.choice(["w", "v", "gb", "cm", "ml", "kg", "hp", ""]))
    letters = "".join(generator.choice(list("abdgkmrstvx"), int(generator.integers(1, 3))))
    return f"{number}{unit}" if generator.random() < 0.5 else f"{letters}{number}"


def spellings(words: tuple[str, ...], generator: np.random.Generator) -> list[str]:
    """Each word in every variant and case: position ``(word * VARIANTS + variant) * CASES + case``."""
    places = generator.random(len(words)).tolist()
    return [
        shown
        for word, place in zip(words, places, strict=True)
        for variant in (word, plain(word), *_mistakes(word, place))
        for shown in (variant[:1].upper() + variant[1:], variant, variant.upper())
    ]


def _mistakes(word: str, place: float) -> tuple[str, str]:
    if len(word) < 4:
        return word, word
    at = 1 + int(place * (len(word) - 3))
    return word[:at] + word[at + 1 :], word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def plain(word: str) -> str:
    """The word without its accents."""
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))


def category_names(count: int) -> list[str]:
    """Distinct category names, at most 1,600."""
    names = [f"{kind}_{thing}" for thing in _THINGS.split() for kind in _KINDS.split()]
    if count > len(names):
        raise ValueError(f"at most {len(names)} categories can be named, not {count}")
    order = np.random.Generator(np.random.PCG64(2019)).permutation(len(names))
    return [names[at] for at in order[:count]]
