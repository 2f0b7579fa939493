"""The protocol under fire: worlds drawn by chance, and each rule taken out."""

from __future__ import annotations

import pytest

from tests.claims import HARDER, RULES, Chances, one_world, told
from tests.conftest import LATER, soon
from tests.fleet import simulate

pytest.importorskip("boto3")

BLOCK = 25


@pytest.mark.parametrize("block", soon([0], range(20), LATER))
def test_no_node_is_on_two_instances_and_nobody_is_stuck(block: int) -> None:
    """500 worlds in all."""
    begin = block * BLOCK + 1
    outcomes = [one_world(seed) for seed in range(begin, begin + BLOCK)]
    assert not any(one.wrong for one in outcomes), told(outcomes)
    assert sum(one.kills for one in outcomes) > BLOCK
    assert sum(one.up for one in outcomes) > BLOCK


def test_the_same_seed_is_the_same_world() -> None:
    first, second = one_world(3), one_world(3)
    assert (first.kills, first.up, first.calls) == (
        second.kills,
        second.up,
        second.calls,
    )


SEEN = {
    "record": 38,
    "noted before it is sent": 7,
    "second look": 2,
    "thirty seconds": 6,
}
"""A world in which something goes wrong without the rule."""


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it one of these worlds goes wrong, and with it none does."""
    seed = SEEN[rule]
    assert one_world(seed, Chances(**HARDER)).wrong == []
    RULES[rule](monkeypatch.setattr)
    assert one_world(seed, Chances(**HARDER)).wrong


@pytest.mark.long
@pytest.mark.parametrize("order", ["claim-lowest", "claim-spread"])
def test_a_group_that_launches_at_once_is_bound_by_ec2_alone(order: str) -> None:
    outcome = simulate(order, 60, 300)
    assert outcome.wrong() == []
    assert outcome.ratio <= outcome.target
