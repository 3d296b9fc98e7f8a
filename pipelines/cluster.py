"""Steps on a Ray cluster: which go there, and what they ask of its machines.

Where no address is set nothing here imports Ray.
"""

from __future__ import annotations

import json

import dagster as dg

from market.errors import SettingsError
from pipelines.cluster_settings import ClusterSettings

REQUEST_TAG = "dagster-ray/config"
_RAY = "ray"


def heavy_executor(cluster: ClusterSettings) -> dg.ExecutorDefinition | None:
    """Return what runs the steps of a heavy job; ``None`` where that is as for other jobs.

    The machines of the cluster have an environment of their own: what was sent along could be
    read in Ray's pages, and there are keys in it.

    Raises
    ------
    SettingsError
        When the extra ``cluster`` is not installed.
    """
    if not cluster.is_on:
        return None
    try:
        from dagster_ray import ray_executor
    except ImportError as error:
        raise SettingsError(
            "cluster.ray_address is set and dagster-ray is not installed",
            got=cluster.ray_address,
            allowed="the extra `cluster`",
            remedy="pip install 'isobar-quant[cluster]', or leave the address empty",
        ) from error

    return ray_executor.configured({"ray": {"address": cluster.ray_address}}, name=_RAY)


def is_heavy(job: dg.JobDefinition) -> bool:
    """Say whether the steps of a job run on the cluster."""
    return job.executor_def.name == _RAY


def training_retries(cluster: ClusterSettings) -> dg.RetryPolicy | None:
    """Return how often a training is run again that lost its machine; never without a cluster.

    Examples
    --------
    >>> training_retries(ClusterSettings()) is None
    True
    """
    return dg.RetryPolicy(max_retries=cluster.retries) if cluster.is_on else None


def training_request(cluster: ClusterSettings) -> dict[str, str]:
    """Return op tags that say what a training reserves; every horizon has a family of networks.

    Examples
    --------
    >>> training_request(ClusterSettings())
    {}
    >>> training_request(ClusterSettings(ray_address="http://head:8265"))
    {'dagster-ray/config': '{"num_cpus": 2.0, "num_gpus": 0.0, "memory": 8000000000}'}
    """
    return _tags(
        cluster,
        num_cpus=cluster.training_cpus,
        num_gpus=cluster.training_gpus,
        memory=int(cluster.training_memory_gb * 1e9),
    )


def bulk_request(cluster: ClusterSettings) -> dict[str, str]:
    """Return op tags that say what a step reserves which ingests or makes features."""
    return _tags(cluster, num_cpus=cluster.bulk_cpus)


def _tags(cluster: ClusterSettings, **request: float) -> dict[str, str]:
    return {REQUEST_TAG: json.dumps(request)} if cluster.is_on else {}
