"""Work in a process of its own, with what it took: seconds and peak memory."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """Return the peak resident memory of this process, in bytes.

    On Linux from ``VmHWM``, which begins anew with the program; the ``ru_maxrss`` of a child
    begins at that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_module(
    module: str, *arguments: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run ``python -m module arguments`` and return the JSON object in its last line.

    ``process_seconds`` is added: from the start of the process to its end, interpreter and
    imports included.
    """
    return run([sys.executable, "-m", module, *arguments], environment)


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command that prints a JSON object last; its messages to stderr pass through.

    Raises
    ------
    SystemExit
        When the command fails; what it printed comes with it.
    """
    began = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    )
    spent = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return json.loads(done.stdout.splitlines()[-1]) | {"process_seconds": spent}
