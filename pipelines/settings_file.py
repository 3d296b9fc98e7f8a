"""``isobar.toml``: where it is, and how what a tuning found is written into it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.errors import SettingsError

CONFIG_FILE = "isobar.toml"
# Not all that Python takes for the end of a line ends one in TOML.
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_BY_HAND = "paste the printed fragment by hand"


@dataclass(frozen=True)
class SettingsFile:
    """The file as it was when it was read.

    Attributes
    ----------
    path : Path
        Where it is, or would be.
    content : bytes or None
        ``None`` where there was no file.
    """

    path: Path
    content: bytes | None

    @classmethod
    def find(cls, home: Path) -> SettingsFile:
        """Read the file that settings come from; where there is none, the data root's."""
        for path in (home / CONFIG_FILE, Path(CONFIG_FILE)):
            if path.exists():
                # What a link leads to is rewritten, not the link.
                real = path.resolve()
                return cls(real, _read(real))
        return cls(home.resolve() / CONFIG_FILE, None)

    def values(self) -> dict[str, Any]:
        """Return what it says; nothing where there is no file.

        Raises
        ------
        SettingsError
            When it cannot be parsed.
        """
        try:
            return tomllib.loads(self._text())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise _unreadable(self.path, error) from error

    def _text(self) -> str:
        return "" if self.content is None else self.content.decode()

    def with_tuned(self, horizon: str, family: str, fragment: str) -> str:
        """Return the text with one entry of ``models.tuned`` replaced or added.

        Parameters
        ----------
        horizon, family : str
            Whose entry.
        fragment : str
            TOML of this entry and nothing else (:meth:`models.tuned.Tuned.to_toml`).

        Raises
        ------
        SettingsError
            When the file cannot be parsed, or is written in a way that cannot be edited without
            touching something else.
        """
        before, text = self.values(), self._text()
        made = _splice(text, ("models", "tuned", horizon, family), fragment)
        wanted = _with_entry(before, horizon, family, tomllib.loads(fragment))
        try:
            found: object = tomllib.loads(made)
        except tomllib.TOMLDecodeError:
            found = None
        # Whatever the file looks like: all else means what it meant before, or nothing is written.
        if found != wanted:
            raise SettingsError(
                f"{self.path.name} is written in a way that cannot be edited safely",
                got=f"models.tuned.{horizon}.{family} in an inline table, or with dotted keys",
                allowed=f'a table of its own, [models.tuned."{horizon}".{family}]',
                remedy=_BY_HAND,
            )
        return made

    def write(self, text: str) -> None:
        """Put a text in the file's place, whole or not at all.

        Raises
        ------
        SettingsError
            When the file is no longer what was read.
        """
        now = _read(self.path) if self.path.exists() else None
        if now != self.content:
            raise SettingsError(
                f"{self.path} was changed by somebody else meanwhile",
                allowed="the file as it was when the command began",
                remedy=f"run the same again, which goes on where it stopped, or {_BY_HAND}",
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{CONFIG_FILE}.")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if self.content is not None:
                shutil.copymode(self.path, part)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(f"{path} cannot be read ({error})", remedy="correct the file")


def _with_entry(
    before: Mapping[str, Any], horizon: str, family: str, fragment: Mapping[str, Any]
) -> dict[str, Any]:
    models = dict(before.get("models", {}))
    tuned = dict(models.get("tuned", {}))
    entry = fragment["models"]["tuned"][horizon][family]
    tuned[horizon] = {**tuned.get(horizon, {}), family: entry}
    return {**before, "models": {**models, "tuned": tuned}}


def _splice(text: str, name: tuple[str, ...], fragment: str) -> str:
    """Return the text without the table's sections, the fragment where the first of them was."""
    lines = _LINES.findall(text)
    ending = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    block = ending.join(fragment.strip().splitlines()) + ending
    headers = [(k, path) for k, line in enumerate(lines) if (path := _header(line)) is not None]
    ends = [*(k for k, _ in headers[1:]), len(lines)]
    kept: list[str] = []
    place, done = None, 0
    for (begin, path), end in zip(headers, ends, strict=True) if headers else ():
        if path[: len(name)] == name:
            between = lines[done:begin]
            # Of two sections of the entry, the empty lines between them are the entry's.
            kept += between if place is None or "".join(between).strip() else []
            place = len(kept) if place is None else place
            done = _last_value(lines, begin, end)
    kept += lines[done:]
    if place is not None:
        return "".join([*kept[:place], block, *kept[place:]])
    gap = ending if text.strip() else ""
    finish = ending if text and not text.endswith("\n") else ""
    return f"{text}{finish}{gap}{block}"


def _last_value(lines: list[str], begin: int, end: int) -> int:
    """Return where a section ends: what stands above the next header belongs to that one."""
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip()[0] == "#"):
        end -= 1
    return end


def _header(line: str) -> tuple[str, ...] | None:
    """Return the name of the table that a line begins, or ``None`` where it begins none."""
    if not line.lstrip().startswith("["):
        return None
    try:
        inner: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(inner, dict) and inner:
        (key,) = inner
        path.append(key)
        inner = inner[key]
    return tuple(path)
