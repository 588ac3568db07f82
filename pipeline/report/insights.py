"""Observations: what a reader should know first, in at most seven sentences, and the rest by group.

The first say what won, by how much, how surely, at what cost, and what to do next. The p values of all comparisons that
are told are corrected together for their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from jobs.models.ensemble import Settings as Ensemble
from jobs.search.study import score
from pipeline.report.collect import Collected
from pipeline.report.group_insights import (
    TEST,
    best_of,
    overfitting,
    score_text,
    stopped,
    underfitting,
    unreliable,
    validation_against_test,
)
from pipeline.report.groups import Entry, Group, best, reasons_text, selected_by
from pipeline.report.i18n import Messages
from pipeline.report.significance import ALPHA, Verdict, by_titles, compare, holm
from pipeline.report.standings import answers_of, entry_intervals
from pipeline.report.table import number_text
from pipeline.report.title_sets import TitleSet

FIRST = 7  # sentences at the top
SETS = 2  # of test titles whose winners are among them
MOST = 6  # sentences of one kind in a group; the rest is counted
SECONDS = "train_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """``first`` stand at the top, ``by_group`` under their group's tables."""

    first: tuple[str, ...]
    by_group: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What sentences are made of; ``verdicts`` are those of all pairs that are compared, by the entries' positions."""

    groups: tuple[Group, ...]
    collected: Collected
    messages: Messages
    sets: Mapping[TitleSet, Sequence[Entry]]
    verdicts: Mapping[tuple[int, int], Verdict | None]

    def verdict(self, first: Entry, second: Entry) -> str:
        return verdict(self.verdicts.get((first.position, second.position)), self.messages)


def find_insights(groups: Iterable[Group], collected: Collected, messages: Messages) -> Observations:
    """The observations; one sentence that says so when nothing is finished."""
    groups = tuple(groups)
    entries = [entry for group in groups for entry in group.entries]
    if not any(entry.done for entry in entries) and not any(result.cause for e in entries for result in e.results):
        return Observations(first=(messages("nothing yet"),))
    sets = by_titles(collected, entries)
    facts = _Facts(groups, collected, messages, sets, _compare_all(sets, collected))
    first = [sentence for titles in list(sets)[:SETS] for sentence in _answer(titles, facts)]
    first += _against_linear(facts)
    first += _missing(collected, messages)
    kinds: tuple[Callable[[Group], list[str]], ...] = (
        lambda group: best_of(group, facts.sets, messages),
        lambda group: _gains(group, facts),
        lambda group: stopped(group.entries, collected, messages),
        lambda group: overfitting(group.entries, messages),
        lambda group: underfitting(group.entries, messages),
        lambda group: validation_against_test(group.entries, collected, messages),
        lambda group: unreliable(group, collected, messages),
    )
    by_group = {
        group.name: tuple(sentence for kind in kinds for sentence in _at_most(kind(group), messages))
        for group in groups
    }
    folded = {name: sentences for name, sentences in by_group.items() if sentences}
    return Observations(first=tuple(first[:FIRST]), by_group=folded)


def _at_most(sentences: list[str], messages: Messages) -> list[str]:
    if len(sentences) <= MOST:
        return sentences
    return [*sentences[: MOST - 1], messages("many more", count=len(sentences) - MOST + 1)]


# The answer: what won on some titles, by how much, how surely, at what cost, what next.


def _winners(members: Iterable[Entry]) -> list[Entry]:
    """The best of each architecture by validation, the best first."""
    members = [entry for entry in members if entry.mean(TEST) is not None]
    names = dict.fromkeys(entry.architecture for entry in members)
    metric = selected_by(members)
    found = [best([entry for entry in members if entry.architecture == name], metric) for name in names]
    return sorted(
        (winner for winner in found if winner is not None),
        key=lambda entry: (-score(metric, entry.judged_mean(metric)), entry.position),
    )


def _runner_up(members: Sequence[Entry], winners: Sequence[Entry]) -> Entry | None:
    """What the winner has to be ahead of: the best of another architecture, else the next of its own."""
    if len(winners) > 1:
        return winners[1]
    others = [entry for entry in members if not winners or entry is not winners[0]]
    return best(others, selected_by(members)) if winners else None


