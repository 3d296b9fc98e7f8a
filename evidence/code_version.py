"""Which code a result was made by: its module and all of ours that it imports."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("market", "features", "models", "signals", "execution", "backtest", "evidence")


def code_hash(module: str) -> str:
    """Return 12 hexadecimal digits that change when a module, or one that it imports, does.

    Imports are followed wherever they stand, also inside functions; comments count.

    Examples
    --------
    >>> len(code_hash("evidence.files"))
    12
    """
    digest = hashlib.sha256()
    for path in sorted(closure(module)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def closure(module: str) -> set[Path]:
    """Return the files of a module and of all of ours that it imports."""
    found: set[Path] = set()
    left = [module]
    while left:
        path = _file_of(left.pop())
        if path is None or path in found:
            continue
        found.add(path)
        left += _imports(path)
    return found


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in OURS]


def _file_of(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.exists():
            return path
    return None
