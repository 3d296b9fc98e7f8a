"""pyqlib's published Alpha158 recipes: run by the Python of ``.venv-peers``, never imported.

``load FOLDER TABLE`` computes Alpha158 of the members of a qlib folder (benchmarks/peers/
alpha158_pyqlib.py writes the bars; this adds ``instruments/members.txt``) and keeps it;
``walk TABLE OUT`` trains one recipe year by year for one label and writes its forecasts.
Processors, models and hyperparameters are those of examples/benchmarks/{Linear,LightGBM,XGBoost}/
workflow_config_*_Alpha158.yaml, run by pyqlib's own classes.
"""

import argparse
import json
import time
from pathlib import Path

_LABEL_ZSCORE = [
    {"class": "DropnaLabel"},
    {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}},
]
_LABEL_RANK = [
    {"class": "DropnaLabel"},
    {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}},
]
RECIPES = {
    "linear": {
        "module": "qlib.contrib.model.linear",
        "class": "LinearModel",
        "kwargs": {"estimator": "ols"},
        "learn": _LABEL_RANK,
        "robust": True,
    },
    "lightgbm": {
        "module": "qlib.contrib.model.gbdt",
        "class": "LGBModel",
        "kwargs": {
            "loss": "mse",
            "colsample_bytree": 0.8879,
            "learning_rate": 0.2,
            "subsample": 0.8789,
            "lambda_l1": 205.6999,
            "lambda_l2": 580.9768,
            "max_depth": 8,
            "num_leaves": 210,
        },
        "learn": _LABEL_ZSCORE,
        "robust": False,
    },
    "xgboost": {
        "module": "qlib.contrib.model.xgboost",
        "class": "XGBModel",
        "kwargs": {
            "eval_metric": "rmse",
            "colsample_bytree": 0.8879,
            "eta": 0.0421,
            "max_depth": 8,
            "n_estimators": 647,
            "subsample": 0.8789,
        },
        "learn": _LABEL_ZSCORE,
        "robust": False,
    },
}
VALID_YEARS = 2


def label(steps: int, wait: int) -> str:
    """The published label is ``label(1, 1)``: one session, bought at the next close."""
    start = f"Ref($close, -{wait})" if wait else "$close"
    return f"Ref($close, -{steps + wait}) / {start} - 1"


def load(folder: Path, table: Path, steps: list[int]) -> dict:
    """Compute Alpha158 and the labels of all members and keep them."""
    import qlib
    from qlib.config import REG_US
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data import D

    qlib.init(
        provider_uri=str(folder),
        region=REG_US,
        kernels=1,
        expression_cache=None,
        dataset_cache=None,
        logging_level=30,
    )
    began = time.perf_counter()
    fields, names = Alpha158DL.get_feature_config()
    labels = {f"label_{h}_{w}": label(h, w) for h in steps for w in (0, 1)}
    frame = D.features(D.instruments("members"), [*fields, *labels.values()], freq="day")
    frame.columns = [*names, *labels]
    frame = frame.swaplevel().sort_index().astype("float32")
    frame.to_parquet(table)
    return {"rows": len(frame), "load_seconds": time.perf_counter() - began}


def walk(table: Path, out: Path, given: argparse.Namespace) -> dict:
    """Train a recipe for each year on what came before it and write its forecasts."""
    import numpy as np
    import pandas as pd
    import pyarrow.parquet as pq
    from qlib.contrib.model import gbdt

    class Silent:
        def log_metrics(self, **_):
            pass

    gbdt.R = Silent()  # Its metrics go to an experiment store that this run does not have.
    target = f"label_{given.steps}_{given.wait}"
    whole = pq.ParquetFile(table).schema_arrow.names
    frame = pd.read_parquet(
        table, columns=[c for c in whole if not c.startswith("label_") or c == target]
    )
    days = frame.index.get_level_values("datetime").unique().sort_values()
    parts, seconds = [], 0.0
    for year in range(given.first, given.last + 1):
        dataset = _dataset(frame, target, days, year, given)
        began = time.perf_counter()
        model = _model(given)
        model.fit(dataset, **({} if given.recipe == "linear" else {"verbose_eval": 10_000}))
        forecast = model.predict(dataset, "test")
        seconds += time.perf_counter() - began
        print(year, given.recipe, target, round(seconds, 1), flush=True)
        parts.append(forecast)
    whole = pd.concat(parts)
    pd.DataFrame(
        {
            "symbol": whole.index.get_level_values("instrument").astype(str),
            "session": whole.index.get_level_values("datetime").date,
            "forecast": np.asarray(whole, dtype="float64"),
        }
    ).to_parquet(out)
    return {"seconds": seconds, "rows": len(whole)}


