"""The mutation runner: a fault that a test sees is killed, one that none sees survives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evidence import mutation
from evidence.code_version import ROOT
from evidence.mutant_trials import Outcome, Target
from evidence.mutants import Mutant, mutants_of
from evidence.mutation_targets import AREAS, EQUIVALENT
from market.errors import UsageError

MODULE = """
LEAST = 3


def is_enough(count):
    return count >= LEAST


def unseen(count):
    return count > 7
"""
TESTS = """
from guarded.limits import LEAST, is_enough, unseen


def test_it():
    assert LEAST == 3
    assert [is_enough(n) for n in (2, 3)] == [False, True]
    assert unseen(9)
"""
ENDLESS = """
def down(count):
    while count > 0:
        count -= 1
    return count
"""
SCRIPT = """
import json, sys
from pathlib import Path
from evidence import mutant_trials
from evidence.mutants import mutants_of

mutant_trials._SPARE_SECONDS = int(sys.argv[2])
target = mutant_trials.Target("guarded.limits", ("test_limits.py",), root=Path(sys.argv[1]))
wanted = json.loads(sys.argv[3])
mutants = [m for m in mutants_of(target.path.read_text()) if m.key in wanted or not wanted]
print(json.dumps(mutant_trials.try_mutants(target, mutants)))
"""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    package = tmp_path / "guarded"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "limits.py").write_text(MODULE)
    (tmp_path / "test_limits.py").write_text(TESTS)
    return Target("guarded.limits", ("test_limits.py",), root=tmp_path)


def tried(
    target: Target, mutants: Sequence[Mutant] = (), *, spare_seconds: int = 20, before: str = ""
) -> dict[str, Outcome]:
    """Try faults in a process of its own: this one has threads, which a fork would lose."""
    keys = json.dumps([m.key for m in mutants])
    script = SCRIPT.replace("mutants = [", f"{before}mutants = [")
    command = [sys.executable, "-c", script, str(target.root), str(spare_seconds), keys]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(done.stderr[-4000:])
    return {k: Outcome(o) for k, o in json.loads(done.stdout.splitlines()[-1]).items()}


def test_what_a_test_sees_is_killed_and_what_none_sees_survives(target: Target) -> None:
    found = tried(target)
    assert set(found) == {m.key for m in mutants_of(MODULE)}
    assert {k for k, o in found.items() if o is Outcome.SURVIVED} == {
        "unseen: count > 7 -> count >= 7",
        "unseen: 7 -> 8",
        "unseen: 7 -> 6",
    }
    assert found[": 3 -> 4"] is Outcome.KILLED  # outside a function: imported anew
    assert found["is_enough: count >= LEAST -> count > LEAST"] is Outcome.KILLED


def test_a_module_is_judged_alike_after_another_whose_tests_import_it(target: Target) -> None:
    """Both in one process, as the command tries them."""
    (target.root / "other.py").write_text("SIZE = 5\n")
    test = "import guarded.limits\nfrom other import SIZE\n\ndef test_it():\n    assert SIZE == 5\n"
    (target.root / "test_other.py").write_text(test)
    before = (
        "other = mutant_trials.Target('other', ('test_other.py',), root=Path(sys.argv[1]))\n"
        "assert set(mutant_trials.try_mutants(other).values()) == {'killed'}\n"
    )
    found = tried(target, [m for m in mutants_of(MODULE) if not m.in_function], before=before)
    assert found == dict.fromkeys(found, Outcome.KILLED)
    assert found


def test_a_loop_without_end_is_ended(target: Target) -> None:
    target.path.write_text(ENDLESS)
    test = "from guarded.limits import down\n\ndef test_it():\n    assert down(2) == 0\n"
    (target.root / "test_limits.py").write_text(test)
    endless = [m for m in mutants_of(ENDLESS) if m.change == "count -= 1 -> pass"]
    assert list(tried(target, endless, spare_seconds=0).values()) == [Outcome.TIMED_OUT]


def test_red_tests_prove_nothing(target: Target) -> None:
    (target.root / "test_limits.py").write_text(TESTS.replace("== 3", "== 4"))
    with pytest.raises(UsageError, match="red tests without a fault"):
        tried(target)


def test_faults_are_where_decisions_are_and_not_in_words() -> None:
    source = '''
from x import y as z


@cached(size=3)
def f(a: int = 1, *, side="left") -> "not this":
    """Not 3 < 4."""
    if not a and side:
        raise ValueError(f"not {a + 1}", 5)
    box[0] = min(a, abs(a)) - 1
    return any(v.first() for v in a if v)
'''
    changes = [m.change for m in mutants_of(source)]
    for fault in (
        "not a and side -> not a or side",
        "not a and side -> not a",
        "not a and side -> side",
        "not a -> a",
        "box[0] = min(a, abs(a)) - 1 -> pass",
        "min(a, abs(a)) -> max(a, abs(a))",
        "abs(a) -> a",
        "v -> not v",
        "v.first() -> v.last()",
    ):
        assert changes.count(fault) == 1, fault
    assert not [c for c in changes if "5 ->" in c or "size" in c or "a + 1 ->" in c]
    assert not next(m for m in mutants_of(source) if m.change == "1 -> 2").in_function
    for mutant in mutants_of(source):
        compile(mutant.source, "faulty", "exec")
        assert mutant.source != source


def test_every_target_and_every_equivalent_is_there() -> None:
    for targets in AREAS.values():
        for target in targets:
            assert target.path.exists()
            for test in target.tests:
                file, _, name = test.partition("::")
                assert f"def {name}" in (target.root / file).read_text()
    modules = {t.module: t for targets in AREAS.values() for t in targets}
    for module, faults in EQUIVALENT.items():
        assert {m.key for m in mutants_of(modules[module].path.read_text())} >= set(faults)


def test_the_table_is_put_between_its_marks(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    page = tmp_path / "page.md"
    marks = ("<!-- made by make mutation -->", "<!-- end of make mutation -->")
    page.write_text("\nold\n".join(marks))
    for name, value in {"PAGE": page, "RESULTS": tmp_path / "results", "ROOT": tmp_path}.items():
        monkeypatch.setattr(mutation, name, value)
    monkeypatch.setattr(mutation, "try_mutants", tried)
    same = {"unseen: 7 -> 8": "no count is eight"}
    monkeypatch.setattr(mutation, "AREAS", {"limits": (target,)})
    monkeypatch.setattr(mutation, "EQUIVALENT", {target.module: same})
    mutation.main([])
    text = page.read_text()
    assert "old" not in text
    total = len(mutants_of(MODULE))
    assert f"| limits | `guarded.limits` | {total} | {total - 3} | 1 | 2 |" in text
    assert "unseen: 7 -> 8: no count is eight." in text
    assert "guarded/limits.py:10: unseen: 7 -> 6" in capsys.readouterr().out
    # A test that sees one more: only what had survived is tried again.
    (tmp_path / "test_limits.py").write_text(f"{TESTS}    assert not unseen(7)\n")
    mutation.main(["--survivors"])
    assert f"| limits | `guarded.limits` | {total} | {total - 1} | 1 | 0 |" in page.read_text()
