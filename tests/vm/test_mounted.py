"""A set that is mounted, and is not what one sees at its path: what cloud-init,
``cc-kraken wait`` and a service that needs the set do, over a boot."""

from __future__ import annotations

import time

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

TAGS = krkn(prefix=nodes.PREFIX, node_id=5)
SERVICE = """\
[Unit]
Description=needs the set {name}
Requires=cc-kraken@{name}.service
After=cc-kraken@{name}.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo {name} >> {path}/written'

[Install]
WantedBy=multi-user.target
"""


def enable(node: Node, **paths: str) -> None:
    """A service for each set, which writes where it thinks that the set is."""
    for name, path in paths.items():
        unit = f"needs-{name}.service"
        text = SERVICE.format(name=name, path=path)
        node.write_file(f"/etc/systemd/system/{unit}", text)
        node.run(["systemctl", "enable", unit], check=True)


def looked(node: Node, when: str, **paths: str) -> dict[str, tuple[int, str, str]]:
    """What is told and done of each set: exit status of ``cc-kraken wait``, state of
    the service, serial of the disk that one sees at the path."""
    end = time.monotonic() + 300
    while "No jobs" not in node.run("systemctl list-jobs").out:
        assert time.monotonic() < end
        time.sleep(1)
    told = node.run(["cloud-init", "status"])
    nodes.log(f"---- {when}")
    nodes.log(f"cloud-init status: {told.out.strip()} (exit status {told.code})")
    names = {name: serial for serial, name in node.serials().items()}
    found = {}
    for name, path in paths.items():
        waited = node.run(["cc-kraken", "wait", name], timeout=120)
        unit = f"needs-{name}.service"
        active = node.run(["systemctl", "is-active", unit]).out.strip()
        source = node.run(f"findmnt -n -o SOURCE --mountpoint {path}").out.strip()
        serial = names.get(source.replace("/dev/", ""), "")
        nodes.log(f"{path}: {source} ({serial})")
        nodes.log(f"cc-kraken wait {name}: {waited.code} {waited.err.strip()}")
        nodes.log(f"{unit}: {active}")
        found[name] = (waited.code, active, serial)
    return found


def written(node: Node, path: str) -> str:
    """Which services have written there; it is emptied."""
    return node.run(f"cat {path}/written; rm -f {path}/written").out.strip()


def errors(node: Node) -> dict[str, str]:
    entries = nodes.status(node)["sets"].items()
    return {name: entry["error"]["kind"] for name, entry in entries if entry["error"]}


def serial(volume: str) -> str:
    return volume.replace("-", "")


def reboot(node: Node) -> bool:
    """Whether cloud-init was content."""
    nodes.patient(node)
    node.reboot()
    return node.wait_ready()["result"]["errors"] == []


def test_a_parent_that_comes_late() -> None:
    sets = {"pg": "/pg", "wal": "/pg/wal"}
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        wal, pg = (
            cloud.volume(1, nodes.set_tags(5, name, fs_type="ext4", mount_path=path))
            for name, path in (("wal", "/pg/wal"), ("pg", "/pg"))
        )
        cloud.ec2.untag(pg, "KRKN-IN:NodeId")
        node = cloud.launch(TAGS, cloud.config({"boot_wait": 120}))
        assert node.wait_ready()["result"]["errors"] == []
        node.attach(pg, "/dev/xvdp")
        node.wait_for_disks(pg)
        disk = node.serials()[serial(pg)]
        node.run(["mkfs.ext4", "-q", f"/dev/{disk}"], check=True)
        enable(node, **sets)

        cloud.ec2.tag(pg, TAGS)
        applied = node.run(["cc-kraken", "apply", "--wait", "20"], timeout=300)
        nodes.log(f"cc-kraken apply: {applied.code} {applied.err.strip()}")
        assert (applied.code, errors(node)) == (1, {"pg": "mounts-below"})
        node.run("systemctl start needs-pg needs-wal", timeout=120)
        wrong = {"pg": (1, "inactive", ""), "wal": (0, "active", serial(wal))}
        assert looked(node, "after the tags of pg came", **sets) == wrong
        assert not reboot(node)
        assert looked(node, "after a reboot", **sets) == wrong
        assert errors(node) == {"pg": "mounts-below"}
        assert written(node, "/pg/wal").split() == ["wal", "wal"]
        assert node.run("ls /pg/written").code != 0
        nodes.write_file(node, "/pg/wal/segment", "precious")

        # As the error says.
        node.run("systemctl stop needs-wal; umount /pg/wal", check=True)
        node.run("cc-kraken apply", check=True, timeout=300)
        right = {"pg": (0, "active", serial(pg)), "wal": (0, "active", serial(wal))}
        node.run("systemctl start needs-pg needs-wal", check=True, timeout=120)
        assert looked(node, "after umount and apply", **sets) == right
        assert reboot(node)
        assert looked(node, "after the next reboot", **sets) == right
        assert node.read_file("/pg/wal/segment") == "precious"
        assert "ordering cycle" not in node.journal()


def test_sets_that_fstab_mounts_at_each_other_s_path() -> None:
    sets = {"one": "/one", "two": "/two"}
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        volumes = {
            name: cloud.volume(
                1, nodes.set_tags(5, name, fs_type="ext4", mount_path=path)
            )
            for name, path in sets.items()
        }
        right = {name: (0, "active", serial(one)) for name, one in volumes.items()}
        node = cloud.launch(TAGS, cloud.config({"boot_wait": 120}))
        assert node.wait_ready()["result"]["errors"] == []
        ours = node.read_file("/etc/fstab")
        enable(node, **sets)

        for _ in range(4):
            # Kernel names may come out otherwise; then once more.
            swap_lines(node, ours, volumes)
            content = reboot(node)
            found = looked(node, "after a reboot with kernel names in fstab", **sets)
            if found["one"][2] == serial(volumes["two"]):
                break
        assert not content
        assert found == {
            "one": (1, "inactive", serial(volumes["two"])),
            "two": (1, "inactive", serial(volumes["one"])),
        }
        assert errors(node) == dict.fromkeys(sets, "mounted-elsewhere")
        for path in sets.values():
            assert node.run(f"ls {path}/written").code != 0, "nobody has written"
        lines = node.read_file("/etc/fstab")
        nodes.log(lines)
        assert "/dev/nvme" not in lines and lines.count("X-kraken.set=") == 2

        assert reboot(node)
        assert looked(node, "after the next reboot", **sets) == right
        assert [written(node, path) for path in sets.values()] == list(sets)


def swap_lines(node: Node, ours: str, volumes: dict[str, str]) -> None:
    kept = [line for line in ours.splitlines() if "X-kraken.set=" not in line]
    names = node.serials()
    for name, path in (("one", "/two"), ("two", "/one")):
        kept.append(f"/dev/{names[serial(volumes[name])]} {path} ext4 nofail 0 0")
    node.write_file("/etc/fstab", "\n".join(kept) + "\n")
