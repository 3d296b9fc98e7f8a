"""Whether a challenger has earned its promotion: the same rows, forecast by both.

The loss is the log loss of the class probabilities. Signals are made of these (direction and
confidence); it is a proper score, so that neither boldness nor caution pays by itself (Gneiting
and Raftery 2007); and it is bounded for each row. The squared error of expected returns
would be ruled by the few largest moves of a year, and says nothing of confidence.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import polars as pl
from scipy.stats import t

from market.errors import ModelError
from models.comparison import Alternative, MeanTest, automatic_lags, diebold_mariano
from models.evaluation import Vector
from models.forecast import Prediction
from models.outcomes import Outcome
from models.scores import session_losses
from models.sequential import Decision, SequentialTest

_LEVEL = 0.95
_LOSS = "log_loss"
_KEYS = (Prediction.SYMBOL, Prediction.BAR_END, Prediction.AS_OF, Prediction.HORIZON)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says of a challenger.

    Attributes
    ----------
    decision : Decision
        ``promote``, ``keep`` (the test's term is over) or ``continue``.
    mean_difference : float
        Mean log loss of the champion's sessions less the challenger's, in nats: above zero the
        challenger is better. NaN without sessions.
    low, high : float
        Its 95 percent interval as of one look; infinite where nothing can be said.
    p_value : float
        Diebold and Mariano's, against a challenger that is no better; valid for one look.
    sequential_low : float
        Lower limit that holds over all looks: above zero it allows promotion.
    sessions, rows : int
        What both forecast and whose outcome is known.
    reason : str
        The same in one line.
    """

    decision: Decision
    mean_difference: float
    low: float
    high: float
    p_value: float
    sequential_low: float
    sessions: int
    rows: int
    reason: str

    def as_evidence(self) -> dict[str, float | int | str | None]:
        """Return the figures as plain values; what is not finite is ``None``."""
        figures = {
            "mean_difference": self.mean_difference,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "sequential_low": self.sequential_low,
        }
        finite = {k: v if math.isfinite(v) else None for k, v in figures.items()}
        return {
            "loss": "log loss, nats",
            "decision": self.decision.value,
            **finite,
            "sessions": self.sessions,
            "rows": self.rows,
        }


def judge_challenger(
    champion_predictions: pl.DataFrame,
    challenger_predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    state: SequentialTest,
) -> tuple[Verdict, SequentialTest]:
    """Compare champion and challenger on the rows that both forecast.

    Parameters
    ----------
    champion_predictions, challenger_predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, one engine each, of one horizon, both calibrated or neither, both
        for one neutral band. Only rows since the challenger became one: it may have been
        chosen by what came before.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``, of the band that made the predictions.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    state : SequentialTest
        The test as the last look left it.

    Returns
    -------
    verdict : Verdict
        Promotion where the sequential test allows it and the challenger has not lost its lead
        since; never before ``state.min_sessions``. No common row with a known outcome: continue.
    state : SequentialTest
        After this look; to be kept for the next.

    Raises
    ------
    ModelError
        When either has several engines or horizons, a row twice, or probabilities that are no
        distribution; or sessions are gone that the last look saw.

    Examples
    --------
    >>> from models.forecast import PREDICTION_SCHEMA
    >>> from models.outcomes import OUTCOME_SCHEMA
    >>> none = pl.DataFrame(schema=PREDICTION_SCHEMA)
    >>> verdict, _ = judge_challenger(none, none, pl.DataFrame(schema=OUTCOME_SCHEMA),
    ...     as_of=dt.datetime(2025, 1, 2, tzinfo=dt.UTC), state=SequentialTest())
    >>> verdict.reason
    'continue: 0 of at least 40 sessions seen'
    """
    tables = champion_predictions, challenger_predictions
    for name, table in zip(("champion", "challenger"), tables, strict=True):
        _require_one_engine(name, table)
    known = outcomes.filter(
        (pl.col(Outcome.LABEL_KNOWN_AT) <= as_of) & pl.col(Outcome.OUTCOME).is_not_null()
    )
    seen = known.select(Outcome.SYMBOL, Outcome.BAR_END, Outcome.HORIZON)
    both = [
        mine.join(other.select(_KEYS), on=_KEYS, how="semi").join(seen, on=seen.columns, how="semi")
        for mine, other in (tables, tables[::-1])
    ]
    if both[0].is_empty() and state.last is None:
        return _say(MeanTest(math.nan, math.nan, math.nan, 1.0, 0, 0), 0, state), state
    losses = [_losses(rows, known, as_of) for rows in both]
    # What lies beyond the plan is the next challenger's to be judged by.
    used = losses[0].head(state.planned_sessions)
    a: Vector = used[_LOSS].to_numpy()
    b: Vector = losses[1].head(state.planned_sessions)[_LOSS].to_numpy()
    newest = as_of.date() if used.is_empty() else used[Prediction.SESSION][-1]
    after = state.look(a, b, session=newest)
    lags = max(automatic_lags(len(a)), state.overlap - 1)
    paired = diebold_mariano(a, b, lags=lags, alternative=Alternative.B_BETTER)
    return _say(paired, int(used["rows"].sum()), after), after


