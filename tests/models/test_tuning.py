"""Parameters are searched inside the training side; studies go on after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest

from market.errors import ModelError
from market.horizons import find_horizon
from models.inner_windows import InnerWindows, Objective
from models.registry import FAMILIES
from models.spec import Forecast
from models.study_store import held, opened
from models.tuned import Tuned
from models.tuning import Budget
from tests.models.planted import (
    NAMES,
    Blend,
    Clock,
    blend_family,
    moment,
    planted,
    search,
)


def same(a: Tuned, b: Tuned) -> None:
    """Equal to the bit, but for the trials' numbers and times."""
    columns = ["state", "value", "windows", "features", "params"]
    assert a.trials.select(columns).equals(b.trials.select(columns))
    for one, other in ((a.chosen, b.chosen), (a.best, b.best), (a.defaults, b.defaults)):
        assert replace(one, trial=0) == replace(other, trial=0)
    assert (a.gain, a.p_value, a.digest) == (b.gain, b.p_value, b.digest)


def test_a_planted_relation_is_found() -> None:
    found = search(budget=Budget(trials=25))
    assert found.is_better
    assert found.chosen == found.best
    assert found.best.params["mix"] > 0.7
    assert found.best.score.mean > found.defaults.score.mean
    assert found.gain.mean == pytest.approx(found.best.score.mean - found.defaults.score.mean)
    assert found.p_value < 0.05
    assert (found.windows, found.best.score.periods) == (5, 50)
    assert found.defaults.params == {"mix": 0.2}
    assert found.trials["trial"].to_list() == list(range(25))
    assert found.trials["value"].drop_nulls().max() == found.best.score.mean


def test_luck_among_many_trials_does_not_displace_the_defaults() -> None:
    found = search(planted(strength=0.0), budget=Budget(trials=25))
    assert found.best.score.mean > found.defaults.score.mean
    assert not found.is_better
    assert found.chosen == found.defaults
    taken = search(
        planted(strength=0.0), budget=Budget(trials=25), keep_defaults_unless_better=False
    )
    assert taken.chosen == taken.best == found.best


def test_defaults_that_are_best_stay() -> None:
    found = search(family=blend_family(mix=1.0))
    assert found.best == found.defaults == found.chosen
    assert (found.gain.low, found.gain.high, found.p_value) == (0.0, 0.0, 1.0)


def test_what_comes_after_the_tuning_changes_nothing() -> None:
    data = planted()
    as_of = moment(data, 99)
    late = (data.keys["as_of"] > as_of).to_numpy()
    unknown = ~(data.keys["label_known_at"] <= as_of).fill_null(value=False).to_numpy()
    assert unknown.sum() > late.sum() > 0
    rng = np.random.default_rng(9)
    x, y, excess = data.x.copy(), data.y.copy(), data.excess_return.copy()
    x[late] = rng.standard_normal(x[late].shape)
    y[unknown], excess[unknown] = 7.0, 0.07
    spoiled = replace(data, x=x, y=y, excess_return=excess, forward_return=excess)
    found = search(data, as_of=as_of)
    same(found, search(spoiled, as_of=as_of))
    cut = np.flatnonzero(~late)
    shorter = replace(
        data,
        keys=data.keys[cut],
        **{n: getattr(data, n)[cut] for n in ("x", "y", "volatility", "unit")},
        excess_return=data.excess_return[cut],
        forward_return=data.forward_return[cut],
    )
    same(found, search(shorter, as_of=as_of))
    y[10] += 1.0
    changed = search(replace(data, y=y), as_of=as_of, budget=Budget(trials=1))
    assert changed.digest != found.digest


@pytest.mark.parametrize("name", ["1d", "7d", "14d"])
def test_each_window_learns_only_what_was_known_before_it(name: str) -> None:
    horizon = find_horizon(name)
    data = planted(sessions=160)
    ends = data.keys["bar_end"].unique().sort()
    position = data.keys["bar_end"].rank("dense").to_numpy() - 1
    known = [ends[int(p) + horizon.steps] if p + horizon.steps < 160 else None for p in position]
    missing = np.array([k is None for k in known])
    keys = data.keys.with_columns(pl.Series("label_known_at", known, pl.Datetime("us", "UTC")))
    blank = np.where(missing, np.nan, data.y)
    data = replace(data, keys=keys, y=blank, excess_return=blank * 0.01)
    made: list[Blend] = []
    as_of = moment(data, 149)
    search(data, blend_family(made), horizon=horizon, as_of=as_of, budget=Budget(trials=2))
    assert len(made) >= 5
    for model in made:
        (learned,) = model.fits
        tested = model.predicted[-1]
        last = data.keys["label_known_at"][learned].max()
        assert last <= data.keys["as_of"][tested].min()
        assert data.keys["as_of"][tested].max() <= as_of
        assert data.keys["as_of"][learned].max() < data.keys["as_of"][tested].min()


