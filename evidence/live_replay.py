"""A month traded live at the paper broker beside the backtest of the same month.

Measured in :mod:`evidence.live_replay_runs`; here is what the page says of it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from evidence.live_replay_market import SESSIONS, make_market
from evidence.live_replay_runs import RULES, differences, simulated, traded_live
from evidence.part import Run
from evidence.tables import table

NAME = "live_replay"
TITLE = "A month replayed live"
NEEDS_REAL_BARS = False
CONFIG: dict[str, Any] = {
    "sessions": SESSIONS,
    "runs": [
        {"horizon": "7d", "participation": None, "seed": 1},
        {"horizon": "1h", "participation": None, "seed": 1},
        {"horizon": "1h", "participation": 0.02, "seed": 1},
    ],
}


def measure(run: Run) -> dict[str, Any]:
    """See :class:`evidence.part.Part`."""
    return measure_with(CONFIG, run)


def measure_with(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Return the result of another configuration: a smaller one is for tests."""
    found: list[dict[str, Any]] = []
    for number, one in enumerate(config["runs"]):
        found.append(run.once(f"run-{number}", partial(one_run, one, config["sessions"])))
        run.progress(f"{NAME}: {one['horizon']}, {found[-1]['fills']} fills, {_verdict(found[-1])}")
    return {"runs": found}


def one_run(one: dict[str, Any], sessions: int) -> dict[str, Any]:
    """Return the counts of one replay, and everything in which its two sides differ."""
    market = make_market(one["horizon"], one["seed"], sessions)
    simulation = simulated(market, one["participation"], RULES)
    with tempfile.TemporaryDirectory() as folder:
        live = traded_live(market, one["participation"], RULES, Path(folder))
    found = differences(market, simulation, live)
    orders = simulation.orders
    reasons = Counter(orders.filter(orders["status"] == "filled")["reason"].to_list())
    return {
        **one,
        "sessions": sessions,
        "batches": live.counts["batches"],
        "signals": live.counts["signals"],
        "orders": live.counts["orders"],
        "fills": len(live.fills),
        "exits_at_broker": int(orders["is_bracket_exit"].sum()),
        "auction_fills": int(orders["time_in_force"].is_in(["opg", "cls"]).sum()),
        "unfilled": int((orders["status"] != "filled").sum()),
        "denials": len(live.denials),
        "reasons": dict(reasons),
        "mismatches": len(found),
        "first_mismatches": found[:5],
        "cash_usd": float(live.equity[market.sessions[-1]][0]),
    }


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    head = (
        "horizon", "volume that orders may take", "sessions", "signals", "orders", "fills",
        "of them exits at the broker", "orders or parts unfilled", "denials", "mismatches",
    )  # fmt: skip
    rows = [
        (
            r["horizon"],
            "all" if r["participation"] is None else f"{r['participation']:.0%}",
            r["sessions"],
            r["signals"],
            r["orders"],
            r["fills"],
            r["exits_at_broker"],
            r["unfilled"],
            r["denials"],
            r["mismatches"],
        )
        for r in result["runs"]
    ]
    mismatches = sum(r["mismatches"] for r in result["runs"])
    verdict = "**Nothing differs.**" if not mismatches else f"**{mismatches} things differ.**"
    return f"""\
A synthetic market of five symbols over {result["runs"][0]["sessions"]} sessions with a half-day, a
split, a dividend, gaps, bars without volume and missing bars. Signals are published in a ledger;
plan, checks, journal and dispatch are the live code; orders go by HTTP from the service's official
client to the paper server, whose clock is stepped. The backtest has the same forecasts, bars and
settings, before costs, and the same fill rules ([backtest.md](backtest.md#fills)). Held against
each other, to the share and the cent: every fill at the broker and in the journal (symbol, side,
quantity, price, moment), every denial, cash and equity after each close, and the positions at the
end. {verdict}

{table(head, rows)}
"""


def _verdict(found: dict[str, Any]) -> str:
    return "equal" if not found["mismatches"] else f"{found['mismatches']} mismatches"


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`; there is nothing to draw."""
    return {}
