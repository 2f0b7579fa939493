"""Volumes created under fire: worlds drawn by chance, and each rule taken out."""

from __future__ import annotations

import pytest

from tests.conftest import LATER, soon
from tests.creations import RULES, STORIES, one_world, told

pytest.importorskip("boto3")

BLOCK = 25


@pytest.mark.parametrize("block", soon([0], range(20), LATER))
def test_no_volume_is_created_beside_one_that_exists(block: int) -> None:
    """500 worlds in all."""
    begin = block * BLOCK + 1
    outcomes = [one_world(seed) for seed in range(begin, begin + BLOCK)]
    assert not any(one.wrong for one in outcomes), told(outcomes)
    assert sum(one.kills for one in outcomes) > BLOCK
    assert sum(one.created for one in outcomes) > BLOCK
    assert sum(one.up for one in outcomes) > BLOCK // 3


@pytest.mark.long
@pytest.mark.parametrize("story", STORIES)
def test_each_story_is_told(story: str) -> None:
    outcomes = [one_world(seed, story=story) for seed in range(1001, 1004)]
    assert not any(one.wrong for one in outcomes), told(outcomes)


def test_the_same_seed_is_the_same_world() -> None:
    first, second = one_world(1), one_world(1)
    assert (first.kills, first.created, first.calls) == (
        second.kills,
        second.created,
        second.calls,
    )
    assert first.created > 0


SEEN = {
    "tokens": ("templates", 1),
    "second look": ("late", 1),
    "60 minutes": ("lost", 1),
}
"""A story and a world in which a volume too many is made without the rule."""


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it one of these worlds goes wrong, and with it none does."""
    story, seed = SEEN[rule]
    assert one_world(seed, story=story).wrong == []
    RULES[rule](monkeypatch.setattr)
    assert one_world(seed, story=story).wrong


def test_the_looks_must_be_some_time_apart() -> None:
    """With one second between them, what is on its way is made twice."""
    assert one_world(1, story="late").wrong == []
    assert one_world(1, story="late", after=1).wrong
