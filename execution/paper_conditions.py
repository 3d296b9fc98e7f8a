"""What a paper account and its market allow, apart from prices: parameters of the replay."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from execution.fill_rules import FillRules
from market.errors import ExecutionError


@dataclass(frozen=True, slots=True)
class Halt:
    """A span in which a symbol does not trade; ``start`` is inside, ``end`` is not."""

    symbol: str
    start: dt.datetime
    end: dt.datetime

    def holds(self, symbol: str, at: dt.datetime) -> bool:
        """Say whether ``symbol`` is halted at a moment."""
        return symbol == self.symbol and self.start <= at < self.end


@dataclass(frozen=True, slots=True)
class PaperConditions:
    """Conditions of a replay; the defaults are a quiet account in a market of endless depth.

    Parameters
    ----------
    participation : Decimal, optional
        The share of a bar's volume that the orders of a symbol may take together, above 0 and at
        most 1; whole shares, and the rest waits for later bars. ``None``: a bar that traded fills
        an order whole.
    rules : FillRules
        What a bar does to an order that rests. The default is what the backtest assumes.
    halts : tuple of Halt
        Bars that start inside a halt are not traded against, and new orders are refused.
    inactive : frozenset of str
        Symbols whose asset is inactive.
    not_shortable : frozenset of str
        Symbols that cannot be sold short.
    hard_to_borrow : frozenset of str
        Symbols whose short sales are day orders only.
    late_rejects : Mapping of str to str
        Symbol to reason: its orders are accepted, and rejected once they are routed.
    account_blocked : bool
        Refuse every new order.
    requests_per_minute : int, optional
        Answer 429 above this many requests in the last sixty seconds of the replayed clock.

    Raises
    ------
    ExecutionError
        When a number is out of range or a halt ends before it starts.

    Examples
    --------
    >>> PaperConditions(participation=Decimal("0.1")).requests_per_minute is None
    True
    """

    participation: Decimal | None = None
    rules: FillRules = field(default_factory=FillRules)
    halts: tuple[Halt, ...] = ()
    inactive: frozenset[str] = frozenset()
    not_shortable: frozenset[str] = frozenset()
    hard_to_borrow: frozenset[str] = frozenset()
    late_rejects: Mapping[str, str] = field(default_factory=dict[str, str])
    account_blocked: bool = False
    requests_per_minute: int | None = None

    def __post_init__(self) -> None:
        share, rate = self.participation, self.requests_per_minute
        if share is not None and not 0 < share <= 1:
            raise ExecutionError(
                "the paper broker's participation is unusable",
                got=str(share),
                allowed="a share of a bar's volume above 0 and at most 1, or None",
                remedy="use 0.1, or None to fill orders whole",
            )
        if rate is not None and rate < 1:
            raise ExecutionError(
                "the paper broker's request limit is unusable",
                got=rate,
                allowed="1 or more requests a minute, or None",
                remedy="use 200, as the service does",
            )
        for halt in self.halts:
            if halt.start.tzinfo is None or halt.end.tzinfo is None or halt.end <= halt.start:
                raise ExecutionError(
                    "a halt has an unusable span",
                    got=f"{halt.symbol} from {halt.start.isoformat()} to {halt.end.isoformat()}",
                    allowed="two moments with a time zone, the second one later",
                    remedy="correct the halt",
                )

    def is_halted(self, symbol: str, at: dt.datetime) -> bool:
        """Say whether a symbol is halted at a moment."""
        return any(halt.holds(symbol, at) for halt in self.halts)
