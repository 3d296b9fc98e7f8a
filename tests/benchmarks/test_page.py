"""docs/benchmarks.md: what each benchmark printed, where and when, or that it was not run."""

from __future__ import annotations

import importlib.util
import pkgutil

from benchmarks.page import ENTRIES, ROOT, SECTIONS, render

KEPT = {
    "command": "python -m benchmarks.lake_reads",
    "date": "2026-11-26",
    "machine": "2 cores",
    "minutes": 1.5,
    "reached": True,
    "output": ["one symbol's year  41.0 ms  (at most 5)"],
}


def section_of(page: str, title: str) -> str:
    return page.split(f"### {title}\n")[1].split("\n#")[0]


def test_every_entry_is_a_module_and_stands_on_the_page_once() -> None:
    for entry in ENTRIES.values():
        module = entry.words[0]
        assert importlib.util.find_spec(module), entry.name
    modules = {name for _, name, _ in pkgutil.iter_modules([str(ROOT / "benchmarks")])}
    run = {entry.words[0].removeprefix("benchmarks.") for entry in ENTRIES.values()}
    helpers = {"feature_bars", "page", "peers", "processes", "run", "wanted"}
    assert modules - run == helpers | {"regime_models"}  # Which writes docs/regimes.md.
    titles = [e.title for entries in SECTIONS.values() for e in entries]
    page = render({})
    assert [page.count(f"### {t}\n") for t in titles] == [1] * len(titles)


def test_what_was_printed_stands_with_its_command_date_and_machine() -> None:
    title = next(e.title for e in SECTIONS["Bars"] if e.name == "lake_reads")
    told = section_of(render({"lake_reads": KEPT}), title)
    assert "```text\none symbol's year  41.0 ms  (at most 5)\n```" in told
    assert "`python -m benchmarks.lake_reads`, 2026-11-26, 1.5 minutes, 2 cores." in told
    assert "Short" not in told
    short = render({"lake_reads": KEPT | {"reached": False}})
    assert "**Short of what is wanted.**" in section_of(short, title)


def test_what_was_not_run_is_said() -> None:
    title = next(e.title for e in SECTIONS["Bars"] if e.name == "flat_files")
    assert section_of(render({"lake_reads": KEPT}), title).strip() == "Not run."
