"""Arrays cut into chunks: every element once, no chunk too large, caps that add up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.array import Array, Dependency, Resources, array_id, compress_ids, element_index, expand_ids
from slurm.chunking import Chunk, dependency_clause, split_array


def make_array(count: int, **facts: object) -> Array:
    elements = tuple((Path(f"/runs/{number}"),) for number in range(count))
    return Array(name="a", elements=elements, command=("true",), folder=Path("/s"), **facts)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 200), st.integers(1, 50), st.none() | st.integers(1, 60))
def test_every_element_is_in_one_chunk_and_caps_add_up(count: int, largest: int, throttle: int | None) -> None:
    chunks = split_array(make_array(count, throttle=throttle), largest=largest)
    assert sorted(index for chunk in chunks for index in chunk.indices) == list(range(count))
    assert all(1 <= len(chunk.indices) <= largest for chunk in chunks)
    if throttle is None:
        assert all(chunk.throttle is None and chunk.lane is None for chunk in chunks)
    else:
        lanes = {chunk.lane: chunk.throttle for chunk in chunks}
        assert sum(share or 0 for share in lanes.values()) == throttle or len(chunks) == 1
        assert all(share and share >= 1 for share in lanes.values())


def test_a_throttle_is_split_by_size() -> None:
    chunks = split_array(make_array(250, throttle=10), largest=100)
    assert [(len(chunk.indices), chunk.throttle) for chunk in chunks] == [(100, 4), (100, 4), (50, 2)]


def test_chunks_beyond_the_throttle_follow_one_another() -> None:
    chunks = split_array(make_array(50, throttle=2), largest=10)
    assert [(chunk.lane, chunk.throttle) for chunk in chunks] == [(0, 1), (1, 1), (0, 1), (1, 1), (0, 1)]
    assert dependency_clause(make_array(50), chunks[2], ahead=["7_0"]) == "afterany:7"


def test_elements_that_wait_for_one_array_stay_together() -> None:
    jobs = tuple(f"{1 if number % 2 else 2}_{number // 2}" for number in range(6))
    array = make_array(6, after=(Dependency(way="aftercorr", jobs=jobs),))
    chunks = split_array(array, largest=100)
    assert [chunk.indices for chunk in chunks] == [(0, 2, 4), (1, 3, 5)]
    assert [dependency_clause(array, chunk) for chunk in chunks] == ["aftercorr:2", "aftercorr:1"]


def test_indices_that_do_not_agree_wait_for_the_whole_array() -> None:
    array = make_array(2, after=(Dependency(way="aftercorr", jobs=("5_1", "5_2")),))
    assert dependency_clause(array, split_array(array, largest=9)[0]) == "afterany:5"


def test_an_element_alone_waits_for_its_own() -> None:
    array = make_array(1, after=(Dependency(way="aftercorr", jobs=("5_3",)),))
    assert dependency_clause(array, split_array(array, largest=9)[0]) == "afterok:5_3"


def test_elements_whose_needs_are_met_wait_for_nothing() -> None:
    array = make_array(3, after=(Dependency(way="aftercorr", jobs=("5_0", None, "5_1")),))
    clauses = {chunk.indices: dependency_clause(array, chunk) for chunk in split_array(array, largest=9)}
    assert clauses == {(0, 2): "aftercorr:5", (1,): None}


def test_several_dependencies_are_one_clause_over_arrays() -> None:
    after = (Dependency(jobs=("1_0", "1_1", "2")), Dependency(way="afterok", jobs=("3_0",)), Dependency(jobs=("2",)))
    array = make_array(2, after=after)
    assert dependency_clause(array, Chunk(indices=(0, 1))) == "afterany:1:2,afterok:3"


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 300), min_size=1), st.integers(1, 9))
def test_compressed_ids_expand_to_themselves(indices: set[int], array: int) -> None:
    ids = [f"{array}_{index}" for index in sorted(indices)]
    (word,) = compress_ids(ids)
    assert expand_ids(word) == ids


def test_ids_as_slurm_writes_them() -> None:
    assert expand_ids("12_[0-3,7%2]") == ["12_0", "12_1", "12_2", "12_3", "12_7"]
    assert expand_ids("12_[0-8:4]") == ["12_0", "12_4", "12_8"]
    assert expand_ids("12_5") == ["12_5"] and expand_ids("12") == ["12"]
    assert (array_id("12_5"), element_index("12_5"), element_index("12")) == ("12", 5, None)
    with pytest.raises(ValueError, match=r"12_\[1,\.\.\.\]"):
        expand_ids("12_[1,...]")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="no elements"):
        make_array(0)
    with pytest.raises(ValueError, match="legal: afterany, afterok, aftercorr"):
        Dependency(way="after", jobs=("1",))
    with pytest.raises(ValueError, match="1 jobs for 2 elements"):
        make_array(2, after=(Dependency(way="aftercorr", jobs=("1_0",)),))
    with pytest.raises(ValueError, match="throttle 0"):
        make_array(2, throttle=0)
    with pytest.raises(ValueError, match="out of range"):
        Resources(cpus=0)


def test_a_short_job_is_not_warned_at_its_start() -> None:
    assert Resources(time_min=1, warn_s=90).warning_s == 20
    assert Resources(time_min=60, warn_s=90).warning_s == 90
