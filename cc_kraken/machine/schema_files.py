"""The JSON schema files: where they are, and their content.

In a checkout they lie in ``schema/`` beside the package, installed in
``cc_kraken/schemas/``.  The package must never get an attribute ``schema``:
cloud-init refuses a module that has one.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any, Dict

from cc_kraken.model import KrakenError, Trouble

SECTION = "cloud-config-kraken.json"
STATUS = "status.json"
#: What an older botocore does not know of EC2, where its loader looks for it.
EC2 = "ec2/2016-11-15/service-2.kraken-extras.json"

REMEDY = "Install the package cloud-init-kraken again."


def path(name: str) -> str:
    """Path of the schema file ``name``; KrakenError when there is none."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = (
        os.path.join(package, "schemas"),
        os.path.join(os.path.dirname(package), "schema"),
    )
    for place in places:
        candidate = os.path.join(place, name)
        if os.path.isfile(candidate):
            return candidate
    raise KrakenError(
        Trouble(
            "schema-missing",
            f"the schema file {name} is in none of {', '.join(places)}",
            "an installation with all its files",
            REMEDY,
        )
    )


@lru_cache(maxsize=None)
def load(name: str) -> Dict[str, Any]:
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
    raise KrakenError(
        Trouble(
            "schema-unreadable",
            f"the schema file {place} cannot be read ({why})",
            "the file as it was installed",
            REMEDY,
        )
    )
