"""What is kept of arrays: for this instance, never lower, never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cc_kraken.decide.members import Seen
from cc_kraken.decide.world import World
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Claim, Look
from cc_kraken.state import array_history as history
from tests.unit import worlds as w

A, B = w.volume_id(1), w.volume_id(2)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(state=str(tmp_path / "state"))


def look_around(paths: Paths, looks: dict[int, Look]) -> World:
    kept = history.load(paths, w.ME)
    return w.world(*looks, looks=looks, arrays_seen=kept)


def claim(*numbers: int) -> Claim:
    return w.claim(w.raid(2, 1), *(w.attached(number) for number in numbers))


def mirror(events: int, *roles: int) -> dict[int, Look]:
    return {role + 1: w.member(role, count=2, level=1, events=events) for role in roles}


def test_what_is_seen_is_kept_and_never_lower(paths: Paths) -> None:
    assert history.load(paths, w.ME) == {}
    both = mirror(500, 0, 1)
    assert history.save(paths, w.ME, [claim(1, 2)], look_around(paths, both))
    assert history.load(paths, w.ME) == {w.ARRAY: Seen(500, 0, (A, B))}
    # Nothing has changed: nothing is written.
    assert not history.save(paths, w.ME, [claim(1, 2)], look_around(paths, both))
    older = look_around(paths, mirror(150, 1))
    assert not history.save(paths, w.ME, [claim(2)], older)
    newer = look_around(paths, mirror(700, 0))
    assert history.save(paths, w.ME, [claim(1)], newer)
    assert history.load(paths, w.ME) == {w.ARRAY: Seen(700, 0, (A, B))}


def test_another_instance_ignores_it(paths: Paths) -> None:
    history.save(paths, w.ME, [claim(1, 2)], look_around(paths, mirror(500, 0, 1)))
    assert history.load(paths, "i-00000000000000009") == {}


def test_volumes_without_a_redundant_array_leave_nothing(paths: Paths) -> None:
    stripe = {n: w.member(n - 1, count=2, level=0) for n in (1, 2)}
    for looks in ({}, {1: w.blank(), 2: w.blank()}, stripe):
        assert not history.save(paths, w.ME, [claim(1, 2)], look_around(paths, looks))
    parted = {
        1: w.member(0, count=2, level=1, active=(0, 0xFFFE)),
        2: w.member(1, count=2, level=1, active=(0xFFFE, 1)),
    }
    assert not history.save(paths, w.ME, [claim(1, 2)], look_around(paths, parted))


KEPT = {"events": 5, "created": 6, "volumes": [A]}
WHOLE = {"version": 1, "instance_id": w.ME, "arrays": {w.ARRAY: KEPT}}


def test_the_whole_one_counts(paths: Paths) -> None:
    Path(paths.state).mkdir()
    Path(paths.arrays).write_text(json.dumps(WHOLE))
    assert history.load(paths, w.ME) == {w.ARRAY: Seen(5, 6, (A,))}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({**WHOLE, "version": 2}),
        json.dumps({**WHOLE, "arrays": [1]}),
        json.dumps({**WHOLE, "arrays": {w.ARRAY: {"events": 5}}}),
        json.dumps({**WHOLE, "arrays": {w.ARRAY: {**KEPT, "events": "x"}}}),
        "\x00\xff",
    ],
)
def test_a_damaged_one_is_none(paths: Paths, text: str) -> None:
    Path(paths.state).mkdir()
    Path(paths.arrays).write_bytes(text.encode("latin-1"))
    assert history.load(paths, w.ME) == {}


def test_a_disk_that_cannot_be_written_keeps_nobody_from_going_on(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    Path(paths.state).write_text("in the way of the directory")
    world = look_around(paths, mirror(500, 0, 1))
    assert not history.save(paths, w.ME, [claim(1, 2)], world)
    assert "not kept" in caplog.text
