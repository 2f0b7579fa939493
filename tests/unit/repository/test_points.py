"""Every step, and every write of ``storage/make.py``, has its points in the crash
matrix."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("jsonschema")

from cc_kraken.decide.steps import CHANGES
from cc_kraken.storage import make
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


WITHOUT = {
    "_check_wiped": "the permission to overwrite ends with the run that is cut off; "
    "tests/loop/test_destroy.py shows that nothing is lost"
}


def places_that_write() -> Counter[str]:
    """The functions of ``make`` that write by Held, and how often their source does."""
    found: Counter[str] = Counter()
    tree = ast.parse(Path(make.__file__).read_text())
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            name = node.func
            if (isinstance(name, ast.Attribute) and name.attr in ("write", "zero")) or (
                isinstance(name, ast.Name) and name.id == "run_on"
            ):
                found[function.name] += 1
    return found


def test_every_write_of_make_is_cut_off_before_and_after() -> None:
    there = {(point.function, point.when, point.writes) for point in POINTS}
    places = places_that_write()
    assert set(WITHOUT) < set(places) and len(places) > 8
    for function, count in places.items():
        if function in WITHOUT:
            continue
        for number in range(1, count + 1):
            for when in ("before write", "after write"):
                assert (function, when, number) in there, f"{when} of {function}"
    assert {function for function, *_ in there} == {"", *places} - set(WITHOUT)


def test_a_batch_fits_into_a_machine() -> None:
    assert [point for batch in BATCHES for point in batch] == POINTS
    assert all(sum(point.disks for point in batch) <= PORTS for batch in BATCHES)
    assert sum(point.disks for point in REPLACED) <= PORTS
