"""Which code runs: the package's version, and the commit where it runs from a checkout."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = "isobar-quant"
_UNKNOWN = "0+unknown"
_SECONDS = 10.0


def code_version(root: Path | None = None) -> str:
    """Return the version of the code, as every training run carries it.

    Parameters
    ----------
    root : Path, optional
        Folder that holds the packages; the one that this file belongs to by default.

    Returns
    -------
    str
        ``0.1.0`` where the package is installed; ``0.1.0+git.<12 digits>`` where ``root`` is a
        git checkout, with ``.dirty`` behind it where tracked files were changed. A git that is
        missing or fails is as if there were no checkout.
    """
    folder = Path(__file__).resolve().parents[1] if root is None else root
    try:
        released = version(_PACKAGE)
    except PackageNotFoundError:
        released = _UNKNOWN
    # Only a checkout of these very files: an environment may lie inside another repository.
    commit = _git(folder, "rev-parse", "--short=12", "HEAD") if (folder / ".git").exists() else None
    if not commit:
        return released
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    separator = "." if "+" in released else "+"
    return f"{released}{separator}git.{commit}{'.dirty' if changed else ''}"


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
