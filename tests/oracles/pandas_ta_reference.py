"""Reference values of the technical family from pandas-ta-classic, in the features' own units.

Where its version depends on the price scale or differs from the stated definition, a plain
computation with pandas stands in and says why. ``talib=False`` keeps to its plain Python path.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    # It asks pandas for the day of the year by an old name while it is imported.
    warnings.filterwarnings("ignore", "Timestamp.dayofyear is deprecated")
    import pandas_ta_classic as ta

Bars = pd.DataFrame
Reference = Callable[[Bars], pd.Series]


def above(line: Callable[[Bars], pd.Series]) -> Reference:
    """The close's distance from a line, over the close."""
    return lambda b: (b.close - line(b)) / b.close


def over_close(value: Callable[[Bars], pd.Series]) -> Reference:
    return lambda b: value(b) / b.close


def over_volume(value: Callable[[Bars], pd.Series]) -> Reference:
    return lambda b: value(b) / mean_volume(b)


def mean_volume(b: Bars) -> pd.Series:
    return b.volume.rolling(20).mean()


def hlc(b: Bars) -> tuple[pd.Series, pd.Series, pd.Series]:
    return b.high, b.low, b.close


def column(frame: pd.DataFrame, start: str) -> pd.Series:
    """The only column whose name, up to the parameters, is ``start``."""
    (name,) = [c for c in frame.columns if c.split("_")[0] == start]
    return frame[name]


def change_over(x: pd.Series, bars: int) -> pd.Series:
    return x - x.shift(bars)


def psar_line(b: Bars) -> pd.Series:
    frame = ta.psar(*hlc(b), talib=False)
    return column(frame, "PSARl").fillna(column(frame, "PSARs"))


def mean_trend(b: Bars) -> pd.Series:
    """Where close and mean are equal, pandas-ta-classic's sign is that of a rounding error."""
    signs = ta.ttm_trend(*hlc(b), 6).iloc[:, 0]
    mean = (0.5 * (b.high + b.low)).rolling(6).mean()
    return signs.mask((b.close / mean - 1).abs() < 1e-9, -1)


def wilder_chande(b: Bars) -> pd.Series:
    """TA-Lib's smoothing, which pandas-ta-classic takes only where TA-Lib is installed."""
    change = b.close.diff()
    up, down = ta.rma(change.clip(lower=0), 14), ta.rma(-change.clip(upper=0), 14)
    return 100 * (up - down) / (up + down)


def fisher(b: Bars) -> pd.Series:
    """Ehlers' recursion, which waits while prices have no range.

    pandas-ta-classic has a floor of 0.001 under the range, which depends on the price scale.
    """
    price = 0.5 * (b.high + b.low)
    low, high = price.rolling(9).min(), price.rolling(9).max()
    places = ((price - low) / (high - low) - 0.5).dropna()
    value = result = 0.0
    results = []
    for place in places.iloc[1:]:
        value = 0.66 * place + 0.67 * value
        value = -0.999 if value < -0.99 else 0.999 if value > 0.99 else value
        result = 0.5 * (np.log((1 + value) / (1 - value)) + result)
        results.append(result)
    return pd.Series(results, places.index[1:]).reindex(b.index)


def squeeze_state(b: Bars) -> pd.Series:
    frame = ta.squeeze(*hlc(b), talib=False)
    return frame["SQZ_ON"] - frame["SQZ_OFF"]


def index_returns(b: Bars, index: str) -> pd.Series:
    return getattr(ta, index)(b.close, b.volume) - 1000


def aroon_latest(b: Bars, name: str) -> pd.Series:
    return column(ta.aroon(b.high, b.low, 14, talib=False), name)


def vwap_of_sessions(b: Bars) -> pd.Series:
    return ta.vwap(b.high, b.low, b.close, b.volume)


def rolling_vwap(b: Bars) -> pd.Series:
    price = (b.high + b.low + b.close) / 3
    return (price * b.volume).rolling(20).sum() / b.volume.rolling(20).sum()


def squared_bps(ease: pd.Series, b: Bars) -> pd.Series:
    return ease * 1e8 * mean_volume(b) / b.close**2


def vwmacd(b: Bars, name: str) -> pd.Series:
    return column(ta.vwmacd(b.close, b.volume), name)


