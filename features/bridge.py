"""Any indicator of pandas-ta-classic by its name, once it has passed an audit.

A name in the settings is enough: ``fisher(length=9)``, ``kdj``, ``ebsw(length=40)``. The
indicator is first run on generated bars. One that changes a value when later bars become known is
refused; values in units of price or volume are divided by the close or by the mean volume of 20
bars, and what follows no such scale is refused, because forward-adjusted prices have none. What
the library makes of bars without a range stays as it is: it takes 2e-16 for zero. Slower than the
technical family, which holds the usual indicators.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from features.bridge_trial import Behaviour, column, examine, trial_bars
from features.kernels import Values
from features.panel import Panel, ratio
from features.spec import Feature, Memory, Stage
from features.technical_prices import VOLUME_BARS, mean_volume
from market.errors import FeatureError
from market.near_names import did_you_mean, near_names
from market.schema import Bar

FAMILY = "bridge"
_COLUMNS = {
    "open_": Bar.OPEN.value,
    "high": Bar.HIGH.value,
    "low": Bar.LOW.value,
    "close": Bar.CLOSE.value,
    "volume": Bar.VOLUME.value,
}
# Its plain path, and a frame where it would give a tuple.
_FIXED = {"talib": False, "as_dataframe": True}
_MAY_BE_ZERO_OR_LESS = ("offset", "ddof")
_EMPTY = inspect.Parameter.empty
_WRITTEN = "a name, or a name with keyword arguments, like fisher(length=9)"


@dataclass(frozen=True)
class Indicator:
    """One call of the library: which function, with which constants.

    Attributes
    ----------
    name : str
        Of the library's function.
    arguments : tuple
        Pairs of keyword and constant.
    function : callable
        The function itself.
    inputs : tuple
        Its parameters that are columns of bars.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]
    function: Callable[..., Any] = field(compare=False, repr=False)
    inputs: tuple[str, ...]

    @property
    def text(self) -> str:
        """The indicator as it is written in settings."""
        inner = ", ".join(f"{k}={v!r}" for k, v in self.arguments)
        return f"{self.name}({inner})" if inner else self.name

    def __call__(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Return the library's outputs, one row per bar; no columns where it has none."""
        accepted = inspect.signature(self.function).parameters
        fixed = {k: v for k, v in _FIXED.items() if k in accepted}
        series = {p: bars[_COLUMNS[p]] for p in self.inputs}
        try:
            values = self.function(**series, **fixed, **dict(self.arguments))
        except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
            raise FeatureError(
                f"the indicator {self.text} fails",
                got=f"{type(error).__name__}: {error}",
                remedy="change its arguments, or leave it out",
            ) from error
        if isinstance(values, pd.Series):
            values = values.to_frame()
        if values is None:
            return pd.DataFrame(index=bars.index)
        if not isinstance(values, pd.DataFrame):
            raise FeatureError(
                f"the indicator {self.text} has no values per bar",
                got=type(values).__name__,
                allowed="a series, or a frame of series",
                remedy="leave it out",
            )
        return values.reindex(bars.index)


def indicator_features(
    specs: Sequence[str], *, leave_out_unsafe: bool = False
) -> tuple[Feature, ...]:
    """Make features of indicators named as text.

    Parameters
    ----------
    specs : sequence of str
        Names of pandas-ta-classic, each with or without keyword arguments that are constants.
    leave_out_unsafe : bool
        Leave out the outputs that look ahead and keep the indicator's others; without, the
        whole indicator is refused.

    Returns
    -------
    tuple of Feature
        One per output, named ``ta_`` and the library's own name in lower case. Prices are in
        units of the close, volumes in units of the mean volume of 20 bars.

    Raises
    ------
    FeatureError
        On an unknown name or argument (near ones are named), on an output that looks ahead (its
        first offending bar is named) or follows no scale, and on two outputs of one name.

    Examples
    --------
    >>> [f.name for f in indicator_features(["kdj(length=9)"])]
    ['ta_k_9_3', 'ta_d_9_3', 'ta_j_9_3']
    """
    out: dict[str, Feature] = {}
    for spec in specs:
        indicator = parse_indicator(spec)
        for feature in _features_of(indicator, leave_out_unsafe):
            if feature.name in out:
                raise FeatureError(
                    "two indicators have an output of the same name",
                    got=f"{feature.name} of {spec}",
                    remedy="name it once, or give it other arguments",
                )
            out[feature.name] = feature
    return tuple(out.values())


def parse_indicator(spec: str) -> Indicator:
    """Read an indicator's name and arguments, without running anything.

    Raises
    ------
    FeatureError
        When it is not a name with constants, or the name or an argument is unknown.

    Examples
    --------
    >>> parse_indicator("fisher(length=9)").arguments
    (('length', 9),)
    """
    name, arguments = _read(spec)
    function = _function(name)
    parameters = inspect.signature(function).parameters
    inputs = tuple(
        p for p, about in parameters.items() if p in _COLUMNS and _is_fed(p, about.default)
    )
    needed = [
        p
        for p, about in parameters.items()
        if about.default is _EMPTY
        and about.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and p not in _COLUMNS
    ]
    if needed or not inputs:
        raise FeatureError(
            f"the indicator {name} needs more than bars",
            got=", ".join(needed) or "no column of bars",
            allowed="indicators of open, high, low, close and volume",
            remedy="leave it out",
        )
    allowed = [p for p in _constants(parameters) if p not in _FIXED]
    hints = typing.get_type_hints(function)
    for key, value in arguments:
        _check_argument(name, key, value, allowed, hints.get(key))
    return Indicator(name, tuple(arguments), function, inputs)


def _is_fed(parameter: str, default: Any) -> bool:
    # As the library's own data frame accessor does: an open that may be absent stays absent.
    return parameter != "open_" or default is _EMPTY


def _constants(parameters: Any) -> list[str]:
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [p for p, about in parameters.items() if about.kind is plain and p not in _COLUMNS]


def _read(spec: str) -> tuple[str, list[tuple[str, Any]]]:
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, []
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            pairs = [(k.arg, ast.literal_eval(k.value)) for k in tree.keywords]
            named = [(k, v) for k, v in pairs if k is not None]
            if len({k for k, _ in named}) == len(pairs):
                return tree.func.id, named
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise _unreadable(spec) from error
    raise _unreadable(spec)


def _unreadable(spec: str) -> FeatureError:
    return FeatureError(
        "an indicator cannot be read",
        got=spec,
        allowed=_WRITTEN,
        remedy="write constants only, each with its keyword",
    )


def _check_argument(name: str, key: str, value: Any, allowed: list[str], hint: Any) -> None:
    if key not in allowed:
        raise FeatureError(
            f"the indicator {name} has no such argument",
            got=key,
            allowed=", ".join(allowed) or "no arguments",
            remedy=did_you_mean(
                key, allowed, "choose one of these" if allowed else "write its name alone"
            ),
        )
    kinds = [k for k in (typing.get_args(hint) or (hint,)) if k in (int, float, str, bool)]
    fits = not kinds or type(value) in kinds or (type(value) is int and float in kinds)
    if not fits or not isinstance(value, int | float | str):
        raise FeatureError(
            f"the indicator {name} takes another kind of {key}",
            got=repr(value),
            allowed=" or ".join(k.__name__ for k in kinds) or "a number, a text or a truth value",
            remedy="correct it: the library would use its default without a word",
        )
    number = 1 if isinstance(value, bool | str) else value
    if not number > 0 and key not in _MAY_BE_ZERO_OR_LESS:
        raise FeatureError(
            f"the indicator {name} takes a positive {key}",
            got=repr(value),
            allowed="more than 0",
            remedy="correct it: the library would use its default without a word",
        )
    if key == "mamode" and value not in library().ma():
        raise FeatureError(
            f"the indicator {name} knows no such moving average",
            got=repr(value),
            allowed=", ".join(library().ma()),
            remedy="correct it: the library would use its default without a word",
        )


@lru_cache(maxsize=1)
def library() -> Any:
    """Return pandas-ta-classic, imported on first use."""
    with warnings.catch_warnings():
        # It asks pandas for the day of the year by an old name while it is imported.
        warnings.filterwarnings("ignore", "Timestamp.dayofyear is deprecated")
        return importlib.import_module("pandas_ta_classic")


def indicator_names() -> list[str]:
    """Return the names that pandas-ta-classic knows."""
    return sorted({name for names in library().Category.values() for name in names})


def _function(name: str) -> Callable[..., Any]:
    known = indicator_names()
    if name not in known:
        near = near_names(name, known)
        raise FeatureError(
            "unknown indicator",
            got=name,
            allowed=f"{len(known)} of pandas-ta-classic, such as {', '.join(near or known[:5])}",
            remedy=did_you_mean(name, known, "see its documentation"),
        )
    return getattr(library(), name)


@lru_cache(maxsize=512)
def _examined(indicator: Indicator) -> dict[str, Behaviour]:
    return examine(indicator)


def _features_of(indicator: Indicator, leave_out_unsafe: bool) -> list[Feature]:
    found = _examined(indicator)
    if not found:
        raise FeatureError(
            f"the indicator {indicator.text} gives nothing",
            got=f"no values on {len(trial_bars())} bars",
            remedy="give it shorter lengths, or leave it out",
        )
    _refuse_idle_arguments(indicator, list(found))
    unsafe = [name for name, behaviour in found.items() if behaviour.foresight]
    if unsafe and (not leave_out_unsafe or len(unsafe) == len(found)):
        raise _looks_ahead(indicator, unsafe[0], found[unsafe[0]])
    return [
        _feature(indicator, name, behaviour)
        for name, behaviour in found.items()
        if not behaviour.foresight
    ]


def _refuse_idle_arguments(indicator: Indicator, columns: list[str]) -> None:
    """Refuse an argument that the library ignored in favour of its own default."""
    told = {number for name in columns for number in re.findall(r"\d+\.?\d*", name)}
    bars = trial_bars()
    whole = indicator(bars)
    for key, value in indicator.arguments:
        rest = tuple(a for a in indicator.arguments if a[0] != key)
        without = Indicator(indicator.name, rest, indicator.function, indicator.inputs)(bars)
        is_told = str(value) in told or str(float(value) if type(value) is int else value) in told
        if without.equals(whole) and not is_told:
            raise FeatureError(
                f"the indicator {indicator.name} ignores an argument",
                got=f"{key}={value!r}, with outputs {', '.join(columns)}",
                allowed="arguments that change something",
                remedy="leave it out if it is the default; else it is out of the allowed range",
            )


def _looks_ahead(indicator: Indicator, name: str, behaviour: Behaviour) -> FeatureError:
    where = behaviour.foresight
    assert where is not None
    return FeatureError(
        f"the output {name} of {indicator.text} looks ahead",
        got=f"on generated bars its value at bar {where.bar} changes when bars after bar "
        f"{where.until} become known",
        allowed="outputs that depend on the past alone",
        remedy="choose arguments that do not centre or shift back, or leave out unsafe outputs",
    )


def _feature(indicator: Indicator, name: str, behaviour: Behaviour) -> Feature:
    powers = (behaviour.price_power, behaviour.volume_power)
    if behaviour.price_power is None or behaviour.volume_power is None:
        raise FeatureError(
            f"the output {name} of {indicator.text} has no unit",
            got="doubled prices or volumes multiply it by no power of two",
            allowed="prices, volumes, their powers and products, and what is free of scale",
            remedy="leave it out: forward-adjusted prices have no scale of their own",
        )
    if behaviour.lookback == 0:
        raise FeatureError(
            f"the output {name} of {indicator.text} shows nothing",
            got=f"no values, or one value throughout, on {len(trial_bars())} generated bars",
            remedy="give it shorter lengths, or leave it out",
        )
    lookback = max(behaviour.lookback, VOLUME_BARS if behaviour.volume_power else 1)
    inputs = {_COLUMNS[p] for p in indicator.inputs} | {Bar.BAR_START.value}
    inputs |= {Bar.CLOSE.value} if behaviour.price_power else set[str]()
    inputs |= {Bar.VOLUME.value} if behaviour.volume_power else set[str]()

    def compute(panel: Panel) -> Values:
        values = _values(panel, indicator, name, behaviour.lookback)
        return _free_of_scale(panel, values, *powers)

    # Two outputs are two features, also where their code is the same; so are two versions.
    versions = f"pandas-ta-classic {library().version}, pandas {pd.__version__}"
    compute.__dict__["definition"] = f"{indicator.text}: {name} of {versions}"
    return Feature(
        "ta_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"),
        compute,
        tuple(sorted(inputs)),
        lookback,
        Stage.TIME_SERIES,
        f"{name}{_unit(*powers)}",
        f"pandas-ta-classic {indicator.text}",
        family=FAMILY,
        memory=behaviour.memory,
        resumable=behaviour.memory is Memory.WINDOW,
    )


