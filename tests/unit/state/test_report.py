"""status.json: what is in it from the first write to the last."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, Node, Trouble
from cc_kraken.state import report
from cc_kraken.state.report import Report
from tests.unit import worlds as w
from tests.unit.tree import Tree

SCHEMA = Path(__file__).parents[3] / "schema" / "status.json"
TROUBLE = Trouble("kind", "found", "expected", "Do this.")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "run"))


def read(paths: Paths) -> dict[str, Any]:
    found = report.read(paths)
    assert found is not None
    return found


def test_every_write_fits_the_schema(paths: Paths) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft4Validator(json.loads(SCHEMA.read_text())).validate
    told = Report(paths, "network")
    told.write()
    check(read(paths))
    told.identify(Identity(w.ME, "us-east-1", "us-east-1a"), Node("kafka", "0"))
    told.phase("attach")
    told.describe(
        w.claim(w.single(), w.attached(1)), {w.volume_id(1): w.device(1)}, None
    )
    told.describe(w.claim(w.raid(), w.attached(2)), {}, w.array(2))
    told.waiting("data: something")
    check(read(paths))
    told.done("log", "mount it")
    told.warn("careful", "log")
    told.fail(TROUBLE)
    told.count(Counter({"DescribeVolumes": 2}), Counter(), 7)
    told.finish(report.FAILED)
    last = read(paths)
    check(last)
    assert last["state"] == "failed" and last["finished"]
    assert last["sets"]["log"]["done"] == ["mount it"]
    assert [entry["name"] for entry in last["phases"]] == ["attach"]
    after = Report(paths, "background", earlier=last)
    after.write()
    check(read(paths))
    assert read(paths)["earlier"][-1]["done"] == {"log": ["mount it"]}


def test_what_was_up_counts_as_up_until_it_is_looked_at(paths: Paths) -> None:
    first = Report(paths, "network")
    for name, state in (("a", "mounted"), ("b", "failed"), ("c", "pending")):
        first.set(name)["state"] = state
    first.done("a", "mount it")
    first.finish(report.PENDING)
    second = Report(paths, "background", earlier=read(paths))
    assert {name: one["state"] for name, one in second.sets.items()} == {"a": "mounted"}
    assert second.sets["a"]["done"] == []
    assert read(paths)["sets"]["a"]["done"] == ["mount it"]
    second.only(["d"])
    assert second.sets == {}


def test_what_was_up_and_is_hidden_by_now_does_not_count(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    first = Report(tree.paths, "network")
    for number, name in ((1, "a"), (2, "b")):
        tree.disk(number, w.volume_id(number).replace("-", ""))
        device = f"nvme{number}n1"
        tree.mount(f"/{name}", tree.number(device), "ext4", f"/dev/{device}")
        volumes = [{"id": w.volume_id(number)}]
        first.set(name).update(state="mounted", mount_path=f"/{name}", volumes=volumes)
    first.finish(report.DONE)
    assert set(Report(tree.paths, "apply", earlier=read(tree.paths)).sets) == {"a", "b"}
    tree.mount("/a", "0:50", "tmpfs", "somebody", parent=21)
    assert set(Report(tree.paths, "apply", earlier=read(tree.paths)).sets) == {"b"}


def test_a_plan_is_no_state_of_this_boot(paths: Paths) -> None:
    plan = Report(paths, "network", dry_run=True)
    plan.set("a")["state"] = "mounted"
    assert Report(paths, "apply", earlier=plan.status).sets == {}
    unkept = Report(paths, "plan", dry_run=True, kept=False)
    unkept.finish(report.DONE)
    assert report.read(paths) is None


def test_what_is_done_for_a_set_that_is_gone_makes_no_entry(paths: Paths) -> None:
    told = Report(paths, "apply")
    told.done("old", "take the line out")
    assert told.sets == {}


def test_warnings_and_reasons_are_told_once(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    told = Report(paths, "apply")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            told.warn("careful", "log")
            told.waiting("for a volume")
    assert len(caplog.records) == 2
    assert told.status["warnings"] == ["careful"]
    assert told.sets["log"]["warnings"] == ["careful"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_status_is_none(paths: Paths, text: str) -> None:
    Path(paths.run).mkdir()
    Path(paths.status).write_text(text)
    assert report.read(paths) is None
