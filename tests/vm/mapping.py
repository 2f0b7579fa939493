"""Runs inside an instance: cc-kraken on volumes that have device-mapper below
them.

``python3 mapping.py CASE.json``: ``section``, and ``tables``: volume id to the
lines of a dmsetup table, in which DEV stands for the volume's own disk.  The
mapped device takes the place of the disk in a copy of /sys/block that the
module is shown; all the rest is the machine's.  A dry run, then a run; prints
their status, one JSON line each.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

SECTION = "/etc/cc-kraken/conf.d/50-lab.yaml"
STATUS = "/run/cc-kraken/status.json"


def run(*argv: str, text: str = "") -> str:
    done = subprocess.run(
        argv, input=text, stdout=subprocess.PIPE, check=True, universal_newlines=True
    )
    return done.stdout.strip()


def disks() -> dict[str, str]:
    """Serial to kernel name."""
    found = {}
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/device/serial") as file:
                found[file.read().strip()] = name
        except OSError:
            continue
    return found


#: Of what is below a mapped device, which is to look like a disk.
BELOW = ("device", "dm", "slaves")


def shown(copy: str, mapped: dict[str, str], names: dict[str, str]) -> None:
    """Fill ``copy``, a /sys: the machine's, with ``mapped`` (volume id to name
    of the mapped device) instead of their disks."""
    block, numbers = f"{copy}/block", f"{copy}/dev/block"
    os.mkdir(block)
    os.makedirs(numbers)
    hidden = {names[volume.replace("-", "")] for volume in mapped}
    for name in set(os.listdir("/sys/block")) - hidden - set(mapped.values()):
        os.symlink(f"/sys/block/{name}", f"{block}/{name}")
    for volume, name in mapped.items():
        os.makedirs(f"{block}/{name}/device")
        for entry in os.listdir(f"/sys/block/{name}"):
            if entry not in BELOW:
                os.symlink(f"/sys/block/{name}/{entry}", f"{block}/{name}/{entry}")
        with open(f"{block}/{name}/device/serial", "w") as file:
            file.write(volume.replace("-", "") + "\n")
    for number in os.listdir("/sys/dev/block"):
        place = os.path.realpath(f"/sys/dev/block/{number}")
        name = os.path.basename(place)
        ours = name in mapped.values()
        os.symlink(f"{block}/{name}" if ours else place, f"{numbers}/{number}")


def play(arguments: list[str], sys_directory: str) -> Any:
    """One run in a process of its own; its status."""
    with tempfile.TemporaryFile("w+") as out:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            from cc_kraken import cli
            from cc_kraken.machine.paths import Paths

            cli.Paths = functools.partial(Paths, sys=sys_directory)  # type: ignore
            code = cli.main(arguments)
            sys.stdout.flush()
            os._exit(code)
        os.waitpid(pid, 0)
        if arguments[0] == "apply":
            with open(STATUS) as file:
                return json.load(file)
        out.seek(0)
        return json.load(out)


def main() -> None:
    with open(sys.argv[1]) as file:
        case = json.load(file)
    with open(SECTION, "w") as file:
        json.dump({"kraken": case["section"]}, file)
    names = disks()
    mapped = {}
    for number, (volume, lines) in enumerate(sorted(case["tables"].items())):
        disk = f"/dev/{names[volume.replace('-', '')]}"
        table = "\n".join(lines).replace("DEV", disk)
        run("dmsetup", "create", f"lab{number}", text=table)
        minor = run(
            "dmsetup", "info", "-c", "--noheadings", "-o", "minor", f"lab{number}"
        )
        mapped[volume] = f"dm-{minor}"
    run("udevadm", "settle")
    with tempfile.TemporaryDirectory() as copy:
        shown(copy, mapped, names)
        for arguments in (["plan", "--json"], ["apply"]):
            print(json.dumps(play(arguments, copy)), flush=True)
    subprocess.call("umount /c/* 2>/dev/null; mdadm --stop --scan 2>/dev/null",
                    shell=True)  # fmt: skip
    for number in range(len(mapped)):
        run("dmsetup", "remove", "--retry", f"lab{number}")


if __name__ == "__main__":
    main()