def _dataset(frame, target: str, days, year: int, given: argparse.Namespace):
    """What is learned from before a year, and the year itself, as the recipe's handler has it."""
    from qlib.data.dataset import DatasetH
    from qlib.data.dataset.handler import DataHandlerLP
    from qlib.data.dataset.loader import StaticDataLoader

    recipe = RECIPES[given.recipe]
    test = days[days.year == year]
    before = days[days < test[0]]
    # A label of the last ``steps + wait`` sessions would end in what comes after them.
    valid_end = before[-1 - given.steps - given.wait]
    valid_from = before[before.year >= year - VALID_YEARS][0]
    train_end = before[before < valid_from][-1 - given.steps - given.wait]
    kept = _sampled(days, given.every, train_end, valid_from, test)
    part = frame.loc[frame.index.get_level_values("datetime").isin(kept)]
    y = part[[target]].rename(columns={target: "LABEL0"})
    handler = DataHandlerLP(
        data_loader=StaticDataLoader({"feature": part.drop(columns=target), "label": y}),
        infer_processors=_robust(days[0], train_end) if recipe["robust"] else [],
        learn_processors=recipe["learn"],
        drop_raw=True,
    )
    segments = {
        "train": (days[0], train_end),
        "valid": (valid_from, valid_end),
        "test": (test[0], test[-1]),
    }
    return DatasetH(handler, segments)


def _robust(first, last) -> list[dict]:
    """The published scaling of features, fitted on what is learned from."""
    fit = {"fit_start_time": first, "fit_end_time": last}
    return [
        {
            "class": "RobustZScoreNorm",
            "kwargs": {"fields_group": "feature", "clip_outlier": True, **fit},
        },
        {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
    ]


def _model(given: argparse.Namespace):
    """The recipe's model, with its published hyperparameters."""
    import importlib

    recipe = RECIPES[given.recipe]
    kwargs = dict(recipe["kwargs"])
    if given.recipe == "linear":
        # In its favour: the years that the trees need to stop are learned from as well.
        kwargs["include_valid"] = True
    elif given.recipe == "lightgbm":
        kwargs |= {"num_threads": given.threads, "seed": 0}
    else:
        kwargs |= {"nthread": given.threads, "seed": 0}
    return getattr(importlib.import_module(recipe["module"]), recipe["class"])(**kwargs)


def _sampled(days, every: int, train_end, valid_from, test):
    """All sessions to forecast; of those to learn from, each ``every``-th."""
    learn = days[(days <= train_end) | ((days >= valid_from) & (days < test[0]))]
    return learn[::every].union(test)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    loading = commands.add_parser("load")
    loading.add_argument("folder", type=Path)
    loading.add_argument("table", type=Path)
    loading.add_argument("--steps", type=int, nargs="+", required=True)
    walking = commands.add_parser("walk")
    walking.add_argument("table", type=Path)
    walking.add_argument("out", type=Path)
    walking.add_argument("--recipe", choices=list(RECIPES), required=True)
    walking.add_argument("--steps", type=int, required=True)
    walking.add_argument("--wait", type=int, default=1)
    walking.add_argument("--first", type=int, required=True)
    walking.add_argument("--last", type=int, required=True)
    walking.add_argument("--every", type=int, default=1)
    walking.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.command == "load":
        print(json.dumps(load(given.folder, given.table, given.steps)))
    else:
        print(json.dumps(walk(given.table, given.out, given)))


if __name__ == "__main__":
    main()
