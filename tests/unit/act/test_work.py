"""The work on the sets of one run: when it gives one up by itself."""

from __future__ import annotations

import pytest
from pytest_mock import MockerFixture

from cc_kraken.act.cloud_view import CloudView
from cc_kraken.act.pacing import FIRST_RETRY
from cc_kraken.act.waiting import Limits, Waiting
from cc_kraken.act.work import SAME_STEPS_LIMIT, Work
from cc_kraken.decide.steps import CHANGES, RemoveFstab, Step
from cc_kraken.decide.world import World
from cc_kraken.model import KrakenError, Trouble
from tests.unit.act.test_executor import Bench, bench, plan

__all__ = ["bench"]


def working(bench: Bench, mocker: MockerFixture) -> Work:
    known = CloudView(mocker.Mock(), bench.instance, bench.clock)
    waiting = Waiting(Limits(60, True), bench.clock, bench.report)
    return Work(bench.executor, bench.report, known, waiting)


def test_the_same_steps_again_and_again_are_a_fault_of_ours(
    bench: Bench, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is carried out, says that all is well, and is to be done once more."""
    work = working(bench, mocker)
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


def test_a_step_that_waits_for_its_disk_is_not_tried_without_a_pause(
    bench: Bench, mocker: MockerFixture
) -> None:
    """Each round looks well, and each time a read fails in the step itself."""
    work = working(bench, mocker)
    bench.report.set("data")
    silent = Trouble("device-silent", "It cannot be read.", "", "", waits=True)
    well = False

    def do(_: Step) -> None:
        if not well:
            raise KrakenError(silent)

    bench.executor._do = dict.fromkeys(CHANGES, do)
    todo = [plan("data", RemoveFstab("data"))]
    pauses = []
    for _ in range(4):
        assert work.due(todo) == todo
        work.act(todo, World(bench.instance))
        assert work.due(todo) == [] and work.failed == {}
        (held,) = work.waiting.reasons(todo).values()
        assert held is silent
        begun = bench.clock.now()
        assert not work.waiting.wait(work.waiting.reasons(todo), {}, lambda: False)
        pauses.append(bench.clock.now() - begun)
    assert pauses[-1] > pauses[0] >= FIRST_RETRY / 2
    well = True
    work.act(todo, World(bench.instance))
    assert work.due(todo) == todo


def test_what_ec2_puts_off_holds_up_no_step_of_this_machine(
    bench: Bench, mocker: MockerFixture
) -> None:
    work = working(bench, mocker)
    trouble = Trouble("ec2-throttled", "EC2 throttles.", "", "", waits=True)
    work.waiting.put_off.throttle(trouble, bench.clock.now(), begun=False)
    work.waiting.put_off.hold("data", trouble, bench.clock.now())
    todo = [plan("data", RemoveFstab("data"))]
    assert work.due(todo) == todo
