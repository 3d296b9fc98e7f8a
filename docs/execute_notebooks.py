"""Execute the notebooks on a data root and keep the copies with their outputs for the docs site.

``make notebooks`` runs it on the demo's data root. The notebooks in ``notebooks/`` themselves stay
without outputs.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
MOST_BYTES = 400_000


def main() -> None:
    """Write ``docs/notebooks/*.ipynb``.

    Raises
    ------
    CellExecutionError
        When a cell fails; nothing of that notebook is written.
    ValueError
        When a copy is too large to be kept in a repository.
    """
    os.environ.setdefault("ISOBAR_HOME", "var/demo")
    # Children import this working tree, whatever is installed.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    kept = ROOT / "docs" / "notebooks"
    kept.mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        at = {"metadata": {"path": str(ROOT)}}
        NotebookClient(notebook, timeout=600, record_timing=False, resources=at).execute()
        # The version of Python that ran it is no content.
        notebook.metadata.language_info = {"name": "python"}
        text = nbformat.writes(notebook)
        if len(text) > MOST_BYTES:
            raise ValueError(f"{path.name} with its outputs: {len(text):,} bytes of {MOST_BYTES:,}")
        (kept / path.name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
