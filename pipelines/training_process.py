"""A training in a process of its own, with a limit to its memory.

What goes wrong in it, a limit crossed or a kill, ends that process alone: the step that waits for
it says what happened, and the champions of before go on serving. It is a fork of a server that has
loaded the libraries and does nothing else: whoever trains one horizon after the other waits ten
seconds for them once.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from market.errors import IsobarError, ModelError
from market.horizons import find_horizon
from pipelines.resources import Stores
from pipelines.settings import Settings
from pipelines.training import TrainingProgress, TrainingSummary, train_and_store

_LOOK_SECONDS = 0.25
_LOADED = (
    "pipelines.training_process",
    "models.families.neural",
    "models.pictures",
    "mlflow.pytorch",
    "mlflow.sklearn",
    "sklearn.ensemble",
    "torch.export",
    "torch._inductor.config",
)
"""What a training needs; whatever cannot be loaded is loaded, and fails, where it is used."""


@dataclass(frozen=True)
class TrainingRequest:
    """What to train; see :func:`pipelines.training.train_and_store`."""

    settings: Settings
    horizon: str
    start: dt.date | None
    end: dt.date | None
    as_of: dt.datetime
    now: dt.datetime


def train_apart(
    request: TrainingRequest, *, memory_bytes: int, progress: TrainingProgress
) -> tuple[TrainingSummary, int]:
    """Train in a new process and wait for it.

    Parameters
    ----------
    request : TrainingRequest
        What to train. It is handed over by a pipe, so that no secret stands on a command line.
    memory_bytes : int
        A training that holds more is stopped.
    progress : callable
        Called with (models fitted, models in all, windows in all).

    Returns
    -------
    summary : TrainingSummary
        What was made and stored.
    peak_bytes : int
        The most memory that it was seen to hold.

    Raises
    ------
    IsobarError
        Whatever the training raised.
    ModelError
        When the process went past its memory, was killed, or broke down.
    """
    # Idle threads of the tree libraries spin otherwise: a machine that does anything else
    # meanwhile trains ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["__main__", *_LOADED])
    answers, told = server.Pipe(duplex=False)
    with answers:
        process = server.Process(
            target=_train,
            args=(request, dict(os.environ), told),
            name=f"training {request.horizon}",
        )
        with told:
            process.start()
        try:
            return _wait(process, answers, request.horizon, memory_bytes, progress)
        finally:
            process.kill()
            process.join()


def _wait(
    process: BaseProcess,
    answers: Connection,
    horizon: str,
    memory_bytes: int,
    progress: TrainingProgress,
) -> tuple[TrainingSummary, int]:
    peak = 0
    while True:
        assert process.pid is not None
        held = _held_bytes(process.pid)
        peak = max(peak, held)
        if held > memory_bytes:
            process.kill()
            raise ModelError(
                f"the training of {horizon} was stopped: it took too much memory",
                got=f"{held / 1e9:.1f} GB",
                allowed=f"{memory_bytes / 1e9:.1f} GB (models.memory_gb)",
                remedy="allow more, train on fewer sessions, symbols or features, or lower"
                " models.matrix_gb; the previous champions keep serving",
            )
        if not answers.poll(_LOOK_SECONDS):
            continue
        try:
            kind, value = answers.recv()
        except EOFError:
            process.join()
            raise _broken(horizon, process.exitcode or 0) from None
        if kind == "progress":
            progress(*value)
        elif kind == "done":
            return value, peak
        else:
            raise value


def _held_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _broken(horizon: str, code: int) -> ModelError:
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return ModelError(
        f"the training of {horizon} ended before it was done",
        got=how,
        allowed="a training that ends by itself",
        remedy="see its log for the cause (SIGKILL: often the machine ran out of memory), then"
        " train again; the previous champions keep serving",
    )


def _train(request: TrainingRequest, environment: dict[str, str], answers: Connection) -> None:
    # The server's is that of the first training.
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _offer_to_the_kernel()
    stores = Stores(request.settings)
    try:
        summary = train_and_store(
            stores,
            find_horizon(request.horizon),
            start=request.start,
            end=request.end,
            as_of=request.as_of,
            now=request.now,
            progress=lambda *done: answers.send(("progress", done)),
        )
    except IsobarError as error:
        answers.send(("failed", error))
    else:
        answers.send(("done", summary))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _offer_to_the_kernel() -> None:
    """Let a machine that runs out of memory end the training before anything else."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
