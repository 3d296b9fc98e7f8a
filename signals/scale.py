"""How large the ensemble's expected return should be, by what its past ones were worth.

The slope of outcomes on forecasts (Mincer and Zarnowitz 1969) is one where forecasts are as large
as they should be. Here it is taken through the origin, because excess returns have a mean of zero
and a forecast of nothing should stay one, by weighted least squares: forecast and outcome in units
of the volatility known with the forecast. Its error comes from the sums of sessions, whose rows
share their shocks, and is robust to the overlap of labels (Newey and West 1987). A normal prior
draws it toward one by how little evidence there is (Theil and Goldberger 1961).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping

import numpy as np
import polars as pl

from market.horizons import Horizon
from models.comparison import automatic_lags, newey_west_variance
from models.forecast import Prediction
from models.session_moments import OUTCOME, Moment
from signals.levels import evidence_sessions
from signals.schema import ENSEMBLE_ENGINE

PRIOR_DEVIATION = 0.5
"""Standard deviation of the prior, whose mean is one: forecasts between nothing and twice as large
as they should be are within two of them."""

LEAST = 0.01
"""Scale of forecasts that mislead or say nothing: no cost is paid by what is left, and the order of
symbols, by which skill is judged, stays."""


def return_scale(moments: pl.DataFrame, as_of: dt.datetime, horizon: Horizon) -> float:
    """Return by how much an expected return is to be multiplied, as known at ``as_of``.

    Parameters
    ----------
    moments : pl.DataFrame
        ``models.session_moments.MOMENT_SCHEMA`` of the ensemble, of forecasts that were not scaled;
        others are not looked at.
    as_of : datetime
        Aware. Sessions whose outcomes were known later are not looked at.
    horizon : Horizon
        Of the forecasts.

    Returns
    -------
    float
        The posterior mean of the slope, and ``LEAST`` where that is below. One with fewer than
        as many sessions as :func:`signals.levels.evidence_sessions` asks for, of which a
        variance cannot be told, and where every forecast was zero.

    Notes
    -----
    Autocovariances count up to twice the sessions that a label spans: Bartlett's weights would
    take a third off the variance if they stopped where the overlap does.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from models.session_moments import MOMENT_SCHEMA
    >>> nothing = pl.DataFrame(schema=MOMENT_SCHEMA)
    >>> return_scale(nothing, dt.datetime(2024, 1, 2, tzinfo=dt.UTC), find_horizon("1d"))
    1.0
    """
    known = moments.filter(
        (pl.col(Moment.KNOWN_AT) <= as_of) & (pl.col(Moment.ENGINE) == ENSEMBLE_ENGINE)
    ).sort(Moment.SESSION)
    own, came = (
        known.filter(pl.col(Moment.OTHER) == other)[Moment.PRODUCT].to_numpy()
        for other in (ENSEMBLE_ENGINE, OUTCOME)
    )
    sessions, size = len(own), float(own.sum())
    if sessions < evidence_sessions(horizon)[0] or size <= 0.0:
        return 1.0
    slope = float(came.sum()) / size
    lags = max(2 * horizon.sessions, automatic_lags(sessions))
    deviation = sessions * float(np.sqrt(newey_west_variance(came - slope * own, lags))) / size
    # The weight of the prior among both precisions, written so that no error is no problem.
    doubt = deviation**2 / (deviation**2 + PRIOR_DEVIATION**2)
    return max(LEAST, doubt + (1.0 - doubt) * slope)


def scale_returns(blended: pl.DataFrame, scales: Mapping[str, float]) -> pl.DataFrame:
    """Return the ensemble's predictions with their expected returns multiplied.

    Parameters
    ----------
    blended : pl.DataFrame
        ``PREDICTION_SCHEMA`` from :func:`signals.weighting.blend`.
    scales : mapping
        Horizon to its scale, from :func:`return_scale`; every horizon that is there.

    Returns
    -------
    pl.DataFrame
        The same with other ``expected_return_bps``, and with a ``model_version`` that follows the
        scale. Probabilities are calibrated on their own and stay.
    """
    scale = pl.col(Prediction.HORIZON).replace_strict(scales, return_dtype=pl.Float64)
    versions = blended.select(Prediction.HORIZON, Prediction.MODEL_VERSION).unique()
    named = {
        version: f"{ENSEMBLE_ENGINE}-{horizon}-{_digest(version, scales[horizon])}"
        for horizon, version in versions.iter_rows()
    }
    return blended.with_columns(
        (pl.col(Prediction.EXPECTED_RETURN_BPS) * scale).alias(Prediction.EXPECTED_RETURN_BPS),
        pl.col(Prediction.MODEL_VERSION).replace_strict(named, return_dtype=pl.String),
    )


def _digest(version: str, scale: float) -> str:
    return hashlib.sha256(f"{version}*{scale!r}".encode()).hexdigest()[:12]
