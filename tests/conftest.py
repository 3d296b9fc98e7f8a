"""Fixtures that several folders share."""

from __future__ import annotations

import gc
import os

# One core for each test process: threads of several libraries on two cores starve each other.
# Set before anything imports them.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# Millions of objects, of modules mostly, live as long as the process. Python's search for garbage
# walks through all of them again and again, with its own thresholds for a ninth of the computing
# of tests/execution and tests/signals. Of the three only the last is another: 200 for 10.
gc.set_threshold(700, 10, 200)

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.effort import repeats

# In memory, where there is plenty: thousands of small databases wait for the disk at each commit,
# and no test loses power. What a test that passes leaves is removed at once (pyproject.toml).
_MEMORY = Path("/dev/shm")
if (
    _MEMORY.is_dir()
    and min(psutil.virtual_memory().available, psutil.disk_usage("/dev/shm").free) > 6e9
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# How long examples take depends on what else the machine does: no verdict rests on it.
settings.register_profile(
    "isobar",
    deadline=None,
    max_examples=repeats(100, 50),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("isobar")


# Of these floors a test is seldom quick, and those of a file share what they build.
_WHOLE_FILES = {"containers", "contracts", "evidence", "faults", "isobar", "pipelines"}


@cache
def _shares(module: ModuleType) -> bool:
    """Whether a module of tests makes or uses what is kept from one of its tests to the next."""
    return any(hasattr(value, "cache_info") for value in vars(module).values())


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist reads the groups.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep on one worker what shares an expensive fixture; large groups are given out first.

    What is left are thousands of quick tests, with which no worker is idle at the end.
    """
    for item in items:
        if "installation" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("installation"))
            # The first of them builds it, which a busy machine takes long for.
            item.add_marker(pytest.mark.timeout(1200))
        elif item.get_closest_marker("xdist_group") is None and (
            item.path.parent.name in _WHOLE_FILES or _shares(getattr(item, "module", item))
        ):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.stem}"))


if TYPE_CHECKING:
    from tests.pipelines.installation import Installation
    from tests.postgres import PostgresServer
    from tests.s3_server import S3Server


@pytest.fixture(scope="session", autouse=True)
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New databases are copies of one that was migrated: hundreds of migrations are minutes."""
    from tests.templates import copied_databases

    with copied_databases(tmp_path_factory.mktemp("templates")):
        yield


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder whose name no other test has had.

    What a test leaves is removed, and its name given out again: MLflow, which keeps connections
    by the name of a database, would write into the one that is gone.
    """
    own = tmp_path / uuid4().hex[:8]
    own.mkdir()
    return own


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A tiny installation that lived through two days; read it, and copy it to write."""
    from tests.pipelines.installation import build

    with build(tmp_path_factory.mktemp("installation") / "home") as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the session, or a skip that says why there is none."""
    from tests.postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server for the session."""
    from tests.s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty ledger, once on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    yield server.database()
