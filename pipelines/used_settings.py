"""The settings that a batch was made with, kept beside it, and made into settings again."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipelines.settings import PLACES, Settings, explain_error


def settings_as_used(settings: Settings) -> dict[str, Any]:
    """Return as JSON the settings that can change a number; no secret is among them."""
    used: dict[str, Any] = settings.model_dump(mode="json", exclude=set(PLACES))
    delay = {"delay_minutes": settings.polygon.delay_minutes}
    return used | {"polygon": delay | {"adjusted": settings.polygon.adjusted}}


def settings_as_were(used: Mapping[str, Any], places: Settings) -> Settings:
    """Return settings that change numbers as they were, and places and keys as they are now.

    Parameters
    ----------
    used : mapping
        From :func:`settings_as_used`.
    places : Settings
        Of now.

    Raises
    ------
    SettingsError
        When this version of Isobar knows other settings.
    """
    now = {name: getattr(places, name) for name in PLACES}
    polygon = places.polygon.model_copy(update=dict(used.get("polygon", {})))
    try:
        return Settings.model_validate({**used, **now, "polygon": polygon})
    except ValidationError as error:
        raise explain_error(error) from None
