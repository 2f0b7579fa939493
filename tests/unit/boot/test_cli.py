"""The command: what it says and how it ends, without a machine."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pytest_mock import MockerFixture

from cc_kraken import cli
from cc_kraken.boot import stage
from cc_kraken.commands import shown
from cc_kraken.machine import command, schema_files
from cc_kraken.model import VERSION, Section, Trouble
from cc_kraken.state import lock, report
from cc_kraken.state.report import Report
from tests.unit.boot.test_stage import SOURCE
from tests.unit.tree import Tree


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path)
    made.disk(1, "vol00000000000000001")
    monkeypatch.setattr(cli, "Paths", lambda: made.paths)
    monkeypatch.setattr(command, "SYSTEMD", str(tmp_path / "no-systemd"))
    monkeypatch.setattr(stage, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(stage, "ALIVE_EVERY", 0.05)
    return made


def write(tree: Tree, name: str, state: str, **sets: dict[str, Any]) -> Report:
    """A status as a run would leave it."""
    made = Report(tree.paths, name)
    for key, changes in sets.items():
        made.set(key).update(changes)
    made.status["state"] = state
    made.write()
    return made


def mounted(tree: Tree, path: str = "/data") -> dict[str, Any]:
    """A set that is mounted, and its line in mountinfo."""
    tree.mount(path, tree.number("nvme1n1"), "ext4", "/dev/nvme1n1")
    volume = {"id": "vol-00000000000000001", "device": "/dev/nvme1n1"}
    volumes = [{**volume, "size": None, "state": "in-use"}]
    return {"state": "mounted", "mount_path": path, "volumes": volumes}


# -------------------------------------------------------------------- wait


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_the_module_never_ran(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["wait", "data"]) == 1
    assert "never ran" in said(capsys)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("network", "done"),
        ("network", "pending"),
        ("background", "running"),
        ("background", "failed"),
        ("apply", "done"),
    ],
)
def test_a_set_that_is_mounted_is_up_whatever_the_rest_does(
    tree: Tree, name: str, state: str
) -> None:
    write(tree, name, state, data=mounted(tree), log={"state": "pending"})
    assert cli.main(["wait", "data"]) == 0


@pytest.mark.parametrize("state", ["attached", "assembled"])
def test_a_set_that_is_not_mounted_is_up_only_where_that_is_asked_for(
    tree: Tree, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    write(tree, "background", "done", data={"state": state})
    assert cli.main(["wait", "data"]) == 1
    assert (
        f"it is {state}, not mounted" in (told := said(capsys)) and "--attached" in told
    )
    assert cli.main(["wait", "--attached", "data"]) == 0
    write(tree, "background", "done", data=mounted(tree))
    assert cli.main(["wait", "--attached", "data"]) == 0


def test_the_name_as_a_unit_writes_it(tree: Tree) -> None:
    write(tree, "background", "done", **{"my-set": mounted(tree)})
    assert cli.main(["wait", "--", "my\\x2dset"]) == 0


OVER: list[tuple[str, str, dict[str, Any], str]] = [
    ("background", "failed", {"state": "failed", "error": {"message": "No."}}, "No"),
    ("background", "done", {"state": "pending", "reason": "Late."}, "Late"),
    # Nobody is at work any more: it was killed.
    ("background", "running", {"state": "pending", "reason": "Late."}, "Late"),
    ("network", "running", {"state": "pending", "reason": "Late."}, "Late"),
    ("network", "pending", {"state": "pending", "reason": "Late."}, "Late"),
    # The status speaks of a mount that is no more.
    ("background", "done", {"state": "mounted", "mount_path": "/gone"}, "/gone"),
]


def covered(tree: Tree) -> None:
    tree.mount("/data", "0:50", "tmpfs", "somebody", parent=21)


def below_another(tree: Tree) -> None:
    tree.mount("/", "0:50", "overlay", "somebody", parent=20)


def of_another_set(tree: Tree) -> None:
    serial = tree.base / "sys/block/nvme1n1/device/serial"
    serial.write_text("vol00000000000000002\n")


def over_something(tree: Tree) -> None:
    tree.mount("/data", tree.number("nvme1n1"), "ext4", "/dev/nvme1n1", parent=21)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (covered, "somebody (tmpfs), mounted at /data, hides it"),
        (below_another, "somebody (overlay), mounted at /, hides it"),
        (of_another_set, "/dev/nvme1n1 (ext4) is mounted at /data now"),
        (over_something, None),
    ],
)
def test_a_set_is_up_when_its_own_volumes_are_seen_at_its_path(
    tree: Tree,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Tree], None],
    words: str | None,
) -> None:
    write(tree, "background", "done", data=mounted(tree))
    change(tree)
    assert cli.main(["wait", "data"]) == (1 if words else 0)
    assert (words or "") in said(capsys)


@pytest.mark.parametrize(("name", "state", "entry", "words"), OVER)
def test_waiting_ends_where_nothing_will_come(
    tree: Tree,
    capsys: pytest.CaptureFixture[str],
    name: str,
    state: str,
    entry: dict[str, Any],
    words: str,
) -> None:
    write(tree, name, state, data=entry)
    assert cli.main(["wait", "data"]) == 1
    assert words in said(capsys)


def test_who_waits_for_a_set_that_was_unmounted_is_told_what_to_do(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree, "background", "done", data={"state": "mounted", "mount_path": "/gone"})
    assert cli.main(["wait", "data"]) == 1
    told = said(capsys)
    assert "The set data is not up: nothing is mounted at /gone now. To " in told
    assert "To mount it: cc-kraken apply." in told and "See" not in told
    write(tree, "background", "done", data=mounted(tree))
    of_another_set(tree)
    assert cli.main(["wait", "data"]) == 1
    assert " at /data now. Unmount it, then: cc-kraken apply." in said(capsys)


@pytest.mark.parametrize("words", [["data"], ["--node"]])
@pytest.mark.parametrize("end", [".", "?"])
def test_a_sentence_gets_no_second_full_stop(
    tree: Tree, capsys: pytest.CaptureFixture[str], words: list[str], end: str
) -> None:
    made = write(tree, "background", "failed")
    made.fail(Trouble("config-unknown-key", "Odd", "a key", f"Did you mean data{end}"))
    made.write()
    assert cli.main(["wait", *words]) == 1
    assert f"Did you mean data{end} See cc-kraken status." in said(capsys)


def test_an_unknown_set_is_named_with_those_there_are(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree, "background", "done", log=mounted(tree))
    assert cli.main(["wait", "data"]) == 1
    assert "no such set (it has: log)" in said(capsys)


def test_switched_off_is_said_to_who_waits_for_a_set(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree, "network", "off")
    assert cli.main(["wait", "data"]) == 1
    assert "switched off by enabled: false" in said(capsys)


@pytest.mark.parametrize("entry", [{}, {"data": {"state": "planned"}}])
def test_a_dry_run_is_said_to_who_waits_for_a_set(
    tree: Tree, capsys: pytest.CaptureFixture[str], entry: dict[str, Any]
) -> None:
    made = write(tree, "network", "done", **entry)
    made.status["dry_run"] = True
    made.write()
    assert cli.main(["wait", "data"]) == 1
    assert "the last run was a dry run" in said(capsys)


def test_waiting_for_a_run_that_is_at_work(tree: Tree) -> None:
    """However long it takes: here ten times what is allowed to the dead."""
    write(tree, "network", "running")
    begun = threading.Event()

    def work() -> None:
        with lock.held(tree.paths, 5):
            begun.set()
            threading.Event().wait(0.5)
            write(tree, "network", "pending", data=mounted(tree))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(5)
    assert cli.main(["wait", "data"]) == 0
    thread.join()


@pytest.mark.parametrize("name", ["network", "background"])
@pytest.mark.parametrize("words", [["data"], ["--node"]])
def test_an_instance_in_a_warm_pool_is_waited_for(
    tree: Tree, name: str, words: list[str]
) -> None:
    """As long as a run is there that waits for the end of it."""
    write(tree, name, report.STANDBY)
    begun = threading.Event()

    def work() -> None:
        with lock.held(tree.paths, 5):
            begun.set()
            threading.Event().wait(0.5)
            tree.write("run/node.env", "KRAKEN_NODE_ID=0\n")
            write(tree, "background", "running", data=mounted(tree))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(5)
    assert cli.main(["wait", *words]) == 0
    thread.join()


@pytest.mark.parametrize("words", [["data"], ["--node"]])
def test_nobody_waits_for_the_end_of_the_warm_pool(
    tree: Tree, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    write(tree, "background", report.STANDBY)
    assert cli.main(["wait", *words]) == 1
    assert "is in a warm pool, and no run waits" in said(capsys)


# -------------------------------------------------------------- wait --node


@pytest.mark.parametrize(
    ("name", "state"),
    [("network", "running"), ("background", "failed"), ("apply", "done")],
)
def test_a_node_is_known_whatever_becomes_of_its_sets(
    tree: Tree, name: str, state: str
) -> None:
    write(tree, name, state, data={"state": "failed"})
    tree.write("run/node.env", "KRAKEN_NODE_ID=0\n")
    assert cli.main(["wait", "--node"]) == 0


def refused(made: Report) -> None:
    made.fail(Trouble("identity-missing", "No tag", "a tag", "Tag it.", waits=True))


def awaits(made: Report) -> None:
    made.waiting("No node is free.", quiet=True)


@pytest.mark.parametrize(
    ("name", "state", "change", "words"),
    [
        ("background", "failed", refused, "[identity-missing] No tag"),
        ("network", "failed", refused, "[identity-missing] No tag"),
        ("apply", "pending", awaits, "No node is free"),
        ("background", "running", awaits, "No node is free"),  # it was killed
        ("network", "off", lambda _: None, "enabled: false"),
        ("apply", "done", lambda m: m.status.update(dry_run=True), "a dry run"),
        ("apply", "done", lambda _: None, "no run has written node.env"),
    ],
)
def test_waiting_for_a_node_ends_where_none_will_come(
    tree: Tree,
    capsys: pytest.CaptureFixture[str],
    name: str,
    state: str,
    change: Callable[[Report], None],
    words: str,
) -> None:
    change(made := write(tree, name, state))
    made.write()
    assert cli.main(["wait", "--node"]) == 1
    told = said(capsys)
    assert told.startswith("cc-kraken: [node-unknown] This instance is no node: ")
    assert words in told


def test_no_module_no_node(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["wait", "--node"]) == 1
    assert "never ran" in said(capsys)


@pytest.mark.parametrize("words", [[], ["--node", "data"]])
def test_one_thing_is_waited_for(
    tree: Tree, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["wait", *words])
    assert ended.value.code == 2
    assert "--node" in said(capsys)


def own(tree: Tree, path: Path, owner: str) -> None:
    pending = {"owner": owner, "group": None, "mode": 0o750}
    write(tree, "network", "done", data={**mounted(tree, str(path)), "owner": pending})


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: chown needs root")
def test_the_owner_is_settled_before_the_service(
    tree: Tree, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "root"
    path.mkdir(mode=0o755)
    own(tree, path, "nobody-of-this-name")
    assert cli.main(["wait", "data"]) == 1
    told = said(capsys)
    assert "There is no user nobody-of-this-name yet, so " in told
    assert "Make the user nobody-of-this-name before the service starts." in told
    own(tree, path, "12")
    assert cli.main(["wait", "data"]) == 0
    assert (path.stat().st_uid, path.stat().st_mode & 0o7777) == (12, 0o750)
    # Not again: somebody has changed it since.
    path.chmod(0o700)
    assert cli.main(["wait", "data"]) == 0
    assert path.stat().st_mode & 0o7777 == 0o700


# ------------------------------------------------------------------ status


@pytest.mark.parametrize(
    ("state", "entry", "code", "words"),
    [
        ("done", {"state": "attached"}, 0, "attached"),
        (
            "failed",
            {"state": "failed", "error": {"message": "No."}},
            1,
            "error: data: No.",
        ),
        ("done", {"state": "mounted", "mount_path": "/gone"}, 1, "data is not up now"),
        ("running", {"state": "pending"}, 3, "pending"),
        ("pending", {"state": "pending", "reason": "Late."}, 3, "data: Late."),
        ("off", None, 3, "enabled: true"),
    ],
)
def test_status_ends_with_0_only_when_all_is_well(
    tree: Tree,
    capsys: pytest.CaptureFixture[str],
    state: str,
    entry: dict[str, Any] | None,
    code: int,
    words: str,
) -> None:
    write(tree, "background", state, **({"data": entry} if entry else {}))
    assert cli.main(["status"]) == code
    told = capsys.readouterr()
    assert words in told.out + told.err
    assert cli.main(["status", "--json"]) == code
    assert f'"state": "{state}"' in capsys.readouterr().out


def test_status_shows_a_set_that_somebody_has_unmounted(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also to who reads standard output alone; the file says what the run saw."""
    gone = {"state": "mounted", "mount_path": "/gone"}
    write(tree, "background", "done", data=mounted(tree), log=gone)
    assert cli.main(["status"]) == 1
    first, _, data, log, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("not up: ")
    assert data.split()[:2] == ["data", "mounted"]
    assert log.split()[:3] == ["log", "not", "up"]
    found = "log is not up now: nothing is mounted at /gone now."
    assert last == f"error: {found} To mount it: cc-kraken apply."
    assert cli.main(["status", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, schema_files.load(schema_files.STATUS))
    assert printed["sets"]["data"]["not_up"] is None
    assert "nothing is mounted" in printed["sets"]["log"]["not_up"]
    kept = report.read(tree.paths)
    assert kept is not None and "not_up" not in kept["sets"]["log"]


def test_status_of_a_mounted_set_and_where_nothing_ran(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status"]) == 3
    assert "cc-kraken enable --check" in capsys.readouterr().err, "what to do next"
    write(tree, "background", "done", data=mounted(tree))
    assert cli.main(["status"]) == 0
    assert "/data" in capsys.readouterr().out
    made = Report(tree.paths, "network", dry_run=True)
    made.finish(report.DONE)
    assert cli.main(["status"]) == 3


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        (None, False),
        ("", False),
        ("#cloud-config\nkraken: {wait: 9}\n", False),
        ("#cloud-config\nkraken: {enabeld: true}\n", True),
        ("#cloud-config\nkraken: {enabled: true\n", True),
        ("#cloud-config\nusers: []\n", True),
        ("# cloud-config\nkraken: {enabled: true}\n", True),
    ],
)
def test_status_of_what_is_switched_off_tells_to_check_the_user_data(
    tree: Tree, capsys: pytest.CaptureFixture[str], text: str | None, odd: bool
) -> None:
    """Else it looks as if nobody had asked for the module."""
    tree.paths = replace(tree.paths, instance=str(tree.base / "instance"))
    path = tree.base / "instance/user-data.txt"
    if text is not None:
        tree.write("instance/user-data.txt", text)
    write(tree, "network", "off")
    assert cli.main(["status"]) == 3
    on = "enabled: false; user-data with enabled: true switches it on"
    more = f". Check the user-data: cc-kraken check {path}" if odd else ""
    assert capsys.readouterr().out.splitlines()[1:] == [on + more]


