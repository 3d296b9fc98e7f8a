"""Walk-forward splits by time across all symbols, purged and embargoed.

The splitter follows scikit-learn's interface; ``groups`` are the rows' sessions.
Purging after López de Prado (2018), chapter 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from market.errors import ModelError
from market.horizons import Horizon

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PurgedWalkForward:
    """Expanding or rolling training windows, each followed by a gap and a test window.

    Parameters
    ----------
    horizon : Horizon
        Whose labels the rows carry.
    min_train_sessions : int
        Length of the first training window.
    test_sessions : int
        Length of each test window; also the rhythm of retraining.
    purge_sessions : int, optional
        Sessions left out before each test window because their labels reach into it. At least the
        horizon's; that many by default.
    embargo_sessions : int
        Further sessions left out, against what serial correlation carries over.
    max_train_sessions : int, optional
        Rolling window; expanding when ``None``.

    Raises
    ------
    ModelError
        When the purge is shorter than the horizon, or a length is not positive.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> splitter = PurgedWalkForward(find_horizon("1d"), min_train_sessions=4, test_sessions=2)
    >>> sessions = np.arange("2024-01-01", "2024-01-10", dtype="datetime64[D]")
    >>> [(len(a), len(b)) for a, b in splitter.split(sessions, groups=sessions)]
    [(2, 2), (4, 2), (6, 1)]
    """

    horizon: Horizon
    min_train_sessions: int
    test_sessions: int
    purge_sessions: int | None = None
    embargo_sessions: int = 1
    max_train_sessions: int | None = None

    def __post_init__(self) -> None:
        windows = (self.min_train_sessions, self.test_sessions, self.max_train_sessions)
        lengths = tuple(w for w in windows if w is not None)
        if min(lengths) < 1 or self.embargo_sessions < 0:
            raise ModelError(
                "window lengths of the walk-forward",
                got=f"{lengths}, embargo {self.embargo_sessions}",
                allowed="positive windows, embargo of 0 or more",
                remedy="correct the settings",
            )
        if self.min_train_sessions <= self.gap:
            raise ModelError(
                "the first training window would be purged away",
                got=f"{self.min_train_sessions} sessions",
                allowed=f"more than {self.gap}",
                remedy="raise min_train_sessions",
            )

    @property
    def gap(self) -> int:
        """Sessions between the last training row and the first test row."""
        return purge_of(self.horizon, self.purge_sessions) + self.embargo_sessions

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # noqa: N803
        """Return the number of test windows for these sessions."""
        sessions = len(np.unique(_required(groups)))
        return max(0, -(-(sessions - self.min_train_sessions) // self.test_sessions))

    def split(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        groups: Any = None,
    ) -> Iterator[tuple[Indices, Indices]]:
        """Yield (training rows, test rows) in order of time."""
        rows = _required(groups)
        sessions = np.unique(rows)
        if len(sessions) <= self.min_train_sessions:
            raise ModelError(
                "too little history for one out-of-sample window",
                got=f"{len(sessions)} sessions",
                allowed=f"more than {self.min_train_sessions}",
                remedy="ingest more history or lower min_train_sessions",
            )
        for begin in range(self.min_train_sessions, len(sessions), self.test_sessions):
            test = sessions[begin : begin + self.test_sessions]
            last = begin - self.gap
            first = 0 if self.max_train_sessions is None else max(0, last - self.max_train_sessions)
            inside = (rows >= sessions[first]) & (rows <= sessions[last - 1])
            tested = (rows >= test[0]) & (rows <= test[-1])
            yield np.flatnonzero(inside), np.flatnonzero(tested)

    def newest(self, groups: npt.NDArray[Any]) -> Indices:
        """Return the rows of a training that forecasts what comes after the last session.

        Nothing is purged: labels that are not known yet have no value to learn from.
        """
        rows = _required(groups)
        sessions = np.unique(rows)
        kept = len(sessions) if self.max_train_sessions is None else self.max_train_sessions
        return np.flatnonzero(rows >= sessions[max(0, len(sessions) - kept)])


def purge_of(horizon: Horizon, sessions: int | None) -> int:
    """Return the sessions to purge: those asked for, or as many as the horizon's labels reach.

    Raises
    ------
    ModelError
        When fewer are asked for than the labels reach.
    """
    if sessions is None:
        return horizon.sessions
    if sessions < horizon.sessions:
        raise ModelError(
            f"purge shorter than the horizon {horizon.name}: training labels would reach into the "
            "test window",
            got=sessions,
            allowed=f"{horizon.sessions} sessions or more",
            remedy="raise purge_sessions or leave it out",
        )
    return sessions


def _required(groups: Any) -> npt.NDArray[Any]:
    if groups is None:
        raise ModelError(
            "the splitter needs the session of every row",
            got=None,
            allowed="groups=sessions",
            remedy="pass groups",
        )
    return np.asarray(groups)
