"""Another program that brings volumes up (``PEER=``): a binary of the user's.

It is told what an instance is told, and nothing else: the metadata service, and
EC2 under its real name over TLS.  The instance is a little more like one of
EC2's for it: tokens of the metadata service are optional, and udev makes the
links that amazon-ec2-utils makes there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.cloud import CA_BUNDLE, Cloud, Node, krkn

HERE = Path(__file__).parent
#: kraken's tags, and goat's: the same names and values.
NAMESPACES = ("KRKN-IN", "GOAT-IN")
SECONDS = 600
KEPT_OUTPUT = 20_000
MARKER = ".bench-peer"

RULES = """\
ACTION=="remove", GOTO="ebs_end"
KERNEL!="nvme[0-9]*n[0-9]*", GOTO="ebs_end"
ENV{DEVTYPE}!="disk", GOTO="ebs_end"
ATTRS{serial}!="vol*", GOTO="ebs_end"
ATTRS{serial}=="vol*", \\
  SYMLINK+="disk/by-id/nvme-Amazon_Elastic_Block_Store_$attr{serial}"
PROGRAM="/usr/local/sbin/ebs-name %k", SYMLINK+="%c"
LABEL="ebs_end"
"""
# udev's programs have no network otherwise.
UDEV = "[Service]\nIPAddressAllow=169.254.0.0/16\n"


def tags(**values: object) -> dict[str, str]:
    """In the namespaces that peers read."""
    found: dict[str, str] = {}
    for namespace in NAMESPACES:
        found.update(krkn(namespace, **values))
    return found


def wait_attached(cloud: Cloud, volumes: Sequence[str]) -> None:
    """Until nothing is being attached any more."""

    def done() -> bool:
        return not any(
            one.state == "attaching"
            for volume in volumes
            for one in cloud.ec2.volume(volume).attachments
        )

    cloud.wait_for("the volumes to be attached", done, 300)


class Peer:
    """``words``: the path of the binary, and its arguments."""

    def __init__(self, words: str) -> None:
        self.path, *self.arguments = shlex.split(words) or [""]
        if not Path(self.path).is_file():
            raise ValueError(f"PEER: there is no file {self.path!r}")
        self.inside = f"/opt/peer/{Path(self.path).name}"

    def settle(self, cloud: Cloud, node: Node) -> None:
        """Bring it onto the instance, and make that ready for it."""
        node.know_real_name()
        rules = "/run/udev/rules.d/70-ec2-nvme-devices.rules"
        node.write_file(rules, RULES)
        node.write_file("/run/systemd/system/systemd-udevd.service.d/ebs.conf", UDEV)
        node.write_file("/usr/local/sbin/ebs-name", (HERE / "ebs-name.sh").read_text())
        script = (HERE / "peer_inside.py").read_text()
        node.write_file("/root/peer_inside.py", script)
        node.run(
            "chmod +x /usr/local/sbin/ebs-name && systemctl daemon-reload && "
            "systemctl restart systemd-udevd && mkdir -p /opt/peer /root/before && "
            "cp -a /etc/fstab /etc/mdadm/mdadm.conf /root/before/",
            check=True,
        )
        self._bring(cloud, node)

    def _bring(self, cloud: Cloud, node: Node) -> None:
        """By a volume: the agent's channel is slow, and it may be large."""
        content = Path(self.path).read_bytes()
        volume = cloud.volume(1 + (len(content) >> 30))
        with open(cloud.backing(volume), "r+b") as file:
            file.write(content)
        node.attach(volume)
        node.wait_for_disks(volume)
        disk = node.serials()[volume.replace("-", "")]
        node.run(
            f"head -c {len(content)} /dev/{disk} >{shlex.quote(self.inside)} && "
            f"chmod 755 {shlex.quote(self.inside)}",
            check=True,
        )
        wait_attached(cloud, [volume])
        node.detach(volume)
        node.wait_released(volume)
        cloud.ec2.delete_volume(volume)
        cloud.backing(volume).unlink()

    def run(self, node: Node, seconds: float = SECONDS) -> dict[str, Any]:
        """As a unit of systemd, so that nothing of it is left: its ``seconds``,
        ``cpu``, how it ``ended``, its ``output`` and the last line of that."""
        command = (
            "systemd-run --quiet --wait --pipe --collect --unit=bench-peer".split()
        )
        command += [f"--setenv=SSL_CERT_FILE={CA_BUNDLE}"]
        command += ["python3", "/root/peer_inside.py", str(seconds), "/run/peer.log"]
        command += [self.inside, *self.arguments]
        done = node.run(command, seconds + 120, True)
        told: dict[str, Any] = json.loads(done.out)
        output = node.run(["tail", "-c", str(KEPT_OUTPUT), "/run/peer.log"]).out
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return {**told, "said": lines[-1] if lines else "", "output": output}

    def standing(self, node: Node, path: str, type: str, volumes: Sequence[str]) -> str:
        """What is wrong with what is mounted at ``path``; "" if nothing is."""
        found = node.run(["findmnt", "-rno", "SOURCE,FSTYPE", "--mountpoint", path])
        if found.code:
            return "nothing is mounted"
        source, has = found.out.split()[:2]
        below = node.run(["lsblk", "-nrs", "-o", "SERIAL", source]).out.split()
        wanted = {volume.replace("-", "") for volume in volumes}
        if set(below) != wanted:
            there = len(set(below) & wanted)
            return f"on {there} of {len(wanted)} volumes, and {len(set(below))} in all"
        return "" if has == type else f"{has} instead of {type}"

    def judged(
        self, node: Node, kind: str, path: str, type: str, volumes: Sequence[str]
    ) -> str:
        """As ``standing``.  A first boot leaves a file there, which the next
        instance is to find."""
        wrong = self.standing(node, path, type, volumes)
        marker = f"{path}/{MARKER}"
        if not wrong and kind == "first boot":
            node.write_file(marker, " ".join(volumes))
        elif not wrong and node.run(["test", "-s", marker]).code:
            wrong = "the files of the first boot are gone"
        return wrong

    def clean(self, node: Node) -> None:
        """Away with what it has mounted, wherever, and what it has configured."""
        node.run(
            'awk \'$1 ~ "^/dev/" && $2 != "/" {print $2}\' /proc/mounts | tac | '
            'while read -r path; do umount "$path"; done; rm -f /etc/mdadm.conf; '
            "cp -a /root/before/fstab /etc/; cp -a /root/before/mdadm.conf /etc/mdadm/"
        )