def _answer(titles: TitleSet, facts: _Facts) -> list[str]:
    members, messages = facts.sets[titles], facts.messages
    winners = _winners(members)
    if not winners:
        return []
    winner, metric = winners[0], selected_by(members)
    ends = entry_intervals([winner], titles, answers_of(facts.collected, [winner]), "balanced_accuracy")
    low, high = ends.get(winner.position, (None, None))
    test = score_text(winner.mean(TEST))
    sentences = [
        messages(
            "won" if len(winner.done) > 1 else "won by one model",
            run=winner.label,
            architecture=winner.architecture,
            test=test if low is None else f"{test} [{score_text(low)}, {score_text(high)}]",
            metric=messages.name(metric),
            value=score_text(winner.mean(metric)),
            runs=len(members),
            seeds=len(winner.done),
            titles=titles.titles,
        )
    ]
    second = _runner_up(members, winners)
    if second is not None:
        sentences.append(_ahead(winner, second, facts))
    looks = sum(len(entry.done) for entry in members)
    sentences += _cost(winner, members, facts)
    if looks > 1:
        sentences.append(messages("looks", count=looks))
    return [*sentences, *_next_step(winner, second, facts)]


def _ahead(first: Entry, second: Entry, facts: _Facts) -> str:
    gap = (first.mean(TEST) or 0.0) - (second.mean(TEST) or 0.0)
    text = facts.verdict(first, second)
    if gap < 0:
        first, second, gap = second, first, -gap
    return facts.messages("ahead", first=first.label, second=second.label, difference=score_text(gap), verdict=text)


def _cost(winner: Entry, members: Sequence[Entry], facts: _Facts) -> list[str]:
    """What the winner took a seed, its search with it, beside all that the evaluated runs took."""
    trained = [entry for entry in members if entry.architecture != "ensemble"]  # whose cost is that of others
    spent = [result.gpu_hours for entry in trained for result in entry.results if result.gpu_hours is not None]
    own = winner.gpu_hours()
    if not own:
        return []
    searches = {group.name: group.search for group in facts.groups if group.search is not None}
    search = searches.get(winner.group)
    found = {"run": winner.label, "hours": number_text(own, 3), "all": number_text(math.fsum(spent), 3)}
    if search is not None:
        return [facts.messages("cost of a search", trials=len(search.trials), **found)]
    return [facts.messages("cost", **found)]


def _next_step(winner: Entry, second: Entry | None, facts: _Facts) -> list[str]:
    messages = facts.messages
    found = None if second is None else facts.verdicts.get((winner.position, second.position))
    if found is not None and second is not None and not found.of_settings:
        # What has no seed comes out the same every time.
        able = [entry.label for entry in (winner, second) if "seed" in entry.first.settings and len(entry.done) == 1]
        return [messages("next seeds", runs=", ".join(able))] if able else []
    if found is not None and second is not None and found.p > ALPHA:
        return [messages("next cheaper", first=winner.label, second=second.label)]
    if underfitting([winner], messages):
        return [messages("next epochs", run=winner.label)]
    return []


def _compare_all(
    sets: Mapping[TitleSet, Sequence[Entry]], collected: Collected
) -> dict[tuple[int, int], Verdict | None]:
    """The verdicts of all pairs that sentences speak of, their p values corrected for their number (Holm)."""
    pairs: dict[tuple[int, int], tuple[Entry, Entry]] = {}
    for members in sets.values():
        winners = _winners(members)
        second = _runner_up(members, winners)
        wanted = [*([(winners[0], second)] if second is not None else []), *pairwise(winners)]
        linear, networks = _linear_and_networks(members)
        if linear is not None:
            wanted += [(linear, entry) for entry in _told_of(linear, networks)]
        wanted += [pair for entry in members for pair in _beside_members(entry, members)]
        pairs |= {(one.position, other.position): (one, other) for one, other in wanted}
    found = {key: compare(collected, *pair) for key, pair in pairs.items()}
    known = {key: each for key, each in found.items() if each is not None}
    corrected = holm([each.p for each in known.values()])
    return found | {key: replace(each, p=p) for (key, each), p in zip(known.items(), corrected, strict=True)}


