"""The job that tunes: the search of `isobar tune` as a step, on a cluster where there is one."""

import dagster as dg
from pydantic import Field

from market.horizons import find_horizon
from models.inner_windows import Objective
from pipelines.assets.models import POOL
from pipelines.cluster import heavy_executor, training_request, training_retries
from pipelines.resources import Stores, moment_of
from pipelines.settings import Settings
from pipelines.table_metadata import as_table

TUNING_JOB = "tuning_job"
_OP = "tune_family"


class TuneConfig(dg.Config):
    """What to search."""

    horizon: str = Field(description="One horizon")
    family: str = Field(description="One of its model families")
    trials: int = Field(default=0, ge=0, description="Trials in all, earlier runs included")
    minutes: float = Field(default=0.0, ge=0, description="Time in all; 30 where nothing is said")
    objective: str = Field(default=Objective.RANK_IC.value, description="What is optimised")
    windows: int = Field(default=0, ge=0, description="Inner windows; 6 by default")
    window_sessions: int = Field(default=0, ge=0, description="Their length; 21, or 5 intraday")
    select_features: bool = Field(default=False, description="Leave out families of features")
    study: str = Field(default="", description="Name; of family, horizon and last session else")


def build_tuning_job(settings: Settings) -> dg.JobDefinition:
    """Return the job; what it finds is in its run, and goes into ``isobar.toml`` by hand."""

    @dg.op(
        name=_OP,
        tags={"kind": "optuna", **training_request(settings.cluster)},
        retry_policy=training_retries(settings.cluster),
        pool=POOL,
        out=dg.Out(dg.Nothing),
        description="Searches a family's parameters on purged windows of the past; again goes on "
        "with the study.",
    )
    def tune_family(
        context: dg.OpExecutionContext, config: TuneConfig, stores: dg.ResourceParam[Stores]
    ) -> dg.Output[None]:
        # Optuna takes a second to import, which other runs need not wait.
        from pipelines.tuning import budget_of, tune_by_name

        found = tune_by_name(
            stores,
            find_horizon(config.horizon),
            config.family,
            as_of=moment_of(context),
            budget=budget_of(config.trials, config.minutes),
            objective=Objective(config.objective),
            windows=config.windows,
            window_sessions=config.window_sessions,
            study=config.study,
            select=config.select_features,
        )
        says = "the best is chosen" if found.is_better else "the defaults stay"
        facts = {
            "study": found.study,
            "chosen": f"trial {found.chosen.trial} of {found.trials.height}: {says}",
            "gain of the best over the defaults": found.gain.mean,
            "p-value": found.p_value,
            "isobar.toml": dg.MetadataValue.md(f"```toml\n{found.to_toml()}```"),
            "trials": as_table(found.trials),
        }
        return dg.Output(None, metadata=facts)

    @dg.job(
        name=TUNING_JOB,
        description="Search a family's parameters; see the run's output for what to write into "
        "isobar.toml.",
        executor_def=heavy_executor(settings.cluster),
    )
    def tuning_job() -> None:
        tune_family()

    return tuning_job
