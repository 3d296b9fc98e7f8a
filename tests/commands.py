"""Run the command line in this process, through the same ``main`` as the console script."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isobar.cli import main
from tests.pipelines.installation import environment_of


@dataclass(frozen=True)
class Outcome:
    """What a shell would see."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it has to be."""
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """What follows ``Error:``: one line, which no terminal's width has broken."""
        lines = [n for n in self.err.splitlines() if n.startswith("Error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


def _folder(environment: Mapping[str, str]) -> Path | None:
    folder = Path(environment["ISOBAR_HOME"]).parent
    return folder if folder.is_dir() else None


def isobar(*arguments: str, environment: Mapping[str, str]) -> Outcome:
    """Run ``isobar ARGUMENTS`` under exactly this configuration."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        environment_of(environment, _folder(environment)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["isobar", *arguments])
        try:
            main()
        except SystemExit as left:
            status = int(left.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())