AVERAGES: dict[str, Reference] = {
    "sma_10": above(lambda b: ta.sma(b.close, 10, talib=False)),
    "ema_10": above(lambda b: ta.ema(b.close, 10, talib=False)),
    "rma_10": above(lambda b: ta.rma(b.close, 10)),
    "wma_10": above(lambda b: ta.wma(b.close, 10, talib=False)),
    "dema_10": above(lambda b: ta.dema(b.close, 10, talib=False)),
    "tema_10": above(lambda b: ta.tema(b.close, 10, talib=False)),
    "t3_10": above(lambda b: ta.t3(b.close, 10, talib=False)),
    "hma_10": above(lambda b: ta.hma(b.close, 10)),
    "zlema_10": above(lambda b: ta.zlma(b.close, 10)),
    "kama_10_2_30": above(lambda b: ta.kama(b.close, 10, talib=False)),
    "vidya_14": above(lambda b: ta.vidya(b.close, 14)),
    "ssf_10": above(lambda b: ta.ssf(b.close, 10)),
    "vwma_10": above(lambda b: ta.vwma(b.close, b.volume, 10)),
    "trima_10": above(lambda b: ta.trima(b.close, 10, talib=False)),
    "linreg_14": above(lambda b: ta.linreg(b.close, 14, talib=False)),
    "tsf_14": above(lambda b: ta.linreg(b.close, 14, talib=False, tsf=True)),
    "alma_10": above(lambda b: ta.alma(b.close, 10)),
    "fwma_10": above(lambda b: ta.fwma(b.close, 10)),
    "pwma_10": above(lambda b: ta.pwma(b.close, 10)),
    "sinwma_14": above(lambda b: ta.sinwma(b.close, 14)),
    "swma_10": above(lambda b: ta.swma(b.close, 10)),
    "bias_26": lambda b: ta.bias(b.close, 26),
    "linreg_slope_14": over_close(lambda b: ta.linreg(b.close, 14, talib=False, slope=True)),
    "slope_1": over_close(lambda b: ta.slope(b.close, 1)),
}

TREND: dict[str, Reference] = {
    "di_plus_14": lambda b: column(ta.adx(*hlc(b), 14, talib=False), "DMP"),
    "di_minus_14": lambda b: column(ta.adx(*hlc(b), 14, talib=False), "DMN"),
    "dx_14": lambda b: ta.dx(*hlc(b), 14, talib=False),
    "adx_14": lambda b: column(ta.adx(*hlc(b), 14, talib=False), "ADX"),
    "adxr_14": lambda b: column(ta.adxr(*hlc(b), 14, talib=False), "ADXR"),
    "aroon_up_14": lambda b: aroon_latest(b, "AROONU"),
    "aroon_down_14": lambda b: aroon_latest(b, "AROOND"),
    "aroon_oscillator_14": lambda b: aroon_latest(b, "AROONOSC"),
    "ichimoku_tenkan_9": above(lambda b: ichimoku(b, "ITS")),
    "ichimoku_kijun_26": above(lambda b: ichimoku(b, "IKS")),
    "ichimoku_senkou_a_9_26": above(lambda b: ichimoku(b, "ISA")),
    "ichimoku_senkou_b_52": above(lambda b: ichimoku(b, "ISB")),
    "supertrend_7_3": above(lambda b: column(ta.supertrend(*hlc(b), 7, 3.0), "SUPERT")),
    "supertrend_direction_7_3": lambda b: column(ta.supertrend(*hlc(b), 7, 3.0), "SUPERTd"),
    "psar": above(psar_line),
    "psar_acceleration": lambda b: column(ta.psar(*hlc(b), talib=False), "PSARaf"),
    "psar_reversal": lambda b: column(ta.psar(*hlc(b), talib=False), "PSARr"),
    "vortex_plus_14": lambda b: column(ta.vortex(*hlc(b), 14), "VTXP"),
    "vortex_minus_14": lambda b: column(ta.vortex(*hlc(b), 14), "VTXM"),
    "chop_14": lambda b: ta.chop(*hlc(b), 14),
    "qstick_10": over_close(lambda b: ta.qstick(b.open, b.close, 10)),
    "dpo_20": over_close(lambda b: ta.dpo(b.close, 20, lookahead=False)),
    "massi_9_25": lambda b: ta.massi(b.high, b.low, 9, 25),
    "vhf_28": lambda b: ta.vhf(b.close, 28),
    "cksp_long_10_3_20": above(lambda b: column(ta.cksp(*hlc(b)), "CKSPl")),
    "cksp_short_10_3_20": above(lambda b: column(ta.cksp(*hlc(b)), "CKSPs")),
    "trix_30": lambda b: column(ta.trix(b.close, 30, 9, talib=False), "TRIX"),
    "trix_signal_30_9": lambda b: column(ta.trix(b.close, 30, 9, talib=False), "TRIXs"),
    "ttm_trend_6": mean_trend,
}


