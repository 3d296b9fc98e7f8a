"""Combinatorial purged cross-validation: many out-of-sample paths from one history.

After López de Prado (2018), chapter 12. The splitter follows scikit-learn's interface; ``groups``
are the rows' sessions. Training rows lie before and after the test blocks, so this judges a
*procedure* over many paths; what is served is trained walk-forward (:mod:`models.splits`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from market.errors import ModelError
from market.horizons import Horizon
from models.splits import Indices, purge_of


@dataclass(frozen=True)
class CombinatorialPurged:
    """Every choice of some blocks of sessions as the test set; the rest, purged, trains.

    Parameters
    ----------
    horizon : Horizon
        Whose labels the rows carry.
    n_groups : int
        Blocks of consecutive sessions, as equal in length as can be.
    n_test_groups : int
        Blocks tested at a time.
    purge_sessions : int, optional
        Sessions left out before each test block, because their labels reach into it, and after
        it, because its labels reach into them. At least the horizon's; that many by default.
    embargo_sessions : int
        Further sessions left out after each test block, against what serial correlation carries
        over.

    Raises
    ------
    ModelError
        When the purge is shorter than the horizon, or numbers are out of range.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> splitter = CombinatorialPurged(find_horizon("1d"), n_groups=4, n_test_groups=2)
    >>> sessions = np.arange("2024-01-01", "2024-01-21", dtype="datetime64[D]")
    >>> [(len(a), len(b)) for a, b in splitter.split(sessions, groups=sessions)]
    [(8, 10), (5, 10), (7, 10), (7, 10), (6, 10), (9, 10)]
    >>> splitter.paths().tolist()
    [[0, 0, 1, 2], [1, 3, 3, 4], [2, 4, 5, 5]]
    """

    horizon: Horizon
    n_groups: int
    n_test_groups: int
    purge_sessions: int | None = None
    embargo_sessions: int = 1

    def __post_init__(self) -> None:
        purge_of(self.horizon, self.purge_sessions)
        if not 1 <= self.n_test_groups < self.n_groups or self.embargo_sessions < 0:
            raise ModelError(
                "blocks of the combinatorial splits",
                got=f"{self.n_test_groups} of {self.n_groups}, embargo {self.embargo_sessions}",
                allowed="1 or more tested of more blocks, embargo of 0 or more",
                remedy="correct the settings",
            )

    @property
    def purge(self) -> int:
        """Sessions left out on both sides of a test block."""
        return purge_of(self.horizon, self.purge_sessions)

    @property
    def n_paths(self) -> int:
        """Backtest paths: how often each block is tested."""
        return math.comb(self.n_groups - 1, self.n_test_groups - 1)

    @property
    def tested(self) -> tuple[tuple[int, ...], ...]:
        """The blocks that each split tests, in the order of :meth:`split`."""
        return tuple(combinations(range(self.n_groups), self.n_test_groups))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # noqa: N803
        """Return the number of splits; it does not depend on the rows."""
        return math.comb(self.n_groups, self.n_test_groups)

    def blocks(self, groups: Any) -> Indices:
        """Return the block of each row, from 0.

        Raises
        ------
        ModelError
            When sessions are not given, or fewer than blocks.
        """
        return self._place(groups)[1]

    def split(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        groups: Any = None,
    ) -> Iterator[tuple[Indices, Indices]]:
        """Yield (training rows, test rows), each ascending.

        Raises
        ------
        ModelError
            When sessions are not given or too few, or a split leaves nothing to train on.
        """
        number, block = self._place(groups)
        of_session = self._block_of_session(int(number.max()) + 1)
        for tested in self.tested:
            in_test = np.isin(of_session, tested)
            usable = ~self._forbidden(in_test)
            train = np.flatnonzero(usable[number])
            if len(train) == 0:
                raise ModelError(
                    "purge and embargo leave nothing to train on",
                    got=f"{len(of_session)} sessions, blocks {tested} tested, {self.purge} purged "
                    f"on both sides, embargo {self.embargo_sessions}",
                    allowed="blocks longer than purge and embargo",
                    remedy="take fewer blocks, or more history",
                )
            yield train, np.flatnonzero(np.isin(block, tested))

    def paths(self) -> Indices:
        """Return from which split each block of each path is taken, (n_paths, n_groups).

        The forecasts of path ``p`` for block ``g`` are those that split ``paths()[p, g]`` made for
        the rows of that block. Every test block of every split is in exactly one path.
        """
        tests = np.zeros((self.get_n_splits(), self.n_groups), dtype=np.bool_)
        for split, tested in enumerate(self.tested):
            tests[split, list(tested)] = True
        return np.stack([np.flatnonzero(column) for column in tests.T], axis=1)

    def _place(self, groups: Any) -> tuple[Indices, Indices]:
        """Return the number of each row's session and its block."""
        if groups is None:
            raise ModelError(
                "the splitter needs the session of every row",
                got=None,
                allowed="groups=sessions",
                remedy="pass groups",
            )
        rows: npt.NDArray[Any] = np.asarray(groups)
        sessions, number = np.unique(rows, return_inverse=True)
        if len(sessions) < self.n_groups:
            raise ModelError(
                "fewer sessions than blocks",
                got=f"{len(sessions)} sessions",
                allowed=f"{self.n_groups} or more",
                remedy="take fewer blocks, or more history",
            )
        return number, self._block_of_session(len(sessions))[number]

    def _block_of_session(self, sessions: int) -> Indices:
        parts = np.array_split(np.arange(sessions), self.n_groups)
        return np.repeat(np.arange(self.n_groups), [len(p) for p in parts])

    def _forbidden(self, in_test: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the sessions that may not train: tested, purged or under embargo."""
        steps = np.arange(len(in_test))
        last_test = np.maximum.accumulate(np.where(in_test, steps, -np.inf))
        next_test = np.where(in_test, steps, np.inf)
        next_test = np.minimum.accumulate(next_test[::-1])[::-1]
        before = next_test - steps <= self.purge
        after = steps - last_test <= self.purge + self.embargo_sessions
        return in_test | before | after
