"""``make pictures``: what the documentation shows is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

from tests.chroot import pictures

DOCS = Path(__file__).parents[2] / "docs"


def words(picture: str) -> str:
    """Its text, without what differs from run to run."""
    (text,) = re.findall(r"(?s)<desc.*?>(.*?)</desc>", picture)
    some = r"\bi-\w+|\bvol-\w+|\bnvme\dn1|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}"
    return re.sub(some, "…", text)


def test_the_pictures_of_the_documentation_are_what_is_printed(
    installed: object,
) -> None:
    for name, picture in pictures.pictures().items():
        assert words(picture) == words((DOCS / name).read_text()), name
