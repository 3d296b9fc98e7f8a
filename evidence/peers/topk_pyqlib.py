"""pyqlib's TopkDropoutStrategy, backtested by pyqlib: run by the Python of ``.venv-peers``.

``FOLDER SIGNAL OUT``: bars in qlib's format (benchmarks/peers/alpha158_pyqlib.py writes them), a
forecast as ``symbol, session, forecast``, and where the report goes, a row a session.
"""

import argparse
import json
import time
from pathlib import Path


def backtest(given: argparse.Namespace) -> dict:
    """Trade the best ``topk`` of a forecast, of which ``n_drop`` change a session, and report."""
    import pandas as pd
    import qlib
    from qlib.config import REG_US
    from qlib.contrib.evaluate import backtest_daily
    from qlib.contrib.strategy import TopkDropoutStrategy

    qlib.init(
        provider_uri=str(given.folder),
        region=REG_US,
        kernels=1,
        expression_cache=None,
        dataset_cache=None,
        logging_level=40,
    )
    frame = pd.read_parquet(given.signal)
    frame["session"] = pd.to_datetime(frame["session"])
    signal = frame.set_index(["session", "symbol"])["forecast"].sort_index()
    signal.index.names = ["datetime", "instrument"]
    days = pd.Index(signal.index.get_level_values("datetime").unique())
    nothing = pd.Series(0.0, index=days.union([pd.Timestamp(given.start)]))
    spent = []
    for _ in range(given.rounds):
        began = time.perf_counter()
        report, positions = backtest_daily(
            start_time=given.start,
            end_time=given.end,
            strategy=TopkDropoutStrategy(signal=signal, topk=given.topk, n_drop=given.n_drop),
            account=given.account,
            benchmark=nothing,
            exchange_kwargs={
                "codes": sorted(frame["symbol"].unique()),
                "deal_price": given.deal,
                "open_cost": given.open_cost,
                "close_cost": given.close_cost,
                "min_cost": 0.0,
                "limit_threshold": None,
                "trade_unit": None,
            },
        )
        spent.append(time.perf_counter() - began)
    report.rename_axis("session").reset_index().to_parquet(given.out)
    if given.trades is not None:
        _trades(positions).to_parquet(given.trades)
    return {"seconds": min(spent), "sessions": len(report), "qlib": qlib.__version__}


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
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("signal", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", required=True)
    parser.add_argument("--end", required=True)
    parser.add_argument("--topk", type=int, required=True)
    parser.add_argument("--n-drop", type=int, required=True)
    parser.add_argument("--account", type=float, required=True)
    parser.add_argument("--deal", choices=["open", "close"], required=True)
    parser.add_argument("--open-cost", type=float, required=True)
    parser.add_argument("--close-cost", type=float, required=True)
    parser.add_argument("--trades", type=Path, help="Where the trades go, if they are wanted.")
    parser.add_argument("--rounds", type=int, default=1, help="The fastest one counts.")
    print(json.dumps(backtest(parser.parse_args())))


if __name__ == "__main__":
    main()
