"""What a tuning found, written into a settings file that people write as well."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import SettingsError
from pipelines.settings_file import SettingsFile

FRAGMENT = """\
[models.tuned."1d".linear]
study = "linear 1d"
value = 0.03

[models.tuned."1d".linear.params]
l2 = 500.0
"""
BEFORE = """\
# Mine.
symbols = ["A",   "B"]  # two

[models]
horizons = ["1d"]

[models.tuned.1d.linear] # older
features = [
  "return_1", # the best
]
study = '''
[models.tuned.1d.linear]
'''

# About the one below.
[models.tuned.1d."linear".params]
l2 = 1.0

# Kept: it is above the costs.
[costs]
half_spread_bps = 1.0
"""


def file(folder: Path, text: str | bytes | None) -> SettingsFile:
    if text is not None:
        raw = text if isinstance(text, bytes) else text.encode()
        (folder / "isobar.toml").write_bytes(raw)
    return SettingsFile.find(folder)


def test_the_entry_is_replaced_and_every_other_byte_stays(tmp_path: Path) -> None:
    made = file(tmp_path, BEFORE).with_tuned("1d", "linear", FRAGMENT)
    head, _, rest = BEFORE.partition("[models.tuned.1d.linear] # older")
    foot = rest[rest.index("\n# Kept") :]
    assert made.startswith(head)
    assert made.endswith(foot)
    between = made.removeprefix(head).removesuffix(foot)
    assert between == FRAGMENT + "\n# About the one below.\n"
    assert tomllib.loads(made)["models"]["tuned"] == tomllib.loads(FRAGMENT)["models"]["tuned"]
    again = file(tmp_path, made).with_tuned("1d", "linear", FRAGMENT)
    assert again == made


@pytest.mark.parametrize(
    "before",
    [
        None,
        "",
        'symbols = ["A"]',
        "# only words\n",
        '[models.tuned."1d".lightgbm.params]\ntrees = 9\n',
        '[models.tuned."14d".linear]\nstudy = "x"',
    ],
)
def test_a_first_entry_is_added_at_the_end(tmp_path: Path, before: str | None) -> None:
    made = file(tmp_path, before).with_tuned("1d", "linear", FRAGMENT)
    assert made.startswith(before or "")
    assert made.endswith(FRAGMENT)
    mine = tomllib.loads(made)["models"]["tuned"]["1d"].pop("linear")
    assert mine == tomllib.loads(FRAGMENT)["models"]["tuned"]["1d"]["linear"]


def test_line_endings_are_those_of_the_file(tmp_path: Path) -> None:
    before = BEFORE.replace("\n", "\r\n")
    made = file(tmp_path, before).with_tuned("1d", "linear", FRAGMENT)
    assert made.replace("\r\n", "").count("\n") == 0
    plain = file(tmp_path, BEFORE).with_tuned("1d", "linear", FRAGMENT)
    assert made.replace("\r\n", "\n") == plain


@pytest.mark.parametrize(
    "before",
    [
        'models = { horizons = ["1d"] }\n',
        '[models.tuned]\n"1d" = { linear = { study = "x" } }\n',
        '[models.tuned."1d"]\nlinear.params.l2 = 1.0\n',
        '[models]\ntuned."1d".linear.study = "x"\n',
        'note = """\n[models.tuned."1d".linear]\n"""\n[models.tuned."1d".linear]\nstudy = "x"\n',
    ],
)
def test_what_cannot_be_edited_safely_is_left_alone(tmp_path: Path, before: str) -> None:
    found = file(tmp_path, before)
    with pytest.raises(SettingsError, match=r"edited safely.*by hand"):
        found.with_tuned("1d", "linear", FRAGMENT)
    assert (tmp_path / "isobar.toml").read_text() == before


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
tables = st.sampled_from(["costs", "models", 'models.tuned."1d".cnn', "models.tuned.1M.linear"])


@given(st.lists(st.tuples(tables, words, words), max_size=5, unique_by=lambda t: t[0]), st.data())
def test_other_tables_and_comments_stay_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, parts, data
) -> None:
    blocks = [f"# {c}\n[{name}]\nstudy = {_quoted(v)}\n" for name, c, v in parts]
    place = data.draw(st.integers(0, len(blocks)))
    before = "\n".join([*blocks[:place], FRAGMENT.replace("500", "1"), *blocks[place:]])
    folder = tmp_path_factory.mktemp("home")
    made = file(folder, before).with_tuned("1d", "linear", FRAGMENT)
    assert made == before.replace("l2 = 1.0", "l2 = 500.0")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    found = file(tmp_path, BEFORE)
    text = found.with_tuned("1d", "linear", FRAGMENT)
    (tmp_path / "isobar.toml").write_text(BEFORE + "\n")
    with pytest.raises(SettingsError, match="changed by somebody else meanwhile"):
        found.write(text)
    assert (tmp_path / "isobar.toml").read_text() == BEFORE + "\n"
    (tmp_path / "isobar.toml").unlink()
    with pytest.raises(SettingsError, match="changed by somebody else"):
        found.write(text)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    found = file(tmp_path, None)
    (tmp_path / "isobar.toml").write_text("# new\n")
    with pytest.raises(SettingsError, match="changed by somebody else"):
        found.write(found.with_tuned("1d", "linear", FRAGMENT))


def test_a_write_that_fails_leaves_the_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = file(tmp_path, BEFORE)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        found.write(found.with_tuned("1d", "linear", FRAGMENT))
    assert (tmp_path / "isobar.toml").read_text() == BEFORE
    assert [p.name for p in tmp_path.iterdir()] == ["isobar.toml"]


def test_rights_and_links_stay(tmp_path: Path) -> None:
    place, home = tmp_path / "elsewhere.toml", tmp_path / "home"
    home.mkdir()
    place.write_text(BEFORE)
    place.chmod(0o640)
    (home / "isobar.toml").symlink_to(place)
    found = SettingsFile.find(home)
    found.write(found.with_tuned("1d", "linear", FRAGMENT))
    assert (home / "isobar.toml").is_symlink()
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert "l2 = 500.0" in place.read_text()


def test_what_cannot_be_parsed_is_refused(tmp_path: Path) -> None:
    for text in ("[models", b"\xff"):
        with pytest.raises(SettingsError, match="cannot be read"):
            file(tmp_path, text).with_tuned("1d", "linear", FRAGMENT)
