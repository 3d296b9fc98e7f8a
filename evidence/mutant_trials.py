"""Try faults in a module: a test that goes red kills one, and one that none kills survives.

Each fault is tried in a forked process of its own, up to the first red test. Faults in the bodies
of functions are put into the functions of a process that has collected the tests; others are
imported anew, in a process that has imported all but the module and what depends on it. Random
choices are fixed, so that the same code has the same survivors.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType, ModuleType
from typing import Any

from evidence.code_version import ROOT
from evidence.mutants import Mutant, mutants_of
from market.errors import UsageError

# Against loops without end. Processor time, so that other work on the machine does not matter; the
# wall clock only ends what sleeps for ever.
_SPARE_SECONDS = 20
_LONGEST_SECONDS = 3600
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
    mutants = mutants_of(target.path.read_text()) if mutants is None else mutants
    quick = [m for m in mutants if m.in_function]
    with TemporaryDirectory() as scratch:
        trial = _Trial(target, Path(scratch))
        found = trial.put_into_functions(quick)
        left = [m for m in mutants if m.key not in found]
        found |= trial.import_anew(left) if left else {}
    return {m.key: found[m.key] for m in mutants}


class _Trial:
    """The processes of one target."""

    def __init__(self, target: Target, scratch: Path) -> None:
        self.target, self.scratch = target, scratch
        self.results = scratch / "results.json"

    def put_into_functions(self, mutants: Sequence[Mutant]) -> dict[str, Outcome]:
        """Try faults that stand in functions; what cannot be put there is not in the answer."""
        host = _Host(self, mutants, os.dup(2))
        self._check(_in_child(lambda: self.pytest([host]), self.scratch, _LONGEST_SECONDS * 100))
        return {k: Outcome(v) for k, v in json.loads(self.results.read_text()).items()}

    def import_anew(self, mutants: Sequence[Mutant]) -> dict[str, Outcome]:
        """Try faults anywhere.

        In a child: what it imports would else be there, without a fault, for the next module.
        """
        terminal = os.dup(2)
        each = partial(self._import_each, mutants, terminal)
        self._check(_in_child(each, self.scratch, _LONGEST_SECONDS * 100))
        return {k: Outcome(v) for k, v in json.loads(self.results.read_text()).items()}

    def _import_each(self, mutants: Sequence[Mutant], terminal: int) -> int:
        source = self.target.path.read_text()
        self._check(self._import(source, _LONGEST_SECONDS, listing=True))
        _import_independent(self.target, json.loads(self.results.read_text()))
        began = _children_seconds()
        self._check(self._import(source, _LONGEST_SECONDS))
        limit = _limit(began)
        found: dict[str, Outcome] = {}
        for mutant in mutants:
            found[mutant.key] = self.judge(self._import(mutant.source, limit))
            _tell(self.target, len(mutants), found, terminal)
        self.results.write_text(json.dumps(found))
        return 0

    def _import(self, source: str, limit: float, *, listing: bool = False) -> int | None:
        def run() -> int:
            sys.meta_path.insert(0, _Faulty(self.target, source))
            status = self.pytest([])
            if listing:
                self.results.write_text(json.dumps(list(sys.modules)))
            return status

        return _in_child(run, self.scratch, limit)

    def pytest(self, plugins: list[object]) -> int:
        """Run the tests here; return pytest's exit status."""
        import pytest

        os.chdir(self.target.root)
        sys.path.insert(0, str(self.target.root))
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(self.scratch / "hypothesis")
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
        # Assertions of what is imported before pytest was asked stay as they are: none is ours.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--tb=short"]
        options += ["--hypothesis-seed=0", f"--basetemp={self.scratch}/tmp"]
        return int(pytest.main([*options, *self.target.tests], plugins=[_Unshrunk(), *plugins]))

    def judge(self, status: int | None) -> Outcome:
        """Return what an exit status says of a fault."""
        if status is None or os.WIFSIGNALED(status):
            return Outcome.TIMED_OUT
        code = os.WEXITSTATUS(status)
        if code not in _OUTCOMES:
            raise self._unusable(f"exit status {code}")
        return _OUTCOMES[code]

    def _check(self, status: int | None) -> None:
        if status != 0:
            raise self._unusable("red tests without a fault")

    def _unusable(self, got: str) -> UsageError:
        said = (self.scratch / "output.txt").read_text(errors="replace")
        return UsageError(
            f"the tests of {self.target.module} tell nothing of a fault",
            got=f"{got}: {said[-2000:]}",
            allowed="tests that are green without one",
            remedy=f"python -m pytest -n 0 {' '.join(self.target.tests)}",
        )


