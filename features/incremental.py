"""Features of the newest sessions only, equal to those of a computation over all of history.

What reaches back a fixed number of bars is computed from just those bars before. What reaches
back for ever (exponential means, running sums, trailing stops) goes on from a checkpoint: the
state of every recursion and symbol after the last bar of a session. Windows may lie under
recursions and over them, so bars are needed on both sides of the checkpoint: a lookback before
it, to fill the windows that feed the recursions, and a lookback between it and the first new bar,
to fill the windows over them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from features.compute import compute_features, longest_lookback
from features.panel import Recursion, State
from features.side import SideTables
from features.spec import Feature
from market.errors import FeatureError
from market.schema import Bar

_BARS = "bars"
CHECKPOINT_SCHEMA = pl.Schema(
    {
        "session": pl.Date(),
        "symbol": pl.String(),
        "recursion": pl.String(),
        "state": pl.List(pl.Float64()),
    }
)


@dataclass(frozen=True)
class Checkpoint:
    """The state of every recursion after the last bar of a session.

    Attributes
    ----------
    session : date
        Bars of later sessions are not in it.
    bars : mapping
        Symbol to the number of bars that it had by then, for all that had any; sorted.
    states : mapping
        Name of a recursion to its state, (symbols, width).
    """

    session: dt.date
    bars: Mapping[str, int] = field(repr=False)
    states: Mapping[str, State] = field(repr=False)

    def to_frame(self) -> pl.DataFrame:
        """Return it as rows (``CHECKPOINT_SCHEMA``)."""
        count = np.array(list(self.bars.values()), dtype=np.float64).reshape(-1, 1)
        columns = {_BARS: count, **self.states}
        return pl.concat(
            pl.DataFrame(
                {
                    "session": [self.session] * len(self.bars),
                    "symbol": list(self.bars),
                    "recursion": [name] * len(self.bars),
                    "state": columns[name].tolist(),
                },
                schema=CHECKPOINT_SCHEMA,
            )
            for name in sorted(columns)
        )

    def without(self, symbols: Collection[str]) -> Checkpoint:
        """Return it as if these symbols had had no bar."""
        kept = [k for k, s in enumerate(self.bars) if s not in set(symbols)]
        bars = {s: n for s, n in self.bars.items() if s not in set(symbols)}
        return Checkpoint(self.session, bars, {n: s[kept] for n, s in self.states.items()})

    @staticmethod
    def from_frame(rows: pl.DataFrame) -> Checkpoint:
        """Return the checkpoint that :meth:`to_frame` wrote."""
        rows = rows.sort("recursion", "symbol")
        states = {
            str(name): np.array(part["state"].to_list(), dtype=np.float64)
            for (name,), part in rows.partition_by("recursion", as_dict=True).items()
        }
        symbols = rows["symbol"].unique().sort().to_list()
        counts = states.pop(_BARS)[:, 0].astype(int).tolist()
        return Checkpoint(rows["session"][0], dict(zip(symbols, counts, strict=True)), states)


class OutOfReachError(FeatureError):
    """Bars do not reach back far enough to go on from a checkpoint."""


@dataclass(frozen=True)
class Increment:
    """Features of the new sessions, and the checkpoint from which later ones go on."""

    features: pl.DataFrame
    checkpoint: Checkpoint


def compute_increment(
    bars: pl.DataFrame,
    features: Sequence[Feature],
    *,
    start: dt.date,
    keep: dt.date,
    checkpoint: Checkpoint | None,
    whole: Collection[str] = (),
    side: SideTables | None = None,
) -> Increment:
    """Compute the features of the sessions from ``start`` on.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA``, forward-adjusted: the new sessions and those before them that
        :func:`out_of_reach` asks for.
    features : sequence of Feature
        What to compute; those that the checkpoint was made of, or fewer.
    start : date
        First new session.
    keep : date
        Session as of whose end the next checkpoint is taken; not before the given one.
    checkpoint : Checkpoint or None
        Earlier state; ``None`` when ``bars`` begin where history does.
    whole : collection of str
        Symbols that are given from their first bar on: their state is made anew.
    side : SideTables, optional
        See :func:`features.compute.compute_features`.

    Raises
    ------
    OutOfReachError
        When bars do not reach back far enough.
    FeatureError
        When a recursion is not in the checkpoint.

    Notes
    -----
    Equal to a computation over all of history within one unit in the last place of float32:
    windows are summed in other pieces, everything else is the same arithmetic.
    """
    # One that no symbol is in yet says nothing: bars begin where history does.
    checkpoint = checkpoint.without(whole) if checkpoint and checkpoint.bars else None
    short = out_of_reach(bars, features, start=start, checkpoint=checkpoint)
    short = sorted({*short} - {*whole})
    if short:
        raise OutOfReachError(
            "bars do not reach back far enough to go on from a checkpoint",
            got=f"{', '.join(short[:5])} ({len(short)} symbols)",
            allowed=f"{longest_lookback(features) - 1} bars on either side of it, or all bars",
            remedy="give more sessions and an earlier checkpoint, or compute from the start",
        )
    bars = bars.sort(Bar.SYMBOL, Bar.BAR_END)
    done = dt.date.min if checkpoint is None else checkpoint.session
    session, anew = pl.col(Bar.SESSION), pl.col(Bar.SYMBOL).is_in(list(whole))
    rows = bars.group_by(Bar.SYMBOL, maintain_order=True).agg(
        pl.len().alias("rows"),
        ((session <= done) & ~anew).sum().alias("done"),
        (session <= keep).sum().alias("kept"),
    )
    first = rows["rows"].cum_sum().cast(pl.Int64).to_numpy() - rows["rows"].to_numpy()
    recursion = Recursion(
        start=first + rows["done"].cast(pl.Int64).to_numpy(),
        snapshot=first + rows["kept"].cast(pl.Int64).to_numpy() - 1,
        before=_states_of(checkpoint, rows[Bar.SYMBOL].to_list()),
    )
    made = compute_features(bars, features, side, recursion)
    _require_known(checkpoint, recursion)
    counts = dict(zip(rows[Bar.SYMBOL], (rows["kept"] - rows["done"]).to_list(), strict=True))
    return Increment(
        made.filter(session >= start), _next_checkpoint(checkpoint, keep, counts, recursion.after)
    )


def out_of_reach(
    bars: pl.DataFrame,
    features: Sequence[Feature],
    *,
    start: dt.date,
    checkpoint: Checkpoint | None,
) -> list[str]:
    """Return the symbols of which more earlier bars are needed to go on from a checkpoint.

    A symbol that was halted has fewer bars in the same sessions. Without a checkpoint the bars
    are taken to begin where history does, and nothing is out of reach.
    """
    if checkpoint is None:
        return []
    before = longest_lookback(features) - 1
    session = pl.col(Bar.SESSION)
    rows = bars.group_by(Bar.SYMBOL).agg(
        (session <= checkpoint.session).sum().alias("done"),
        ((session > checkpoint.session) & (session < start)).sum().alias("since"),
        (session >= start).sum().alias("new"),
    )
    short: list[str] = []
    for symbol, done, since, new in rows.iter_rows():
        ever = checkpoint.bars.get(symbol, 0)
        begins_later = ever == 0 and done == 0
        enough = since >= before and (before <= done <= ever or done == ever)
        if new and not begins_later and not enough:
            short.append(symbol)
    return sorted(short)


def short_of_bars(bars: pl.DataFrame, features: Sequence[Feature], start: dt.date) -> list[str]:
    """Return the symbols with new bars and fewer bars before ``start`` than a lookback needs."""
    session = pl.col(Bar.SESSION)
    rows = bars.group_by(Bar.SYMBOL).agg(
        (session < start).sum().alias("old"), (session >= start).sum().alias("new")
    )
    before = longest_lookback(features) - 1
    return sorted(s for s, old, new in rows.iter_rows() if new and old < before)


def session_to_keep(bars: pl.DataFrame, features: Sequence[Feature]) -> dt.date | None:
    """Return the newest session as of whose end a checkpoint serves the last one and later ones.

    Each symbol of the last session must have a lookback of bars between the two, as far as it has
    so many: the last session may not be over, and is then computed once more. ``None`` where no
    session is early enough.
    """
    before = max(1, longest_lookback(features) - 1)
    last = bars[Bar.SESSION].max()
    old = bars.filter(pl.col(Bar.SESSION) < last)
    alive = bars.filter(pl.col(Bar.SESSION) == last).select(Bar.SYMBOL).unique()
    # Of each symbol the session of the bar that is the lookback-th from the end.
    reached = (
        old.join(alive, on=Bar.SYMBOL, how="semi")
        .select(Bar.SYMBOL, Bar.SESSION)
        .filter(pl.len().over(Bar.SYMBOL) >= before)
        .sort(Bar.SYMBOL, Bar.SESSION)
        .group_by(Bar.SYMBOL)
        .agg(pl.col(Bar.SESSION).tail(before).first())
    )
    earliest = reached[Bar.SESSION].min()
    return old.filter(pl.col(Bar.SESSION) < (earliest or last))[Bar.SESSION].max()  # type: ignore[return-value]


def _states_of(checkpoint: Checkpoint | None, symbols: Sequence[str]) -> dict[str, State]:
    # Taken before any bar, it knows no symbol.
    if checkpoint is None or not checkpoint.bars:
        return {}
    place = {symbol: k for k, symbol in enumerate(checkpoint.bars)}
    there = np.array([place.get(s, -1) for s in symbols])
    return {
        name: np.where((there >= 0)[:, None], state[there], 0.0)
        for name, state in checkpoint.states.items()
    }


def _require_known(checkpoint: Checkpoint | None, recursion: Recursion) -> None:
    unknown = set() if checkpoint is None else set(recursion.after) - set(checkpoint.states)
    if unknown:
        raise FeatureError(
            "the checkpoint lacks the state of a recursion",
            got=sorted(unknown)[:5],
            allowed=f"{len(recursion.before)} recursions",
            remedy="compute these features from the start of history",
        )


def _next_checkpoint(
    checkpoint: Checkpoint | None,
    keep: dt.date,
    counts: Mapping[str, int],
    after: Mapping[str, State],
) -> Checkpoint:
    """Join the states of the computed symbols with those that had no bar since."""
    old = {} if checkpoint is None else checkpoint.bars
    bars = {s: old.get(s, 0) + counts.get(s, 0) for s in sorted({*old, *counts})}
    bars = {s: n for s, n in bars.items() if n}
    now = {s: k for k, s in enumerate(counts)}
    before = {s: k for k, s in enumerate(old)}
    states: dict[str, State] = {}
    for name, state in after.items():
        joined = np.zeros((len(bars), state.shape[1]))
        for k, symbol in enumerate(bars):
            if symbol in now:
                joined[k] = state[now[symbol]]
            elif checkpoint is not None:
                joined[k] = checkpoint.states[name][before[symbol]]
        states[name] = joined
    return Checkpoint(keep, bars, states)