def verdict(found: Verdict | None, messages: Messages) -> str:
    """Whether it is more than chance, and in what: ``more than chance in titles and seeds, p < 0.001``."""
    if found is None:
        return messages("not compared")
    p_text = "< 0.001" if found.p < 0.001 else f"= {found.p:.3f}"
    much = "more" if found.p <= ALPHA else "no more"
    text = messages(f"{much} than chance" if found.of_settings else f"{much} than chance of models", p=p_text)
    if found.wins is None:
        return text
    share, low, high = (number_text(value, 2) for value in found.wins)
    return messages("wins", verdict=text, share=share, low=low, high=high)


# Ensembles: what they add to their best member.


def _members(ensemble: Entry, entries: Iterable[Entry]) -> list[Entry]:
    """The members of an ensemble among those that are evaluated; none of another entry."""
    settings = ensemble.first.row.settings
    names = frozenset(settings.members if isinstance(settings, Ensemble) else ())
    return [entry for entry in entries if not names.isdisjoint((entry.group, f"{entry.group}/{entry.run}"))]


def _beside_members(ensemble: Entry, entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """An ensemble, and its best member by validation."""
    chosen = best(_members(ensemble, entries), selected_by(entries))
    return [] if chosen is None or ensemble.mean(TEST) is None else [(ensemble, chosen)]


def _gains(group: Group, facts: _Facts) -> list[str]:
    """What each ensemble of a group adds to its best member, and how long its members were trained."""
    sentences = []
    for entries in facts.sets.values():
        for ensemble in (entry for entry in entries if entry.group == group.name):
            for _, member in _beside_members(ensemble, entries):
                gap = (ensemble.mean(TEST) or 0.0) - (member.mean(TEST) or 0.0)
                seconds = math.fsum(value for each in _members(ensemble, entries) for value in each.values(SECONDS))
                sentences.append(
                    facts.messages(
                        "ensemble adds",
                        run=ensemble.run,
                        member=member.label,
                        difference=number_text(gap, 3, sign=True),
                        verdict=facts.verdict(ensemble, member),
                        seconds=number_text(seconds, 0),
                    )
                )
    return sentences


# Linear, what a network has to beat.


def _linear_and_networks(members: Iterable[Entry]) -> tuple[Entry | None, list[Entry]]:
    scored = [entry for entry in members if entry.mean(TEST) is not None]
    linear = best([entry for entry in scored if entry.architecture == "linear"], selected_by(scored))
    return linear, [entry for entry in scored if entry.architecture not in ("linear", "ensemble")]


def _told_of(linear: Entry, networks: Sequence[Entry]) -> list[Entry]:
    """The networks that are not above linear, the worst first; where all are, the lowest."""
    ranked = sorted(networks, key=lambda entry: (entry.judged_mean(TEST) or 0.0, entry.position))
    bar = linear.mean(TEST) or 0.0
    behind = [entry for entry in ranked if (entry.judged_mean(TEST) or 0.0) <= bar]
    return behind[:MOST] if behind else ranked[:1]


def _against_linear(facts: _Facts) -> list[str]:
    """How the networks stand against the best linear run on the same titles: one sentence a set of titles."""
    sentences = []
    for members in facts.sets.values():
        linear, networks = _linear_and_networks(members)
        if linear is None or not networks:
            continue
        bar = linear.mean(TEST) or 0.0
        behind = [entry for entry in networks if (entry.judged_mean(TEST) or 0.0) <= bar]
        nearest = _told_of(linear, networks)[0]
        text = facts.verdict(linear, nearest)
        sentences.append(
            facts.messages(
                "loses to linear" if behind else "all beat linear",
                count=len(behind),
                networks=len(networks),
                run=nearest.label,
                score=score_text(nearest.mean(TEST)),
                linear=score_text(bar),
                verdict=text,
            )
        )
    return sentences


def _missing(collected: Collected, messages: Messages) -> list[str]:
    """How many runs failed, by cause."""
    failed = [result for result in collected.results if result.state == "failed"]
    if not failed:
        return []
    reasons = reasons_text(failed, messages)
    return [messages("failed runs", count=len(failed), total=len(collected.results), reasons=reasons)]
