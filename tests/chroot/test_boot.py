"""Boots on EC2 and elsewhere: what cloud-init says of a right and of a wrong
section, and every way in which a section gets here."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.chroot.conftest import RELEASE, Launch
from tests.chroot.ec2 import Machine, api, cloud_config
from tests.chroot.node import Node
from tests.conftest import soon

Machines = Callable[..., Machine]

#: cloud-init's schema knows every key of the top level since 23.4.
STRICT = RELEASE in ("trixie", "sid")


def booted(machine: Machine) -> None:
    """Boot, and assert that cloud-init has nothing to complain of."""
    done = machine.boot()
    assert [str(one) for one in done.values() if one.code] == [], machine.node.status()[
        "text"
    ]
    clean(machine.node)


def clean(node: Node) -> None:
    status = node.status()
    assert node.complaints() == []
    assert status["status"] == "done" and status["code"] == 0, status
    assert status["errors"] == []
    if STRICT:
        assert status["extended_status"] == "done"
        assert status["recoverable_errors"] == {}


def states(machine: Machine) -> dict[str, str]:
    return {name: entry["state"] for name, entry in machine.result["sets"].items()}


def section(**more: Any) -> str:
    """User-data with a kraken section."""
    return cloud_config({"kraken": api(**more)})


# ------------------------------------------------------------- clean status


def test_a_section_in_user_data_ends_in_a_clean_boot(machine: Machines) -> None:
    made = machine(section(volumes={"data": {"fs_type": "xfs"}}))
    made.volume("data", MountPath="/data")
    booted(made)
    assert states(made) == {"data": "mounted"}
    assert list(made.node.disks()) == ["/data"]
    node = made.node
    assert "x-kraken.set=data" in node.read("/etc/fstab").lower()
    system = node.run("cloud-init", "schema", "--system")
    assert system.code == 0, system
    shown = node.run("cloud-init", "analyze", "show", check=True).out
    for phase in ("identify", "attach", "assemble", "mkfs", "mount"):
        assert f"->{phase} " in shown
    assert "kraken" in node.run("cloud-init", "analyze", "blame", check=True).out
    print(RELEASE, json.dumps(node.status(), default=str))
    print(shown)


def test_a_second_boot_is_as_clean_and_asks_nothing(machine: Machines) -> None:
    made = machine(section(volumes={"data": {}}))
    made.volume("data", MountPath="/data", FsType="ext4")
    booted(made)
    made.node.restart()
    asked = made.lab.calls.mark()
    booted(made)
    assert states(made) == {"data": "mounted"}
    assert made.lab.calls.since(asked) == []


def test_another_cloud_is_left_alone(launch: Launch) -> None:
    node = launch(cloud_config({"kraken": {"prefix": "kafka", "volumes": {}}}))
    node.boot()
    clean(node)
    assert not node.exists("/run/cc-kraken")


def test_without_a_section_there_is_silence(machine: Machines) -> None:
    made = machine("#cloud-config\n{}\n")
    booted(made)
    assert len(made.lab.calls) == 0
    assert not made.node.exists("/run/cc-kraken")
    assert not made.node.exists("/var/lib/cc-kraken/layout.json")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"volmes": {}}, "volmes"),
    "value": ({"volumes": {"data": {"raid_level": 3}}}, "raid_level"),
    "type": ({"boot_wait": "long"}, "boot_wait"),
}


@pytest.mark.parametrize("wrong", soon(["unknown"], WRONG))
def test_a_wrong_section_is_refused_before_anything_is_touched(
    machine: Machines, wrong: str
) -> None:
    content, name = WRONG[wrong]
    made = machine(cloud_config({"kraken": {**api(), **content}}))
    made.volume("data", MountPath="/data", FsType="ext4")
    made.boot()
    assert len(made.lab.calls) == 0
    assert made.node.disks() == {}
    status = made.node.status()
    assert status["status"] == "error" and status["code"] == 1
    (error,) = status["errors"]
    assert name in str(error) and "Traceback" not in str(error)
    assert "RuntimeError" not in status["text"]
    assert status["text"].count("[config-") == 1, "said once"
    assert "More: cc-kraken explain config-" in str(error)
    lines = [line for line in made.node.log.splitlines() if name in line]
    assert any("kraken" in line for line in lines)
    system = made.node.run("cloud-init", "schema", "--system")
    # Before 23.4 it names the mistake as well: the key is in the schema.
    assert system.code == 1 and name in system.out + system.err, system


@pytest.mark.parametrize("wrong", WRONG)
def test_the_usual_command_names_the_mistake(launch: Launch, wrong: str) -> None:
    content, name = WRONG[wrong]
    node = launch()
    node.write("/tmp/right.yaml", section(volumes={"data": {"raid_level": 0}}))
    right = node.run("cloud-init", "schema", "--config-file", "/tmp/right.yaml")
    assert right.code == 0 and "alid" in right.out, right
    node.write("/tmp/wrong.yaml", cloud_config({"kraken": content}))
    told = node.run("cloud-init", "schema", "--config-file", "/tmp/wrong.yaml")
    assert told.code == 1 and name in told.out + told.err, told
    ours = node.run("cc-kraken", "check", "/tmp/wrong.yaml")
    assert ours.code == 1 and name in ours.err, ours
    print(RELEASE, right, told, ours, sep="\n")


def test_no_schema_leaves_the_warning(launch: Launch) -> None:
    node = launch(cloud_config({"kraken": {}}))
    node.run("cc-kraken", "enable", "--no-schema", check=True)
    node.boot()
    status = node.status()
    assert status["status"] == "done"
    assert bool(node.complaints()) is STRICT
    assert status["code"] == (2 if STRICT else 0)


JINJA = """\
## template: jinja
#cloud-config
kraken:
  volumes:
    data:
      mount_path: /in-{{ v1.region }}
      fstype: xfs
