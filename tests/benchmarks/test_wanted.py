"""What a benchmark prints as wanted is what decides whether it reached it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import run
from benchmarks.alpha158_vs_pyqlib import (
    _report,  # pyright: ignore[reportPrivateUsage]
)
from benchmarks.wanted import Wanted

FIGURES = st.floats(0, 1e6)


@given(st.lists(st.tuples(FIGURES, FIGURES, st.booleans())))
def test_a_figure_beyond_its_words_is_marked_and_ends_with_failure(
    told: list[tuple[float, float, bool]],
) -> None:
    wanted = Wanted()
    words = [
        wanted.at_most(figure, limit) if upper else wanted.at_least(figure, limit)
        for figure, limit, upper in told
    ]
    beyond = [figure > limit if upper else figure < limit for figure, limit, upper in told]
    assert [w.endswith("MISSED") for w in words] == beyond
    assert all(f"{limit:,}" in w for w, (_, limit, _) in zip(words, told, strict=True))
    if any(beyond):
        with pytest.raises(SystemExit, match=f"^{sum(beyond)} of the figures"):
            wanted.end()
    else:
        wanted.end()


@pytest.mark.parametrize(
    ("cold", "warm", "peak", "missed"),
    [
        (3.0, 3.0, 2.5, 0),
        (3.1, 3.0, 2.5, 1),
        (3.0, 3.1, 2.5, 1),
        (3.0, 3.0, 2.6, 1),
        (3.1, 3.1, 2.6, 3),
    ],
)
def test_alpha158_is_wanted_twenty_times_faster_than_its_peer_in_half_of_the_memory(
    cold: float, warm: float, peak: float, missed: int
) -> None:
    peer = {
        "features_seconds": 60.0,
        "process_seconds": 60.0,
        "peak_bytes": 5e9,
        "peak_bytes_with_workers": 6e9,
        "versions": {"qlib": "0.9.7"},
    }
    theirs = {"two": [peer] * 3, "one": peer, "dumped": {"dump_seconds": 9.0}}
    wanted = Wanted()
    ours = {"seconds": cold, "process_seconds": cold, "peak_bytes": peak * 1e9}
    _report(theirs, ours, [ours] * 3, {"seconds": [warm] * 3}, 1_000, wanted)
    assert wanted.missed == missed


@pytest.mark.parametrize("status", [0, 1])
def test_what_is_kept_says_whether_it_was_reached(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(_: list[str], **given: Any) -> subprocess.Popen[str]:
        code = f"print('a figure'); raise SystemExit({status})"
        return popen([sys.executable, "-c", code], **given)

    popen, kept = subprocess.Popen, dict[str, Any]()
    monkeypatch.setattr(subprocess, "Popen", child)
    monkeypatch.setattr(run, "store", lambda _, made: kept.update(made))
    assert run.run("lake_reads") is (status == 0)
    assert (kept["reached"], kept["output"]) == (status == 0, ["a figure"])
