"""The JSON schema files and the page of operations: where they are.

In a checkout they lie in ``schema/`` and ``docs/`` beside the package, installed in
``cc_kraken/schemas/`` and ``cc_kraken/docs/``.  The package must never get an
attribute ``schema``: cloud-init refuses a module that has one.
"""

from __future__ import annotations

import json
import os
from typing import Any

from cc_kraken.model import failure

SECTION = "cloud-config-kraken.json"
STATUS = "status.json"
#: What an older botocore does not know of EC2, where its loader looks for it.
EC2 = "ec2/2016-11-15/service-2.kraken-extras.json"
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
        f"The file {name} is in none of {', '.join(places)}.",
        "It is part of the package.",
        "Install the package cloud-init-kraken again.",
    )


def load(name: str) -> dict[str, Any]:
    """The schema ``name``, parsed."""
    with open(path(name), encoding="utf-8") as file:
        document: dict[str, Any] = json.load(file)
        return document
