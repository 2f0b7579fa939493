"""The pictures of what the command prints: a terminal, drawn."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from tests.chroot.pictures import CHARACTER, MARGIN, runs, screen, svg

DOCS = Path(__file__).parents[3] / "docs"
SPACE = "{http://www.w3.org/2000/svg}"


def shown(line: list[tuple[str, str]]) -> str:
    return "".join(character for character, _ in line)


def test_a_long_line_goes_on_in_the_next_one_as_in_a_terminal() -> None:
    lines = screen("abcdef\nxy\n", 4)
    assert [shown(line) for line in lines] == ["abcd", "ef", "xy"]


def test_colours_go_on_until_they_end() -> None:
    (line,) = screen("a\033[1;31mbc\033[0m d", 80)
    assert runs(line) == [(0, "a", "text"), (1, "bc", "bold red"), (3, " d", "text")]


def test_text_stands_in_its_column_and_is_escaped() -> None:
    root = xml.fromstring(svg("A <title>", "ok & \033[32mgreen\033[0m\n"))
    texts = list(root.iter(f"{SPACE}text"))
    assert [one.text for one in texts] == ["ok & ", "green"]
    assert texts[1].get("class") == "green"
    assert float(texts[1].get("x") or 0) == pytest.approx(MARGIN + 5 * CHARACTER)
    named = {one.get("id"): one.text for one in root if one.get("id")}
    assert named == {"title": "A <title>", "desc": "ok & green"}


@pytest.mark.parametrize("name", ["status", "plan", "refusal"])
def test_each_picture_shows_a_command_and_what_it_said(name: str) -> None:
    root = xml.fromstring((DOCS / f"{name}.svg").read_text(encoding="utf-8"))
    (words,) = (one.text or "" for one in root if one.get("id") == "desc")
    assert words.startswith("# cc-kraken ")
    drawn = "".join(one.text or "" for one in root.iter(f"{SPACE}text"))
    assert re.sub(r"\s", "", drawn) == re.sub(r"\s", "", words)
    assert ("[content-other]" in words) == (name == "refusal")
