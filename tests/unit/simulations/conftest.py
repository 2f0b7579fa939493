"""What the simulations share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The log of a simulated fleet is nobody's reading."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
