"""Settings of those outside: where bars come from and where orders go."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from market.flatfile_parse import BUCKET, ENDPOINT_URL
from market.request_limiter import Plan


class Frozen(BaseModel):
    """What groups of settings have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class PolygonSettings(Frozen):
    """Where bars come from."""

    api_key: SecretStr = Field(SecretStr(""), description="Key of the market-data vendor")
    base_url: str = Field("https://api.polygon.io", description="Root of its REST service")
    delay_minutes: int = Field(0, ge=0, le=60, description="Delay of the data plan: 0 or 15")
    timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for one answer")
    plan: Plan | Literal["auto"] = Field(
        "auto", description="Data plan: free, starter, developer, advanced; or found out by asking"
    )
    shared_folder: Path | None = Field(
        None,
        description="Request budget and kept answers, shared by the data roots of this machine;"
        " in the user's cache folder when absent",
    )
    cache_bytes: int = Field(
        1_000_000_000, ge=0, description="Room for kept answers on disk; 0 keeps none"
    )
    adjusted: bool = Field(
        False,
        description="Ingest bars that the vendor adjusted for splits, over REST, into a lake of"
        " their own from which nothing is learned",
    )
    s3_access_key: SecretStr = Field(
        SecretStr(""), description="Access key of the flat files; without both keys all is REST"
    )
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret key of the flat files")
    s3_endpoint: str = Field(ENDPOINT_URL, description="S3 endpoint of the flat files")
    s3_bucket: str = Field(BUCKET, description="Bucket of the flat files")

    @property
    def has_flat_files(self) -> bool:
        """Whether the keys of the flat files are set."""
        return bool(self.s3_access_key.get_secret_value())

    @property
    def is_replay(self) -> bool:
        """Whether the vendor is a server on this machine."""
        return _is_here(self.base_url)

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        if self.has_flat_files != bool(self.s3_secret_key.get_secret_value()):
            raise ValueError(
                "flat files take both POLYGON_S3_ACCESS_KEY and POLYGON_S3_SECRET_KEY, or neither"
            )
        return self


class SecondSourceSettings(Frozen):
    """Another source of daily bars that speaks the vendor's protocol, to hold the first against."""

    api_key: SecretStr = Field(SecretStr(""), description="Its key")
    base_url: str = Field("", description="Root of its REST service; none when empty")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}


class AlpacaSettings(Frozen):
    """Where orders go."""

    api_key: SecretStr = Field(SecretStr(""), description="Key id")
    secret_key: SecretStr = Field(SecretStr(""), description="Secret key")
    base_url: str = Field("https://paper-api.alpaca.markets", description="Root of its service")
    timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for one answer")

    @property
    def is_replay(self) -> bool:
        """Whether the broker is a server on this machine."""
        return _is_here(self.base_url)


class S3Settings(Frozen):
    """How the lake's bucket is reached."""

    endpoint: str = Field("", description="URL of the S3 service; Amazon's when empty")
    region: str = Field("us-east-1", description="Its region")
    access_key: SecretStr = Field(
        SecretStr(""),
        description="Access key; without both keys the machine's own role or AWS_* variables",
    )
    secret_key: SecretStr = Field(SecretStr(""), description="Secret key")

    @property
    def options(self) -> dict[str, str]:
        """What ``deltalake`` and Polars are told, secrets in the open."""
        access, secret = (k.get_secret_value() for k in (self.access_key, self.secret_key))
        told = {
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true" if self.endpoint.startswith("http://") else "",
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
        }
        return {name: value for name, value in told.items() if value}

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        if bool(self.access_key.get_secret_value()) != bool(self.secret_key.get_secret_value()):
            raise ValueError("name both s3.access_key and s3.secret_key, or neither")
        return self
