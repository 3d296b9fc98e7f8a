"""The chapter on real daily bars, from its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence.tables import interval, number, percent, table

_OUTCOMES = {
    "outcome": "from the close of the decision",
    "outcome_next": "from the next session's close",
}
_GOAL = {"1d": 1.5, "7d": 1.5, "1M": 1.5}


def sections(result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the Markdown below the chapter's heading."""
    parts = [_setting(result, config), _goal(result), _slopes(result), _costs(result, config)]
    for name, horizon in result["horizons"].items():
        parts.append(f"### {name}\n")
        parts.append(
            f"{horizon['rows']:,} rows of {horizon['sessions']:,} sessions, the same for all.\n"
        )
        for outcome, words in _OUTCOMES.items():
            parts.append(f"#### {name}, {words}\n")
            parts.append(_whole(horizon, horizon[outcome]))
            models = horizon[outcome]["models"]
            inside = (
                _apart(models, "by_year", "year") + "\n" + _apart(models, "by_regime", "regime")
            )
            parts.append(
                f"<details><summary>By year and by regime</summary>\n\n{inside}</details>\n"
            )
    return "\n".join(parts)


def _setting(result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    look = result["look"]
    return (
        f"Members of the index, session by session, among 504 large companies of 2021 (so of "
        f"survivors). Training begins in 2000 and is repeated every {config['retrain_sessions']} "
        f"sessions on all of the past, purged by the horizon and one session; judged: "
        f"{config['first_session']} to {config['last_session']}. Everything was chosen on 2000 to "
        f"2009.\n\nLooks at the judged years so far: {look['looks']}; this is look {look['look']} "
        f"({look['date']}, configuration {look['config']}).\n\n"
        f"{_looks(result)}\n"
        f"`ensemble` is the headline, fixed before the first look: the mean of "
        f"{' and '.join(config['ensemble'])}, each on one scale per session; of overlapping labels "
        f"linear learned from each n-th session ({_thinning(config['every']['linear'])}), lightgbm "
        f"from each n-th ({_thinning(config['every']['lightgbm'])}). Engines with a dot are those "
        f"of the product's groups by the horizons table: each family with its own parameters on "
        f"every session, the meta-learner where there is one, and the group's ensemble, whose "
        f"weights begin equal in {config['first_session'][:4]} and follow skill from then on. All "
        f"of ours learn from ranks and neutral labels.\n\n`reversal` is the "
        f"last period's return turned round, `momentum_12_1` that of twelve months without the "
        f"last, `pyqlib_*` are pyqlib 0.9.7's published Alpha158 recipes, which learn the return "
        f"from the next close on (`Ref($close, -1-h) / Ref($close, -1) - 1`; published for one "
        f"session, of the same form for the others). Its linear recipe also learns from the two "
        f"years that its trees stop by.\n\n"
        f"In brackets: 95 percent intervals from a stationary bootstrap of sessions. IR: mean of "
        f"the daily coefficient over its standard deviation. t: Newey and West, with as many lags "
        f"as the horizon has sessions. Portfolio: best tenth long, worst tenth short, equal "
        f"weights, as many overlapping books as the horizon has sessions, "
        f"{config['cost_bps']:g} bps for what is bought or sold; IR a year.\n"
    )


def _looks(result: Mapping[str, Any]) -> str:
    rows = [(one["look"], one["date"], one["changed"]) for one in result["looks"]]
    return table(("look", "date", "what was new"), rows) + "\n"


def _thinning(every: Mapping[str, Any]) -> str:
    return ", ".join(f"{h} {n}" for h, n in every.items())


def _goal(result: Mapping[str, Any]) -> str:
    head = (
        "horizon",
        "return",
        "ours",
        "rank IC",
        "best baseline",
        "ratio (goal 1.5)",
        "t of difference (goal 2)",
        "net IR",
        "best baseline's net IR",
        "goal",
    )
    rows = [
        _against_the_best(name, words, judged, result["horizons"][name], outcome)
        for name in _GOAL
        for outcome, words in _OUTCOMES.items()
        for judged in result["horizons"][name][outcome]["differences"]
    ]
    return "### The goal\n\n" + table(head, rows) + "\n"


def _against_the_best(
    name: str, words: str, judged: str, horizon: Mapping[str, Any], outcome: str
) -> Sequence[str]:
    found = horizon[outcome]
    ranks = {m: one["rank_ic"]["mean"] for m, one in found["models"].items()}
    nets = {m: one["net_information_ratio"] for m, one in found["portfolios"].items()}
    best, richest = (
        max(horizon["baselines"], key=lambda b: -99.0 if of[b] is None else of[b])
        for of in (ranks, nets)
    )
    gap = found["differences"][judged][best]
    met = (
        (gap["ratio"] or 0.0) >= _GOAL[name]
        and (gap["t"] or 0.0) > 2.0
        and (-99.0 if nets[judged] is None else nets[judged]) > nets[richest]
    )
    return (
        name,
        words,
        judged,
        number(ranks[judged]),
        f"{best} {number(ranks[best])}",
        number(gap["ratio"], 2, signed=False),
        number(gap["t"], 2),
        number(nets[judged], 2),
        f"{richest} {number(nets[richest], 2)}",
        "met" if met else "missed",
    )


def _slopes(result: Mapping[str, Any]) -> str:
    rows = [
        (name, model, interval(one["mean"], one["low"], one["high"], 2))
        for name, horizon in result["horizons"].items()
        for model, one in horizon["slopes"].items()
    ]
    return (
        "### Is the expected return as large as is said?\n\nThe slope of the return over the "
        "horizon on the expected return, both less their session's mean; 1 is what it should be, "
        "below it the differences between symbols that are forecast are too large. The group's "
        "ensemble is scaled month by month by what its past forecasts were worth. None is known "
        "when the judged years begin: it is not scaled before 120 sessions, or ten horizons, have "
        "come. The scale is one number for all symbols of a session, so that the coefficients and "
        "the portfolios of this chapter are the same with it and without.\n\n"
        + table(("horizon", "engine", "slope"), rows)
        + "\n"
    )


def _costs(result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    trip = 2.0 * config["cost_bps"]
    rows = [
        (
            name,
            _OUTCOMES[outcome],
            model,
            percent(one["rows"]),
            number(one["said"], 1),
            interval(one["came"], one["low"], one["high"], 1),
            *_less(one, trip),
        )
        for name, horizon in result["horizons"].items()
        for outcome, found in horizon["beyond_costs"].items()
        for model, one in found.items()
    ]
    head = ("horizon", "return", "engine", "rows", "said, bps", "came, bps", "net, bps")
    return (
        f"### What is forecast to pay its costs\n\nRows whose expected return is further from "
        f"zero than a round trip costs, {trip:g} bps: how many of all there are, and per row what "
        f"was said and what came over the horizon, in the forecast's direction, less the mean of "
        f"the session's rows. Net is what came less the round trip; the last column is its sum "
        f"over these rows by the number of all rows, since fewer rows with a better mean may add "
        f"up to less.\n\n" + table((*head, "net by all rows, bps"), rows) + "\n"
    )


def _less(one: Mapping[str, Any], trip: float) -> tuple[str, str]:
    if one["came"] is None:
        return number(None), number(None)
    net = one["came"] - trip
    return number(net, 1), number(one["rows"] * net, 2)


def _whole(horizon: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    for model in (*horizon["ours"], *horizon["baselines"]):
        one = found["models"][model]
        gap = found["differences"]["ensemble"].get(model)
        book = found["portfolios"][model]
        rows.append(
            (
                model,
                _estimate(one["ic"]),
                number(one["ic"]["information_ratio"], 3),
                _estimate(one["rank_ic"]),
                number(one["rank_ic"]["information_ratio"], 3),
                number(one["rank_ic"]["t"], 2),
                "-" if gap is None else f"{_estimate(gap)}, t {number(gap['t'], 2)}",
                number(book["gross_information_ratio"], 2),
                number(book["net_information_ratio"], 2),
                number(book["turnover"], 2, signed=False),
            )
        )
    head = (
        "model",
        "IC",
        "IR",
        "rank IC",
        "IR",
        "t",
        "ensemble's rank IC less this one's",
        "gross IR",
        "net IR",
        "turnover a session",
    )
    return table(head, rows) + "\n"


def _apart(models: Mapping[str, Any], key: str, word: str) -> str:
    parts = sorted({p for one in models.values() for p in one[key]})
    rows = [
        (model, *(_estimate(one[key].get(p, {})) for p in parts)) for model, one in models.items()
    ]
    return f"Rank IC by {word}:\n\n" + table(("model", *parts), rows) + "\n"


def _estimate(one: Mapping[str, Any]) -> str:
    return interval(one.get("mean"), one.get("low"), one.get("high"))
