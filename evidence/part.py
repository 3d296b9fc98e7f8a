"""What a part of the evidence is, and what it is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from evidence.files import read_json, write_json


class Part(Protocol):
    """A module of this package that measures something.

    Attributes
    ----------
    NAME : str
        File stem of its result, and its name on the command line.
    TITLE : str
        Heading of its chapter.
    NEEDS_REAL_BARS : bool
        Whether it can only run where ``ISOBAR_SAMPLE_BARS`` names a folder.
    CONFIG : dict
        JSON: all that decides the result but code and data.
    """

    NAME: str
    TITLE: str
    NEEDS_REAL_BARS: bool
    CONFIG: dict[str, Any]

    def measure(self, run: Run) -> dict[str, Any]:
        """Return the result: plain JSON, ``None`` for what is not a number."""
        ...

    def sections(self, result: dict[str, Any]) -> str:
        """Return Markdown that stands below the part's heading; its own headings begin at ###."""
        ...

    def pictures(self, result: dict[str, Any]) -> dict[str, bytes]:
        """Return pictures by file name; names begin with the part's."""
        ...


@dataclass(frozen=True)
class Run:
    """What a part is given.

    Attributes
    ----------
    folder : Path
        For files of the part alone; another one for other code or another configuration.
    bars : Path or None
        Folder of real bars.
    seeds : int or None
        How many seeds, where fewer than the part's own number are asked for.
    """

    folder: Path
    bars: Path | None = None
    seeds: int | None = None

    def once(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what ``work`` returns, from its file where it was done before.

        A killed measurement goes on where it was.
        """
        path = self.folder / f"{key}.json"
        if path.exists():
            return read_json(path)
        made = work()
        write_json(path, made)
        return read_json(path)

    def each_seed(
        self,
        count: int,
        work: Callable[[int], dict[str, Any]],
        of: str,
        *,
        key: str = "seed",
        shown: Callable[[dict[str, Any]], object] | None = None,
    ) -> list[dict[str, Any]]:
        """Return what ``work`` returns for each seed, each kept once; ``of`` names it meanwhile.

        ``count`` is the part's own number of seeds, ``shown`` what is said of each result.
        """
        count = count if self.seeds is None else self.seeds
        found: list[dict[str, Any]] = []
        for seed in range(count):
            found.append(self.once(f"{key}-{seed}", partial(work, seed)))
            more = f", {shown(found[-1])}" if shown else ""
            self.progress(f"{of}: seed {seed + 1} of {count}{more}")
        return found

    def progress(self, text: str) -> None:
        """Say how far it is."""
        print(text, file=sys.stderr, flush=True)