def ichimoku(b: Bars, name: str) -> pd.Series:
    frame = ta.ichimoku(*hlc(b.reset_index(drop=True)), as_dataframe=True, lookahead=False)
    return column(frame, name).set_axis(b.index)


def macd(b: Bars, name: str) -> pd.Series:
    return column(ta.macd(b.close, talib=False), name)


def ppo(b: Bars, name: str) -> pd.Series:
    return column(ta.ppo(b.close, talib=False), name)


def smi(b: Bars, name: str) -> pd.Series:
    return column(ta.smi(b.close), name)


MOMENTUM: dict[str, Reference] = {
    "rsi_14": lambda b: ta.rsi(b.close, 14, talib=False),
    "stochrsi_k_14_14_3_3": lambda b: column(ta.stochrsi(b.close, talib=False), "STOCHRSIk"),
    "stochrsi_d_14_14_3_3": lambda b: column(ta.stochrsi(b.close, talib=False), "STOCHRSId"),
    "macd_12_26_9": over_close(lambda b: macd(b, "MACD")),
    "macd_signal_12_26_9": over_close(lambda b: macd(b, "MACDs")),
    "macd_histogram_12_26_9": over_close(lambda b: macd(b, "MACDh")),
    "apo_12_26": over_close(lambda b: ta.apo(b.close, talib=False)),
    "ppo_12_26_9": lambda b: ppo(b, "PPO"),
    "ppo_signal_12_26_9": lambda b: ppo(b, "PPOs"),
    "ppo_histogram_12_26_9": lambda b: ppo(b, "PPOh"),
    "roc_10": lambda b: ta.roc(b.close, 10, talib=False),
    "mom_10": over_close(lambda b: ta.mom(b.close, 10, talib=False)),
    "tsi_13_25_13": lambda b: column(ta.tsi(b.close), "TSI"),
    "tsi_signal_13_25_13": lambda b: column(ta.tsi(b.close), "TSIs"),
    "smi_5_20_5": lambda b: smi(b, "SMI"),
    "smi_signal_5_20_5": lambda b: smi(b, "SMIs"),
    "smi_oscillator_5_20_5": lambda b: smi(b, "SMIo"),
    "cmo_14": wilder_chande,
    "cmo_sum_14": lambda b: ta.cmo(b.close, 14, talib=False),
    # Its rates are in percent and are multiplied by a hundred once more.
    "kst_10_15_20_30": lambda b: column(ta.kst(b.close), "KST") / 100,
    "kst_signal_9": lambda b: column(ta.kst(b.close), "KSTs") / 100,
    "coppock_10_11_14": lambda b: ta.coppock(b.close),
    "cg_10": lambda b: ta.cg(b.close, 10),
    "er_10": lambda b: ta.er(b.close, 10),
    "cfo_9": lambda b: ta.cfo(b.close, 9),
    "cti_12": lambda b: ta.cti(b.close, 12),
    "psl_12": lambda b: ta.psl(b.close, length=12),
    "po_14": lambda b: ta.po(b.close, 14),
    "inertia_20_14": lambda b: ta.inertia(b.close),
}


def place(b: Bars, bars: int) -> pd.Series:
    low = b.low.rolling(bars).min()
    return 100 * (b.close - low) / (b.high.rolling(bars).max() - low)


def stoch(b: Bars, name: str) -> pd.Series:
    return column(ta.stoch(*hlc(b), talib=False).reindex(b.index), name)


def stochf(b: Bars, name: str) -> pd.Series:
    return column(ta.stochf(*hlc(b), talib=False).reindex(b.index), name)


def rvgi(b: Bars, name: str) -> pd.Series:
    return column(ta.rvgi(b.open, b.high, b.low, b.close), name)


def brar(b: Bars, name: str) -> pd.Series:
    return column(ta.brar(b.open, b.high, b.low, b.close), name)


