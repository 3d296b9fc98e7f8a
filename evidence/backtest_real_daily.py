"""The backtest on real daily bars beside simple and published strategies.

Measured in :mod:`evidence.backtest_real_daily_runs`; here is what the page says of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backtest.metric_names import BY_NAME, METRICS, write_value
from evidence.backtest_real_daily_runs import CONFIG, NAME, UNSTOPPED, measure
from evidence.backtests import BAND_BPS, metric
from evidence.tables import interval, number, percent, table

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Backtests on real daily bars"
NEEDS_REAL_BARS = True
CONFIDENCE = 0.95
_SHORT = (
    "total_return",
    "annual_return",
    "annual_volatility",
    "sharpe_ratio",
    "max_drawdown",
    "annual_turnover",
    "average_net_exposure",
    "beta",
    "alpha",
    "sharpe_ratio_before_costs",
)
_YEARLY = ("annual_return", "sharpe_ratio", "sharpe_ratio_before_costs", "beta", "alpha")
Report = Mapping[str, Any]


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    parts = [
        _setting(result),
        "### Verdict\n",
        _verdict(result),
        "### Side by side\n",
        _side_by_side(result),
        "### Sharpe ratio of ours less that of each other\n",
        _differences(result),
        "### What costs take\n",
        _costs(result),
        "### After counting looks\n",
        _looks(result),
        *(_chapter(name, found) for name, found in result["horizons"].items()),
        _chapter("momentum", result["momentum"]),
    ]
    return "\n".join(parts)


def _setting(result: Report) -> str:
    config, universe, look = result["config"], result["universe"], result["look"]
    topk, momentum = config["topk"], config["momentum"]
    years = ", ".join(f"{y} {percent(v, 0)}" for y, v in universe["with_bars_by_year"].items())
    reports = next(iter(result["horizons"].values()))["reports"]
    one = reports[UNSTOPPED]
    stops = ", ".join(
        f"{name} from {stopped}" for name, stopped in _stops(result) if stopped is not None
    )
    gone = sum(r["delisted"] for _, r in _reports(result))
    return f"""\
The groups' ensembles of the chapter on real daily bars, calibrated, traded from {one["start"]} to
{one["end"]} ({one["sessions"]:,} sessions) by the live targets, planning and risk code with the
settings as installed: long only, {one["starting_equity_usd"]:,.0f} USD, 5 percent in cash, all
costs. Signals of a close fill at the next open. Prices are raw; splits change shares and dividends
are paid in cash on the ex-date. Listed faults of the source are left out; cash earns nothing.
Everything was chosen on 2000 to 2009. This is look {look["look"]} of {look["looks"]} at these years
({look["date"]}, configuration {look["config"]}).

*Universe.* Signals are given to members of the index, session by session. Of
{universe["members"]:.0f} members there are bars for {universe["members_with_bars"]:.0f} (by year:
{years}): those that were still large in 2021. {_ended(universe)} Whoever failed or was taken over
is missing, so returns flatter all strategies here that are long, buy-and-hold first of all;
differences between them less. {gone} positions were closed because a symbol stopped trading.

*The drawdown stop.* As installed, no position is opened once equity is 15 percent below its peak,
until a person says go on. A simulation has no such person: an account that was stopped closes
positions as they expire and stays in cash. {_stopped(stops)} So each is shown twice; what stands
beside it has no such stop, and is compared with the account without one.

