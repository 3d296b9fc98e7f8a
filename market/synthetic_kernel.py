"""The inner loop of the synthetic market: one session, minute by minute, all symbols."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]


@njit(cache=True)
def simulate_session(
    log_price: Floats,
    state: Floats,
    decay: Floats,
    kappa: Floats,
    scale: Floats,
    shape: Floats,
    drift_day: Floats,
    sigma: Floats,
    shocks_common: Floats,
    loadings: Floats,
    variance_common: Floats,
    z_idio: Floats,
    z_open: Floats,
    u_high: Floats,
    u_low: Floats,
    bars: Floats,
    states: Floats,
    net: Floats,
) -> None:
    """Advance every symbol through the minutes of one session.

    Parameters
    ----------
    log_price : (N,) float64
        Log total-return price at the open; holds the close afterwards.
    state : (C, N) float64
        Intraday reversal states, zero at the open; changed in place.
    decay, kappa : (C,) float64
        Decay per minute and strength of each intraday component.
    scale : (N,) float64
        Baseline volatility of a full session, to which planted drifts are proportional.
    shape : (T,) float64
        U-shaped share of a full session's volatility in each minute.
    drift_day : (N,) float64
        Log drift of the whole session that is common or planted at daily horizons.
    sigma : (N,) float64
        Idiosyncratic volatility of this session, stochastic part included.
    shocks_common : (T, K) float64
        Market and sector shocks of each minute, already in log-return units.
    loadings : (N, K) float64
        Exposures to them.
    variance_common : (T, N) float64
        Variance of the common part, for the compensator that keeps simple returns unbiased.
    z_idio, z_open : (T, N) float64
        Standard normal shocks of the minute and of its first trade.
    u_high, u_low : (T, N) float64
        Uniforms for the extremes of a Brownian bridge.
    bars : (T, 4, N) float64
        Filled with log open, high, low, close.
    states : (T, C, N) float64
        Filled with the states after each minute.
    net : (T, N) float64
        Filled with the session's log excess return so far, planted daily drift removed.
    """
    minutes, symbols = z_idio.shape
    components = state.shape[0]
    planted = np.empty((components, symbols))
    step = np.empty(symbols)
    running = np.zeros(symbols)
    for t in range(minutes):
        for c in range(components):
            mean = 0.0
            for i in range(symbols):
                planted[c, i] = -kappa[c] * shape[t] * scale[i] * state[c, i]
                mean += planted[c, i]
            mean /= symbols
            for i in range(symbols):
                planted[c, i] -= mean
        average = 0.0
        for i in range(symbols):
            vol = sigma[i] * shape[t]
            common = 0.0
            for k in range(loadings.shape[1]):
                common += loadings[i, k] * shocks_common[t, k]
            variance = vol * vol + variance_common[t, i]
            first = vol * 0.2 * z_open[t, i]
            noise = vol * np.sqrt(0.96) * z_idio[t, i]
            surprise = common + first + noise - 0.5 * variance
            total = surprise + drift_day[i] / minutes
            for c in range(components):
                total += planted[c, i]
            opening = log_price[i] + first
            closing = log_price[i] + total
            gap = closing - opening
            span = np.sqrt(variance)
            reach_up = np.sqrt(gap * gap - 2.0 * variance * np.log(u_high[t, i]))
            reach_down = np.sqrt(gap * gap - 2.0 * variance * np.log(u_low[t, i]))
            bars[t, 0, i] = opening
            bars[t, 1, i] = min(
                0.5 * (opening + closing + reach_up), max(opening, closing) + 4 * span
            )
            bars[t, 2, i] = max(
                0.5 * (opening + closing - reach_down), min(opening, closing) - 4 * span
            )
            bars[t, 3, i] = closing
            log_price[i] = closing
            step[i] = total - drift_day[i] / minutes
            average += step[i]
        average /= symbols
        for i in range(symbols):
            excess = step[i] - average
            running[i] += excess
            net[t, i] = running[i]
            for c in range(components):
                # Each state hears the surprise and its own drift, so that it decays by itself.
                own = excess
                for other in range(components):
                    if other != c:
                        own -= planted[other, i]
                state[c, i] = decay[c] * state[c, i] + own / scale[i]
                states[t, c, i] = state[c, i]
