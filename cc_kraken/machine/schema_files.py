"""The JSON schema files and the page of operations: where they are.

In a checkout they lie in ``schema/`` and ``docs/`` beside the package, installed in
``cc_kraken/schemas/`` and ``cc_kraken/docs/``.  The package must never get an
attribute ``schema``: cloud-init refuses a module that has one.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

from cc_kraken.model import failure

SECTION = "cloud-config-kraken.json"
STATUS = "status.json"
#: What an older botocore does not know of EC2, where its loader looks for it.
EC2 = "ec2/2016-11-15/service-2.kraken-extras.json"

REMEDY = "Install the package cloud-init-kraken again."


OPERATIONS = "operations.md"


def path(name: str) -> str:
    """Path of a file; KrakenError when there is none."""
    installed, checkout = ("schemas", "schema")
    if name == OPERATIONS:
        installed = checkout = "docs"
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = (
        os.path.join(package, installed),
        os.path.join(os.path.dirname(package), checkout),
    )
    for place in places:
        candidate = os.path.join(place, name)
        if os.path.isfile(candidate):
            return candidate
    raise failure(
        "schema-missing",
        f"the file {name} is in none of {', '.join(places)}",
        "an installation with all its files",
        REMEDY,
    )


@lru_cache(maxsize=None)
def load(name: str) -> dict[str, Any]:
    """The schema ``name``, parsed.  Shared: not to be changed by callers."""
    place = path(name)
    try:
        with open(place, encoding="utf-8") as file:
            document = json.load(file)
        if isinstance(document, dict):
            return document
        why = "it holds no JSON object"
    except (OSError, ValueError) as error:
        why = str(error)
    raise failure(
        "schema-unreadable",
        f"the schema file {place} cannot be read ({why})",
        "the file as it was installed",
        REMEDY,
    )
