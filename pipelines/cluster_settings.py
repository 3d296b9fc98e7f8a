"""Settings of the cluster that heavy steps run on."""

from pydantic import Field

from pipelines.vendor_settings import Frozen


class ClusterSettings(Frozen):
    """Where the heavy steps run, and what a training asks of the machine it runs on."""

    ray_address: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="Job server of a Ray cluster, such as http://head:8265; steps run in the"
        " run's own process when empty",
    )
    training_cpus: float = Field(2.0, gt=0, description="CPUs that a training reserves")
    training_gpus: float = Field(0.0, ge=0, description="GPUs that a training reserves")
    training_memory_gb: float = Field(8.0, gt=0, description="Memory that a training reserves")
    bulk_cpus: float = Field(
        1.0, gt=0, description="CPUs that a step reserves which ingests or makes features"
    )
    retries: int = Field(
        2, ge=0, description="How often a training that failed or lost its machine is run again"
    )

    @property
    def is_on(self) -> bool:
        """Whether there is a cluster."""
        return bool(self.ray_address)
