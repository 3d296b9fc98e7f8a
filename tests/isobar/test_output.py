"""What the terminal shows is what was said: brackets and colons in it are no markup."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.text import Text

from isobar import output
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
