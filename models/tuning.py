"""The one door to Optuna: parameters searched for inside the training side.

Trial 0 is the family's defaults. Trial ``k`` depends on the seed, on ``k`` and on the finished
trials before it, and on nothing else: a study that was killed and goes on ends as one that never
stopped, as long as only trials limit it and its models are deterministic.
"""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import orjson
import polars as pl
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from market.errors import ModelError
from market.horizons import Horizon
from models.data_snooping import superior_skill
from models.dataset import Dataset
from models.evaluation import Vector, bootstrap_mean
from models.inner_windows import InnerWindows, Judge, Objective, known_by, take_features
from models.search_spaces import Space, Trial, find_space
from models.spec import Family
from models.study_identity import Groups, digest_of, identify
from models.study_store import held, is_there, opened
from models.tuned import Choice, Tuned

Progress = Callable[[int, float | None], None]

# Attributes of studies and trials.
_IDENTITY, _PROPOSAL = "isobar_identity", "isobar_proposal"
_SCORES, _SECONDS, _STOPPED = "isobar_scores", "isobar_seconds", "isobar_stopped"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_PRUNE_BELOW = 0.1
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a study may search; what is spent first ends it.

    Attributes
    ----------
    trials : int, optional
        Finished trials of the study in all, pruned ones and those of earlier runs included.
    minutes : float, optional
        Time spent on trials in all runs. It is looked at between windows: the window that is
        running ends, the trial it belongs to does not count. The defaults are judged in any case.

    Examples
    --------
    >>> Budget(trials=50, minutes=30.0)
    Budget(trials=50, minutes=30.0)
    """

    trials: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.trials, self.minutes) if v is not None]
        if not given or min(given) <= 0:
            raise ModelError(
                "budget of a tuning",
                got=f"{self.trials} trials, {self.minutes} minutes",
                allowed="trials, minutes, or both, above 0",
                remedy="say how long to search",
            )


def tune(
    dataset: Dataset,
    family: Family,
    horizon: Horizon,
    *,
    as_of: dt.datetime,
    budget: Budget,
    study: str,
    storage: str | None,
    seed: int,
    band_bps: float,
    space: Space | None = None,
    windows: InnerWindows | None = None,
    objective: Objective = Objective.RANK_IC,
    select_groups: Groups | None = None,
    keep_defaults_unless_better: bool = True,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Search parameters of a family on purged windows of what was known at a moment.

    Parameters
    ----------
    dataset : Dataset
        Features and labels of all symbols.
    family : Family
        Whose parameters.
    horizon : Horizon
        Whose labels the dataset carries.
    as_of : datetime
        Aware. Rows and labels known later are cut off before anything looks at them.
    budget : Budget
        How long to search, over all runs of the study.
    study : str
        Its name in the storage. A study goes on where it stopped; one process at a time.
    storage : str, optional
        ``sqlite:///FILE``; in memory, and so gone at the end, when ``None``.
    seed : int
        Of the sampler and of every model.
    band_bps : float
        The neutral band.
    space : callable, optional
        From a trial to parameters; the family's of :mod:`models.search_spaces` by default.
    windows : InnerWindows, optional
        What parameters are judged on; six windows of 21 sessions by default.
    objective : Objective
        Mean rank IC per session, or log loss.
    select_groups : mapping, optional
        Groups of features by name; trials leave some out, never all. Features of no group stay.
    keep_defaults_unless_better : bool
        Whether the defaults stay unless the best beats them by more than chance.
    progress : callable, optional
        Called after each finished trial with (finished trials, best value so far).
    clock : callable
        Seconds, for the budget.

    Returns
    -------
    Tuned
        What was chosen, the best, the defaults, and how far apart they are.

    Raises
    ------
    ModelError
        When the study belongs to another search, is being tuned by another process, cannot be
        stored, or there is too little history. What fitting raises ends the run; the trial is
        tried again by the next one.

    Notes
    -----
    The sampler is the tree-structured Parzen estimator (Bergstra et al., 2011), in its joint form.
    A trial is pruned once it is worse than the best in so many windows that chance does not explain
    it (Wilcoxon's signed-rank test, p below 0.1; so not before the fourth window). Windows are
    easy or hard for all trials alike, so pairs tell more than the levels a median rule compares.

    Examples
    --------
    >>> from features.compute import compute_features
    >>> from features.labels import forward_returns
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> from models.dataset import assemble
    >>> from models.registry import find_family
    >>> daily = find_horizon("1d")
    >>> bars = generate(SyntheticSpec(symbols=4, sessions=90, minute_sessions=0)).daily
    >>> made, labels = compute_features(bars), forward_returns(bars, daily)
    >>> data = assemble(made, labels, ["volatility_20", "return_5"], steps=1)
    >>> found = tune(data, find_family("linear"), daily, as_of=made["as_of"].max(),
    ...     budget=Budget(trials=3), study="linear 1d", storage=None, seed=1, band_bps=6.0,
    ...     windows=InnerWindows(windows=2, test_sessions=10))
    >>> found.trials.height, found.defaults.params == find_family("linear").defaults
    (3, True)
    """
    known = known_by(dataset, as_of)
    asked = space if space is not None else find_space(family.name)
    groups = _checked_groups(select_groups or {}, known.feature_names)
    cut = windows if windows is not None else InnerWindows()
    judge = Judge(known, family, horizon, _cut(known, horizon, cut), objective, band_bps, seed)
    identity = identify(judge, asked, groups, cut)
    with _opened(storage, study, objective) as begun:
        _claim(begun, identity)
        _search(begun, _Search(judge, asked, groups, budget, clock), progress)
        return _result(begun, judge, digest_of(identity), keep_defaults_unless_better)


