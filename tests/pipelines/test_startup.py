"""A process of Isobar's own ends without one more walk through all that its libraries hold."""

import subprocess
import sys

CHILD = """
import atexit, gc
atexit.register(lambda: print("frozen" if gc.get_freeze_count() else "searched"))
{before}
class Held:
    def __del__(self):
        print("finalized")
held = Held()
held.itself = held
del held
"""
SELDOM = "from pipelines.startup import collect_seldom; collect_seldom()"


def printed(before: str) -> list[str]:
    words = [sys.executable, "-c", CHILD.format(before=before)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_a_process_ends_without_a_search_for_garbage() -> None:
    # What was registered before runs after: it sees what the end of the process will see.
    assert printed("pass") == ["searched", "finalized"]
    assert printed(SELDOM) == ["frozen"]


def test_duckdb_finds_nothing_that_leaks() -> None:
    words = [sys.executable, "-c", f"{SELDOM}; import duckdb; duckdb.sql('select 1').fetchall()"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == ""
