"""wiping.py: the order of a wipe, and what is left of a content in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cc_kraken import places, wiping
from tests.conftest import MORE

MIB, GIB = 1 << 20, 1 << 30
SIZES = (MIB, 40 * MIB, 200 * MIB, GIB, 24 * GIB, 999 * GIB, 16384 * GIB)


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_are_the_fixed_places(size: int) -> None:
    parts = wiping.parts(size)
    assert len(parts) <= wiping.PARTS
    pieces = sorted((extent.start, extent.end) for part in parts for extent in part)
    at = iter(pieces)
    for place in places.places(size):
        start = place.start
        while start < place.end:
            piece = next(at)
            assert piece[0] == start
            start = piece[1]
        assert start == place.end
    assert next(at, None) is None
    if size >= 200 * MIB:
        assert parts[0][-1].end == size
        assert parts[1][0].start == 0
        assert parts[1][0].end == places.EDGE


@settings(max_examples=40 * MORE)
@given(st.sampled_from(SIZES[2:5]), st.data())
def test_what_is_left(size: int, data: st.DataObject) -> None:
    """A change shows from its own part backwards, and nowhere behind it."""
    parts = wiping.parts(size)
    starts = [extent.start for part in parts for extent in part]
    found = {at: "aa" for at in data.draw(st.sets(st.sampled_from(starts)))}
    where = data.draw(st.sampled_from(starts))
    changed = {**found, where: "bb"}
    number = wiping.number_of(size, [where])[where]
    assert any(extent.start == where for extent in parts[number])
    before, after = (wiping.remainders(size, one) for one in (found, changed))
    assert len(before) == len(parts) + 1
    for part in range(len(before)):
        assert (before[part] == after[part]) == (part > number)
