"""Every setting with its value, where that comes from, its default and what it means."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Any

from docstring_parser import parse
from pydantic import BaseModel, SecretStr

from pipelines.profiles import PROFILES
from pipelines.settings import Settings, known_settings
from pipelines.settings_sources import NAMED, Sources

SET, NOT_SET = "set, not shown", "not set"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes
    ----------
    name : str
        Dotted, as in ``isobar.toml``.
    value, default : str
        As text; of a secret only whether it is set.
    origin : str
        Where the value comes from.
    meaning : str
        In a sentence.
    variable : str
        Its environment variable.
    """

    name: str
    value: str
    default: str
    origin: str
    meaning: str
    variable: str


def list_settings(settings: Settings, sources: Sources) -> list[Setting]:
    """Return every setting, in the order of the groups.

    Examples
    --------
    >>> found = list_settings(Settings(), Sources({}, {}))
    >>> next((s.value, s.origin) for s in found if s.name == "models.seed")
    ('7', 'default')
    """
    defaults, meanings = Settings(), dict(_meanings(Settings))
    return [
        Setting(
            name,
            _text(_value_of(settings, name)),
            _text(_value_of(defaults, name)),
            sources.origin_of(name),
            meanings[name],
            _variable_of(name),
        )
        for name in known_settings()
    ]


def settings_page() -> str:
    """Return the page of all settings in Markdown."""
    lines = [
        "# Settings",
        "",
        "Made from the code by `python -m isobar.settings_page`. `isobar settings show` tells the "
        "values in force and where each comes from.",
        "",
        "Order of precedence: environment, then `.env` in the working folder, then `isobar.toml` "
        "(in the data root, else in the working folder), then the profile, then the default. An "
        "unknown name is refused, with near ones.",
        "",
        "## Profiles",
        "",
        '`profile = "paper"` in `isobar.toml`, or `ISOBAR_PROFILE=paper`:',
        "",
        "| profile | for | settings |",
        "|---|---|---|",
        *(f"| `{p.name}` | {p.meaning} | {_said(p.values)} |" for p in PROFILES.values()),
        "",
    ]
    group = None
    for setting in list_settings(Settings(), Sources({}, {})):
        head = setting.name.partition(".")[0] if "." in setting.name else "top level"
        if head != group:
            group = head
            title = "Top level" if head == "top level" else f"`[{head}]`"
            lines += ["", f"## {title}", "", "| setting | default | meaning | environment |"]
            lines += ["|---|---|---|---|"]
        default = "" if setting.default == "" else f"`{setting.default}`"
        lines.append(
            f"| `{setting.name}` | {default} | {_cell(setting.meaning)} | `{setting.variable}` |"
        )
    return "\n".join(lines) + "\n"


def _said(values: Mapping[str, Any], prefix: str = "") -> str:
    found: list[str] = []
    for name, value in values.items():
        if name == "tuned":
            found.append("small `models.tuned`")
        elif isinstance(value, Mapping):
            found.append(_said(value, f"{prefix}{name}."))
        else:
            found.append(f"`{prefix}{name} = {_text(value)}`")
    return ", ".join(found)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _value_of(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return SET if value.get_secret_value() else NOT_SET
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, BaseModel):
        return _text(value.model_dump(exclude_defaults=True))
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items())
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(_text, value)))
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value))
    return str(value)


def _variable_of(name: str) -> str:
    own = [variable for variable, path in NAMED.items() if path == name]
    return own[0] if own else f"ISOBAR_{name.upper().replace('.', '__')}"


def _meanings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _meanings(inner, f"{prefix}{name}.")
        elif isinstance(inner, type) and is_dataclass(inner):
            yield from ((f"{prefix}{name}.{k}", v) for k, v in _attributes(inner))
        else:
            yield f"{prefix}{name}", info.description or ""


def _attributes(group: type) -> Iterator[tuple[str, str]]:
    """Read the numpydoc of a group: its code lives on floors that know no settings."""
    for entry in parse(inspect.getdoc(group) or "").params:
        meaning = " ".join((entry.description or "").split()).removesuffix(".").replace("``", "")
        yield from ((name.strip(), meaning) for name in entry.arg_name.split(","))