def test_one_seed_gives_one_study_wherever_it_is_kept(tmp_path: Path) -> None:
    first = search(budget=Budget(trials=12))
    same(first, search(budget=Budget(trials=12)))
    same(first, search(budget=Budget(trials=12), storage=f"sqlite:///{tmp_path}/a.db"))
    other = search(budget=Budget(trials=2), seed=2)
    assert other.trials["params"][1] != first.trials["params"][1]


def test_nothing_of_the_process_wide_chance_is_used() -> None:
    np.random.seed(3)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    search()
    assert np.array_equal(np.random.get_state()[1], state)


class Stop(Exception):
    pass


def stopping(at: int) -> Any:
    """A family whose ``at``-th fit, counted from 0, raises."""
    count = iter(range(10**6))

    class Stopping(Blend):
        def fit(self, train: Any, held: Any = None) -> None:
            if next(count) == at:
                raise Stop
            super().fit(train, held)

    return blend_family(wrap=Stopping)


@pytest.mark.parametrize("at", [0, 3, -2])
def test_a_study_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, at: int) -> None:
    """Before anything, in the first trial, and after chance has given way to the sampler."""
    storage = f"sqlite:///{tmp_path}/a.db"
    whole = search(budget=Budget(trials=12))
    fits = int(whole.trials["windows"].sum())
    with pytest.raises(Stop):
        search(family=stopping(at % fits), storage=storage, budget=Budget(trials=12))
    same(search(storage=storage, budget=Budget(trials=12)), whole)
    states = [t.state.name for t in optuna.load_study(study_name="s", storage=storage).trials]
    assert states.count("FAIL") == 1
    assert len(states) == 13


CHILD = """
import sys
from tests.models.test_tuning import blocking, search
from models.spec import Forecast
from models.tuning import Budget
search(family=blocking(int(sys.argv[2])), storage=sys.argv[1], budget=Budget(trials=12))
"""


def blocking(at: int) -> Any:
    """A family whose ``at``-th fit tells its parent and waits to be killed."""
    count = iter(range(10**6))

    class Blocking(Blend):
        def fit(self, train: Any, held: Any = None) -> None:
            if next(count) == at:
                os.write(1, b"waiting\n")
                sys.stdin.read()
            super().fit(train, held)

    return blend_family(wrap=Blocking)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/a.db"
    return request.getfixturevalue("postgres").database()


def trials_of(storage: str) -> list[optuna.trial.FrozenTrial]:
    with opened(storage) as store:
        return optuna.load_study(study_name="s", storage=store).trials


def test_a_study_whose_process_was_killed_goes_on_and_ends_the_same(storage: str) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, storage, "33"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "77"},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"waiting\n"
        with pytest.raises(ModelError, match="is being tuned by another process"):
            search(storage=storage)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    before = trials_of(storage)
    assert before[-1].state.name == "RUNNING"
    assert before[-1].intermediate_values
    made: list[Blend] = []
    resumed = search(family=blend_family(made), storage=storage, budget=Budget(trials=12))
    after = trials_of(storage)
    dead = len(before) - 1
    assert [t.state.name for t in after].count("FAIL") == 1
    assert after[dead].state.name == "FAIL"
    assert after[dead + 1].params == after[dead].params
    for kept, now in zip(before[:dead], after, strict=False):
        assert (kept.state, kept.values, kept.datetime_complete) == (
            now.state,
            now.values,
            now.datetime_complete,
        )
    assert len(after) == 13
    assert len(made) == sum(len(t.intermediate_values) for t in after[dead + 1 :])
    same(resumed, search(budget=Budget(trials=12)))


