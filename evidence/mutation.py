"""`make mutation`: plant small faults in what must not be wrong, and see that a test goes red.

Goes through :data:`evidence.mutation_targets.AREAS` and writes the table of
``docs/reliability.md``. What was tried is kept under ``evidence/results/mutation`` and
not tried again while the module and its tests are the same; ``--survivors`` tries again only what
no test had killed, for who adds tests.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from evidence.code_version import ROOT
from evidence.files import read_json, write_json
from evidence.marked import write_between
from evidence.mutant_trials import Outcome, Target, try_mutants
from evidence.mutants import Mutant, mutants_of
from evidence.mutation_targets import AREAS, EQUIVALENT
from market.errors import UsageError

RESULTS = ROOT / "evidence" / "results" / "mutation"
PAGE = ROOT / "docs" / "reliability.md"


def main(arguments: list[str] | None = None) -> None:
    """Try the faults that are asked for, tell what survived, and write the table."""
    asked = _arguments(arguments)
    areas = asked.area or list(AREAS)
    if not asked.page:
        for area in areas:
            for target in AREAS[area]:
                bring_up_to_date(target, survivors=asked.survivors)
    for area in areas:
        for target in AREAS[area]:
            for mutant in survivors(target):
                print(f"{target.path.relative_to(ROOT)}:{mutant.line}: {mutant.key}")
    write_page()


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence.mutation", description=__doc__)
    parser.add_argument("--area", action="append", choices=AREAS, help="one area, several times")
    parser.add_argument("--survivors", action="store_true", help="only what had survived")
    parser.add_argument("--page", action="store_true", help="try nothing, write the table")
    return parser.parse_args(arguments)


def bring_up_to_date(target: Target, *, survivors: bool = False) -> None:
    """Try the faults of a module, unless it is known what becomes of them."""
    path, digest = RESULTS / f"{target.module}.json", _digest(target)
    mutants = mutants_of(target.path.read_text())
    kept: dict[str, str] = {}
    if path.exists():
        found = read_json(path)
        if found["digest"] == digest:
            return
        if survivors:
            kept = {k: o for k, o in found["outcomes"].items() if o != Outcome.SURVIVED}
    known = kept.keys() | _equivalent(target)
    left = [m for m in mutants if m.key not in known]
    outcomes = kept | {k: o.value for k, o in try_mutants(target, left).items()}
    result: dict[str, Any] = {
        "module": target.module,
        "digest": digest,
        "outcomes": {m.key: outcomes[m.key] for m in mutants if m.key in outcomes},
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores",
    }
    write_json(path, result)


def survivors(target: Target) -> list[Mutant]:
    """Return the faults that no test has killed, in the order of the lines."""
    found = _read(target)["outcomes"]
    mutants = mutants_of(target.path.read_text())
    return [m for m in mutants if found.get(m.key) == Outcome.SURVIVED]


def write_page() -> None:
    """Write the table into ``docs/reliability.md`` between its two marks."""
    write_between(PAGE, "make mutation", table())


def table() -> str:
    """Return a row for each module that was tried, and the equivalents with their reasons."""
    lines = [
        "| what | module | faults | killed | equivalent | survived |",
        "|---|---|---|---|---|---|",
    ]
    dates: set[str] = set()
    for area, targets in AREAS.items():
        for target in (t for t in targets if (RESULTS / f"{t.module}.json").exists()):
            found = _read(target)
            count = Counter(found["outcomes"].values())
            killed = count[Outcome.KILLED] + count[Outcome.TIMED_OUT]
            same = len(_equivalent(target))
            total = killed + count[Outcome.SURVIVED] + same
            cells = (area, f"`{target.module}`", total, killed, same, count[Outcome.SURVIVED])
            lines.append(f"| {' | '.join(map(str, cells))} |")
            dates.add(f"{found['date']}, {found['machine']}")
    reasons = [
        f"- `{module}`, {key.replace('|', chr(92) + '|')}: {reason}."
        for module, faults in EQUIVALENT.items()
        for key, reason in faults.items()
    ]
    told = f"*Measured by `make mutation` on {'; '.join(sorted(dates)) or 'no day yet'}.*"
    listed = (
        ["", "Equivalent, as they change nothing that the module is for:", "", *reasons]
        if reasons
        else []
    )
    return "\n".join([*lines, *listed, "", told])


def _equivalent(target: Target) -> dict[str, str]:
    """Return the faults that are declared to be none, all of which must be there."""
    declared = EQUIVALENT.get(target.module, {})
    unknown = declared.keys() - {m.key for m in mutants_of(target.path.read_text())}
    if unknown:
        raise UsageError(
            f"faults that are declared equivalent are not in {target.module}",
            got=sorted(unknown),
            allowed="keys as `python -m evidence.mutation` prints them",
            remedy="remove or rename them in evidence/mutation_targets.py",
        )
    return declared


def _read(target: Target) -> dict[str, Any]:
    path = RESULTS / f"{target.module}.json"
    return read_json(path) if path.exists() else {"outcomes": {}}


def _digest(target: Target) -> str:
    """Return what changes with the module, its tests or the equivalents."""
    files = {target.path, *(target.root / t.partition("::")[0] for t in target.tests)}
    made = hashlib.sha256(repr((target.tests, sorted(_equivalent(target)))).encode())
    for file in sorted(files, key=Path.as_posix):
        made.update(file.read_bytes())
    return made.hexdigest()[:12]


if __name__ == "__main__":
    main(sys.argv[1:])