def _say(paired: MeanTest, rows: int, state: SequentialTest) -> Verdict:
    n = paired.sessions
    allowed = state.decision
    lost = allowed is Decision.PROMOTE and not paired.mean > 0.0
    decision = Decision.CONTINUE if lost else allowed
    half = math.inf
    if math.isfinite(paired.standard_error):
        half = float(t.ppf(0.5 + _LEVEL / 2.0, n - 1)) * paired.standard_error
    low, high = (paired.mean - half, paired.mean + half) if n else (-math.inf, math.inf)
    seen = state.crossed or state.last
    limit = seen.low if seen is not None else -math.inf
    return Verdict(
        decision=decision,
        mean_difference=paired.mean,
        low=low,
        high=high,
        p_value=paired.p_value,
        sequential_low=limit,
        sessions=n,
        rows=rows,
        reason=f"{decision.value}: {_reason(paired, low, high, limit, state, lost)}",
    )


def _reason(
    paired: MeanTest, low: float, high: float, limit: float, state: SequentialTest, lost: bool
) -> str:
    if paired.sessions < state.min_sessions:
        return f"{paired.sessions} of at least {state.min_sessions} sessions seen"
    side = "better" if paired.mean > 0.0 else "worse"
    figures = (
        f"the challenger's log loss is {abs(paired.mean):.4f} nats {side}"
        f" (95% {low:+.4f} to {high:+.4f}, p {paired.p_value:.3f}, {paired.sessions} sessions)"
    )
    if lost and state.crossed is not None:
        return f"{figures}; the lead it had on {state.crossed.session} is gone"
    if state.decision is Decision.PROMOTE:
        return f"{figures}, and over all looks at least {limit:.4f}"
    if state.decision is Decision.KEEP:
        return f"{figures}; the test ended after {state.planned_sessions} sessions without proof"
    return f"{figures}; over all looks it is not proven ({limit:+.4f})"


def _losses(rows: pl.DataFrame, known: pl.DataFrame, as_of: dt.datetime) -> pl.DataFrame:
    if rows.is_empty():
        return pl.DataFrame(
            schema={Prediction.SESSION: pl.Date, "rows": pl.UInt32, _LOSS: pl.Float64}
        )
    return session_losses(rows, known, as_of=as_of)


def _require_one_engine(name: str, table: pl.DataFrame) -> None:
    found = table.select(Prediction.HORIZON, Prediction.ENGINE).unique()
    double = table.select(_KEYS).is_duplicated().any()
    if found.height > 1 or double:
        raise ModelError(
            f"predictions of the {name} are not those of one engine",
            got="a row twice" if double else sorted(found.rows())[:4],
            allowed="one engine, one horizon, each row once",
            remedy="filter the predictions first",
        )
