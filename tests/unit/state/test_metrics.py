"""The status as metrics: what a parser of Prometheus reads, and when it is written."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pytest_mock import MockerFixture

from cc_kraken import cli, handle
from cc_kraken.boot import stage
from cc_kraken.boot.clean import clean
from cc_kraken.boot.cloud_init import Events
from cc_kraken.machine.paths import Paths
from cc_kraken.model import VERSION, Ec2Options, Identity, Node, Section, Trouble
from cc_kraken.state import metrics, report
from cc_kraken.state.report import Report
from tests.unit.act.test_run import ME as INSTANCE_TAGS
from tests.unit.act.test_run import ZONE, LabClock, Scene, environment, make, scene
from tests.unit.boot import test_stage
from tests.unit.boot.test_stage import tree as stage_tree
from tests.unit.tree import Tree

__all__ = ["environment", "make", "scene", "stage_tree"]  # fixtures

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "schema" / "status.json").read_text())["properties"]
ME = "i-00000000000000001"
VOLUME = "vol-00000000000000001"
TROUBLE = Trouble("zone-other", "found", "expected", "Do this.")


class Samples(dict[str, dict[str, float]]):
    """By name: the value of each sample by its labels (``set=data,state=failed``)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.families = list(text_string_to_metric_families(text))
        for family in self.families:
            assert family.documentation and family.type in ("gauge", "counter")
            for one in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(one.labels.items()))
                assert labels not in self.setdefault(one.name, {}), "twice"
                self[one.name][labels] = one.value

    def on(self, name: str) -> list[str]:
        return [labels for labels, value in self[name].items() if value == 1]


def made(base: Path, **named: Any) -> Report:
    told = Report(Paths(run=str(base)), "background", **named)
    told.identify(Identity(ME, "us-east-1", ZONE), Node("kafka", "0"))
    return told


def read(told: Report) -> Samples:
    return Samples(metrics.text(told.status))


# ------------------------------------------------------------------ what is in it


def test_the_metrics_of_a_node_that_is_up(tmp_path: Path) -> None:
    told = made(tmp_path)
    array = {"degraded": 1}
    told.set("data").update(state="mounted", mount_path="/data", array=array)
    told.set("data")["filesystem"] = {"type": "xfs"}
    told.set("raw", required=False)["state"] = "attached"
    told.status["phases"] = [{"name": "attach", "seconds": 1.25}]
    told.count(Counter(DescribeVolumes=3), Counter(DescribeVolumes=1), 7)
    told.warn("careful", "data")
    told.finish(report.DONE)
    told.status["started"] = "2026-11-28T12:00:00Z"
    told.status["updated"] = told.status["finished"] = "2026-11-28T12:00:09Z"
    found = read(told)
    assert found.pop("cc_kraken_set_state").keys() == {
        f"set={name},state={state}"
        for name in ("data", "raw")
        for state in report.SET_STATES
    }
    assert found.pop("cc_kraken_run_state")["state=done"] == 1
    node = f"instance_id={ME},node_id=0,prefix=kafka,region=us-east-1,zone={ZONE}"
    assert found == {
        "cc_kraken_build_info": {f"version={VERSION}": 1},
        "cc_kraken_node_info": {node: 1},
        "cc_kraken_run_info": {"dry_run=false,stage=background": 1},
        "cc_kraken_run_start_timestamp_seconds": {"": 1795867200},
        "cc_kraken_run_end_timestamp_seconds": {"": 1795867209},
        "cc_kraken_status_update_timestamp_seconds": {"": 1795867209},
        "cc_kraken_run_phase_duration_seconds": {"phase=attach": 1.25},
        "cc_kraken_runs_total": {"": 1},
        "cc_kraken_api_calls_total": {"action=DescribeVolumes": 3},
        "cc_kraken_api_throttled_total": {"action=DescribeVolumes": 1},
        "cc_kraken_set_info": {
            "fstype=xfs,mountpoint=/data,set=data": 1,
            "set=raw": 1,
        },
        "cc_kraken_set_required": {"set=data": 1, "set=raw": 0},
        "cc_kraken_set_array_missing_members": {"set=data": 1},
        "cc_kraken_warnings": {"": 1},
    }


@pytest.mark.parametrize("state", SCHEMA["state"]["enum"])
def test_a_run_has_one_state(tmp_path: Path, state: str) -> None:
    told = made(tmp_path)
    told.status["state"] = state
    found = read(told)
    assert found.on("cc_kraken_run_state") == [f"state={state}"]
    assert len(found["cc_kraken_run_state"]) == len(SCHEMA["state"]["enum"])


SET_STATES = SCHEMA["sets"]["additionalProperties"]["properties"]["state"]["enum"]


@pytest.mark.parametrize("state", SET_STATES)
def test_a_set_has_one_state(tmp_path: Path, state: str) -> None:
    told = made(tmp_path)
    told.set("data")["state"] = state
    found = read(told)
    assert found.on("cc_kraken_set_state") == [f"set=data,state={state}"]
    assert len(found["cc_kraken_set_state"]) == len(SET_STATES)


