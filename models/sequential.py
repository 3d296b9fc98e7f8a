"""May a challenger be promoted, asked every day, without being wrong more often than declared.

Who tests every day at 5 percent and stops at the first success promotes a worthless challenger
far more often than that. Alpha is therefore spent over the looks after O'Brien and Fleming (1979)
and Lan and DeMets (1983).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy.fft import dct
from scipy.special import ndtr, ndtri, stdtrit

from market.errors import ModelError
from models.comparison import check_series
from models.evaluation import Vector

_MIN_FREEDOM = 3
_SPENT = 0.6


class Decision(StrEnum):
    """What the looks so far allow."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the losses.

    Attributes
    ----------
    session : date
        The newest session looked at.
    sessions : int
        How many were looked at.
    mean : float
        Mean loss of the champion less the challenger's: above zero the challenger is better.
    low : float
        Lower limit of the true difference; all limits of all looks hold together with
        probability ``1 - alpha``. Minus infinity before anything can be said.
    """

    session: dt.date
    sessions: int
    mean: float
    low: float


@dataclass(frozen=True)
class SequentialTest:
    """A one-sided test that may be looked at after any session, and what it has seen.

    Parameters
    ----------
    planned_sessions : int
        After so many sessions the test ends; then a challenger must begin anew.
    overlap : int
        Sessions over which labels overlap: the horizon's, at least 1.
    alpha : float
        Highest probability of promoting a challenger that is no better, over all looks.
    min_sessions : int
        Before that no look decides anything.
    looks : int
        How often it was looked at.
    last, crossed : Look, optional
        The newest look, and the first that allowed promotion. Filled by :meth:`look`.

    Raises
    ------
    ModelError
        When a number is out of range.

    Notes
    -----
    The sum of ``n`` of ``N`` planned differences behaves like a Brownian motion at time
    ``n / N``. That motion passes a level ``c`` at any time up to 1 with probability
    ``2 * (1 - Phi(c))`` (reflection principle), so with ``c`` the upper ``a / 2`` quantile of
    the normal the test may be looked at after every session, some, or even within them: this
    is the spending function of O'Brien and Fleming's type of Lan and DeMets, for looks without
    end. The standardised mean must exceed ``c / sqrt(n / N)``: hardly possible early, 2.17 at
    the end for 5 percent. Of ``alpha`` only ``a``, three fifths, is spent so. The rest is kept
    for what a year is too short for: a long-run variance estimated anew at every look, and
    differences that are skewed. In simulated years looked at every day, a challenger that was
    no better was promoted in 3 to 4 percent under autocorrelation, fat tails and changing
    volatility, and in just below 5 where it lost rarely and much.

    Chosen over a confidence sequence (Howard et al. 2021; Waudby-Smith et al. 2024), which needs
    no planned end: a challenger has a natural term, within it this boundary needs less
    evidence, and differences of losses have no bound that is known beforehand.

    Differences are autocorrelated. Their long-run variance is the mean of the squares of the
    first ``v`` cosine transforms (Lazarus, Lewis, Stock and Watson 2018, ``v = 0.4 * n ** (2/3)``;
    no more than ``n / (2 * overlap)``), for which the standardised mean is Student's t with ``v``
    degrees of freedom; the boundary is put at the same probability there.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> champion = rng.normal(1.0, 0.1, 120)
    >>> test = SequentialTest(planned_sessions=120)
    >>> test.look(champion, champion - 0.02, session=dt.date(2024, 6, 21)).decision.value
    'promote'
    >>> test.look(champion, rng.normal(1.0, 0.1, 120), session=dt.date(2024, 6, 21)).decision.value
    'keep'
    """

    planned_sessions: int = 252
    overlap: int = 1
    alpha: float = 0.05
    min_sessions: int = 40
    looks: int = 0
    last: Look | None = None
    crossed: Look | None = None

    def __post_init__(self) -> None:
        lengths = (self.planned_sessions, self.overlap, self.min_sessions)
        fine = min(lengths) >= 1 and self.min_sessions <= self.planned_sessions
        if not fine or not 0.0 < self.alpha < 0.5 or self.looks < 0:
            raise ModelError(
                "the plan of a sequential test",
                got=f"planned, overlap, least {lengths}; alpha {self.alpha}; {self.looks} looks",
                allowed="1 session or more, least not above planned; alpha between 0 and 0.5",
                remedy="correct the settings",
            )
        if _freedom(self.planned_sessions, self.overlap) < _MIN_FREEDOM:
            raise ModelError(
                "a sequential test could never decide",
                got=f"{self.planned_sessions} planned sessions, overlap {self.overlap}",
                allowed=f"{2 * _MIN_FREEDOM} times the overlap or more, and 21 sessions or more",
                remedy="plan a longer test",
            )

    @property
    def decision(self) -> Decision:
        """Promote once any look allowed it; keep the champion once the plan has run out."""
        if self.crossed is not None:
            return Decision.PROMOTE
        ended = self.last is not None and self.last.sessions >= self.planned_sessions
        return Decision.KEEP if ended else Decision.CONTINUE

    def look(
        self, loss_champion: Vector, loss_challenger: Vector, *, session: dt.date
    ) -> SequentialTest:
        """Return the test after one more look.

        Parameters
        ----------
        loss_champion, loss_challenger : (n,) float64
            Mean loss of each session since the test began, the same sessions, in order of time;
            from :func:`models.scores.session_losses`. Only what is known by now.
        session : date
            The newest of them.

        Returns
        -------
        SequentialTest
            Itself where it has already decided. Sessions beyond the plan are not looked at.

        Raises
        ------
        ModelError
            When lengths differ, a loss is not finite, or there are fewer sessions than at the
            last look.
        """
        champion = check_series(loss_champion)
        challenger = check_series(loss_challenger)
        if champion.shape != challenger.shape:
            raise ModelError(
                "losses of champion and challenger do not fit together",
                got=f"{len(champion)} and {len(challenger)} sessions",
                allowed="one loss per session of each",
                remedy="join them by session first",
            )
        if self.last is not None and len(champion) < self.last.sessions:
            raise ModelError(
                "a sequential test lost sessions between two looks",
                got=f"{len(champion)} sessions",
                allowed=f"{self.last.sessions} or more, those of the last look first",
                remedy="give every session since the test began",
            )
        if self.decision is not Decision.CONTINUE:
            return self
        better = (champion - challenger)[: self.planned_sessions]
        seen = Look(
            session=session,
            sessions=len(better),
            mean=float(better.mean()) if len(better) else 0.0,
            low=self._low(better),
        )
        crossed = seen if seen.low > 0.0 else None
        return replace(self, looks=self.looks + 1, last=seen, crossed=crossed)

    def to_tags(self) -> dict[str, str]:
        """Return plan and looks as text, numbers so that they are read to the bit."""
        tags = {
            "planned_sessions": str(self.planned_sessions),
            "overlap": str(self.overlap),
            "alpha": repr(self.alpha),
            "min_sessions": str(self.min_sessions),
            "looks": str(self.looks),
        }
        for name, seen in (("last", self.last), ("crossed", self.crossed)):
            if seen is not None:
                tags[f"{name}_session"] = seen.session.isoformat()
                tags[f"{name}_sessions"] = str(seen.sessions)
                tags[f"{name}_mean"] = repr(seen.mean)
                tags[f"{name}_low"] = repr(seen.low)
        return tags

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> SequentialTest:
        """Return the test that :meth:`to_tags` wrote; other tags are left alone.

        Raises
        ------
        ModelError
            When a tag is missing or is no number.
        """
        try:
            return cls(
                planned_sessions=int(tags["planned_sessions"]),
                overlap=int(tags["overlap"]),
                alpha=float(tags["alpha"]),
                min_sessions=int(tags["min_sessions"]),
                looks=int(tags["looks"]),
                last=_read_look(tags, "last"),
                crossed=_read_look(tags, "crossed"),
            )
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"a stored sequential test cannot be read ({error})",
                got=sorted(tags)[:20],
                allowed="what SequentialTest.to_tags wrote",
                remedy="begin the test anew",
            ) from error

    def _low(self, better: Vector) -> float:
        n = len(better)
        freedom = _freedom(n, self.overlap)
        if n < self.min_sessions or freedom < _MIN_FREEDOM:
            return -math.inf
        level = -float(ndtri(_SPENT * self.alpha / 2.0))
        boundary = level / math.sqrt(n / self.planned_sessions)
        critical = -float(stdtrit(freedom, ndtr(-boundary)))
        return float(better.mean()) - critical * math.sqrt(_long_run_variance(better, freedom) / n)


def _freedom(sessions: int, overlap: int) -> int:
    """Return how many cosine transforms the long-run variance is the mean of."""
    return min(math.floor(0.4 * sessions ** (2.0 / 3.0)), sessions // (2 * overlap))


def _long_run_variance(values: Vector, freedom: int) -> float:
    # The transform's first term is the sum; the others do not see the mean.
    terms: Vector = np.asarray(dct(values))[1 : freedom + 1]
    return float((terms * terms).mean()) / (2.0 * len(values))


def _read_look(tags: Mapping[str, str], name: str) -> Look | None:
    if f"{name}_session" not in tags:
        return None
    return Look(
        session=dt.date.fromisoformat(tags[f"{name}_session"]),
        sessions=int(tags[f"{name}_sessions"]),
        mean=float(tags[f"{name}_mean"]),
        low=float(tags[f"{name}_low"]),
    )