def test_status_says_what_is_awaited_since_when_and_until_when(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Report(tree.paths, "background", until=3600)
    made.waiting("data: [zone-mixed] the volumes are in several zones.")
    assert cli.main(["status"]) == 3
    out = capsys.readouterr().out
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.search(rf"zones. \(awaited since {time} until {time}\)", out), out
    assert out.endswith("More: cc-kraken explain zone-mixed\n")


def test_what_a_run_by_hand_writes_is_for_everybody_to_read(
    runs: Callable[..., None], mocker: MockerFixture
) -> None:
    runs(data={"state": "mounted", "mount_path": "/data"})
    carry_out, seen = stage.carry_out, []

    def look(*words: Any, **named: Any) -> Any:
        seen.append(os.umask(0o022))
        return carry_out(*words, **named)

    mocker.patch.object(stage, "carry_out", look)
    before = os.umask(0o077)
    try:
        assert cli.main(["apply"]) == 0
    finally:
        os.umask(before)
    assert seen == [0o022]


def test_status_tells_what_comes_later_and_the_notes(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"outcomes": ["the array grows"], "notes": ["a label differs"]}
    write(tree, "background", "done", data={"state": "mounted", **more})
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "data: later: the array grows\ndata: a label differs\n" in out


# -------------------------------------------------------------------- runs


@pytest.fixture
def runs(tree: Tree, mocker: MockerFixture) -> Callable[..., None]:
    """Runs that log something and end with these sets.  cloud-init is as 22.4: its
    import takes the root logger's handlers away."""
    mocker.patch("os.geteuid", return_value=0)

    def end(state: str = "done", dry_run: bool = False, **sets: dict[str, Any]) -> None:
        def load(_paths: object) -> Any:
            del logging.getLogger().handlers[:]
            logging.getLogger().warning("cloud-init's own")
            return Section(dry_run=dry_run), SOURCE

        def carry_out(*_: object, dry_run: bool, **_more: object) -> Any:
            logging.getLogger("cc_kraken.act.run").info("attaching")
            logging.getLogger("cc_kraken.act.run").debug("a detail")
            logging.getLogger("cloudinit.util").debug("reading yaml")
            made = Report(tree.paths, "apply", dry_run=dry_run, until=90)
            for key, changes in sets.items():
                made.set(key).update(changes)
            made.status["state"] = state
            return made.status

        mocker.patch.object(stage, "load_by_hand", load)
        mocker.patch.object(stage, "carry_out", carry_out)

    return end


@pytest.mark.parametrize("words", [["apply"], ["apply", "--background"]])
def test_a_run_is_not_mute(
    runs: Callable[..., None], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = list(logging.getLogger("cc_kraken").handlers)
    runs(data={"state": "mounted", "mount_path": "/data"})
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert told.out == "cc-kraken: done: data is mounted at /data\n"
    assert "attaching\n" in told.err and "detail" not in told.err
    assert cli.main(["--debug", *words]) == 0
    told = capsys.readouterr()
    assert "DEBUG: a detail\n" in told.err and "yaml" not in told.err
    assert logging.getLogger("cc_kraken").handlers == before


REFUSED = {
    "state": "failed",
    "error": {"kind": "zone-other", "message": "[zone-other] No."},
}
MORE = "More: cc-kraken explain zone-other"


def test_a_run_that_fails_says_the_kind_and_where_to_read(
    runs: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    runs("failed", data=REFUSED)
    assert cli.main(["apply", "--background"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"cc-kraken: data: [zone-other] No. {MORE}"


def test_a_run_by_hand_does_not_repeat_what_it_has_said(
    runs: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    runs("failed", data=REFUSED, log={"state": "mounted"})
    assert cli.main(["apply"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    short = "failed: data [zone-other]. The reasons stand above."
    assert last == f"cc-kraken: {short} {MORE}"
    # What was not logged yet is said in full.
    runs("failed", data=REFUSED, log={"state": "pending", "reason": "to do: mount"})
    assert cli.main(["apply"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "data: [zone-other] No. log is not up yet: to do: mount" in last


def test_a_plan_says_an_error_once_and_where_to_read(
    runs: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    mocker: MockerFixture,
) -> None:
    runs("failed", data=REFUSED)
    carry_out = stage.carry_out

    def logged(*words: Any, **named: Any) -> Any:
        logging.getLogger("cc_kraken.act.work").error("data: [zone-other] No.")
        return carry_out(*words, **named)

    mocker.patch.object(stage, "carry_out", logged)
    assert cli.main(["plan"]) == 1
    told = capsys.readouterr()
    assert "zone-other" not in told.err
    assert told.out == f"data:\n  refused: [zone-other] No.\n{MORE}\n"


def test_a_dry_run_says_so(
    runs: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    runs(dry_run=True, data={"state": "planned", "plan": ["attach vol-1"]})
    assert cli.main(["apply"]) == 0
    out = capsys.readouterr().out
    assert "1. attach vol-1" in out
    assert "nothing was changed, because the section says dry_run: true" in out


@pytest.mark.parametrize("command", ["apply", "plan"])
def test_a_run_by_hand_says_that_it_is_in_a_warm_pool(
    runs: Callable[..., None], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    runs("standby")
    assert cli.main([command]) == 0
    assert "is in a warm pool: it claims no node there\n" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_time_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["apply", f"--wait={seconds}"])
    assert caught.value.code == 2
    assert f"{seconds} is no number of seconds" in said(capsys)


Fill = Callable[[Report], None]


def planned(told: Report) -> None:
    told.set("data").update(plan=["attach vol-1"], outcomes=["then it is mounted"])


def refused(told: Report) -> None:
    told.set("data").update(error={"message": "holds xfs"})


def waits(told: Report) -> None:
    told.set("data").update(reason="2 of 3 volumes")


def nothing(told: Report) -> None:
    told.set("data").update(state="mounted")


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        (planned, "  1. attach vol-1\n  - then it is mounted"),
        (refused, "  refused: holds xfs"),
        (waits, "  waits: 2 of 3 volumes"),
        (nothing, "  mounted: nothing to do"),
    ],
)
def test_the_plan_for_people(tree: Tree, fill: Fill, line: str) -> None:
    told = Report(tree.paths, "plan", dry_run=True, kept=False)
    fill(told)
    assert shown.plan_text(told.status) == "data:\n" + line


@pytest.mark.parametrize("word", ["plan", "apply"])
def test_a_run_that_is_switched_off_says_where_and_what_is_wrong(
    tree: Tree, capsys: pytest.CaptureFixture[str], mocker: MockerFixture, word: str
) -> None:
    mocker.patch("os.geteuid", return_value=0)
    wrong = "[config-unknown-key] kraken.enabeld is an unknown key."
    off = Section(enabled=False, off_by="/etc/cc-kraken/x.yaml", mistakes=wrong)
    mocker.patch.object(stage, "load_by_hand", lambda _: (off, SOURCE))
    assert cli.main([word]) == 0
    first, second = said(capsys).splitlines()
    assert first.startswith(
        "cc-kraken: switched off by enabled: false in /etc/cc-kraken/x.yaml. User-data"
    )
    more = "More: cc-kraken explain config-unknown-key"
    assert second == f"cc-kraken: switched off, and wrong: {wrong} {more}"


def test_the_plan_does_not_begin_as_if_there_were_nothing_to_do(tree: Tree) -> None:
    told = Report(tree.paths, "plan", dry_run=True, kept=False)
    told.status["node"] = {"prefix": "kafka", "node_id": "0"}
    first = shown.plan_text(told.status)
    assert first == "node kafka/0: the plan (nothing has been changed)"


# ---------------------------------------------------------------- the rest


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good"
    good.write_text("#cloud-config\nkraken:\n  volumes:\n    data: {}\n")
    assert cli.main(["check", str(good)]) == 0
    bad = tmp_path / "bad"
    bad.write_text("#cloud-config\nkraken:\n  volumez: {}\n")
    assert cli.main(["check", str(bad)]) == 1
    captured = capsys.readouterr()
    assert "volumez" in captured.out + captured.err
    assert cli.main(["check", str(tmp_path / "none")]) == 1
    assert "none" in said(capsys)


def test_check_tells_mistakes_from_top_to_bottom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("#cloud-config\nkraken:\n  wait: 1h\n  volumez: {}\n")
    assert cli.main(["check", str(bad)]) == 1
    first, second, more = said(capsys).splitlines()
    assert [one.split(":")[1] for one in (first, second)] == ["3", "4"]
    assert more == "More: cc-kraken explain config-type config-unknown-key"


def test_check_of_several_files_and_of_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("#cloud-config\nkraken: {}\n")
    bad.write_text("nothing that is known\n")
    assert cli.main(["check", str(bad), str(good)]) == 1
    told = capsys.readouterr()
    assert f"{good}: the kraken section is right" in told.out
    assert "[user-data-form]" in told.err
    assert told.err.endswith(" More: cc-kraken explain user-data-form\n")
    mocker.patch("sys.stdin").buffer.read.return_value = good.read_bytes()
    assert cli.main(["check", "-"]) == 0
    assert "standard input: the kraken section is right" in capsys.readouterr().out


def test_no_entry_is_shown_with_the_marks_of_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["explain"]) == 0
    kinds = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert cli.main(["explain", *kinds]) == 0
    out = capsys.readouterr().out
    assert not re.findall(r"\*\*|(?<![\w=*`])\*\w[^*`]*\*(?!\w)", out)
    assert "Awaited" in out and "NodeId=*" in out


def test_a_reader_that_goes_away_gets_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it says fits into the buffer, so Python would write it as it ends."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "cc_kraken", "explain", "zone-other"]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_who_closes_standard_output_gets_the_exit_status(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """A health check: ``cc-kraken status >&-``."""
    write(tree, "background", "done", data=mounted(tree))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as Python has it then
    assert cli.main(["status", *words]) == 0
    write(tree, "background", "failed")
    assert cli.main(["status", *words]) == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["explain zone-other", "explain"])
def test_a_full_disk_below_standard_output_is_a_sentence(
    words: str, unbuffered: str
) -> None:
    """One fits into the buffer, the other does not."""
    argv = [sys.executable, "-m", "cc_kraken", *words.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            argv, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    found = "standard output cannot be written (No space left on device)"
    assert (done.returncode, done.stderr) == (1, f"cc-kraken: {found}\n")


def test_an_error_that_is_not_of_standard_output_is_a_fault(
    mocker: MockerFixture,
) -> None:
    mocker.patch("os.geteuid", side_effect=OSError(28, "full", "/some/file"))
    with pytest.raises(OSError):
        cli.main(["plan"])


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "zone-other", "[members-missing]"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("zone-other\n\nSee: ") and "\nDo: Launch the" in out
    assert "\nmembers-missing\n" in out
    assert not re.search(r"\*\*|\]\(", out)
    assert cli.main(["explain"]) == 0
    kinds = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    assert kinds == re.findall(r"^### (.+)$", page, re.M)
    assert cli.main(["explain", "[Zone-OTHER]"]) == 0
    assert capsys.readouterr().out.startswith("zone-other\n\nSee: ")
    assert cli.main(["explain", "ZONE-othr"]) == 1
    assert "[kind-unknown]" in (told := said(capsys)) and "zone-other?" in told


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_an_encoding_that_lacks_a_character_is_no_traceback(encoding: str) -> None:
    """LANG=de_DE on a machine of old: the page has an ellipsis."""
    words = [sys.executable, "-m", "cc_kraken", "explain", "volume-managed"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"vol-\\u2026" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str], tree: Tree) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"cc-kraken {VERSION}\n"
    assert Report(tree.paths, "apply").status["cc_kraken"] == VERSION


def test_completion_knows_every_command_and_option() -> None:
    """By bash itself; the words of zsh by the file."""
    folder = Path(__file__).parents[3] / "packaging/completion"
    zsh = (folder / "_cc-kraken").read_text()
    parser = cli._parser()
    (commands,) = [one for one in parser._actions if one.choices]
    assert isinstance(commands.choices, dict)
    for name, known in {"": parser, **commands.choices}.items():
        options = {one for each in known._actions for one in each.option_strings}
        wanted = {one for one in options if one.startswith("--")}
        words = f"cc-kraken {name} --".split()
        script = (
            f". {folder}/cc-kraken.bash; COMP_WORDS=({' '.join(words)}); "
            f"COMP_CWORD={len(words) - 1}; _cc_kraken; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert set(done.stdout.split()) == wanted, (name, done)
        for word in (name, *wanted - {"--help"}):
            assert word in zsh, word
    script = f". {folder}/cc-kraken.bash; COMP_WORDS=(cc-kraken ''); COMP_CWORD=1; "
    script += "_cc_kraken; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert set(commands.choices) <= set(done.stdout.split())


@pytest.mark.parametrize("word", ["", "fleet", "peers", "check", "enable", "apply"])
def test_help_fits_into_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*word.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_help_of_plan_tells_its_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    assert "1 where a set is refused" in capsys.readouterr().out


def test_wrong_usage() -> None:
    for words in ([], ["nonsense"], ["wait"], ["check"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2


def test_runs_are_for_root(
    tree: Tree, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch("os.geteuid", return_value=1000)
    for words in (["plan"], ["apply"], ["enable"], ["disable"]):
        assert cli.main(words) == 1
        assert "sudo" in said(capsys)
    assert report.read(tree.paths) is None
