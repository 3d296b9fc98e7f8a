"""The tree of pinned packages installs on every Python that the project says it runs on."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


def test_every_pin_is_one_version() -> None:
    assert len(PINS) > 250
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) for pin in PINS)


def test_the_oldest_python_that_we_name_is_enough() -> None:
    """Debian 12 has 3.11.2, where a pin that wants 3.11.5 ends the installation."""
    named = re.fullmatch(r">=(\d+\.\d+)", PROJECT["requires-python"])
    assert named is not None
    pinned = {canonicalize_name(p.name) for p in PINS}
    wanted = {
        d.name: d.metadata.get("Requires-Python", "")
        for d in distributions()
        if canonicalize_name(d.name) in pinned
    }
    assert len(wanted) > 250  # Some pins are for other platforms and Pythons.
    newer = {n: w for n, w in wanted.items() if not SpecifierSet(w).contains(f"{named[1]}.0")}
    assert newer == {}
