"""The frame of the evidence: what is measured when, and that no result is half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from evidence import code_version, run
from evidence.files import read_json, write_bytes, write_json
from evidence.part import Run
from evidence.parts import NAMES, find_part
from market.errors import UsageError


class Fake:
    """A part that counts how often it is measured."""

    NAME = "no_alpha"
    TITLE = "Fake"
    CONFIG: dict[str, Any] = {"seeds": 3}

    def __init__(self, needs_real_bars: bool = False) -> None:
        self.NEEDS_REAL_BARS = needs_real_bars
        self.runs: list[Run] = []

    def measure(self, given: Run) -> dict[str, Any]:
        assert given.folder.is_dir()
        self.runs.append(given)
        return {"value": given.once("one", lambda: {"n": len(self.runs)})}

    def sections(self, result: dict[str, Any]) -> str:
        return f"measured {result['value']['n']}"

    def pictures(self, result: dict[str, Any]) -> dict[str, bytes]:
        return {}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "CACHES", tmp_path / "caches")
    monkeypatch.setattr(run, "PAGE", tmp_path / "evidence.md")
    monkeypatch.setattr(run, "PICTURES", tmp_path / "images")
    monkeypatch.setattr(run, "code_hash", lambda _: "0123456789ab")
    monkeypatch.delenv("ISOBAR_SAMPLE_BARS", raising=False)
    return tmp_path


def test_a_part_is_measured_once_for_the_same_code_and_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Fake()
    for _ in range(2):
        run.bring_up_to_date(part)
    assert len(part.runs) == 1
    found = read_json(folder / "results" / "no_alpha.json")
    assert found["value"] == {"n": 1}
    assert found["config"] == {"seeds": 3}
    assert str(Path.home()) not in orjson.dumps(found).decode()
    run.bring_up_to_date(part, seeds=2)
    assert part.runs[-1].seeds == 2
    assert "--seeds 2" in read_json(folder / "results" / "no_alpha.json")["command"]
    monkeypatch.setattr(run, "code_hash", lambda _: "another")
    run.bring_up_to_date(part, seeds=2)
    run.bring_up_to_date(part, seeds=2)
    assert len(part.runs) == 3
    assert len({r.folder for r in part.runs}) == 3


def test_again_measures_everything_anew(folder: Path) -> None:
    part = Fake()
    run.bring_up_to_date(part)
    run.bring_up_to_date(part, again=True)
    assert read_json(folder / "results" / "no_alpha.json")["value"] == {"n": 2}


def test_without_real_bars_a_part_that_needs_them_is_not_run_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Fake(needs_real_bars=True)
    run.bring_up_to_date(part)
    assert not part.runs
    assert "ISOBAR_SAMPLE_BARS" in capsys.readouterr().err
    monkeypatch.setenv("ISOBAR_SAMPLE_BARS", str(folder))
    run.bring_up_to_date(part)
    assert part.runs[0].bars == folder


def test_a_killed_measurement_goes_on_where_it_was(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure(given: Run, stop: int | None) -> list[dict[str, Any]]:
        def work(k: int) -> dict[str, Any]:
            if k == stop:
                raise KeyboardInterrupt
            calls.append(k)
            return {"k": k}

        return [given.once(f"seed-{k}", lambda k=k: work(k)) for k in range(4)]

    with pytest.raises(KeyboardInterrupt):
        measure(Run(tmp_path), stop=2)
    assert [r["k"] for r in measure(Run(tmp_path), stop=None)] == [0, 1, 2, 3]
    assert calls == [0, 1, 2, 3]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def broken(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"{")
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(UsageError, match="inner"):
        write_json(tmp_path / "x.json", {"outer": [{"inner": value}]})
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "seed-1.json"
    path.write_bytes(b'{"a": ')
    with pytest.raises(UsageError, match=r"seed-1\.json"):
        Run(tmp_path).once("seed-1", dict)


def test_the_code_hash_follows_imports_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    for name, text in {
        "evidence/__init__.py": "",
        "evidence/part.py": "def f():\n    from models import inner\n",
        "models/__init__.py": "",
        "models/inner.py": "import features.deep as deep\n",
        "features/deep.py": "X = 1\n",
        "features/other.py": "X = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_version.code_hash("evidence.part")
    (tmp_path / "features/other.py").write_text("X = 2\n")
    assert code_version.code_hash("evidence.part") == before
    (tmp_path / "features/deep.py").write_text("X = 2\n")
    assert code_version.code_hash("evidence.part") != before


def test_rewording_a_page_does_not_ask_for_measuring_again() -> None:
    for name in ("no_alpha", "planted_alpha", "real_minute"):
        part = find_part(name)
        assert part is not None
        measured_by = code_version.closure(part.measure.__module__)
        assert not {f"{name}.py", "page.py", "pictures.py"} & {p.name for p in measured_by}
        assert {"fit.py", "labels.py", "part.py"} <= {p.name for p in measured_by}


def test_every_part_keeps_the_interface() -> None:
    for name in NAMES:
        part = find_part(name)
        if part is None:
            continue
        assert name == part.NAME
        assert part.TITLE
        assert isinstance(part.NEEDS_REAL_BARS, bool)
        assert orjson.loads(orjson.dumps(part.CONFIG)) == part.CONFIG
        assert callable(part.measure)
    with pytest.raises(UsageError, match="planted_alpha"):
        find_part("planted")
