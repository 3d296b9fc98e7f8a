"""Settings of what an installation tells of its work."""

from pydantic import Field

from pipelines.vendor_settings import Frozen


class LogSettings(Frozen):
    """Where events are written."""

    keep_days: int = Field(30, ge=1, description="Days of the event log that are kept")
    stdout: bool = Field(False, description="Whether events are printed as well, for containers")


class TelemetrySettings(Frozen):
    """Where traces go."""

    otlp_endpoint: str = Field(
        "", description="Collector of OpenTelemetry over HTTP, such as http://host:4318; none"
    )
    service_name: str = Field("isobar", description="Name of this installation there")
