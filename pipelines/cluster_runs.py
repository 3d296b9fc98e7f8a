"""Runs whose steps other machines do: as the daemon would launch them, and waited for."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import dagster as dg

from market.errors import IsobarError, SettingsError
from pipelines.definitions import build_definitions
from pipelines.event_log import quiet_logging
from pipelines.settings import load_settings

Metadata = dict[str, Any]
_MOST_AT_ONCE = 8


@dataclass(frozen=True)
class ClusterRun:
    """What to run on the cluster.

    Attributes
    ----------
    job : str
        A name from :mod:`pipelines.jobs`.
    config_hash : str
        Of the settings; every machine's must be the same.
    tags : mapping
        Of the run; a partition is one of them.
    config : mapping
        As Dagster takes it.
    assets : set of AssetKey, optional
        These alone, without any check; all when absent.
    """

    job: str
    config_hash: str
    tags: Mapping[str, str]
    config: Mapping[str, Any]
    assets: Set[dg.AssetKey] | None = None


def run_abreast(wanted: Sequence[ClusterRun]) -> Iterator[dict[str, Metadata]]:
    """Run several at once, as many as there is room for; yield what each made, in their order.

    Each in a process of its own: Dagster sets up logging for a run, which threads cannot do side
    by side.

    Raises
    ------
    IsobarError
        When one failed, once those that had begun are done.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(wanted), _MOST_AT_ONCE), mp_context=context) as processes:
        yield from processes.map(run_on_cluster, wanted)


def run_on_cluster(wanted: ClusterRun) -> dict[str, Metadata]:
    """Run a job with the executor that its definition names; return each asset's metadata.

    The other machines make the definitions by themselves, from their own settings.

    Raises
    ------
    IsobarError
        When a step failed; with its error, which happened elsewhere.
    """
    name = (wanted.job, wanted.config_hash)
    job = dg.build_reconstructable_job(__name__, "job_of", name)
    if wanted.assets is not None:
        job = job.get_subset(asset_selection=wanted.assets, asset_check_selection=set())
    config, tags = dict(wanted.config), dict(wanted.tags)
    with (
        quiet_logging(),
        dg.DagsterInstance.get() as instance,
        dg.execute_job(job, instance, run_config=config, tags=tags, raise_on_error=False) as result,
    ):
        if not result.success:
            raise _failure(wanted.job, result.all_events)
        return metadata_of(result)


def metadata_of(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> dict[str, Metadata]:
    """Return the metadata of each asset that a run made."""
    found: dict[str, Metadata] = {}
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        found[made.asset_key.to_user_string()] = {k: v.value for k, v in made.metadata.items()}
    return found


def job_of(name: str, config_hash: str) -> dg.JobDefinition:
    """Return a job as this machine's settings make it.

    Raises
    ------
    SettingsError
        When they are not those of the run.
    """
    settings = load_settings()
    if settings.config_hash != config_hash:
        raise SettingsError(
            "this machine's settings are not those of the run",
            got=settings.config_hash,
            allowed=config_hash,
            remedy="give every machine of the cluster the same isobar.toml and environment",
        )
    return build_definitions(settings).resolve_job_def(name)


def _failure(job: str, events: list[dg.DagsterEvent]) -> IsobarError:
    failed = [e for e in events if e.is_step_failure]
    error = failed[0].step_failure_data.error if failed else None
    # Dagster's own is around it.
    while error is not None and error.cause is not None:
        error = error.cause
    told = error.message.strip() if error else events[-1].message or ""
    return IsobarError(f"job {job} failed on the cluster: {told}", remedy="see its run: isobar ui")
