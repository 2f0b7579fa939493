"""The work on the sets of one run: when it gives one up by itself."""

from __future__ import annotations

import pytest
from pytest_mock import MockerFixture

from cc_kraken.act.known import Known
from cc_kraken.act.waiting import Limits, Waiting
from cc_kraken.act.work import SAME_STEPS_LIMIT, Work
from cc_kraken.decide.steps import RemoveFstab
from cc_kraken.decide.world import World
from tests.unit.act.test_executor import Bench, bench, plan

__all__ = ["bench"]


def test_the_same_steps_again_and_again_are_a_fault_of_ours(
    bench: Bench, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is carried out, says that all is well, and is to be done once more."""
    known = Known(mocker.Mock(), bench.instance, bench.clock)
    waiting = Waiting(Limits(60, True), bench.clock, bench.report)
    work = Work(bench.executor, bench.report, known, waiting)
    bench.report.set("data")
    for _ in range(SAME_STEPS_LIMIT):
        work.act([plan("data", RemoveFstab("data"))], World(bench.instance))
        assert work.failed == {}
    work.act([plan("data", RemoveFstab("data"))], World(bench.instance))
    trouble = work.failed["data"]
    assert trouble.kind == "no-progress"
    assert "the line of the set data" in trouble.found
    assert "report" in trouble.remedy and "status.json" in trouble.remedy
    assert "no-progress" in caplog.text