def _unit(price: int | None, volume: int | None) -> str:
    parts = [(price, "close"), (volume, f"mean volume of {VOLUME_BARS} bars")]
    told = [
        f"{unit} to the power {power}" if power != 1 else unit for power, unit in parts if power
    ]
    return f", over {' and '.join(told)}" if told else ""


def _free_of_scale(panel: Panel, values: Values, price: int | None, volume: int | None) -> Values:
    for power, unit in ((price, lambda: panel["close"]), (volume, lambda: mean_volume(panel))):
        for _ in range(abs(power or 0)):
            values = ratio(values, unit()) if (power or 0) > 0 else values * unit()
    return values


def _values(panel: Panel, indicator: Indicator, name: str, lookback: int) -> Values:
    """Return one output of every symbol; a symbol is computed once for all outputs."""
    columns = sorted({_COLUMNS[p] for p in indicator.inputs})
    out = np.full(panel.rows, np.nan)
    for a, b in zip(panel.offsets[:-1].tolist(), panel.offsets[1:].tolist(), strict=True):
        if b - a >= lookback:

            def make(a: int = a, b: int = b) -> pd.DataFrame:
                index = pd.DatetimeIndex(panel[Bar.BAR_START][a:b].astype("datetime64[us]"))
                return indicator(pd.DataFrame({c: panel[c][a:b] for c in columns}, index=index))

            out[a:b] = column(panel.shared((FAMILY, indicator.text, a), make), name)
    return out
