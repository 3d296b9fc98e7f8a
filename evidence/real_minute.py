"""Real minute bars: what the intraday horizons are worth.

Measured in :mod:`evidence.real_minute_runs`; here is what the page says of it.
"""

from __future__ import annotations

from typing import Any

from evidence import pictures as draw
from evidence.real_minute_runs import BASELINE, CONFIG, NAME, measure
from evidence.tables import interval, number, percent, percent_interval, table
from signals.schema import ENSEMBLE_ENGINE

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Real minute bars"
NEEDS_REAL_BARS = True


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    config = result["config"]
    first = next(iter(result["horizons"].values()))
    chapters = [_horizon(name, found, config) for name, found in result["horizons"].items()]
    return f"""\
{result["symbols"]} large companies, {result["sessions"]} sessions of regular hours; the first
{config["train_sessions"]} sessions to train on, then {_sessions(first)} out of sample
({first["first_session"]} to {first["last_session"]}), retrained every {config["test_sessions"]}.
{first["features"]} features at the first horizon ({", ".join(config["features"])}). The horizon's
own families with small budgets, their ensemble, {config["reference"]} for reference where it is not
one of them, and the baseline *{BASELINE}*: the last bar's return is taken back.

Sampling of training rows: every k-th time of the session, for all symbols alike, from a start that
moves on by one each session, with the smallest k that leaves at most {config["train_rows"]:,}
training rows. Forecasts are made and judged at every bar.

Rank ICs are averaged within a session first; intervals draw whole sessions again (mean block of
{config["block_sessions"]:g}), t is Newey and West's on sessions, the information ratio is that of a
session (not annual). So few sessions cannot be calibrated on (40 are asked for): probabilities are
as the models state them.

**What this does not show.** Prices are last trades. A part of every rank IC here is the bounce
between bid and ask, which nobody can earn; the baseline finds it as well. The last column judges
the same forecasts by the return from one bar later on, of which the last trade that a forecast saw
is no part; what is left there could be acted upon. Accuracies below are of the first kind: the
bounce is in them. {_sessions(first)} sessions of one spring are one sample of one market. Costs
are not taken off.

{chr(10).join(chapters)}
### Where we lose

{_losses(result)}
"""


def _sessions(found: dict[str, Any]) -> int:
    return int(next(iter(found["skill"].values()))["sessions"])


def _horizon(name: str, found: dict[str, Any], config: dict[str, Any]) -> str:
    rows = [
        (
            _label(engine, found, config),
            interval(*_triple(s["ic"])),
            interval(*_triple(s["rank_ic"])),
            number(s["information_ratio"], 2),
            number(s["t"], 1),
            interval(*_triple(found["one_bar_later"][engine])),
        )
        for engine, s in _ordered(found)
    ]
    hits = [
        (
            _label(engine, found, config),
            percent(h["confidence"], 0),
            f"{h['rows']:,}",
            percent_interval(*_triple(h["coverage"]), 2),
            _claimed(h["accuracy"]),
        )
        for engine, c in found["confidence"].items()
        for h in c["from"]
    ]
    curve = [
        (
            percent(c["coverage"], 0),
            number(c["confidence"], 3, signed=False),
            f"{c['rows']:,}",
            percent_interval(c["accuracy"], c["low"], c["high"]),
            f"{percent(c['band_low'])} to {percent(c['band_high'])}",
        )
        for c in found["confidence"][ENSEMBLE_ENGINE]["curve"]
    ]
    every = found["every"]
    sampled = "every bar" if every == 1 else f"every k-th time, k = {every}"
    head = ("engine", "IC", "rank IC", "information ratio", "t", "rank IC, one bar later")
    least = ("engine", "confidence from", "forecasts", "coverage", "accuracy")
    over = ("coverage", "confidence from", "forecasts", "accuracy, by itself", "simultaneous band")
    return f"""\
### Horizon {name}

{found["bars"]:,} bars, trained on {sampled}; {found["forecasts"]:,} forecasts an engine.

{table(head, rows)}

Direction (of the return less the mean of all symbols) where at least so much confidence is stated:

{table(least, hits)}

The ensemble's accuracy against coverage. {_reached(found)}

{table(over, curve)}

![accuracy against coverage at {name}](images/evidence/{NAME}_{name}.png)
"""


def _reached(found: dict[str, Any]) -> str:
    parts = []
    for r in found["confidence"][ENSEMBLE_ENGINE]["reached"]:
        level = percent(r["level"], 0)
        if r["share"] is None:
            parts.append(f"{level} is supported at no coverage")
        else:
            parts.append(
                f"{level} is supported up to a coverage of {percent(r['share'])} "
                f"({percent(r['accuracy'])}, band {percent(r['band_low'])} to "
                f"{percent(r['band_high'])})"
            )
    return "By the lower edge of the band: " + "; ".join(parts) + "."


def _losses(result: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, found in result["horizons"].items():
        skills = found["skill"]
        own = skills[ENSEMBLE_ENGINE]["rank_ic"]["mean"]
        better = [
            f"{_label(e, found, result['config'])} ({number(s['rank_ic']['mean'])})"
            for e, s in skills.items()
            if e != ENSEMBLE_ENGINE and s["rank_ic"]["mean"] > own
        ]
        if better:
            lines.append(f"- {name}: the ensemble ({number(own)}) is behind {', '.join(better)}.")
        weak = [
            _label(e, found, result["config"])
            for e, s in skills.items()
            if e != BASELINE and (s["rank_ic"]["low"] is None or s["rank_ic"]["low"] <= 0.0)
        ]
        if weak:
            lines.append(f"- {name}: the interval holds zero for {', '.join(weak)}.")
        late = found["one_bar_later"]
        gone = late[ENSEMBLE_ENGINE]
        lines.append(
            f"- {name}: one bar later the ensemble's rank IC is {interval(*_triple(gone))}, "
            f"the baseline's {interval(*_triple(late[BASELINE]))}."
        )
        lines += _too_bold(name, found, result["config"])
    return "\n".join(lines)


def _too_bold(name: str, found: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Say where even the upper end of the accuracy stays below the confidence stated."""
    return [
        f"- {name}: {_label(engine, found, config)} states {percent(h['confidence'], 0)} or more "
        f"and is right {percent_interval(*_triple(h['accuracy']))} of the time."
        for engine, c in found["confidence"].items()
        for h in c["from"]
        if h["accuracy"]["high"] is not None and h["accuracy"]["high"] < h["confidence"]
    ]


def _claimed(accuracy: dict[str, Any]) -> str:
    """Return an accuracy that has an interval: none is claimed without."""
    return "too few" if accuracy["low"] is None else percent_interval(*_triple(accuracy))


def _ordered(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    last = (ENSEMBLE_ENGINE, BASELINE)
    names = [n for n in found["skill"] if n not in last]
    return [(n, found["skill"][n]) for n in (*names, *last)]


def _label(engine: str, found: dict[str, Any], config: dict[str, Any]) -> str:
    if engine == config["reference"] and engine not in found["families"]:
        return f"{engine} (reference)"
    return f"{engine} (baseline)" if engine == BASELINE else engine


def _triple(e: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    return e["mean"], e["low"], e["high"]


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`."""
    return {
        f"{NAME}_{name}.png": draw.accuracy_curves(
            {
                _label(engine, found, result["config"]): c["curve"]
                for engine, c in found["confidence"].items()
            },
            f"horizon {name}: accuracy of the direction, with simultaneous bands",
        )
        for name, found in result["horizons"].items()
    }
