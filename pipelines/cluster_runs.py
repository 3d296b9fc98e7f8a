"""A run whose steps other machines do: as the daemon would launch it, and waited for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Set
from typing import Any

import dagster as dg

from market.errors import IsobarError, SettingsError
from pipelines.definitions import build_definitions
from pipelines.event_log import silence_beta
from pipelines.settings import Settings, load_settings

Metadata = dict[str, Any]
_LOADING = threading.Lock()


def run_on_cluster(
    job: str,
    settings: Settings,
    instance: dg.DagsterInstance,
    *,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
    assets: Set[dg.AssetKey] | None = None,
) -> dict[str, Metadata]:
    """Run a job with the executor that its definition names; return each asset's metadata.

    The other machines make the definitions by themselves, from their own settings.

    Parameters
    ----------
    job : str
        A name from :mod:`pipelines.jobs`.
    settings : Settings
        What the settings of every machine must agree with, as far as they decide any number.
    instance : DagsterInstance
        With a storage that all machines reach.
    tags : mapping
        Of the run; a partition is one of them.
    run_config : mapping
        As Dagster takes it.
    assets : set of AssetKey, optional
        These alone, without any check; all when absent.

    Raises
    ------
    IsobarError
        When a step failed; with its error, which happened elsewhere.
    """
    silence_beta()
    wanted = dg.build_reconstructable_job(__name__, "job_of", (job, settings.config_hash))
    if assets is not None:
        wanted = wanted.get_subset(asset_selection=assets, asset_check_selection=set())
    with dg.execute_job(
        wanted, instance, run_config=dict(run_config), tags=dict(tags), raise_on_error=False
    ) as result:
        if not result.success:
            raise _failure(job, result.all_events)
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
    # Runs begin side by side, and each changes for a while what warnings are shown.
    with _LOADING:
        return build_definitions(settings).resolve_job_def(name)


def _failure(job: str, events: list[dg.DagsterEvent]) -> IsobarError:
    failed = [e for e in events if e.is_step_failure]
    error = failed[0].step_failure_data.error if failed else None
    # Dagster's own is around it.
    while error is not None and error.cause is not None:
        error = error.cause
    told = error.message.strip() if error else events[-1].message or ""
    return IsobarError(f"job {job} failed on the cluster: {told}", remedy="see its run: isobar ui")
