"""A market whose predictable part is known: how much of it is found.

Measured in :mod:`evidence.planted_alpha_runs`; here is what the page says of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evidence import pictures as draw
from evidence.planted_alpha_runs import ATTAINABLE, CONFIG, NAME, TREES, measure
from evidence.tables import interval, number, table

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Synthetic market with planted alpha"
NEEDS_REAL_BARS = False
WANTED = 0.5
_RIVALS = {
    "hindsight": "its best member in hindsight",
    "foresight": "the best member of the first half",
}


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    config = result["config"]
    first = next(iter(result["horizons"].values()))
    count = len(first["seeds"])
    planted = ", ".join(f"{v:g} at {h}" for h, v in config["alpha"].items())
    chapters = [_horizon(name, found, config) for name, found in result["horizons"].items()]
    return f"""\
{count} consecutive seeds (0 to {count - 1}) of {config["symbols"]} symbols. Planted: a rank IC of
{planted} for who knows the true conditional expectation. A finite sample moves it, so what the
truth attained on the very rows that are judged is the yardstick. {first["seeds"][0]["features"]}
features ({" and ".join(config["features"])}); budgets as in the table at the end. A *fraction* is
an engine's mean rank IC over that of the true expectation, in one seed; means over seeds with
Student's t interval. Wanted: at least {WANTED:g} on average for trees and ensembles.

{chr(10).join(chapters)}
### Shortfalls

{_shortfalls(result)}

### Budgets

{table(("family", "other than its defaults"), _budgets(config))}
"""


def _horizon(name: str, found: dict[str, Any], config: dict[str, Any]) -> str:
    seeds, truth = found["seeds"], found[ATTAINABLE]
    train, every = config["rhythm"][name]
    rows = [
        (
            _label(engine, config),
            interval(*_triple(e["rank_ic"])),
            interval(*_triple(e["fraction"]), 2, signed=False),
        )
        for engine, e in _ordered(found["engines"], config)
    ]
    gaps = [
        (
            _label(ensemble, config),
            interval(*_triple(kinds["hindsight"]["difference"])),
            _verdicts(kinds["hindsight"]["verdicts"]),
            interval(*_triple(kinds["foresight"]["difference"])),
            _verdicts(kinds["foresight"]["verdicts"]),
        )
        for ensemble, kinds in found["reports"].items()
    ]
    head = (
        "ensemble",
        "less the best member in hindsight",
        "better / within noise / worse",
        "less the best of the first half, on the second",
        "better / within noise / worse",
    )
    return f"""\
### Horizon {name}

Each seed: {seeds[0]["rows"]:,} rows of features, the first {train} sessions to train on, retrained
every {every}; about {seeds[0]["forecasts"]:,} forecasts an engine over {seeds[0]["sessions"]}
sessions out of sample. The true expectation attains {interval(*_triple(truth))}.

{_range(found, TREES, "Trees")} {_range(found, found["reports"], "Ensembles")}

{table(("engine", "rank IC", "fraction of the attainable"), rows)}

![fractions at {name}](images/evidence/{NAME}_{name}.png)

Ensembles beside their best member: difference of mean rank IC over seeds, and in how many seeds a
block bootstrap over sessions calls the ensemble better or worse by more than noise. The best member
in hindsight is an unfair rival: it was chosen on the sessions on which it is compared.

{table(head, gaps)}
"""


def _range(found: dict[str, Any], names: Iterable[str], what: str) -> str:
    means = [found["engines"][n]["fraction"]["mean"] for n in names if n in found["engines"]]
    if not means:
        return f"{what}: none."
    low, high = (number(v, 2, signed=False) for v in (min(means), max(means)))
    verdict = "all at least" if min(means) >= WANTED else "**not all at least**"
    return f"{what} find {low} to {high} of the attainable, {verdict} {WANTED:g}."


def _shortfalls(result: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, found in result["horizons"].items():
        for engine, e in found["engines"].items():
            fraction = e["fraction"]["mean"]
            asked = engine in TREES or engine in found["reports"]
            if asked and fraction < WANTED:
                lines.append(
                    f"- {_label(engine, result['config'])} at {name}: {number(fraction, 2)}, "
                    f"less than the wanted {WANTED:g}."
                )
            elif fraction < WANTED:
                lines.append(
                    f"- {engine} at {name}: {number(fraction, 2)} (nothing was asked of it)."
                )
        for ensemble, kinds in found["reports"].items():
            for kind, rival in _RIVALS.items():
                gap = kinds[kind]["difference"]
                if gap["high"] is not None and gap["high"] < 0.0:
                    lines.append(
                        f"- {_label(ensemble, result['config'])} at {name} is worse than {rival} "
                        f"over seeds: {interval(*_triple(gap))}."
                    )
    return "\n".join(lines) or "None."


def _ordered(engines: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    families = [n for n in config["families"] if n in engines]
    return [(n, engines[n]) for n in [*families, *(n for n in engines if n not in families)]]


def _label(engine: str, config: dict[str, Any]) -> str:
    if engine in config["families"]:
        return engine
    group, _, meta = engine.partition(".")
    return f"meta-learner of group {group}" if meta else f"ensemble of group {group}"


def _verdicts(found: dict[str, int]) -> str:
    counts = [str(n) for v, n in found.items() if v != "unknown"]
    return " / ".join(counts) + (f" ({found['unknown']} unknown)" if found["unknown"] else "")


def _budgets(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{k} {v}" for k, v in config["params"].get(name, {}).items()) or "-")
        for name in config["families"]
    ]


def _triple(e: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    return e["mean"], e["low"], e["high"]


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`."""
    config = result["config"]
    return {
        f"{NAME}_{name}.png": draw.bars_with_intervals(
            {
                "fraction of the attainable rank IC": {
                    _label(engine, config): e["fraction"]
                    for engine, e in _ordered(found["engines"], config)
                }
            },
            f"horizon {name}, mean over seeds with 95% interval; dashed: what is wanted",
            line=WANTED,
        )
        for name, found in result["horizons"].items()
    }