"""
MERGED = """\
merge_how:
- name: dict
  settings: [no_replace, recurse_dict]
"""


def test_what_people_look_at(machine: Machines) -> None:
    """After a boot that failed, and before one."""
    made = machine(section(volumes={"data": {}, "log": {}}))
    made.volume("data", FsType="ext4", MountPath="/data")
    log = made.volume("log", FsType="ext4", MountPath="/log")
    with open(made.account.backing(log), "r+b") as disk:
        disk.write(b"what nobody knows" * 300)
    made.boot()
    node = made.node
    assert node.status()["status"] == "error"
    status = node.run("cc-kraken", "status")
    assert re.search(r"^data +mounted +/data +ext4 +/dev/\S+ +vol-", status.out, re.M)
    assert re.search(rf"^log +failed .*{log}$", status.out, re.M)
    assert re.search(rf"^error: log: .*{log}", status.out, re.M), status
    told = json.loads(node.run("cc-kraken", "status", "--json").out)
    assert told["sets"]["data"]["state"] == "mounted"
    made.volume("more", FsType="xfs", MountPath="/more")
    plan = node.run("cc-kraken", "plan")
    assert "more:\n  1. attach" in plan.out and "log:\n  refused" in plan.out, plan
    assert list(node.disks()) == ["/data"], "nothing was changed"

    node.write("/tmp/jinja.yaml", JINJA)
    wrong = node.run("cc-kraken", "check", "/tmp/jinja.yaml")
    assert wrong.code == 1 and "/tmp/jinja.yaml:7: " in wrong.err, wrong
    assert "fstype" in wrong.err and "fs_type" in wrong.err
    parts = multipart(section(), JINJA)
    node.write("/tmp/parts", parts)
    wrong = node.run("cc-kraken", "check", "/tmp/parts")
    line = 1 + parts.splitlines().index("      fstype: xfs")
    assert wrong.code == 1 and f"-002):{line}: " in wrong.err, wrong
    assert "replaces that of /tmp/parts (part-001) as a whole" in wrong.err, wrong
    merged = JINJA.replace("fstype", "fs_type") + MERGED
    node.write("/tmp/parts", multipart(section(), merged))
    right = node.run("cc-kraken", "check", "/tmp/parts")
    assert right.code == 0, right


# -------------------------------------------------------------- the ways in


def test_the_defaults_of_an_image(machine: Machines) -> None:
    made = machine("#cloud-config\n{}\n")
    made.api_in_image({"volumes": {"data": {"mount_path": "/image", "label": "one"}}})
    made.volume("data", FsType="ext4")
    booted(made)
    assert list(made.node.disks()) == ["/image"]


def test_user_data_on_top_of_an_image(machine: Machines) -> None:
    made = machine(
        cloud_config({"kraken": {"volumes": {"data": {"mount_path": "/mine"}}}})
    )
    below = {"data": {"mount_path": "/image", "fs_type": "ext4"}, "log": {}}
    made.api_in_image({"volumes": below})
    made.volume("data")
    made.volume("log", FsType="xfs", MountPath="/log")
    booted(made)
    # Key by key: one path is another, what the image says else holds.
    assert sorted(made.node.disks()) == ["/log", "/mine"]


def test_switched_off_by_user_data(machine: Machines) -> None:
    made = machine(cloud_config({"kraken": {"enabled": False}}))
    made.api_in_image({"volumes": {"data": {}}})
    made.volume("data", FsType="ext4", MountPath="/data")
    booted(made)
    assert len(made.lab.calls) == 0
    assert made.result["state"] == "off"


def test_files_of_ours_and_one_that_write_files_makes(machine: Machines) -> None:
    filled = {"kraken": {"volumes": {"data": {"mount_path": "/filled"}}}}
    files = [
        {
            "path": "/var/lib/cloud/instance/kraken.d/10-node.yaml",
            "content": yaml.safe_dump(filled),
        }
    ]
    made = machine(cloud_config({"write_files": files}))
    image = {"kraken": {**api(), "volumes": {"data": {"fs_type": "xfs"}}}}
    image["kraken"]["volumes"]["data"]["mount_path"] = "/image"
    made.node.write("/etc/cc-kraken/conf.d/image.yaml", yaml.safe_dump(image))
    made.volume("data")
    booted(made)
    assert list(made.node.disks()) == ["/filled"]
    assert made.result["sets"]["data"]["filesystem"]["type"] == "xfs"


def test_changed_user_data_after_stop_and_start(machine: Machines) -> None:
    made = machine(section(volumes={"data": {}}))
    made.volume("data", FsType="ext4", MountPath="/data")
    made.volume("log", FsType="ext4", MountPath="/log")
    made.seed(section(enabled=False))
    booted(made)
    assert made.node.disks() == {}
    made.node.restart()
    made.seed(section(volumes={"data": {}, "log": {"mount_path": "/changed"}}))
    booted(made)
    assert sorted(made.node.disks()) == ["/changed", "/data"]


def test_a_late_instance_profile_is_awaited_and_named(machine: Machines) -> None:
    """The network stage waits for it; a person who looks is told."""
    made = machine(section(volumes={"data": {}}))
    made.volume("data", FsType="ext4", MountPath="/data")
    made.metadata.change(role="")
    seen: list[str] = []

    def look() -> None:
        while not seen:
            told = made.node.run("cc-kraken", "status")
            if "waiting: " in told.out:
                seen.append(told.out)
            time.sleep(0.2)
        made.metadata.change(role="kraken-node")

    person = threading.Thread(target=look, daemon=True)
    person.start()
    booted(made)
    person.join()
    assert states(made) == {"data": "mounted"}
    assert "waiting: [credentials-missing] There are no AWS credentials" in seen[0]
    assert "Give the instance a profile" in seen[0]
    assert "(awaited since " in seen[0] and " until " in seen[0]
    print(seen[0])


def test_the_command_is_not_mute(machine: Machines) -> None:
    """The import of cloud-init 22.4 takes the handlers of logging away."""
    made = machine("#cloud-config\n{}\n")
    booted(made)
    made.api_in_image()
    made.volume("data", FsType="ext4", MountPath="/data")
    for words in (["--debug", "apply"], ["apply"], ["apply", "--background"]):
        done = made.node.run("cc-kraken", *words)
        print(done)
        assert done.code == 0, done
        assert done.out == "cc-kraken: done: data is mounted at /data\n"
        assert "node kafka/0" in done.err
        assert ("DEBUG: " in done.err) is ("--debug" in words)
        assert "yaml" not in done.err.lower()


@pytest.mark.parametrize("name", soon(["kraken"], ["kraken", "cc_kraken"]))
def test_by_hand(machine: Machines, name: str) -> None:
    made = machine("#cloud-config\n{}\n")
    booted(made)
    made.api_in_image({"volumes": {"data": {}}})
    made.volume("data", FsType="ext4", MountPath="/data")
    single = ("cloud-init", "single", "--name", name, "--frequency", "always")
    done = made.node.run(*single)
    assert done.code == 0, done
    assert list(made.node.disks()) == ["/data"]
    assert made.result["stage"] == "single"
    again = made.node.run(*single, "--report")
    assert again.code == 0, again
    clean(made.node)


def test_by_hand_with_a_failure(machine: Machines) -> None:
    made = machine("#cloud-config\n{}\n")
    booted(made)
    made.api_in_image({"boot_wait": 2, "volumes": {"data": {}}})
    done = made.node.run(
        "cloud-init", "single", "--name", "kraken", "--frequency", "always"
    )
    assert done.code == 1, done


# ------------------------------------------------------------ merge rules


def multipart(*parts: str) -> str:
    """User-data of several parts (MIME), in order."""
    border = "kraken-parts"
    text = f'Content-Type: multipart/mixed; boundary="{border}"\nMIME-Version: 1.0\n'
    for part in parts:
        kind = "text/jinja2" if part.startswith("## template") else "text/cloud-config"
        text += f"\n--{border}\nContent-Type: {kind}; charset=utf-8\n\n{part}\n"
    return f"{text}\n--{border}--\n"


ONE = {"data": {"mount_path": "/one", "fs_type": "xfs", "members": 1}}
TWO = {"data": {"mount_path": "/two", "members": 2}}
MERGE_HOW = "dict(no_replace,recurse_dict,recurse_str)+list()+str()"


def merged(node: Node) -> Any:
    """The section as cloud-init merged it of all parts of the user-data."""
    text = node.read("/var/lib/cloud/instance/cloud-config.txt")
    return yaml.safe_load(text)["kraken"]


def test_a_later_part_replaces_the_whole_section(machine: Machines) -> None:
    later = {"kraken": {"volumes": {"data": {"mount_path": "/two"}}}}
    made = machine(multipart(section(volumes=ONE), cloud_config(later)))
    made.api_in_image({"volumes": {"data": {"fs_type": "ext4"}}})
    made.volume("data")
    booted(made)
    assert merged(made.node) == later["kraken"]
    # The image is another matter: key by key.
    assert list(made.node.disks()) == ["/two"]
    assert made.result["sets"]["data"]["filesystem"]["type"] == "ext4"


def test_merge_how_in_the_later_part_merges(machine: Machines) -> None:
    later = cloud_config({"merge_how": MERGE_HOW, "kraken": {"volumes": TWO}})
    made = machine(multipart(section(volumes=ONE), later))
    made.volume("data")
    booted(made)
    # As documented: strings of the later part, numbers of the earlier.
    assert merged(made.node)["volumes"] == {
        "data": {"mount_path": "/two", "fs_type": "xfs", "members": 1}
    }
    assert list(made.node.disks()) == ["/two"]


def test_a_template_in_user_data(machine: Machines) -> None:
    text = section(volumes={"data": {"mount_path": "/in-{{ v1.region }}"}})
    made = machine(f"## template: jinja\n{text}")
    made.volume("data", FsType="ext4")
    booted(made)
    assert list(made.node.disks()) == ["/in-us-east-1"]


def test_a_template_in_the_image(machine: Machines) -> None:
    made = machine("#cloud-config\n{}\n")
    made.api_in_image()
    text = yaml.safe_dump(
        {"kraken": {"volumes": {"data": {"mount_path": "/in-{{ v1.region }}"}}}}
    )
    made.node.write("/etc/cloud/cloud.cfg.d/97_node.cfg", f"## template: jinja\n{text}")
    made.volume("data", FsType="ext4")
    booted(made)
    assert list(made.node.disks()) == ["/in-us-east-1"]


# ------------------------------------------------------------- the log


def test_no_secret_in_the_log(machine: Machines) -> None:
    made = machine(section(volumes={"data": {}}))
    made.volume("data", FsType="ext4", MountPath="/data")
    booted(made)
    keys = made.lab.credentials(made.id)
    everywhere = made.node.log + made.node.read("/var/log/cloud-init-output.log")
    assert "DEBUG" in everywhere
    for name in ("AccessKeyId", "SecretAccessKey", "Token"):
        assert keys[name] not in everywhere
    for word in ("AWS4-HMAC", "Signature=", "x-amz-security-token", "botocore"):
        assert word.lower() not in everywhere.lower()