OSCILLATORS: dict[str, Reference] = {
    "stoch_k_14_3_3": lambda b: stoch(b, "STOCHk"),
    "stoch_d_14_3_3": lambda b: stoch(b, "STOCHd"),
    "stochf_k_5_3": lambda b: stochf(b, "STOCHFk"),
    "stochf_d_5_3": lambda b: stochf(b, "STOCHFd"),
    "kdj_k_9_3": lambda b: column(ta.kdj(*hlc(b)), "K"),
    "kdj_d_9_3": lambda b: column(ta.kdj(*hlc(b)), "D"),
    "kdj_j_9_3": lambda b: column(ta.kdj(*hlc(b)), "J"),
    "cci_14": lambda b: ta.cci(*hlc(b), 14, talib=False),
    "willr_14": lambda b: ta.willr(*hlc(b), 14, talib=False),
    "uo_7_14_28": lambda b: ta.uo(*hlc(b), talib=False),
    "ao_5_34": over_close(lambda b: ta.ao(b.high, b.low)),
    "bop": lambda b: ta.bop(b.open, b.high, b.low, b.close, talib=False),
    "rvgi_14_4": lambda b: rvgi(b, "RVGI"),
    "rvgi_signal_14_4": lambda b: rvgi(b, "RVGIs"),
    "rvgi_histogram_14_4": lambda b: rvgi(b, "RVGIh"),
    "fisher_9": fisher,
    "fisher_signal_9_1": lambda b: fisher(b).shift(1),
    "eri_bull_13": over_close(lambda b: column(ta.eri(*hlc(b)), "BULLP")),
    "eri_bear_13": over_close(lambda b: column(ta.eri(*hlc(b)), "BEARP")),
    "pgo_14": lambda b: ta.pgo(*hlc(b), 14),
    "brar_ar_26": lambda b: brar(b, "AR"),
    "brar_br_26": lambda b: brar(b, "BR"),
}


def bbands(b: Bars, name: str) -> pd.Series:
    return column(ta.bbands(b.close, 20, 2.0, talib=False), name)


def keltner(b: Bars, name: str) -> pd.Series:
    return column(ta.kc(*hlc(b)), name)


def keltner_percent(b: Bars) -> pd.Series:
    low = keltner(b, "KCLe")
    return (b.close - low) / (keltner(b, "KCUe") - low)


def donchian(b: Bars, name: str) -> pd.Series:
    return column(ta.donchian(b.high, b.low), name)


def donchian_percent(b: Bars) -> pd.Series:
    low = donchian(b, "DCL")
    return (b.close - low) / (donchian(b, "DCU") - low)


VOLATILITY: dict[str, Reference] = {
    "bb_upper_20_2": above(lambda b: bbands(b, "BBU")),
    "bb_lower_20_2": above(lambda b: bbands(b, "BBL")),
    "bb_percent_20_2": lambda b: bbands(b, "BBP"),
    "bb_bandwidth_20_2": lambda b: bbands(b, "BBB"),
    "kc_upper_20_2": above(lambda b: keltner(b, "KCUe")),
    "kc_lower_20_2": above(lambda b: keltner(b, "KCLe")),
    "kc_percent_20_2": keltner_percent,
    "donchian_upper_20": above(lambda b: donchian(b, "DCU")),
    "donchian_lower_20": above(lambda b: donchian(b, "DCL")),
    "donchian_percent_20": donchian_percent,
    "squeeze_20_2_20_15": over_close(lambda b: ta.squeeze(*hlc(b), talib=False).iloc[:, 0]),
    "squeeze_state_20_2_20_15": squeeze_state,
    "aberration_upper_5_15": above(lambda b: ta.aberration(*hlc(b)).iloc[:, 1]),
    "aberration_lower_5_15": above(lambda b: ta.aberration(*hlc(b)).iloc[:, 2]),
    "accbands_upper_20_4": above(lambda b: column(ta.accbands(*hlc(b)), "ACCBU")),
    "accbands_lower_20_4": above(lambda b: column(ta.accbands(*hlc(b)), "ACCBL")),
    "ce_long_22_3": above(lambda b: ta.ce(*hlc(b)).iloc[:, 0]),
    "ce_short_22_3": above(lambda b: ta.ce(*hlc(b)).iloc[:, 1]),
    "true_range": over_close(lambda b: ta.true_range(*hlc(b), talib=False)),
    "atr_14": over_close(lambda b: ta.atr(*hlc(b), 14, talib=False)),
    "natr_14": lambda b: ta.natr(*hlc(b), 14, talib=False),
    "rvi_14": lambda b: ta.rvi(b.close, length=14),
    "ui_14": lambda b: ta.ui(b.close, 14),
    "cvi_10": lambda b: ta.cvi(b.high, b.low, 10),
    "hvol_20": lambda b: ta.hvol(b.close, 20),
    "pdist": over_close(lambda b: ta.pdist(b.open, b.high, b.low, b.close)),
    "thermo_20": over_close(lambda b: column(ta.thermo(b.high, b.low), "THERMO")),
    "thermo_ma_20": over_close(lambda b: column(ta.thermo(b.high, b.low), "THERMOma")),
    "zscore_30": lambda b: ta.zscore(b.close, 30),
    "stderr_14": over_close(lambda b: ta.stderr(b.close, 14)),
}


