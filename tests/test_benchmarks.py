"""The benchmarks: that they run, what their runner makes of what they print, and what runs side by side do together."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs.storage import Storage

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.append(str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_runner", BENCHMARKS / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A program of benchmarks/ as a person runs it, in the project's folder: not with what `make` sets for tests."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment = {**ours, "PYTHONPATH": str(BENCHMARKS.parent), **more}
    return subprocess.run(
        [sys.executable, *words], cwd=BENCHMARKS.parent, env=environment, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip


def test_every_program_is_run_by_make_bench() -> None:
    from _programs import PROGRAMS

    assert {f"{program.name}.py" for program in PROGRAMS} == {path.name for path in BENCHMARKS.glob("[a-z]*.py")}


def test_the_runner_runs_leaves_out_and_ends_with_a_table() -> None:
    ended = run(
        "benchmarks",
        "--quick",
        "--data",
        "/nowhere.csv",
        "ten_thousand",
        "search_quality",
        "gpu",
        "startup",
        PYTHONSAFEPATH="1",
    )
    # SAFEPATH as `make` sets it: `startup` imports its neighbours.
    assert ended.returncode == 0, ended.stdout + ended.stderr
    table = ended.stdout.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["program", "claimed", "measured", "holds"]
    rows = {line.split("  ")[0]: line for line in table[1:]}
    assert "left out: no GPU" in rows["gpu"] and "left out: no file of titles" in rows["search_quality"]
    assert any("two Slurm commands a status" in line and line.endswith("  2         yes") for line in table)
    assert any("within 2 s" in line and line.endswith("not judged: tiny sizes") for line in table)


@pytest.mark.parametrize(
    ("output", "figure", "verdict"),
    [
        ("a: 17 x\nb: 1,015 x\n", "17", "yes"),
        ("a: 14 x\nb: 99 x\n", "14", "no"),
        ("nothing of the kind\n", "", "failed: no such figure in its output"),
    ],
)
def test_the_worst_figure_decides(runner: ModuleType, output: str, figure: str, verdict: str) -> None:
    from _programs import Claim

    row = runner.judged("batches", Claim("15 times", r"([\d.,]+) x", 15), output, quick=False)
    assert (row.figure, row.verdict) == (figure, verdict)
    assert row.bad is (verdict != "yes")


@pytest.mark.parametrize(
    ("body", "judges", "verdict"),
    [
        ("raise SystemExit(3)", "", "failed: exit status 3"),
        ("raise SystemExit(1)", "none lost", "no"),
        ("print('well')", "none lost", "yes"),
        ("print('well')", "", "ran"),
    ],
)
def test_a_program_that_fails_is_in_the_table(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, judges: str, verdict: str
) -> None:
    from _programs import Program

    (tmp_path / "made_up.py").write_text(body)
    monkeypatch.setattr(runner, "HERE", tmp_path)
    (row,) = runner.run(Program(name="made_up", status_judges=judges), tmp_path, quick=False)
    assert row.verdict == verdict


def epochs(*ended: float, seconds: float) -> list[dict[str, Any]]:
    return [{"ended": end, "seconds": seconds} for end in ended]


def test_side_by_side_counts_only_the_time_in_which_all_train() -> None:
    from _side import common_window

    # One run alone: its first epoch left out.
    assert common_window([epochs(1.0, 2.0, 3.0, seconds=1.0)], 100) == (100.0, 2.0, 2.0)
    # The second begins as the first ends: each did 100 titles a second, and never beside the other.
    assert common_window([epochs(1.0, 2.0, seconds=1.0), epochs(3.0, 4.0, seconds=1.0)], 100) == (0.0, 0.0, 0.0)
    # From 2 to 4 both train, one twice as fast: 100 a second and 50 a second.
    fast, slow = epochs(1.0, 2.0, 3.0, 4.0, seconds=1.0), epochs(2.0, 4.0, 6.0, seconds=2.0)
    assert common_window([fast, slow], 100) == (150.0, 2.0, 1.0)


def test_an_epoch_that_reaches_over_an_edge_counts_in_part() -> None:
    from _side import common_window

    rate, window_s, seen = common_window([epochs(2.0, 6.0, seconds=4.0), epochs(3.0, 4.0, 5.0, seconds=1.0)], 80)
    assert (window_s, seen) == (2.0, 0.5)
    assert rate == pytest.approx(80 * 2.5 / 2)


def test_stages_of_the_gpu_check_that_need_no_gpu_find_nothing_wrong(tmp_path: Path) -> None:
    ended = run(
        "benchmarks/gpu_check.py", "--small", "--device", "cpu", "--facts", str(tmp_path / "facts"), "meta", "correct"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("meta: right; correct: right\n")
    facts = (tmp_path / "facts").read_text().splitlines()
    assert len(facts) == 12 and all('"case"' in fact for fact in facts)


def test_the_gpu_check_fails_where_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    from _gpu_ground import Ground

    ground = Ground(stage="exact", device="cpu", small=True)
    with ground.guarded(case="mlp"):
        raise RuntimeError("CUDA error: an illegal memory access\nwith a long tale")
    ground.must(True, "fine")
    ground.must(False, "it differs")
    assert ground.wrong == ["mlp: RuntimeError: CUDA error: an illegal memory access", "it differs"]
    assert "exact WRONG=it differs" in capsys.readouterr().out


@pytest.mark.parametrize(("said", "status"), [("", 0), ("compile: a CUDA graph does not work here", 1)])
def test_a_figure_with_graphs_is_never_one_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, status: int
) -> None:
    import gpu

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu, "storage_with", lambda _titles: nullcontext((Storage(Path("/nowhere")), "made")))
    monkeypatch.setattr(gpu.Dataset, "open", lambda _folder: None)
    monkeypatch.setattr(gpu, "floor", lambda *_: (1e9, 40))
    monkeypatch.setattr(
        gpu, "measured", lambda recipe, *_: (2e6, 1.0, said) if recipe.network.compile else (1e6, 1.0, "")
    )
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == status
    printed = capsys.readouterr().out
    assert ("2,000,000 with compile: true" in printed) is (status == 0)
    assert ("no graphs with compile: true" in printed) is (status == 1)
    assert ("mlp batch 128: not measured with graphs: compile:" in printed) is (status == 1)


def test_packing_without_the_graphs_that_were_asked_for_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import packing
    from _side import Window

    told = ("compile: it takes a GPU",)
    monkeypatch.setattr(packing, "storage_with", lambda _titles: nullcontext((Storage(Path("/nowhere")), "made")))
    monkeypatch.setattr(
        packing,
        "side_by_side",
        lambda _storage, count, compile, **_: Window(
            titles_per_s=1.5 * count, window_s=2.0, epochs=4, told=told if compile else ()
        ),
    )
    for words, status in (([], 0), (["--compile"], 1)):
        monkeypatch.setattr(sys, "argv", ["packing", *words])
        assert packing.main() == status
        assert capsys.readouterr().out.endswith("4.00 times\n")


def test_the_operations_of_an_lstm_are_counted() -> None:
    from gpu import lstm_operations
    from torch import nn, zeros

    # Each of 10 words takes 4 x 3 rows of 5 inputs and 3 states, then of 3 and 3; and that twice more to go back.
    model = nn.ModuleList([nn.LSTM(5, 3, 2), nn.Linear(3, 2)])
    assert lstm_operations(model, zeros(2, 5)) == 6 * 10 * 12 * (8 + 6)


def test_without_a_gpu_nothing_is_checked_and_it_says_so() -> None:
    ended = run("benchmarks/gpu_check.py", "exact")
    assert (ended.returncode, ended.stdout) == (
        0,
        "no GPU is present: nothing was checked (--device cpu for what can be checked without)\n",
    )


def test_the_gain_of_a_search_is_students_interval() -> None:
    from scipy import stats
    from search_ten import gain

    differences = [0.01, -0.005, 0.02, 0.004]
    mean, low, high = gain(differences)
    expected = stats.t.interval(0.95, 3, loc=mean, scale=stats.sem(differences))
    assert (low, high) == pytest.approx(expected) and mean == pytest.approx(0.00725)
