"""Where settings come from, the strongest last: profile, ``isobar.toml``, ``.env``, environment.

The only module that reads settings from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from market.errors import SettingsError
from pipelines.profiles import find_profile
from pipelines.settings_file import SettingsFile

DEFAULT = "default"

# Environment variables with a name of their own, because users know them by it.
NAMED = {
    "POLYGON_API_KEY": "polygon.api_key",
    "MASSIVE_API_KEY": "polygon.api_key",
    "POLYGON_BASE_URL": "polygon.base_url",
    "POLYGON_S3_ACCESS_KEY": "polygon.s3_access_key",
    "POLYGON_S3_SECRET_KEY": "polygon.s3_secret_key",
    "ALPACA_API_KEY": "alpaca.api_key",
    "ALPACA_SECRET_KEY": "alpaca.secret_key",
    "ALPACA_BASE_URL": "alpaca.base_url",
    "ISOBAR_ALLOW_LIVE": "trading.allow_live",
    "ISOBAR_LEDGER_URL": "ledger_url",
    "ISOBAR_MLFLOW_URL": "mlflow_url",
}
_LISTS = {"symbols", "horizons", "combined_horizons", "families", "indicators", "email_to"}
_NOT_SETTINGS = {"ISOBAR_HOME", "ISOBAR_SAMPLE_BARS", "ISOBAR_RELIABILITY"}
_NOT_SETTINGS |= {"ISOBAR_TEST_ALPACA_KEY", "ISOBAR_TEST_ALPACA_SECRET"}


@dataclass(frozen=True, slots=True)
class Sources:
    """What is set, and where.

    Attributes
    ----------
    values : mapping
        As ``Settings`` takes them.
    origins : mapping
        Dotted name to where its value comes from; what is not in it is a default.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def origin_of(self, name: str) -> str:
        """Return where a setting's value comes from; several places of one that is a table.

        Examples
        --------
        >>> Sources({}, {"models.tuned.1d": "isobar.toml"}).origin_of("models.tuned")
        'isobar.toml'
        >>> Sources({}, {}).origin_of("models.seed")
        'default'
        """
        found = [o for n, o in self.origins.items() if n == name or n.startswith(f"{name}.")]
        return ", ".join(dict.fromkeys(found)) or DEFAULT


def read_sources(home: Path | None = None) -> Sources:
    """Read all of them.

    Parameters
    ----------
    home : Path, optional
        Data root to read the file of; ``ISOBAR_HOME`` or ``./var`` when absent.

    Raises
    ------
    SettingsError
        When a file cannot be read, a profile is unknown, or a name goes below a setting.
    """
    dotenv = {k: v for k, v in dotenv_values(".env").items() if v}
    environment = {k: v for k, v in os.environ.items() if v}
    given = home
    home = given or Path(environment.get("ISOBAR_HOME") or dotenv.get("ISOBAR_HOME") or "var")
    file = SettingsFile.find(home)
    layers = [
        (str(file.path.name), file.values()),
        *((".env", _placed(dotenv, n)) for n in sorted(dotenv)),
        *((n, _placed(environment, n)) for n in sorted(environment)),
    ]
    profile = [v["profile"] for _, v in layers if "profile" in v]
    if profile:
        found = find_profile(str(profile[-1]))
        layers.insert(0, (f"profile {found.name}", found.values))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        _lay(values, layer, origin, origins)
    values["home"] = home
    if given is None and ("ISOBAR_HOME" in environment or "ISOBAR_HOME" in dotenv):
        origins["home"] = "ISOBAR_HOME" if "ISOBAR_HOME" in environment else ".env"
    return Sources(values, origins)


def over_profile(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values laid over those of a profile.

    Examples
    --------
    >>> over_profile("paper", {"trading": {"late_after_minutes": 5}})["trading"]["enabled"]
    True
    """
    made: dict[str, Any] = {}
    for layer in (find_profile(name).values, values, {"profile": name}):
        _lay(made, layer, "", {})
    return made


def _placed(environment: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return what one variable sets; nothing where it is none of ours."""
    path = _path_of(name)
    if path is None:
        return {}
    *groups, last = path.split(".")
    value = environment[name]
    made: dict[str, Any] = {last: value.split(",") if last in _LISTS else value}
    for group in reversed(groups):
        made = {group: made}
    return made


def _path_of(name: str) -> str | None:
    if name in NAMED:
        return NAMED[name]
    if not name.startswith("ISOBAR_") or name in _NOT_SETTINGS:
        return None
    return name.removeprefix("ISOBAR_").lower().replace("__", ".")


def _lay(
    values: dict[str, Any],
    layer: Mapping[str, Any],
    origin: str,
    origins: dict[str, str],
    prefix: str = "",
) -> None:
    """Lay a layer over what is there, and note where each value came from."""
    for name, value in layer.items():
        path, before = f"{prefix}{name}", values.get(name)
        if isinstance(value, Mapping):
            if before is not None and not isinstance(before, dict):
                raise SettingsError(
                    "unknown setting",
                    got=f"{path}.{next(iter(value), '')}",
                    allowed=f"{path} is a setting, not a group of settings",
                    remedy=f"remove it from {origin}",
                )
            _lay(values.setdefault(name, {}), value, origin, origins, f"{path}.")
        else:
            for below in [n for n in origins if n.startswith(f"{path}.")]:
                del origins[below]
            values[name], origins[path] = value, origin
