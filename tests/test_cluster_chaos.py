"""The short form of benchmarks/chaos.py: a few runs and two searches with a monkey about come out as if in calm."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos_fixture import run_calmly, stormy_manifest, weather
from rig import Rig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(295)]


def test_a_storm_changes_no_bit_loses_nothing_and_doubles_nothing(cluster: Rig, tmp_path: Path) -> None:
    calm = run_calmly(stormy_manifest(tmp_path / "calm", runs=4, trials=2, epochs=150))
    manifest = stormy_manifest(tmp_path / "storm", runs=4, trials=2, epochs=150)
    storm = weather(cluster, manifest, calm, seed=1, deeds=12, say=print)
    print(*storm.lines(), sep="\n")
    assert not storm.wrong
    assert sum(storm.deeds.values()) > 0
