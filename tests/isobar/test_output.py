"""What the terminal shows is what was said: brackets and colons in it are no markup."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.text import Text

import pipelines.explain
import pipelines.parity
from isobar import output, provenance_commands, score_commands
from isobar.query_commands import _on_lines

LIKE_MARKUP = ("[red]x", "[/]", "[bold]x[/bold]", "a [link=x]b[/link]", ":smile:", "[0:3]", "\\[x")

Rendered = Callable[[object], str]


@pytest.fixture(params=["plain", "terminal", "with markup"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Print as `out` does without a terminal and in one, and as a console that reads markup."""

    def render(shown: object) -> str:
        markup = request.param == "with markup"
        console = Console(
            file=io.StringIO(),
            width=120,
            force_terminal=request.param == "terminal",
            color_system="standard" if request.param == "terminal" else None,
            markup=markup,
            emoji=markup,
        )
        console.print(shown)
        return console.file.getvalue()

    return render


@pytest.mark.parametrize("text", LIKE_MARKUP)
def test_cells_titles_and_headers_are_shown_to_the_letter(rendered: Rendered, text: str) -> None:
    assert text in rendered(output.table("title", ("column",), [(text,)]))
    assert text in rendered(output.table(text, ("column",), [("a cell as wide as any title",)]))
    assert text in rendered(output.table("title", (text,), [("a cell as wide as any title",)]))


@pytest.mark.parametrize("console", ["out", "log"])
@pytest.mark.parametrize("text", LIKE_MARKUP)
def test_lines_are_shown_to_the_letter(
    capsys: pytest.CaptureFixture[str], console: str, text: str
) -> None:
    getattr(output, console).print(text)
    assert text in "".join(capsys.readouterr())


def test_a_cell_with_a_style_keeps_it(rendered: Rendered) -> None:
    styled = output.table("", ("", ""), [(output.styled(("FAIL", "bold red")), "[red]x")])
    told = rendered(styled)
    assert "FAIL" in told
    assert "[red]x" in told
    assert ("\x1b[1;31mFAIL" in told) is ("\x1b[" in told)


def test_numbers_are_to_the_right_and_texts_to_the_left() -> None:
    made = output.table("", ("name", "count"), [("a", 1), ("b", None)])
    assert [c.justify for c in made.columns] == ["left", "right"]
    assert [str(cell) for cell in made.columns[1].cells] == ["1", "-"]


def test_the_remedy_of_a_message_is_on_a_line_of_its_own() -> None:
    text = _on_lines("no key [A]: got '[red]'. Remedy: set it. Remedy: or not.")
    assert isinstance(text, Text)
    assert text.plain == "no key [A]: got '[red]'.\nRemedy: set it. Remedy: or not."
    assert [text.plain[s.start : s.end] for s in text.spans if s.style == "bold"] == ["Remedy:"]
    assert _on_lines("all is well").plain == "all is well"


@pytest.mark.parametrize(
    ("quiet", "terminal", "shown"),
    [(False, True, True), (True, True, False), (False, False, False)],
)
def test_waiting_is_shown_in_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, terminal: bool, shown: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    monkeypatch.setattr(output, "log", console)
    with output.waiting("asking [red]x", quiet=quiet):
        pass
    assert ("asking [red]x" in console.file.getvalue()) is shown


class _LongWork(Exception):
    """What takes seconds has begun."""


@pytest.mark.parametrize(
    "command",
    [
        lambda: provenance_commands.explain("a signal", as_json=False),
        lambda: provenance_commands.parity("eod", as_json=False),
        lambda: score_commands.scoreboard(as_json=False),
    ],
    ids=["explain", "parity", "scoreboard"],
)
def test_what_takes_seconds_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]
) -> None:
    told: list[str] = []

    @contextmanager
    def waiting(what: str, quiet: bool = False) -> Iterator[None]:
        assert not quiet
        told.append(what)
        yield
        told.clear()

    def work(*_: object, **__: object) -> None:
        assert told, "nobody sees that it works"
        raise _LongWork

    monkeypatch.setattr(output, "waiting", waiting)
    monkeypatch.setattr(pipelines.explain, "explain_signal", work)
    monkeypatch.setattr(pipelines.parity, "check_parity", work)
    for module in (provenance_commands, score_commands):
        monkeypatch.setattr(module, "Stores", lambda settings: settings, raising=False)
        monkeypatch.setattr(module, "load_settings", dict, raising=False)
    monkeypatch.setattr(score_commands, "Workspace", lambda: SimpleNamespace(scoreboard=work))
    with pytest.raises(_LongWork):
        command()


def test_work_that_begins_again_has_its_time_from_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, shown = [0.0], io.StringIO()
    console = Console(file=shown, width=80, get_time=lambda: now[0])
    monkeypatch.setattr(output, "log", console)
    with output.progress_bars() as progress:
        for at, done, total in ((0, 0, 2), (5, 2, 2), (400, 1, 1), (500, 0, 4), (507, 4, 4)):
            now[0] = at
            progress("1d bars", done, total)
    assert "4/4" in shown.getvalue()
    assert "0:00:07" in shown.getvalue()
    assert not {"0:06:40", "0:08:27"} & set(shown.getvalue().split())
