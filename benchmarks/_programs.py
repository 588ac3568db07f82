"""What ``python benchmarks`` runs: each program, its sizes, its needs, and where its output says what is claimed."""

from __future__ import annotations

from dataclasses import dataclass

DATA = "{data}"


@dataclass(frozen=True, slots=True)
class Claim:
    """``figure`` finds numbers in the output, the worst counts: at least ``bound`` if ``least``, else at most."""

    words: str
    figure: str
    bound: float
    least: bool = True
    at_any_size: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """``status_judges`` is what the program's own exit status answers, ``at_any_size`` whether tiny ones judge it."""

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    status_judges: str = ""
    at_any_size: bool = True


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PROGRAMS = (
    Program(
        name="preprocess",
        arguments=_words("--rows 2000000 20000000"),
        quick=_words("--rows 20000 --loop-rows 2000 --rounds 1"),
        claims=(
            Claim("rows a second: at least 7 times a Python loop's", r"([\d.]+) x \(at least 7", 7),
            Claim("at most 7 times the time of gzip -dc | wc -l", r"([\d.]+) x its time \(at most 7", 7, least=False),
            Claim("peak memory under 6 GB", r"peak ([\d.]+) GB", 6, least=False, at_any_size=True),
        ),
    ),
    Program(
        name="vectors",
        quick=_words("--words 20000 --size 50 --vocabulary 500"),
        claims=(Claim("at most twice the time of gzip -dc", r"([\d.]+) x its time", 2, least=False),),
    ),
    Program(
        name="batches",
        quick=_words("--rows 5000"),
        claims=(
            Claim("at least 15 times a DataLoader that parses", r"([\d.]+) x \(at least 15", 15),
            Claim("at most 3 % of an MLP step", r"([\d.]+) % of an MLP step", 3, least=False),
        ),
    ),
    Program(
        name="epoch",
        quick=_words("--titles 3000 --rounds 1"),
        claims=(Claim("an epoch reaches 95 % of its ceiling", r"([\d.]+)%$", 95),),
    ),
    Program(
        name="startup",
        quick=_words("--rounds 1"),
        claims=(Claim("at most 1.5 times importing torch and opening", r"([\d.]+) times", 1.5, least=False),),
    ),
    Program(name="against", needs=("checkout",)),
    Program(
        name="gpu",
        needs=("gpu",),
        quick=_words("--titles 20000"),
        claims=(Claim("the aimed titles a second", r"aim [\d,]+: ([\d.]+)", 1),),
    ),
    Program(
        name="packing",
        needs=("gpu",),
        arguments=("--compile",),
        quick=_words("--titles 20000 --pack 2"),
        claims=(Claim("four train 2.5 times as many titles as one", r"([\d.]+) times$", 2.5),),
    ),
    Program(
        name="gpu_check",
        needs=("gpu",),
        quick=_words("--small machine waits failing exact correct"),
        status_judges="what is computed on the GPU is right",
    ),
    Program(
        name="published",
        quick=_words("--titles 2000 mlp cnn rnn mlp-trained"),
        claims=tuple(
            Claim(f"{case} {bound:g} times as fast as published", rf"^{case} .* ([\d.]+) times as fast", bound)
            for case, bound in (("mlp", 3.0), ("cnn", 1.5), ("rnn", 1.3), ("mlp-trained", 8.0))
        ),
    ),
    Program(
        name="against_fasttext",
        needs=("fasttext", "data"),
        arguments=("--data", DATA),
        quick=("--data", DATA, "--rounds", "1"),
        claims=(Claim("at most fastText's time", r"ours takes ([\d.]+) of fastText's", 1, least=False),),
    ),
    Program(
        name="trained_vectors",
        needs=("data",),
        arguments=("--data", DATA),
        quick=("--data", DATA, "--seeds", "0", "--", "mlp"),
        claims=(Claim("frozen, above a random start by at least 0.03", r"frozen +gains ([+-]\d\.\d+)", 0.03),),
    ),
    Program(
        name="linear_size",
        quick=_words("--titles 2000 4000 --as-it-comes 2000"),
        claims=(
            Claim("4.9 million titles on 16 cores: at most an hour", r": (\d+) min on", 60, least=False),
            Claim("and 8 GB", r"cores \(at most 60\), ([\d.]+) GB", 8, least=False),
        ),
    ),
    Program(
        name="ablation",
        needs=("data",),
        arguments=("--data", DATA),
        quick=("--data", DATA, *_words("--seeds 0 --epochs 1 --networks mlp subwords")),
        at_any_size=False,
    ),
    Program(name="search_propose", quick=_words("--past 10")),
    Program(
        name="search_quality",
        needs=("data",),
        arguments=(DATA, *_words("--rows 15000 --epochs 9")),
        quick=(DATA, *_words("--rows 600 --epochs 2 --trials 3 --seeds 0")),
        claims=(
            Claim("at most a third of the epochs", r"share of the epochs: median (\S+) of", 1 / 3, least=False),
            Claim("three in four: at most half", r"share of the epochs: upper quartile (\S+)", 1 / 2, least=False),
        ),
        status_judges="the mark is reached",
        at_any_size=False,
    ),
    Program(
        name="search_ten",
        needs=("data",),
        arguments=(DATA, *_words("--rows 15000 --epochs 9")),
        quick=(DATA, *_words("--rows 600 --epochs 1 --trials 3 --startup 2 --seeds 2")),
    ),
    Program(
        name="search_workers",
        quick=_words("--trials 8 --at-once 4"),
        status_judges="every trial once, none lost, none double",
    ),
    Program(
        name="search_workers",
        arguments=_words("--trials 16 --at-once 4 --kills 4 --halving --repeats 20"),
        quick=_words("--trials 6 --at-once 3 --kills 2 --halving"),
        status_judges="the same while workers are killed",
    ),
    Program(
        name="submission",
        needs=("slurm",),
        quick=_words("--tasks 20 --run 4 --times 1"),
        claims=(Claim("a handful of calls of sbatch", r"tanda +[\d.]+ s +(\d+) sbatch", 5, least=False),),
    ),
    Program(
        name="ten_thousand",
        quick=_words("--runs 200"),
        claims=(
            Claim("plan of 10,000 runs within 2 s", r"^plan of .*: ([\d.]+) s", 2, least=False),
            Claim("status of 20,001 tasks within 4 s", r"^status of .*: ([\d.]+) s", 4, least=False),
            Claim("two Slurm commands a status", r"(\d+) Slurm commands", 2, least=False, at_any_size=True),
        ),
    ),
    Program(
        name="report",
        quick=_words("--runs 30"),
        claims=(Claim("10 times faster than MLflow's own reading", r"ratio, \w+: ([\d.]+) on the clock", 10),),
    ),
    Program(
        name="report",
        arguments=("--whole",),
        quick=_words("--whole --runs 20"),
        claims=(Claim("1,000 runs with plots and page within 60 s", r"^whole.*: ([\d.]+) s,", 60, least=False),),
    ),
    Program(
        name="report",
        arguments=("--mlflow",),
        quick=_words("--mlflow --runs 20"),
        claims=(Claim("an update with nothing new: at most 5 %", r"second: ([\d.]+) % of the first", 5, least=False),),
    ),
    Program(
        name="false_alarms",
        quick=_words("--quick"),
        status_judges="equal settings told apart in 7 % at most, equal runs left out in 6 %",
        at_any_size=False,
    ),
    Program(
        name="false_alarms",
        needs=("data",),
        arguments=("--titles", DATA),
        quick=("--titles", DATA, *_words("--quick --seeds 4 --rows 2000")),
        status_judges="the same of real networks of 200 seeds",
        at_any_size=False,
    ),
    Program(
        name="coverage",
        quick=_words("--quick"),
        status_judges="95 % intervals hold the truth in 90 % of any cell, 93 to 98 % of a pattern's",
    ),
    Program(
        name="chaos",
        needs=("slurm",),
        arguments=_words("--seeds 0 1 2"),
        quick=_words("--runs 4 --trials 3 --epochs 40 --deeds 6"),
        status_judges="nothing differs, is lost, or is double",
    ),
    Program(
        name="histories",
        arguments=_words("--count 10000"),
        quick=_words("--count 40"),
        status_judges="nothing is lost, double or untrue",
    ),
    Program(
        name="histories",
        arguments=_words("--faults"),
        quick=("--faults", "--fault", "retry counted twice"),
        status_judges="every planted fault is found within 2,000 histories",
    ),
    Program(
        name="fuzz",
        arguments=_words("--examples 5000"),
        quick=_words("--examples 10"),
        status_judges="only clean errors",
    ),
)
