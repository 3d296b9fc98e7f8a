"""Errors of every floor: one root, one child per floor.

A message says what was given, what is allowed and what to do about it, so that the
person who reads it in a terminal at 08:29 does not have to open the source.
"""

from __future__ import annotations


class IsobarError(Exception):
    """Root of every error that Isobar raises on purpose.

    Parameters
    ----------
    problem : str
        What is wrong, naming the thing.
    got : object, optional
        The value received. Never pass a secret.
    allowed : str, optional
        What would have been accepted.
    remedy : str, optional
        What the reader should do next.

    Examples
    --------
    >>> print(MarketError("unknown timeframe", got="7m", allowed="1m, 5m", remedy="use 5m"))
    unknown timeframe: got '7m'; allowed: 1m, 5m. Remedy: use 5m.
    """

    def __init__(
        self,
        problem: str,
        *,
        got: object = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.got = got
        self.allowed = allowed
        self.remedy = remedy
        super().__init__(self._text())

    def _text(self) -> str:
        text = self.problem
        if self.got is not None:
            text += f": got {self.got!r}"
        if self.allowed is not None:
            text += f"; allowed: {self.allowed}"
        if self.remedy is not None:
            # What a service said may end with its own full stop.
            end = "" if self.remedy.endswith("?") else "."
            text = f"{text.removesuffix('.')}. Remedy: {self.remedy}{end}"
        return text


class MarketError(IsobarError):
    """Bars, calendar, sources, lake."""


class SourceError(MarketError):
    """A vendor refused, was out of reach, or answered with something unusable."""


class NotInPlanError(SourceError):
    """The key is known, but its plan does not cover what was asked for."""


class LakeError(MarketError):
    """The lake cannot be read or written."""


class LedgerError(MarketError):
    """The ledger cannot be read or written."""


class FeatureError(IsobarError):
    """Features, labels, regimes."""


class ModelError(IsobarError):
    """Families, splits, training, tracking."""


class SignalError(IsobarError):
    """Weights and the signals table."""


class ExecutionError(IsobarError):
    """Planning, broker, journal. A *denied* order is data, not an error."""


class BrokerError(ExecutionError):
    """The broker refused, was out of reach, or gave an unclear answer."""


class BrokerRefusal(BrokerError):
    """The broker understood the order and said no: it does not exist and will not."""


class BacktestError(IsobarError):
    """Simulation and metrics."""


class SettingsError(IsobarError):
    """A setting is unknown, malformed or contradicts another."""


class UsageError(IsobarError):
    """The command line was used wrongly (exit status 2)."""
