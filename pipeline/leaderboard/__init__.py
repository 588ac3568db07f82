"""`tanda leaderboard`: all evaluated runs of a storage, ranked among those that were judged on the same test titles."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from pipeline.leaderboard.runs import StorageRuns, read_runs
from pipeline.report.answers import COMPARED
from pipeline.report.collect import Progress
from pipeline.report.groups import Entry
from pipeline.report.i18n import Messages, make_messages
from pipeline.report.intervals import FEWEST
from pipeline.report.significance import by_titles
from pipeline.report.standings import Standing, answers_of, entry_intervals, standings
from pipeline.report.table import EMPTY, Cell, Column, Table, aligned, number, number_text, spread, to_latex
from pipeline.report.title_sets import TitleSet
from sharedfs.errors import InputError

FORMATS = ("text", "csv", "json", "latex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A mean over seeds, its 95 % interval (None: too few titles), and whether its run may be the best by it."""

    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    may_be_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A run on its leaderboard; ``names`` are those in all manifests' reports, ``ids`` its trainings.

    ``seconds`` is the training time, ``failed`` the seeds that failed by their own fault and count as guessing.
    """

    rank: int
    label: str
    names: tuple[str, ...]
    architecture: str
    ids: tuple[str, ...]
    failed: int
    scores: Mapping[str, Score]
    gpu_hours: float
    seconds: float | None
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The runs that were judged on the same test titles, the best first."""

    titles: TitleSet
    fingerprint: str | None
    places: tuple[Place, ...]
    of_settings: bool  # bold is said of settings and not of trained models alone

    @property
    def title(self) -> str:
        known = f", fingerprint {self.fingerprint}" if self.fingerprint else ""
        return f"{self.titles.titles} test titles of {self.titles.categories} categories{known}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """Every set of test titles of a storage, that with the most runs first; a line for each run that is left out."""

    boards: tuple[Board, ...]
    problems: tuple[str, ...]


def make_leaderboard(root: Path, progress: Progress | None = None) -> Leaderboard:
    """The leaderboard of a storage; raises InputError for a folder that is none."""
    runs = read_runs(root, progress)
    sets = by_titles(runs.collected, runs.entries)
    judged = {entry.position for members in sets.values() for entry in members}
    unread = [
        f"{runs.collected.storage.run(entry.first.row.evaluate)}: left out: its evaluation can't be read"
        for entry in runs.entries
        if entry.position not in judged
    ]
    boards = (_board(titles, members, runs) for titles, members in sets.items())
    ordered = sorted(boards, key=lambda board: (-len(board.places), board.titles.key))
    nothing = () if ordered else (f"{root}: no run of it is evaluated, or none can be read",)
    return Leaderboard(boards=tuple(ordered), problems=(*runs.problems, *unread, *nothing))


def _board(titles: TitleSet, members: Sequence[Entry], runs: StorageRuns) -> Board:
    answers = answers_of(runs.collected, members)
    best = standings(members, titles, answers)
    ends = {metric: entry_intervals(members, titles, answers, metric) for metric in COMPARED}
    ranked = sorted(members, key=lambda entry: (-_ranked_by(entry), entry.position))
    places: list[Place] = []
    for at, entry in enumerate(ranked):
        # Equal scores share a rank.
        equal = at > 0 and _ranked_by(entry) == _ranked_by(ranked[at - 1])
        rank = places[-1].rank if equal else at + 1
        scores = {metric: _score(entry, metric, ends[metric], best.get(metric)) for metric in COMPARED}
        places.append(_place(rank, entry, scores, runs))
    return Board(
        titles=titles,
        fingerprint=next((result.fingerprint for result in ranked[0].done if result.fingerprint), None),
        places=tuple(places),
        of_settings=all(standing.of_settings for standing in best.values()),
    )


def _ranked_by(entry: Entry) -> float:
    score = entry.judged_mean("test_balanced_accuracy")
    return -1.0 if score is None else round(score, 9)  # equal shares may have come about by other sums


def _score(entry: Entry, metric: str, ends: Mapping[int, tuple[float, float]], standing: Standing | None) -> Score:
    low, high = ends.get(entry.position, (None, None))
    return Score(
        mean=entry.mean(f"test_{metric}"),
        deviation=entry.deviation(f"test_{metric}"),
        low=low,
        high=high,
        may_be_best=standing is not None and entry.position in standing.tied,
    )


def _place(rank: int, entry: Entry, scores: Mapping[str, Score], runs: StorageRuns) -> Place:
    ids = tuple(result.id or "" for result in entry.done)
    return Place(
        rank=rank,
        label=entry.run,
        names=tuple(dict.fromkeys(str(name) for task in ids for name in runs.names.get(task, ()))),
        architecture=entry.architecture,
        ids=ids,
        failed=entry.own_failures,
        scores=scores,
        gpu_hours=entry.gpu_hours() or 0.0,
        seconds=entry.mean("train_seconds"),
        entry=entry,
    )


# The leaderboard as text, for a terminal and for papers, and as rows for other programs.


def render_leaderboard(leaderboard: Leaderboard, form: str) -> bytes:
    """The boards, one after the other; raises InputError for a form that is not among FORMATS."""
    if form not in FORMATS:
        raise InputError(f"--format: must be one of {', '.join(FORMATS)}, not {form}")
    if form == "json":
        rows = list(_rows(leaderboard))
        return orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if form == "csv":
        return _as_csv(list(_rows(leaderboard)))
    messages = make_messages("en")
    tables = [board_table(board, messages) for board in leaderboard.boards]
    if form == "latex":
        return "\n".join(map(to_latex, tables)).encode()
    return "\n".join(map(_terminal_text, tables)).encode()


def _terminal_text(table: Table) -> str:
    """The table with a star where others have bold print."""
    rows = tuple(
        tuple(replace(cell, text=f"{cell.text} *") if cell.bold else cell for cell in row) for row in table.rows
    )
    notes = (f"  {note.replace('Bold', 'With *', 1)}\n" for note in table.notes)
    return aligned(replace(table, rows=rows)) + "".join(notes)


def _rows(leaderboard: Leaderboard) -> Iterator[dict[str, object]]:
    """A row a run with every figure by its name."""
    for board in leaderboard.boards:
        for place in board.places:
            row: dict[str, object] = {
                "test_fingerprint": board.fingerprint,
                "test_titles": board.titles.titles,
                "rank": place.rank,
                "run": place.label,
                "names": place.names,
                "architecture": place.architecture,
                "seeds": len(place.ids),
                "failed_seeds": place.failed,
            }
            for metric, score in place.scores.items():
                row |= {f"test_{metric}_{name}": value for name, value in asdict(score).items()}
            yield row | {"gpu_hours": place.gpu_hours, "train_seconds": place.seconds, "ids": place.ids}


def _as_csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0] if rows else ())
    writer.writerows(map(_text, row.values()) for row in rows)
    return out.getvalue().encode()


def _text(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6f}"
    return "; ".join(value) if isinstance(value, tuple) else value


def board_table(board: Board, messages: Messages) -> Table:
    """A board as people read it: bold is every run that may be the best."""
    columns = [Column(key="rank", title="rank"), Column(key="run", title=messages("run"), number=False)]
    columns += [Column(key="architecture", title=messages.name("architecture"), number=False)]
    columns += [Column(key="seeds", title=messages("seeds"), number=False)]
    for metric in COMPARED:
        title = messages(f"test_{metric}")
        columns += [Column(key=metric, title=title), Column(key=f"{metric} interval", title="95 %", number=False)]
    columns += [Column(key="gpu_hours", title=messages("GPU-hours")), Column(key="seconds", title="seconds")]
    return Table(
        name="leaderboard",
        group="",
        title=board.title,
        columns=tuple(columns),
        rows=tuple(tuple(_cells(place, board, messages)) for place in board.places),
        notes=tuple(_notes(board, messages)),
    )


def _cells(place: Place, board: Board, messages: Messages) -> Iterator[Cell]:
    yield Cell(str(place.rank), float(place.rank))
    yield from (Cell(place.label), Cell(place.architecture), Cell(place.entry.seeds_text(messages)))
    for score in place.scores.values():
        yield spread(score.mean, score.deviation, bold=score.may_be_best)
        if score.low is not None and score.high is not None:
            yield Cell(f"[{number_text(score.low)}, {number_text(score.high)}]", score.low)
        else:
            yield Cell(messages("too few titles")) if board.titles.too_few else EMPTY
    yield from (number(place.gpu_hours), number(place.seconds, 1))


def _notes(board: Board, messages: Messages) -> Iterator[str]:
    entries = [place.entry for place in board.places]
    if any(score.low is not None for place in board.places for score in place.scores.values()):
        yield messages("note interval")
    if board.titles.too_few:
        yield messages("note too few", fewest=FEWEST)
    if any(score.may_be_best for place in board.places for score in place.scores.values()):
        yield messages("note bold settings" if board.of_settings else "note bold models")
    if any(len(entry.results) > 1 for entry in entries):
        yield messages("note spread")
    if any(entry.search_hours is not None for entry in entries):
        yield messages("note search cost")
    if any(entry.own_failures for entry in entries):
        yield messages("note own failures")
