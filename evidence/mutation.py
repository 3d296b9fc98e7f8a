"""`make mutation`: plant small faults in what must not be wrong, and see that a test goes red.

Each fault of :mod:`evidence.mutants` is tried in a process of its own, forked from one that has
imported everything but the module under test and what depends on it. It runs the tests that
:mod:`evidence.mutation_targets` names, up to the first red one. Random choices are fixed, so the
same code has the same survivors. Results are kept by the content of module and tests; the table in
``docs/reliability.md`` is written from them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, ModuleType
from typing import Any

from evidence.code_version import ROOT
from evidence.files import read_json, write_json
from evidence.mutants import Mutant, mutants_of
from market.errors import UsageError

RESULTS = ROOT / "var" / "evidence" / "mutation"
# Against loops without end. Processor time, so that other work on the machine does not matter; the
# wall clock only ends what sleeps for ever.
_SPARE_SECONDS = 20
_LONGEST_SECONDS = 900
_OURS = ("market", "features", "models", "signals", "execution", "backtest", "reports")
_OURS += ("pipelines", "isobar", "evidence", "benchmarks")
_LEFT_TO_PYTEST = ("tests", "conftest", "__main__", "_pytest", "pytest", "_hypothesis_pytestplugin")


class Outcome(StrEnum):
    """What became of a fault."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


# What pytest exits with: all green; a test is red; the module or its tests cannot be imported.
_OUTCOMES = {0: Outcome.SURVIVED, 1: Outcome.KILLED, 2: Outcome.KILLED}


@dataclass(frozen=True)
class Target:
    """A module and the tests that guard it.

    Attributes
    ----------
    module : str
        Dotted name.
    tests : tuple of str
        As pytest takes them, quickest first; relative to ``root``.
    root : Path
        Where both are.
    """

    module: str
    tests: tuple[str, ...]
    root: Path = ROOT

    @property
    def path(self) -> Path:
        """The file of the module."""
        return self.root.joinpath(*self.module.split(".")).with_suffix(".py")


def try_mutants(target: Target, mutants: Sequence[Mutant] | None = None) -> dict[str, Outcome]:
    """Run the target's tests against each fault.

    Parameters
    ----------
    target : Target
        What is tested by what.
    mutants : sequence of Mutant, optional
        All faults of the module by default.

    Returns
    -------
    dict of str to Outcome
        By the mutant's ``key``, in the order given.

    Raises
    ------
    UsageError
        When the tests are red without a fault.
    """
    source = target.path.read_text()
    mutants = mutants_of(source) if mutants is None else mutants
    with TemporaryDirectory() as scratch:
        first = _run(target, source, Path(scratch), _LONGEST_SECONDS, preload=True)
        began = _children_seconds()
        again = _run(target, source, Path(scratch), _LONGEST_SECONDS)
        if {first, again} != {Outcome.SURVIVED}:
            raise UsageError(
                f"the tests of {target.module} are red without a fault",
                got=[first.value, again.value],
                allowed="green tests",
                remedy=f"python -m pytest -n 0 {' '.join(target.tests)}",
            )
        limit = _SPARE_SECONDS + 4 * (_children_seconds() - began)
        found: dict[str, Outcome] = {}
        for k, mutant in enumerate(mutants, start=1):
            found[mutant.key] = _run(target, mutant.source, Path(scratch), limit)
            _tell(target, k, len(mutants), found)
    return found


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tell(target: Target, done: int, total: int, found: dict[str, Outcome]) -> None:
    left = sum(o is Outcome.SURVIVED for o in found.values())
    end = "\n" if done == total else "\r"
    print(f"{target.module}: {done} of {total}, {left} survived", end=end, file=sys.stderr)


def _run(
    target: Target, source: str, scratch: Path, limit: float, *, preload: bool = False
) -> Outcome:
    """Run the tests with this source of the module, in a child."""
    listing = scratch / "modules.json"
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _be_quiet(scratch)
        cap = int(limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (cap, cap + 5))
        status = 70
        try:
            status = _test(target, source, scratch)
            if preload:
                listing.write_text(json.dumps(list(sys.modules)))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = _wait(child)
    if preload and listing.exists():
        _import_independent(target, json.loads(listing.read_text()))
    if status is None or os.WIFSIGNALED(status):
        return Outcome.TIMED_OUT
    code = os.WEXITSTATUS(status)
    if code not in _OUTCOMES:
        raise UsageError(
            f"the tests of {target.module} could not be run",
            got=f"exit status {code}: {(scratch / 'output.txt').read_text()[-2000:]}",
            allowed="green or red tests",
            remedy=f"python -m pytest -n 0 {' '.join(target.tests)}",
        )
    return _OUTCOMES[code]


def _wait(child: int) -> int | None:
    until = time.monotonic() + _LONGEST_SECONDS
    pause = 0.01
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _be_quiet(scratch: Path) -> None:
    out = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)


def _test(target: Target, source: str, scratch: Path) -> int:
    import pytest

    os.chdir(target.root)
    sys.path.insert(0, str(target.root))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
    sys.meta_path.insert(0, _Faulty(target, source))
    plain = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
    # What is imported before pytest was asked cannot have its assertions rewritten: nothing needs it.
    plain += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    fixed = ["--hypothesis-seed=0", "--tb=line", f"--basetemp={scratch}/{os.getpid()}"]
    return int(pytest.main([*plain, *fixed, *target.tests], plugins=[_Unshrunk()]))


class _Unshrunk:
    """A pytest plugin: an example that fails is enough, the smallest one is not looked for."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        parent = settings.get_profile(settings.get_current_profile_name())
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", parent=parent, phases=phases, database=None)
        settings.load_profile("mutation")


class _Faulty(importlib.abc.MetaPathFinder):
    """Finds the module under test with another source."""

    def __init__(self, target: Target, source: str) -> None:
        self._target, self._source = target, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._target.module:
            return None
        file = str(self._target.path)
        loader = _FaultyLoader(fullname, file, self._source)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


class _FaultyLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType | None:
        return compile(self._source, self.path, "exec")


def _import_independent(target: Target, names: Sequence[str]) -> None:
    """Import here what the tests need and the module under test has no part in.

    Ours in the reverse of the order in which they were begun: what is imported comes first.
    """
    sys.path.insert(0, str(target.root))
    ours = [n for n in reversed(names) if n.partition(".")[0] in _OURS]
    others = [n for n in names if n.partition(".")[0] not in (*_OURS, *_LEFT_TO_PYTEST)]
    for name in (*others, *ours):
        before = set(sys.modules)
        if name in before or name == target.module:
            continue
        with contextlib.suppress(ImportError, AttributeError):
            importlib.import_module(name)
        if target.module in sys.modules:
            for new in set(sys.modules) - before:
                _forget(new)


def _forget(name: str) -> None:
    module = sys.modules.pop(name)
    package, _, last = name.rpartition(".")
    if getattr(sys.modules.get(package), last, None) is module:
        delattr(sys.modules[package], last)