def test_errors_are_told_by_kind_and_set(tmp_path: Path) -> None:
    told = made(tmp_path)
    told.set("data").update(state="failed", error=report.error(TROUBLE))
    told.fail(TROUBLE)
    told.fail(Trouble("zone-other", "another one", "expected", "Do this."))
    assert read(told)["cc_kraken_error_info"] == {
        "kind=zone-other,set=data": 1,
        "kind=zone-other": 1,
    }


def test_a_run_that_waits_has_no_end_and_says_since_when_it_waits(
    tmp_path: Path,
) -> None:
    told = made(tmp_path)
    assert "cc_kraken_waiting_start_timestamp_seconds" not in read(told)
    told.waiting("data: the volume is missing")
    found = read(told)
    assert found["cc_kraken_waiting_start_timestamp_seconds"][""] > 1.7e9
    assert "cc_kraken_run_end_timestamp_seconds" not in found


def test_before_the_node_is_known_there_is_no_node(tmp_path: Path) -> None:
    told = Report(Paths(run=str(tmp_path)), "network")
    found = read(told)
    assert "cc_kraken_node_info" not in found and "cc_kraken_set_state" not in found
    assert found.on("cc_kraken_run_state") == ["state=running"]


def test_a_status_of_an_older_version_has_no_counters(tmp_path: Path) -> None:
    told = made(tmp_path)
    del told.status["since_boot"]
    assert not [name for name in read(told) if name.endswith("_total")]
    assert made(tmp_path, earlier=told.status).status["since_boot"]["runs"] == 1


def test_counters_only_grow_from_run_to_run(tmp_path: Path) -> None:
    earlier: Optional[Mapping[str, Any]] = None
    for number in range(1, 10):  # more than the status keeps in short
        told = made(tmp_path, earlier=earlier)
        for count in (1, 2):  # a run counts again and again
            calls = Counter(DescribeVolumes=count)
            told.count(calls, Counter(DescribeVolumes=1), 0)
        told.finish(report.PENDING)
        earlier = report.read(Paths(run=str(tmp_path)))
        found = read(told)
        assert found["cc_kraken_runs_total"] == {"": number}
        label = "action=DescribeVolumes"
        assert found["cc_kraken_api_calls_total"] == {label: 2 * number}
        assert found["cc_kraken_api_throttled_total"] == {label: number}


# ---------------------------------------------------------------- hostile values

HOSTILE = [
    'a"} 1\ncc_kraken_warnings 7\n#',
    "end in a backslash\\",
    "\\n is no new line",
    "{}, = \t\r\x1b[2J",
    "# HELP x",
    "日本語 😀",
    "",
]


def values(text: str) -> list[str]:
    return [
        one.labels["set"]
        for family in text_string_to_metric_families(text)
        if family.name == "cc_kraken_set_required"
        for one in family.samples
    ]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_name_is_one_label(tmp_path: Path, value: str) -> None:
    told = made(tmp_path)
    told.set(value)["mount_path"] = value
    text = metrics.text(told.status)
    assert values(text) == [value]
    assert Samples(text)["cc_kraken_warnings"] == {"": 0}


@given(st.lists(st.text(), unique=True, max_size=5))
def test_any_name_comes_out_as_it_was(names: list[str]) -> None:
    told = Report(Paths(run="/nowhere"), "network")
    for name in names:
        told.set(name)
    assert values(metrics.text(told.status)) == names


def test_bytes_that_are_no_text_do_not_cost_the_file(tmp_path: Path) -> None:
    told = made(tmp_path)
    told.set("a\udcffb")
    assert values(metrics.text(told.status).encode("utf-8").decode()) == ["a?b"]