class _Host:
    """A pytest plugin: instead of running the tests once, run them for each fault in a child."""

    def __init__(self, trial: _Trial, mutants: Sequence[Mutant], terminal: int) -> None:
        self._trial, self._mutants, self._terminal = trial, mutants, terminal

    def pytest_runtestloop(self, session: Any) -> bool:
        from _pytest.main import pytest_runtestloop

        def run() -> int:
            with contextlib.suppress(session.Failed, session.Interrupted):
                pytest_runtestloop(session)
            return 1 if session.testsfailed else 0

        scratch = self._trial.scratch
        self._trial.results.write_text("{}")
        if not _is_forkable():
            return True
        began = _children_seconds()
        if _in_child(run, scratch, _LONGEST_SECONDS) != 0:
            session.testsfailed = 1
            return True
        limit = _limit(began)
        found: dict[str, Outcome] = {}
        module = importlib.import_module(self._trial.target.module)
        for mutant in self._mutants:
            codes = _codes(compile(mutant.source, str(self._trial.target.path), "exec"))
            places = _functions(module, mutant, codes)
            if places:
                status = _in_child(lambda p=places: _put(p) or run(), scratch, limit)
                found[mutant.key] = self._trial.judge(status)
                _tell(self._trial.target, len(self._mutants), found, self._terminal)
        self._trial.results.write_text(json.dumps(found))
        return True


def _codes(code: CodeType) -> dict[str, CodeType]:
    """Return every code object in a module's by its qualified name."""
    found = {code.co_qualname: code}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _codes(constant)
    return found


def _functions(
    module: ModuleType, mutant: Mutant, codes: dict[str, CodeType]
) -> list[tuple[FunctionType, CodeType]]:
    """Return the function that a fault is in, with its faulty code; empty where it has none."""
    for names in (vars(module), *(vars(c) for c in vars(module).values() if isinstance(c, type))):
        for value in list(names.values()):
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if (
                isinstance(function, FunctionType)
                and function.__module__ == module.__name__
                and f"{mutant.where}.".startswith(f"{function.__qualname__}.")
            ):
                code = codes[function.__qualname__]
                if code.co_freevars == function.__code__.co_freevars:
                    return [(function, code)]
    return []


def _put(places: list[tuple[FunctionType, CodeType]]) -> None:
    for function, code in places:
        function.__code__ = code


def _is_forkable() -> bool:
    """Say whether no thread is at work that may hold a lock: in a fork it would hold it for ever.

    Importing Polars starts two kinds that wait; it starts others with the first query.
    """
    tasks = Path("/proc/self/task")
    names = [(t / "comm").read_text().strip() for t in tasks.iterdir()] if tasks.exists() else [""]
    busy = [n for n in names if n not in ("jemalloc_bg_thd", "polars-ooc-clea")]
    return len(busy) == 1


def _limit(began: float) -> float:
    return _SPARE_SECONDS + 4 * (_children_seconds() - began)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tell(target: Target, total: int, found: dict[str, Outcome], terminal: int) -> None:
    """Say how far it is, and at once what survived: a whole module takes minutes."""
    newest, outcome = next(reversed(found.items()))
    if outcome is Outcome.SURVIVED:
        os.write(terminal, f"{target.module}: survived: {newest}\n".encode())
    left = sum(o is Outcome.SURVIVED for o in found.values())
    end = "\n" if len(found) == total else "\r"
    os.write(terminal, f"{target.module}: {len(found)} of {total}, {left} survived{end}".encode())


def _in_child(run: Callable[[], int], scratch: Path, limit: float) -> int | None:
    """Run in a forked process; return its wait status, or None when it was ended for its time."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setpgid(0, 0)
            _be_quiet(scratch)
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 6))
            status = run()
        except BaseException:  # noqa: BLE001 - the status says so, and the process ends
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return _wait(child, max(limit, _LONGEST_SECONDS))


def _wait(child: int, limit: float) -> int | None:
    until = time.monotonic() + limit
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
    out = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.ftruncate(out, 0)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)


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
