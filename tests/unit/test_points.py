"""Every step has its points in the crash matrix."""

from __future__ import annotations

import pytest

pytest.importorskip("jsonschema")

from cc_kraken.decide.steps import CHANGES
from tests.vm.points import BATCHES, POINTS, PORTS, REPLACED, SEVERAL


def test_every_step_is_cut_off_before_and_after() -> None:
    """So that a new step cannot be forgotten.  ``pytest -s`` prints how many."""
    points = [*POINTS, *SEVERAL]
    there = {(point.step, point.when) for point in points}
    for change in CHANGES:
        for when in ("before", "after"):
            assert (change.__name__, when) in there, f"{when} {change.__name__}"
    assert {step for step, _ in there} == {change.__name__ for change in CHANGES}
    inside = [point for point in points if point.when == "inside"]
    print(
        f"{len(points)} points on the same instance, {len(inside)} of them inside "
        f"mkfs and mdadm, for {len(CHANGES)} steps; {len(REPLACED)} on a replaced one"
    )


def test_a_batch_fits_into_a_machine() -> None:
    assert [point for batch in BATCHES for point in batch] == POINTS
    assert all(sum(point.disks for point in batch) <= PORTS for batch in BATCHES)
    assert sum(point.disks for point in REPLACED) <= PORTS
