"""Words too common to say what a product is: articles, prepositions, conjunctions and the like."""

from __future__ import annotations

import unicodedata

_SPANISH = """
a al algo algunas algunos ante antes como con contra cual cuando de del desde donde durante e el ella ellas ellos en
entre era eran es esa esas ese eso esos esta estas este esto estos está están fue fueron ha han hasta hay la las le les
lo los mas más me mi mis mucho muchos muy nada ni no nos nosotros nuestra nuestro o os otra otras otro otros para pero
poco por porque que qué quien quienes se ser si sí sin sobre son su sus también tanto te tiene tienen todo todos tu tus
un una unas uno unos vos y ya yo él
"""
_PORTUGUESE = """
a ao aos aquela aquelas aquele aqueles aquilo as até com como da das de dela delas dele deles depois do dos e ela elas
ele eles em entre era eram essa essas esse esses esta estas este estes está estão eu foi foram há isso isto já lhe lhes
mais mas me mesmo meu meus minha minhas muito na nas nem no nos nossa nossas nosso nossos num numa não nós o os ou para
pela pelas pelo pelos por qual quando que quem se sem ser seu seus só sua suas são também te tem tu tua tuas têm um uma
umas uns você vocês à às é
"""
_ENGLISH = """
a about above after again all also am an and any are as at be because been before being below between both but by can
did do does doing down during each few for from further had has have having he her here hers him his how i if in into is
it its just me more most my no nor not now of off on once only or other our ours out over own same she so some such than
that the their theirs them then there these they this those through to too under until up very was we were what when
where which while who whom why will with you your yours
"""
LANGUAGES = {"spanish": _SPANISH, "portuguese": _PORTUGUESE, "english": _ENGLISH}


def stop_words(chosen: str, language: str | None, *, accents: str) -> frozenset[str]:
    """The words that ``text.stop_words`` names (``auto``: the data's language), their accents as the titles' are."""
    name = language if chosen == "auto" else chosen
    if name is None or name == "none":
        return frozenset()
    words = LANGUAGES[name].split()
    if accents == "strip":
        words += [_plain(word) for word in words]
    return frozenset(words)


def _plain(word: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))