*Beside it*, on the same days. Buy-and-hold: members of the first session at equal amounts, at the
venue's costs, dividends reinvested. Momentum: the best {percent(momentum["share"], 0)} by twelve
months without the last, formed each {momentum["every"]} sessions, sized and traded by the same live
code, whose targets and stops close positions in between: what they free stays in cash until the
next formation ({percent(_invested(result), 0)} invested on average). TopkDropout: pyqlib 0.9.7's
strategy in pyqlib's backtest on pyqlib's own forecasts of the horizon, best {topk["topk"]},
{topk["n_drop"]} change a session, at the next open like ours; at 1d also at the next close, from
which its label begins. It knows rates of what is bought and sold, and an impact of another form.
Its rates are what a dollar of ours bought and sold of that horizon cost on average, spread, impact,
slippage and fees together ({_rates(result)}); its own impact is off. It trades fractions of
adjusted shares, which reinvests dividends, and keeps 5 percent in cash at its purchases.
"""


def _verdict(result: Report) -> str:
    """Say what the tables below say, counted."""
    gaps, every = result["differences"], dict(_reports(result))
    ours = {name: every[f"{name}, {UNSTOPPED}"] for name in result["horizons"]}
    before = sum((r["sharpe_interval_before_costs"][0] or 0.0) > 0.0 for r in ours.values())
    after = sum((r["sharpe_interval"][0] or 0.0) > 0.0 for r in ours.values())
    judged = [r["overfitting"] for f in result["horizons"].values() for r in f["reports"].values()]
    passing = sum((o["deflated_sharpe_ratio"] or 0.0) > CONFIDENCE for o in judged)
    ahead = sum((gap["low"] or 0.0) > 0.0 for found in gaps.values() for gap in found.values())
    lost = (
        f"{name} {sum((gap['high'] or 0.0) < 0.0 for gap in found.values())} of {len(found)}"
        for name, found in gaps.items()
    )
    return f"""\
Without the stop, the interval of the Sharpe ratio lies above zero at {before} of {len(ours)}
horizons before costs, and at {after} after them. Of our {len(judged)} accounts {passing} have a
deflated Sharpe ratio above {CONFIDENCE:g}. After costs our Sharpe ratio is clearly above that of
{ahead} of the others, and clearly below that of: {", ".join(lost)}.