def test_promtool_has_nothing_to_say(tmp_path: Path) -> None:
    told = made(tmp_path)
    for value in HOSTILE[:-1]:
        told.set(value).update(array={"degraded": 0}, error=report.error(TROUBLE))
    told.status["phases"] = [{"name": "attach", "seconds": 1.25}]
    told.count(Counter(DescribeVolumes=3), Counter(DescribeVolumes=1), 7)
    told.waiting("data: the volume is missing")
    told.finish(report.PENDING)
    done = subprocess.run(
        [Path(sys.executable).parent / "promtool", "check", "metrics"],
        input=metrics.text(told.status).encode(),
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# ------------------------------------------------------------------ the command


def test_status_prints_the_metrics_and_exits_as_it_always_does(
    tmp_path: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = Tree(tmp_path)
    mocker.patch.object(cli, "Paths", return_value=tree.paths)
    assert cli.main(["status", "--prometheus"]) == 3
    assert capsys.readouterr().out == ""
    for state, code in (("done", 0), ("pending", 3), ("failed", 1)):
        told = Report(tree.paths, "background")
        told.finish(state)
        assert cli.main(["status", "--prometheus"]) == code
        out = capsys.readouterr().out
        assert out == metrics.text(told.status)
        assert Samples(out).on("cc_kraken_run_state") == [f"state={state}"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["status", "--json", "--prometheus"])
    assert exit_.value.code == 2


# --------------------------------------------------------------------- the file


def written(paths: Paths) -> Samples:
    return Samples(Path(paths.metrics).read_text())


def run(scene: Scene, **section: Any) -> dict[str, Any]:
    """A run as ``cc-kraken apply`` makes it."""
    identity = Identity(scene.instance, "us-east-1", ZONE, dict(INSTANCE_TAGS))
    ec2 = Ec2Options(endpoint_url=scene.lab.endpoint_url)
    return stage.carry_out(
        Section(ec2=ec2, **section),
        identity,
        scene.tree.paths,
        Events(None).enter,
        "apply",
        seconds=60,
        clock=LabClock(scene.clock),
    )


def test_a_run_leaves_the_metrics_of_its_status(scene: Scene) -> None:
    scene.volume()
    scene.lab.throttle("DescribeVolumes", 1)
    umask = os.umask(0o077)
    try:
        status = run(scene, metrics=True)
    finally:
        os.umask(umask)
    path = Path(scene.tree.paths.metrics)
    assert path.read_text() == metrics.text(status)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    found = written(scene.tree.paths)
    assert found.on("cc_kraken_run_state") == ["state=done"]
    assert found.on("cc_kraken_set_state") == ["set=data,state=attached"]
    sent = {f"action={one}": count for one, count in scene.calls.items()}
    assert found["cc_kraken_api_calls_total"] == sent
    throttled = {"action=DescribeVolumes": 1}
    assert found["cc_kraken_api_throttled_total"] == throttled
    phases = found["cc_kraken_run_phase_duration_seconds"]
    assert "phase=attach" in phases and not any(map(math.isnan, phases.values()))


def test_the_file_follows_a_run_that_waits(scene: Scene) -> None:
    seen: list[Samples] = []
    scene.later(20, lambda: seen.append(written(scene.tree.paths)))
    assert run(scene, metrics=True)["state"] == "failed"
    (during,) = seen
    assert during.on("cc_kraken_run_state") == ["state=running"]
    assert "cc_kraken_waiting_start_timestamp_seconds" in during
    after = written(scene.tree.paths)
    assert after.on("cc_kraken_run_state") == ["state=failed"]
    assert after["cc_kraken_error_info"] == {"kind=no-volumes": 1}


def test_without_the_key_nothing_is_written_and_an_older_file_goes(
    scene: Scene, mocker: MockerFixture
) -> None:
    scene.volume()
    unlink = mocker.spy(os, "unlink")
    run(scene)
    # The first run of a boot looks for none: /run was empty.
    assert mocker.call(scene.tree.paths.metrics) not in unlink.call_args_list
    assert not os.path.exists(scene.tree.paths.metrics)
    run(scene, metrics=True)
    assert os.path.exists(scene.tree.paths.metrics)
    run(scene)
    assert not os.path.exists(scene.tree.paths.metrics)


def full(mocker: MockerFixture) -> None:
    """No room for one file more, of these."""
    make_file = tempfile.mkstemp

    def refuse(suffix: str, prefix: str, directory: str) -> Any:
        if prefix.startswith(".metrics.prom"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return make_file(suffix, prefix, directory)

    mocker.patch.object(tempfile, "mkstemp", refuse)


def test_on_a_full_disk_the_volumes_come_up_all_the_same(
    scene: Scene, mocker: MockerFixture
) -> None:
    scene.volume()
    full(mocker)
    status = run(scene, metrics=True)
    assert status["state"] == "done"
    (warning,) = status["warnings"]
    assert warning.startswith("[cannot-write]") and "metrics.prom" in warning
    assert report.read(scene.tree.paths) == status


def on(**more: Any) -> dict[str, Any]:
    return {"kraken": {**test_stage.ON["kraken"], **more}}


def test_a_reboot_with_nothing_to_do_writes_them(
    stage_tree: Tree, mocker: MockerFixture
) -> None:
    mocker.patch.object(test_stage, "ON", on(metrics=True))
    test_stage.reboot(stage_tree)
    handle("kraken", test_stage.ON, test_stage.cloud(), None, [])
    assert test_stage.told(stage_tree)["calls"] == {}
    found = written(stage_tree.paths)
    assert found.on("cc_kraken_set_state") == ["set=data,state=mounted"]
    assert found.on("cc_kraken_run_state") == ["state=done"]


def test_a_reboot_on_a_full_disk_goes_on(
    stage_tree: Tree, mocker: MockerFixture
) -> None:
    mocker.patch.object(test_stage, "ON", on(metrics=True))
    test_stage.reboot(stage_tree)
    full(mocker)
    handle("kraken", test_stage.ON, test_stage.cloud(), None, [])
    assert test_stage.told(stage_tree)["state"] == "done"


def test_an_image_holds_no_metrics(stage_tree: Tree) -> None:
    stage_tree.write("run/metrics.prom", "")
    assert f"Removed {stage_tree.paths.metrics}." in clean(stage_tree.paths)
    assert not os.path.exists(stage_tree.paths.metrics)
