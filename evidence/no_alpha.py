"""A market in which nothing is planted, and how often something is found all the same.

Measured in :mod:`evidence.no_alpha_runs`; here is what the page says of it.
"""

from __future__ import annotations

from typing import Any

from evidence import pictures as draw
from evidence.no_alpha_runs import CONFIG, NAME, measure
from evidence.tables import interval, percent, percent_interval, table

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Synthetic market without alpha"
NEEDS_REAL_BARS = False


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    config, seeds = result["config"], result["seeds"]
    low, high = result["wanted"]
    verdict = "within" if result["within"] else "**outside**"
    ic, long = result["mean_rank_ic"], result["long_share"]
    rows = [
        (
            percent(c["coverage"], 0),
            f"{c['rows']:,}",
            percent_interval(c["accuracy"], c["low"], c["high"], 2),
            f"{percent(c['band_low'], 2)} to {percent(c['band_high'], 2)}",
            percent(mean["accuracy"], 2),
        )
        for c, mean in zip(result["accuracy"], result["against_mean"], strict=True)
    ]
    head = ("coverage", "forecasts", "accuracy, by itself", "simultaneous band", "against the mean")
    stays = "lies within the band everywhere" if result["half_within_band"] else "leaves the band"
    return f"""\
{len(seeds)} consecutive seeds (0 to {len(seeds) - 1}) of {config["symbols"]} symbols over
{config["sessions"]} sessions, horizon {config["horizon"]}. Judged is the group's own ensemble
(families with small budgets, meta-learner, blend) on every registered feature that needs bars
alone, walked forward from {config["min_train_sessions"]} sessions on with a retraining every
{config["test_sessions"]}; {seeds[0]["sessions"]} sessions a seed are out of sample.

### Rank IC that is not there

**{result["excluding_zero"]} of {len(seeds)}** block-bootstrap intervals of the ensemble's rank IC
exclude zero ({result["above_zero"]} of them above it): {verdict} the wanted {low} to {high}. The
mean rank IC over seeds is {interval(ic["mean"], ic["low"], ic["high"])}.

![intervals of all seeds](images/evidence/{NAME}_intervals.png)

### Accuracy against coverage

The ensemble's calibrated probabilities, all seeds together. The direction is that of the return
less the *median* of all symbols, of which half are up by construction. Seeds are independent, so
intervals draw whole seeds again; the band holds all coverages at once (the largest studentised
deviation over coverages). **One half {stays}.** The bands of single seeds, which draw sessions
again, exclude one half somewhere in {result["bands_excluding_half"]} of {len(seeds)} seeds; at 95
percent about {0.05 * len(seeds):.0f} were to be expected.{_careful(result)}

{table(head, rows)}

The last column judges the direction of the return less the *mean*. Returns are skewed: a little
more than half lie below their mean, so one half is not the mark there. {percent(long["mean"])} of
the directions are long.

![accuracy against coverage](images/evidence/{NAME}_accuracy.png)
"""


def _careful(result: dict[str, Any]) -> str:
    seeds = len(result["seeds"])
    few = result["bands_excluding_half"] < 0.025 * seeds
    return " They are wider than they need be." if few else ""


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`."""
    estimates = [f["rank_ic"] for f in result["seeds"]]
    return {
        f"{NAME}_intervals.png": draw.many_intervals(
            estimates, "ensemble's rank IC with 95% interval, seeds in order of the estimate"
        ),
        f"{NAME}_accuracy.png": draw.accuracy_curves(
            {"all seeds": result["accuracy"]}, "accuracy of the direction against coverage"
        ),
    }