What is bought and sold in a year, times equity, and so how long a dollar stays invested:
{_turnover(ours)}. Every session's forecasts decide sizes anew, also where they look weeks ahead.
The band that a forecast has to clear is {BAND_BPS:g} bps; a round trip cost {_round_trips(result)}.
"""


def _turnover(ours: Mapping[str, Report]) -> str:
    return ", ".join(
        f"{name} {r['annual_turnover']:.0f} and "
        f"{2.0 * 252 * r['average_gross_exposure'] / r['annual_turnover']:.1f} sessions"
        for name, r in ours.items()
    )


def _round_trips(result: Report) -> str:
    trips = [1e4 * sum(f["rates"].values()) for f in result["horizons"].values()]
    return f"{min(trips):.0f} to {max(trips):.0f} bps"


def _invested(result: Report) -> float:
    return result["momentum"]["reports"][UNSTOPPED]["average_gross_exposure"]


def _ended(universe: Report) -> str:
    ended = universe["ended_before_the_end"]
    if ended == 0:
        return f"None of the {universe['symbols']} symbols stopped trading before the end."
    return f"Of {universe['symbols']} symbols {ended} stopped trading before the end."


def _stopped(stops: str) -> str:
    return f"It happened: {stops}." if stops else "It did not happen."


def _stops(result: Report) -> Iterator[tuple[str, str | None]]:
    for name, report in _reports(result):
        if not name.endswith(UNSTOPPED):
            yield name.split(",")[0], report["stopped_from"]


def _reports(result: Report) -> Iterator[tuple[str, Report]]:
    """Every report of a simulation of ours, with its name."""
    for name, found in (*result["horizons"].items(), ("momentum", result["momentum"])):
        for limits, report in found["reports"].items():
            yield f"{name}, {limits}", report


def _rates(result: Report) -> str:
    rows = [
        f"{name} {1e4 * f['rates']['buy']:.1f} and {1e4 * f['rates']['sell']:.1f} bps"
        for name, f in result["horizons"].items()
    ]
    return ", ".join(rows)


def _others(result: Report) -> Iterator[tuple[str, Report]]:
    yield "buy-and-hold", result["held"]
    for name, found in result["topk"].items():
        for recipe, report in found.items():
            yield f"TopkDropout {name}, {recipe}", report


def _cell(row: Mapping[str, Any]) -> str:
    form = BY_NAME[row["metric"]].form
    text = write_value(row["value"], form)
    if row["low"] is None or row["high"] is None:
        return text
    return f"{text} ({write_value(row['low'], form)} to {write_value(row['high'], form)})"


def _side_by_side(result: Report) -> str:
    rows = [
        (name, *(_cell(metric(report, m)) for m in _SHORT))
        for name, report in (*_reports(result), *_others(result))
    ]
    return table(("account", *(BY_NAME[m].label for m in _SHORT)), rows) + "\n"


def _differences(result: Report) -> str:
    rows = [
        (name, _called(other), interval(gap["value"], gap["low"], gap["high"], 2))
        for name, gaps in result["differences"].items()
        for other, gap in gaps.items()
    ]
    return (
        "Of the account without the stop, after costs, the same sessions drawn for both.\n\n"
        + table(("horizon", "other", "difference"), rows)
        + "\n"
    )


def _called(key: str) -> str:
    if key == "held":
        return "buy-and-hold"
    if key.startswith("topk-"):
        _, _, recipe, deal = key.split("-")
        return f"TopkDropout {recipe}, {deal}"
    return key.split("-")[0]


def _costs(result: Report) -> str:
    lines = [*next(_reports(result))[1]["cost_lines"]]
    taken = [
        (name, *(f"{r['cost_lines'][line]:,.0f}" for line in lines), f"{r['total_costs_usd']:,.0f}")
        for name, r in _reports(result)
    ]
    head = ("account", *(line.removesuffix("_usd") for line in lines), "together, USD")
    multiples = [row["multiple"] for row in next(_reports(result))[1]["cost_sensitivity"]]
    other = [
        (
            name,
            *(
                f"{number(row['sharpe_ratio'], 2)}, {percent(row['total_return'])}"
                for row in r["cost_sensitivity"]
            ),
            r["capacity"]["statement"],
        )
        for name, r in _reports(result)
    ]
    return (
        table(head, taken)
        + "\n\nSharpe ratio and total return of the same orders at other costs, and capacity. A "
        "return before costs adds back the dollars that costs took; × 0 has them invested, too.\n\n"
        + table(("account", *(f"× {m:g}" for m in multiples), "capacity"), other)
        + "\n"
    )


def _looks(result: Report) -> str:
    rows = [(name, *_judged(r["overfitting"])) for name, r in _reports(result)]
    rows += [
        (
            name,
            number(r["probabilistic_sharpe_ratio"], 2, signed=False),
            "-",
            "-",
            _sessions(r["minimum_track_record_sessions"]),
            "-",
            "-",
        )
        for name, r in _others(result)
    ]
    head = (
        "account",
        "probabilistic Sharpe ratio",
        "deflated",
        "best of so many by luck",
        "minimum track record",
        "probability of overfitting",
        "trials",
    )
    counted = next(_reports(result))[1]["overfitting"]["trials"]["counted_in"]
    return (
        f"Trials of ours: {counted}. Of momentum: one. Of the minimum track record: sessions, "
        f"against the hurdle of the trials; of the others, against zero.\n\n{table(head, rows)}\n"
    )


def _judged(o: Mapping[str, Any]) -> Sequence[str]:
    return (
        number(o["probabilistic_sharpe_ratio"], 2, signed=False),
        number(o["deflated_sharpe_ratio"], 2, signed=False),
        number(o["expected_maximum_sharpe"], 2),
        _sessions(o["minimum_track_record_sessions"]),
        percent(o["probability_of_overfitting"]),
        f"{o['trials']['total']:,}",
    )


def _sessions(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


def _chapter(name: str, found: Report) -> str:
    reports = found["reports"]
    names = [
        m
        for m in METRICS
        if any(metric(r, m.metric)["value"] is not None for r in reports.values())
    ]
    whole = [(m.label, *(_cell(metric(r, m.metric)) for r in reports.values())) for m in names]
    unstopped = reports[UNSTOPPED]
    denials = "; ".join(
        f"{limits}: {r['orders']:,} orders, {r['orders_filled']:,} filled, denied "
        + (", ".join(f"{c} {n:,}" for c, n in r["denials_by_code"].items()) or "none")
        for limits, r in reports.items()
    )
    return (
        f"### {name.capitalize() if name == 'momentum' else name}: every metric\n\n{denials}.\n\n"
        + table(("metric", *reports), whole)
        + "\n\n<details><summary>By year and regime, without the drawdown stop</summary>\n\n"
        + _groups(unstopped)
        + "\n\n</details>\n"
    )


def _groups(report: Report) -> str:
    groups = dict.fromkeys(r["group"] for r in report["table"] if r["metric"] == "sharpe_ratio")
    rows = [
        (g.split("=")[-1], *(_cell(metric(report, m, g)) for m in _YEARLY))
        for g in groups
        if g != "all"
    ]
    return table(("group", *(BY_NAME[m].label for m in _YEARLY)), rows)


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """Return no picture."""
    return {}