def count_trials(storage: str, horizon: str) -> tuple[int, int]:
    """Return how many studies searched for a horizon, and their finished trials.

    Parameters
    ----------
    storage : str
        ``sqlite:///FILE``, of which one that is not there yet holds none, or PostgreSQL's URL.
    horizon : str
        A row of the horizons table.

    Returns
    -------
    (int, int)
        Studies and trials, pruned ones included, whatever the studies are called.

    Raises
    ------
    ModelError
        When the storage cannot be read.

    Examples
    --------
    >>> count_trials("sqlite:///nothing-here.db", "1d")
    (0, 0)
    """
    if not is_there(storage):
        return 0, 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wanted = digest_of(horizon)
    try:
        with opened(storage) as store:
            mine = [
                study.study_name
                for study in optuna.get_all_study_summaries(store)
                if study.user_attrs.get(_IDENTITY, {}).get("horizon") == wanted
            ]
            trials = [
                len(_finished(optuna.load_study(study_name=name, storage=store))) for name in mine
            ]
    except (ModelError, SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        raise ModelError(
            f"the studies of parameters cannot be counted ({error})",
            got=storage.rpartition("@")[2],
            allowed="what tuning wrote",
            remedy="restore it from a backup: trials that nobody counts flatter a backtest",
        ) from error
    return len(mine), sum(trials)


@dataclass(frozen=True)
class _Search:
    judge: Judge
    space: Space
    groups: Groups
    budget: Budget
    clock: Callable[[], float]

    def defaults(self) -> dict[str, float | int | str | bool]:
        return {**self.judge.family.defaults, **{_switch(name): True for name in self.groups}}


def _cut(known: Dataset, horizon: Horizon, windows: InnerWindows) -> tuple[Any, ...]:
    """Return the windows over sessions with known labels: others could not be judged."""
    sessions = known.keys["session"].to_numpy()
    labelled = np.unique(sessions[np.isfinite(known.y)])
    rows = np.flatnonzero(np.isin(sessions, labelled))
    splitter = windows.splitter(horizon, len(labelled))
    return tuple((rows[a], rows[b]) for a, b in splitter.split(rows, groups=sessions[rows]))


def _checked_groups(groups: Groups, names: Sequence[str]) -> Groups:
    unknown = sorted({n for members in groups.values() for n in members} - set(names))
    empty = [name for name, members in groups.items() if not members]
    if unknown or empty or len(groups) == 1:
        raise ModelError(
            "groups of features to select from",
            got=unknown[:5] or empty or list(groups),
            allowed="two groups or more, none empty, of the dataset's features",
            remedy="correct select_groups",
        )
    return groups


def _claim(study: optuna.Study, identity: dict[str, str]) -> None:
    """Say what a new study belongs to, or refuse one that belongs to something else."""
    stored: dict[str, str] | None = study.user_attrs.get(_IDENTITY)
    trials = study.get_trials(deepcopy=False)
    if stored is None and not trials:
        study.set_user_attr(_IDENTITY, identity)
        return
    if stored != identity:
        differ = [k for k in identity if stored is not None and stored.get(k) != identity[k]]
        raise ModelError(
            f"the study {study.study_name} belongs to another search",
            got=f"another {', '.join(differ)}" if differ else "a study that tuning did not make",
            allowed="the very search it was begun with",
            remedy="choose another study name",
        )
    # One process at a time holds the lock: what is still running was left by one that died.
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def _opened(storage: str | None, study: str, objective: Objective) -> Generator[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        pruner = WilcoxonPruner(p_threshold=_PRUNE_BELOW)
    direction = "maximize" if objective.sign > 0 else "minimize"
    if storage is None:
        yield optuna.create_study(study_name=study, direction=direction, pruner=pruner)
        return
    with held(storage, study), opened(storage) as store:
        yield optuna.create_study(
            storage=store,
            study_name=study,
            direction=direction,
            pruner=pruner,
            load_if_exists=True,
        )


def _search(study: optuna.Study, search: _Search, progress: Progress | None) -> None:
    began, budget = search.clock(), search.budget
    earlier = sum(t.user_attrs.get(_SECONDS, 0.0) for t in study.get_trials(deepcopy=False))
    limit = math.inf if budget.minutes is None else 60.0 * budget.minutes

    def out_of_time() -> bool:
        return earlier + search.clock() - began >= limit

    while True:
        finished = len(_finished(study))
        if finished > 0 and out_of_time():
            return
        if budget.trials is not None and finished >= budget.trials:
            return
        # A sampler of its own for each trial, so that going on after a stop changes nothing.
        own = int(np.random.SeedSequence([search.judge.seed, finished]).generate_state(1)[0])
        study.sampler = TPESampler(seed=own, constant_liar=False)
        if finished == 0 and not study.get_trials(states=(TrialState.WAITING,)):
            study.enqueue_trial(search.defaults())
        # The defaults are judged in any case: without them there is no result.
        _run(study, study.ask(), search, (lambda: False) if finished == 0 else out_of_time)
        if progress is not None:
            done = _finished(study)
            complete = any(t.state == TrialState.COMPLETE for t in done)
            progress(len(done), study.best_value if complete else None)


def _run(
    study: optuna.Study, trial: optuna.Trial, search: _Search, out_of_time: Callable[[], bool]
) -> None:
    """Judge one proposal window by window."""
    judge, began = search.judge, search.clock()
    params = {**judge.family.defaults, **search.space(trial)}
    features = _features(trial, judge.dataset.feature_names, search.groups)
    trial.set_user_attr(_PROPOSAL, {"params": params, "features": features})
    data = take_features(judge.dataset, features)
    scores: list[Vector] = []
    last = len(judge.windows) - 1
    for window in range(last + 1):
        values = judge.score(params, data, window)
        trial.set_user_attr(_SECONDS, search.clock() - began)
        if not np.isfinite(values).all():
            _stop(study, trial, TrialState.PRUNED, "forecasts are not finite")
            return
        scores.append(values)
        trial.report(float(values.mean()), window)
        if window < last and out_of_time():
            _stop(study, trial, TrialState.FAIL, "out of time")
            return
        if window < last and trial.should_prune():
            _stop(study, trial, TrialState.PRUNED, "worse than the best")
            return
    every = np.concatenate(scores)
    trial.set_user_attr(_SCORES, every.tolist())
    study.tell(trial, float(every.mean()))


def _stop(study: optuna.Study, trial: optuna.Trial, state: TrialState, reason: str) -> None:
    trial.set_user_attr(_STOPPED, reason)
    study.tell(trial, state=state)


def _switch(group: str) -> str:
    return f"use:{group}"


def _features(trial: Trial, names: Sequence[str], groups: Groups) -> list[str]:
    """Return the features a trial keeps. The last group is kept unasked where it is the only one.

    So it is kept a little more often than the others; no trial is wasted on an empty choice.
    """
    kept = set(names).difference(*groups.values())
    some = False
    for place, (name, members) in enumerate(groups.items()):
        forced = place == len(groups) - 1 and not some
        if forced or trial.suggest_categorical(_switch(name), (True, False)):
            some = True
            kept.update(members)
    return [n for n in names if n in kept]


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=_FINISHED)


def _result(study: optuna.Study, judge: Judge, digest: str, careful: bool) -> Tuned:
    done = _finished(study)
    complete = [t for t in done if t.state == TrialState.COMPLETE]
    if not done or done[0].state != TrialState.COMPLETE:
        raise ModelError(
            f"the defaults of {judge.family.name} could not be judged",
            got=done[0].user_attrs[_STOPPED] if done else "no finished trial",
            allowed="finite forecasts in every inner window",
            remedy="correct the family's defaults",
        )
    first, sign = done[0], judge.objective.sign
    scores = {t.number: np.array(t.user_attrs[_SCORES]) for t in complete}
    # Of equals the earlier one, and so the defaults before any other.
    best = max(complete, key=lambda t: (sign * float(scores[t.number].mean()), -t.number))
    block = float(max(5, 2 * judge.horizon.sessions))
    gains = {n: sign * (s - scores[first.number]) for n, s in scores.items() if n != first.number}
    lead = sign * (scores[best.number] - scores[first.number])
    gain = bootstrap_mean(lead, seed=judge.seed, block=block)
    p_value = (
        superior_skill(np.stack(list(gains.values()), axis=1), seed=judge.seed, block=block)
        if gains
        else 1.0
    )
    is_better = gain.low > 0.0 and p_value < _SIGNIFICANT

    def choice(trial: FrozenTrial) -> Choice:
        score = bootstrap_mean(scores[trial.number], seed=judge.seed, block=block)
        made = trial.user_attrs[_PROPOSAL]
        return Choice(trial.number, made["params"], tuple(made["features"]), score)

    return Tuned(
        study=study.study_name,
        digest=digest,
        family=judge.family.name,
        horizon=judge.horizon.name,
        objective=judge.objective,
        seed=judge.seed,
        windows=len(judge.windows),
        chosen=choice(best if is_better or not careful else first),
        best=choice(best),
        defaults=choice(first),
        gain=gain,
        p_value=p_value,
        is_better=is_better,
        trials=_table(done),
    )


def _table(trials: Sequence[FrozenTrial]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "trial": [t.number for t in trials],
            "state": [t.state.name.lower() for t in trials],
            "value": [t.value if t.state == TrialState.COMPLETE else None for t in trials],
            "windows": [len(t.intermediate_values) for t in trials],
            "features": [len(t.user_attrs[_PROPOSAL]["features"]) for t in trials],
            "seconds": [t.user_attrs[_SECONDS] for t in trials],
            "params": [orjson.dumps(t.user_attrs[_PROPOSAL]["params"]).decode() for t in trials],
        },
        schema_overrides={"value": pl.Float64, "seconds": pl.Float64},
    )
