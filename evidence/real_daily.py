"""Real daily bars: 2010 to 2014 out of sample, beside published baselines on the same rows.

Every choice below was made on 2000 to 2009. Each configuration that is judged on 2010 to 2014 is
a look, counted in ``daily_looks.json``; the same configuration again is no new one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from evidence import daily_groups, daily_judge, daily_models, daily_peers, daily_report
from evidence.daily_data import read_daily, read_members, read_sectors
from features.regime import classify_regimes
from market.horizons import find_horizon
from models.dataset import Dataset
from models.session_moments import CLIP
from signals.scale import LEAST, PRIOR_DEVIATION
from signals.weighting import EQUALITY_SESSIONS, ODDS_AGAINST_DIFFERENCES, REGIME_SESSIONS

NAME = "real_daily"
TITLE = "Real daily bars"
NEEDS_REAL_BARS = True
LOOKS = Path(__file__).parent / "daily_looks.json"
ENSEMBLE = "ensemble"
UNSCALED = " before it is scaled"
OURS, GROUP = "ours", "group"
OUTCOMES = ("outcome", "outcome_next")
CHANGED = (
    "engines of the groups are presumed alike until their outcomes say otherwise, and outcomes "
    "that overlap count once; engines are those of look 2, and nothing was chosen by this look"
)
"""What is new in the configuration since the last look; it is noted when a new one is counted."""

CONFIG: dict[str, Any] = {
    "first_session": "2010-01-01",
    "last_session": "2014-12-31",
    "feature_families": [
        "core",
        "alpha158",
        "technical",
        "microstructure",
        "cross_section",
        "anomalies",
    ],
    "families": {h: ["linear", "lightgbm"] for h in ("1d", "7d", "14d", "1M")},
    # The headline: the mean of these, each on one scale per session.
    "ensemble": ["linear", "lightgbm"],
    "params": {
        "linear": {"penalty_per_row": 0.02},
        "lightgbm": {"trees": 250, "num_leaves": 8, "min_data_in_leaf": 1000, "num_threads": 1},
    },
    # Training labels of each so many-th session: those of neighbours overlap.
    "every": {
        "linear": {"1d": 1, "7d": 2, "14d": 3, "1M": 3},
        "lightgbm": {"1d": 2, "7d": 4, "14d": 5, "1M": 5},
    },
    # The product's groups, by horizon: each family by its own parameters, on every session.
    "groups": {h: list(find_horizon(h).families) for h in ("1d", "7d", "14d", "1M")},
    # How the groups' ensembles are made, as far as their own constants say.
    "weights": {
        "regime_sessions": REGIME_SESSIONS,
        "equality_sessions": EQUALITY_SESSIONS,
        "odds_against_differences": ODDS_AGAINST_DIFFERENCES,
    },
    "return_scale": {"prior_deviation": PRIOR_DEVIATION, "least": LEAST},
    "outcome_clip": CLIP,
    "retrain_sessions": 252,
    "last_weight": 1.0,
    "band_bps": 6.0,
    "seed": 1,
    "cost_bps": 5.0,
    # Labels of each so many-th session: of every one, as published.
    "peers": {
        recipe: {"1d": 1, "7d": 1, "14d": 1, "1M": 1}
        for recipe in ("linear", "lightgbm", "xgboost")
    },
}


def measure(run: Any) -> dict[str, Any]:
    """Return coefficients, differences and portfolios of every horizon."""
    assert run.bars is not None
    daily, sectors = read_daily(run.bars), read_sectors(run.bars)
    last = dt.date.fromisoformat(CONFIG["last_session"])
    daily = daily.filter(pl.col("session") <= last)
    members = read_members(run.bars, daily)
    regimes = classify_regimes(daily)
    ours, unscaled = _our_forecasts(run, daily, members, sectors, regimes)
    peers = daily_peers.forecasts(run, daily, members, CONFIG)
    look = count_look(CONFIG, LOOKS, today=dt.datetime.now(dt.UTC).date(), changed=CHANGED)
    first = dt.date.fromisoformat(CONFIG["first_session"])
    tested = members.filter(pl.col("session") >= first)
    by_session = regimes.select("session", "regime")
    result: dict[str, Any] = {"look": look, "looks": read_looks(LOOKS), "horizons": {}}
    for name in daily_models.horizons():
        run.progress(f"judging {name}")
        result["horizons"][name] = _judged(
            name, ours[name], unscaled[name], peers.get(name, {}), daily, tested, by_session
        )
    return result


def _our_forecasts(
    run: Any,
    daily: pl.DataFrame,
    members: pl.DataFrame,
    sectors: pl.DataFrame,
    regimes: pl.DataFrame,
) -> tuple[dict[str, dict[str, pl.DataFrame]], dict[str, pl.DataFrame]]:
    """Return by horizon every forecast of ours, and the group's ensemble before it is scaled.

    What a killed run left is taken up again.
    """
    wanted = _walked_files(run, daily, members, sectors)
    made: dict[str, dict[str, pl.DataFrame]] = {}
    unscaled: dict[str, pl.DataFrame] = {}
    for horizon, families in CONFIG["families"].items():
        recipe = {f: pl.read_parquet(wanted[OURS, horizon, f]) for f in families}
        mean = daily_models.mean_of_scores([recipe[f] for f in CONFIG["ensemble"]])
        group = {f: pl.read_parquet(wanted[GROUP, horizon, f]) for f in CONFIG["groups"][horizon]}
        grouped = daily_groups.forecasts(group, horizon, daily, regimes)
        made[horizon] = {**recipe, ENSEMBLE: mean, **grouped}
        unscaled[horizon] = daily_groups.unscaled(group, horizon, daily, regimes)
    return made, unscaled


def group_predictions(
    run: Any, daily: pl.DataFrame, members: pl.DataFrame, sectors: pl.DataFrame
) -> dict[str, dict[str, pl.DataFrame]]:
    """Return the groups' out-of-sample predictions (``PREDICTION_SCHEMA``) by horizon and family.

    Those of a measurement of this part are read again; what it lacks is trained.
    """
    wanted = _walked_files(run, daily, members, sectors)
    return {
        horizon: {f: pl.read_parquet(wanted[GROUP, horizon, f]) for f in families}
        for horizon, families in CONFIG["groups"].items()
    }


def engines_judged() -> int:
    """Return how many forecasts of ours a look judges, all horizons together."""
    recipes = sum(len(families) + 1 for families in CONFIG["families"].values())
    groups = sum(len(f) + 1 + find_horizon(h).stacked for h, f in CONFIG["groups"].items())
    return recipes + groups


def _walked_files(
    run: Any, daily: pl.DataFrame, members: pl.DataFrame, sectors: pl.DataFrame
) -> dict[tuple[str, str, str], Path]:
    wanted = _files(run.folder)
    if not all(p.exists() for p in wanted.values()):
        _walk(run, daily, members, sectors, wanted)
    return wanted


def _files(folder: Path) -> dict[tuple[str, str, str], Path]:
    kinds = {OURS: CONFIG["families"], GROUP: CONFIG["groups"]}
    return {
        (kind, h, f): folder / f"{kind}_{h}_{f}.parquet"
        for kind, by_horizon in kinds.items()
        for h, families in by_horizon.items()
        for f in families
    }


def _walk(
    run: Any,
    daily: pl.DataFrame,
    members: pl.DataFrame,
    sectors: pl.DataFrame,
    wanted: Mapping[tuple[str, str, str], Path],
) -> None:
    names = daily_models.learned_names(CONFIG["feature_families"])
    table = run.folder / "features.parquet"
    if not table.exists():
        run.progress(f"computing {len(names)} features")
        daily_models.write_features(table, daily, members, sectors, names)
    run.progress("assembling the matrix of normal scores")
    datasets = daily_models.build_dataset(table, daily, sectors, names)
    for (kind, horizon, family), path in wanted.items():
        if path.exists():
            continue
        run.progress(f"{kind}, {horizon}: {family}")
        _made(kind, datasets[horizon], horizon, family, run.progress).write_parquet(path)


def _made(
    kind: str, dataset: Dataset, horizon: str, family: str, say: Callable[[str], None]
) -> pl.DataFrame:
    return (daily_models.forecast if kind == OURS else daily_groups.predictions)(
        dataset,
        horizon,
        family,
        CONFIG,
        first_session=dt.date.fromisoformat(CONFIG["first_session"]),
        progress=lambda done, total: say(f"  {done} of {total}"),
    )


def _judged(
    name: str,
    ours: Mapping[str, pl.DataFrame],
    unscaled: pl.DataFrame,
    peers: Mapping[str, pl.DataFrame],
    daily: pl.DataFrame,
    tested: pl.DataFrame,
    regimes: pl.DataFrame,
) -> dict[str, Any]:
    steps = daily_models.steps_of(name)
    baselines = {**daily_judge.simple_baselines(daily, steps), **peers}
    everything = {**ours, **baselines}
    frame = daily_judge.common_rows(everything, daily_judge.outcomes(daily, steps), tested)
    group = daily_groups.engine_of(name, ENSEMBLE)
    sizes = _sizes(frame, unscaled, name, group, [*ours])
    result: dict[str, Any] = {
        "rows": frame.height,
        "sessions": frame["session"].n_unique(),
        "ours": list(ours),
        "baselines": list(baselines),
        **sizes,
    }
    for outcome in OUTCOMES:
        wait = int(outcome == "outcome_next")
        result[outcome] = {
            "models": daily_judge.judge(
                frame, list(everything), regimes, steps=steps, seed=CONFIG["seed"], outcome=outcome
            ),
            "differences": {
                judged: daily_judge.differences(
                    frame,
                    judged,
                    list(baselines),
                    steps=steps,
                    seed=CONFIG["seed"],
                    outcome=outcome,
                )
                for judged in (ENSEMBLE, group)
            },
            "portfolios": {
                m: daily_judge.portfolio(
                    frame, m, daily, steps=steps, cost_bps=CONFIG["cost_bps"], wait=wait
                )
                for m in everything
            },
        }
    return result


def _sizes(
    frame: pl.DataFrame, unscaled: pl.DataFrame, name: str, group: str, ours: list[str]
) -> dict[str, Any]:
    """Return how large expected returns are, and what came where they are above costs.

    The ensemble before it is scaled orders symbols as the ensemble does: no more is judged of it.
    """
    steps, seed, before = daily_models.steps_of(name), CONFIG["seed"], f"{group}{UNSCALED}"
    both = daily_judge.with_forecast(frame, before, unscaled)
    engines = [m for m in ours if m.startswith(f"{find_horizon(name).group}.")]
    return {
        "slopes": {
            model: daily_judge.slope(both, model, "outcome", steps=steps, seed=seed)
            for model in (*engines, before)
        },
        "beyond_costs": {
            outcome: {
                model: daily_judge.beyond_costs(
                    both, model, outcome, least_bps=2.0 * CONFIG["cost_bps"], steps=steps, seed=seed
                )
                for model in (before, group)
            }
            for outcome in OUTCOMES
        },
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """Return what a configuration is known by among the looks.

    Which published baselines stand beside is no part of it: nothing of ours is chosen by that.
    """
    ours = {k: v for k, v in config.items() if k != "peers"}
    return hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()[:16]


def read_looks(path: Path) -> list[dict[str, Any]]:
    """Return the looks that were counted, the first one first."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def count_look(
    config: Mapping[str, Any],
    path: Path,
    *,
    today: dt.date,
    changed: str,
    what: str = "every horizon, model, year and regime of the table",
) -> dict[str, Any]:
    """Return which look at the out-of-sample years this is, and note a new one and what changed.

    The file is written before anything is judged: a look that fails half way is a look.
    """
    looks = read_looks(path)
    digest = config_hash(config)
    for look in looks:
        if look["config"] == digest:
            return {**look, "looks": len(looks)}
    look = {
        "look": len(looks) + 1,
        "date": today.isoformat(),
        "config": digest,
        "period": f"{config['first_session']} to {config['last_session']}",
        "what": what,
        "changed": changed,
    }
    looks.append(look)
    path.write_text(json.dumps(looks, indent=2) + "\n", encoding="utf-8")
    return {**look, "looks": len(looks)}


def sections(result: dict[str, Any]) -> str:
    """Return the chapter below its heading."""
    return daily_report.sections(result, result["config"])


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """Return no picture."""
    return {}