def pvo(b: Bars, name: str) -> pd.Series:
    return column(ta.pvo(b.volume), name)


def klinger(b: Bars) -> pd.Series:
    """Without the first bar, which has no direction; pandas-ta-classic counts it as a rise."""
    flow = np.sign(((b.high + b.low + b.close) / 3).diff()) * b.volume
    return ta.ema(flow, 34, talib=False) - ta.ema(flow, 55, talib=False)


VOLUME: dict[str, Reference] = {
    "obv": over_volume(lambda b: ta.obv(b.close, b.volume, talib=False)),
    "obv_change_20": lambda b: (
        change_over(ta.obv(b.close, b.volume, talib=False), 20) / b.volume.rolling(20).sum()
    ),
    "ad": over_volume(lambda b: ta.ad(*hlc(b), b.volume, talib=False)),
    "cmf_20": lambda b: ta.cmf(*hlc(b), b.volume),
    "adosc_3_10": over_volume(lambda b: ta.adosc(*hlc(b), b.volume, talib=False)),
    "pvt": over_volume(lambda b: ta.pvt(b.close, b.volume)),
    "pvt_change_20": lambda b: (
        (ta.roc(b.close, 1, talib=False) * b.volume).rolling(20).sum() / b.volume.rolling(20).sum()
    ),
    "nvi_1": lambda b: index_returns(b, "nvi"),
    "nvi_change_20": lambda b: change_over(index_returns(b, "nvi"), 20),
    "pvi_1": lambda b: index_returns(b, "pvi"),
    "pvi_change_20": lambda b: change_over(index_returns(b, "pvi"), 20),
    "wad": over_close(lambda b: ta.wad(*hlc(b))),
    "wad_change_20": over_close(lambda b: change_over(ta.wad(*hlc(b)), 20)),
    "efi_13": lambda b: ta.efi(b.close, b.volume) / b.close / mean_volume(b),
    "eom_14": lambda b: squared_bps(ta.eom(*hlc(b), b.volume, divisor=1.0), b),
    "emv": lambda b: squared_bps(ta.emv(b.high, b.low, b.volume, divisor=1.0), b),
    "marketfi": lambda b: ta.marketfi(b.high, b.low, b.volume) * mean_volume(b) / b.close,
    "vwap_session": above(vwap_of_sessions),
    "vwap_20": above(rolling_vwap),
    "mfi_14": lambda b: ta.mfi(*hlc(b), b.volume, talib=False),
    "kvo_34_55": over_volume(klinger),
    "kvo_signal_34_55_13": over_volume(lambda b: ta.ema(klinger(b), 13, talib=False)),
    "pvo_12_26_9": lambda b: pvo(b, "PVO"),
    "pvo_signal_12_26_9": lambda b: pvo(b, "PVOs"),
    "pvo_histogram_12_26_9": lambda b: pvo(b, "PVOh"),
    "vosc_14_28": lambda b: ta.vosc(b.volume),
    "vwmacd_12_26_9": over_close(lambda b: vwmacd(b, "VWMACD")),
    "vwmacd_signal_12_26_9": over_close(lambda b: vwmacd(b, "VWMACDs")),
    "vwmacd_histogram_12_26_9": over_close(lambda b: vwmacd(b, "VWMACDh")),
}

PARITY: dict[str, Reference] = {
    **AVERAGES,
    **TREND,
    **MOMENTUM,
    **OSCILLATORS,
    **VOLATILITY,
    **VOLUME,
}