def test_the_budget_of_trials_counts_those_of_earlier_runs(storage: str) -> None:
    assert search(storage=storage, budget=Budget(trials=3)).trials.height == 3
    assert search(storage=storage, budget=Budget(trials=5)).trials.height == 5
    made: list[Blend] = []
    again = search(family=blend_family(made), storage=storage, budget=Budget(trials=5))
    assert made == []
    assert again.trials.height == 5
    same(again, search(budget=Budget(trials=5)))


def test_minutes_are_looked_at_between_windows(tmp_path: Path) -> None:
    """Ten seconds a window, five windows a trial: 2 minutes end in the third trial's second."""
    storage, clock = f"sqlite:///{tmp_path}/a.db", Clock()
    budget = Budget(minutes=2.0)
    found = search(family=clock.family(10.0), storage=storage, budget=budget, clock=clock)
    assert clock.now == 100.0 + 120.0
    assert found.trials["seconds"].to_list() == [50.0, 50.0]
    states = [t.state.name for t in optuna.load_study(study_name="s", storage=storage).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL"]
    search(family=clock.family(10.0), storage=storage, budget=budget, clock=clock)
    assert clock.now == 220.0
    more = search(
        family=clock.family(10.0), storage=storage, budget=Budget(minutes=3.0), clock=clock
    )
    assert more.trials.height == 3
    assert clock.now == 280.0
    same(more, search(budget=Budget(trials=3)))


def test_the_defaults_are_judged_whatever_the_minutes() -> None:
    clock = Clock()
    budget = Budget(minutes=0.1, trials=9)
    found = search(family=clock.family(10.0), budget=budget, clock=clock)
    assert found.trials.height == 1
    assert found.chosen == found.defaults


@pytest.mark.parametrize("given", [{}, {"trials": 0}, {"minutes": -1.0}])
def test_a_budget_is_a_limit(given: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="budget of a tuning"):
        Budget(**given)


def wider(trial: Any) -> dict[str, float]:
    return {"mix": trial.suggest_float("mix", 0.0, 1.5)}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage with a study that has begun."""
    storage = f"sqlite:///{tmp_path_factory.mktemp('study')}/a.db"
    search(storage=storage, budget=Budget(trials=1))
    return storage


def test_the_very_search_is_not_refused(begun: str) -> None:
    assert search(storage=begun, budget=Budget(trials=1)).trials.height == 1
    assert search(storage=begun, study="other", seed=9, budget=Budget(trials=1)).seed == 9


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"space": wider}, "search space"),
        ({"family": blend_family(mix=0.3)}, "family"),
        ({"data": planted(seed=1)}, "data"),
        ({"windows": InnerWindows(windows=4, test_sessions=10)}, "inner windows"),
        ({"objective": Objective.LOG_LOSS}, "objective"),
        ({"seed": 4}, "seed"),
        ({"band_bps": 9.0}, "neutral band"),
        ({"horizon": find_horizon("7d")}, "horizon"),
        ({"select_groups": {"a": ["signal"], "b": ["noise"]}}, "feature groups"),
        ({"data": replace(planted(), feature_names=("a", "b", "c", "d"))}, "features"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_study_of_another_search_is_refused(
    begun: str, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match="belongs to another search") as caught:
        search(storage=begun, **changed)
    assert named in caught.value.got.removeprefix("another ").split(", ")


def test_a_study_that_tuning_did_not_make_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/a.db"
    foreign = optuna.create_study(storage=storage, study_name="s")
    foreign.optimize(lambda t: t.suggest_float("mix", 0, 1), n_trials=1)
    foreign._storage.remove_session()
    with pytest.raises(ModelError, match="that tuning did not make"):
        search(storage=storage)


def test_one_process_at_a_time_tunes_a_study(storage: str) -> None:
    with (
        held(storage, "s"),
        pytest.raises(ModelError, match="is being tuned by another process"),
    ):
        search(storage=storage)
    with held(storage, "another"):
        assert search(storage=storage, budget=Budget(trials=1)).trials.height == 1


@pytest.mark.parametrize(
    "storage", ["", "sqlite://", "sqlite:///:memory:", "postgresql://u:secret@h/d", "a.db"]
)
def test_a_study_is_stored_in_a_file_or_not_at_all(storage: str) -> None:
    with pytest.raises(ModelError, match="cannot be stored here") as caught:
        search(storage=storage)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_no_place_for_a_study() -> None:
    with pytest.raises(ModelError, match="cannot be stored here") as caught:
        search(storage="postgresql+psycopg://u:secret@127.0.0.1:9/d")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("something else, and long enough to be read as a page" * 40)
    with pytest.raises(ModelError, match="cannot be stored here"):
        search(storage=f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(ModelError, match="cannot be stored here"):
        search(storage=f"sqlite:///{tmp_path}/a.db/below/b.db")


def test_hopeless_trials_are_pruned_from_the_fourth_window_on() -> None:
    """The best comes first; a low mix is worse in every window."""
    found = search(
        planted(strength=3.0),
        blend_family(mix=1.0),
        windows=InnerWindows(windows=6, test_sessions=10),
        budget=Budget(trials=12),
    )
    pruned = found.trials.filter(pl.col("state") == "pruned")
    assert pruned.height > 0
    assert set(pruned["windows"]) == {4}
    assert pruned["value"].null_count() == pruned.height
    assert set(found.trials.filter(pl.col("state") == "complete")["windows"]) == {6}


def test_forecasts_that_are_not_finite_lose() -> None:
    class Diverging(Blend):
        def predict(self, sample: Any) -> Any:
            out = super().predict(sample)
            broken = np.where(np.arange(len(sample)) == 0, np.nan, out.mean)
            return Forecast(broken) if self.mix > 0.5 else out

    family = blend_family(wrap=Diverging)
    found = search(family=family, budget=Budget(trials=12))
    mixes = found.trials["params"].str.json_path_match("$.mix").cast(pl.Float64)
    assert (found.trials["state"].filter(mixes > 0.5) == "pruned").all()
    assert found.best.params["mix"] <= 0.5
    with pytest.raises(ModelError, match="defaults of blend could not be judged"):
        search(family=replace(family, defaults={"mix": 0.9}))


def test_log_loss_is_made_small() -> None:
    found = search(objective=Objective.LOG_LOSS, budget=Budget(trials=20))
    complete = found.trials["value"].drop_nulls()
    assert found.best.score.mean == complete.min()
    assert found.gain.mean == pytest.approx(found.defaults.score.mean - found.best.score.mean)
    assert found.gain.mean > 0.0


def test_too_little_history_is_refused() -> None:
    with pytest.raises(ModelError, match="too little history before the inner windows"):
        search(planted(sessions=52))


def test_a_space_that_lacks_the_defaults_is_refused() -> None:
    def narrow(trial: Any) -> dict[str, float]:
        return {"mix": trial.suggest_float("mix", 0.5, 1.0)}

    with pytest.raises(ModelError, match="does not hold the family's defaults"):
        search(space=narrow)


def test_a_family_without_a_space_is_refused() -> None:
    with pytest.raises(ModelError, match="no search space for this model family"):
        search(space=None)


ROW_FAMILIES = [f for f in FAMILIES.values() if not f.needs_sequences]


@pytest.mark.parametrize("family", ROW_FAMILIES, ids=lambda f: f.name)
def test_families_are_tuned_in_their_own_space(family: Any) -> None:
    windows = InnerWindows(windows=2, test_sessions=10)
    found = search(family=family, space=None, windows=windows, budget=Budget(trials=2))
    assert found.defaults.params == family.defaults
    assert found.trials["state"].to_list() == ["complete", "complete"]
    assert found.trials["params"].n_unique() == 2
    assert found.defaults.score.low > 0.0


def test_progress_is_told_after_each_trial() -> None:
    told: list[tuple[int, float | None]] = []
    found = search(budget=Budget(trials=4), progress=lambda *a: told.append(a))
    assert [n for n, _ in told] == [1, 2, 3, 4]
    assert told[-1][1] == found.best.score.mean
    assert told[0][1] == found.defaults.score.mean


def test_the_settings_come_back_from_toml() -> None:
    found = search(study='odd "name" \x7f \\ é', select_groups={"a": NAMES[:2], "b": NAMES[2:]})
    assert tomllib.loads(found.to_toml()) == found.settings()
    thin = replace(found, chosen=replace(found.chosen, features=("signal",), params={"a b": True}))
    assert tomllib.loads(thin.to_toml()) == thin.settings()
    entry = thin.settings()["models"]["tuned"]["1d"]["blend"]
    assert entry["features"] == ["signal"]
    assert entry["windows"] == 5
    assert entry["value"] == found.chosen.score.mean
    assert (entry["study"], entry["digest"], entry["seed"]) == (found.study, found.digest, 1)
