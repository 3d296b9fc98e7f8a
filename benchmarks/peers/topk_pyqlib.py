"""pyqlib's TopkDropout backtest: run by the Python of ``.venv-peers``, never imported by Isobar.

``run FOLDER SCORES.parquet OUT`` trades the scores (``symbol``, ``session``, ``score``; a score
counts from the next session on) on the bars in FOLDER (``alpha158_pyqlib.py dump``), at the open,
at the given costs. OUT gets ``trades.parquet`` and ``equity.parquet``. One JSON object is printed.
"""

import argparse
import json
import time
from pathlib import Path


def run(given: argparse.Namespace) -> dict:
    """Backtest once to warm what is cached, then again by the clock."""
    import pandas as pd
    import qlib
    from qlib.config import REG_US
    from qlib.contrib.evaluate import backtest_daily
    from qlib.contrib.strategy import TopkDropoutStrategy

    qlib.init(provider_uri=str(given.folder), region=REG_US, logging_level=50)
    frame = pd.read_parquet(given.scores)
    frame["session"] = pd.to_datetime(frame["session"])
    scores = frame.rename(columns={"symbol": "instrument", "session": "datetime"})
    scores = scores.set_index(["datetime", "instrument"])["score"].sort_index()
    days = scores.index.get_level_values("datetime").unique()
    exchange = {
        "freq": "day",
        "deal_price": "open",
        "limit_threshold": None,
        "open_cost": given.buy_cost,
        "close_cost": given.sell_cost,
        "min_cost": 0.0,
    }
    spent = []
    for _ in range(given.rounds):
        strategy = TopkDropoutStrategy(signal=scores, topk=given.topk, n_drop=given.n_drop)
        began = time.perf_counter()
        report, positions = backtest_daily(
            days[0],
            days[-2],  # its calendar wants a day after the last one
            strategy,
            account=given.cash,
            # A benchmark of zeros: none of its own is wanted.
            benchmark=pd.Series(0.0, index=days),
            exchange_kwargs=exchange,
        )
        spent.append(time.perf_counter() - began)
    given.out.mkdir(parents=True, exist_ok=True)
    report[["account", "cost", "turnover"]].reset_index().to_parquet(given.out / "equity.parquet")
    _trades(positions).to_parquet(given.out / "trades.parquet")
    rows = len(frame)
    return {"seconds": spent, "rows": rows, "days": len(days), "qlib": qlib.__version__}


def _trades(positions: dict):
    """Return what each session changed of the positions: ``session``, ``symbol``, ``quantity``."""
    import pandas as pd

    rows, before = [], {}
    for day, held in sorted(positions.items()):
        now = {s: held.get_stock_amount(s) for s in held.get_stock_list()}
        for symbol in sorted(before.keys() | now.keys()):
            changed = now.get(symbol, 0.0) - before.get(symbol, 0.0)
            if changed != 0.0:
                rows.append((day, symbol, changed))
        before = now
    return pd.DataFrame(rows, columns=["session", "symbol", "quantity"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("scores", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--topk", type=int, default=50)
    running.add_argument("--n-drop", type=int, default=5)
    running.add_argument("--cash", type=float, default=1e8)
    running.add_argument("--buy-cost", type=float, default=0.0005)
    running.add_argument("--sell-cost", type=float, default=0.0015)
    running.add_argument("--rounds", type=int, default=1)
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
