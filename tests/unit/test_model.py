"""The values that flow, where they do more than hold."""

from __future__ import annotations

import pytest

from cc_kraken.model import Trouble


@pytest.mark.parametrize(
    ("found", "expected", "text"),
    [
        ("It is new", "it to be old", "[kind] It is new; expected it to be old. Run."),
        ("It is new.", "It must be old.", "[kind] It is new. It must be old. Run."),
        ("It is new", "", "[kind] It is new. Run."),
        ("It is new.", "", "[kind] It is new. Run."),
    ],
)
def test_a_trouble_names_its_kind_first(found: str, expected: str, text: str) -> None:
    assert str(Trouble("kind", found, expected, "Run.")) == text
