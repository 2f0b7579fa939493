"""What cloud-init says of the module, printed: ``python3 -m tests.chroot.shown
bookworm``.  The outputs in docs/reference/cloud-init.md are this program's."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chroot import base
from tests.chroot.ec2 import Machine, api, cloud_config
from tests.chroot.node import Node
from tests.lab.image import LabError, ended_by_signals

RIGHT = {"kraken": api(volumes={"data": {"fs_type": "xfs"}})}
WRONG = {"kraken": api(volumes={"data": {"raid_level": 3}}, volmes={})}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(node: Node, *argv: str) -> None:
    """A command as at a prompt: its output, and its exit status."""
    done = node.run(*argv)
    print(f"# {' '.join(argv)}")
    for text in (done.out, done.err):
        if text.strip():
            print(text.strip("\n"))
    print(f"[exit status {done.code}]\n", flush=True)


def booted(layers: tuple[Path, ...], content: dict[str, object]) -> None:
    text = cloud_config(content)
    with Node(layers) as node, Machine(node, text) as machine:
        machine.volume("data", MountPath="/krkn_data")
        machine.boot()
        node.write("/root/user-data", text)
        show(node, "cloud-init", "status", "--long")
        show(node, "cloud-init", "schema", "--system")
        show(node, "cloud-init", "schema", "--config-file", "/root/user-data")
        show(node, "cc-kraken", "check", "/root/user-data")
        show(node, "cc-kraken", "status")
        if content is RIGHT:
            show(node, "cc-kraken", "plan")
            show(node, "cloud-init", "analyze", "show")
            show(node, "findmnt", "-o", "TARGET,FSTYPE,OPTIONS", "/krkn_data")


def package_life(release: str) -> None:
    """The file system before the installation, with the package, after its
    removal, and after purge."""
    left_out = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/")
    left_out += ("/etc/ld.so.cache",)
    with Node((base.tree(release, say),)) as node:
        before = node.listing(*left_out)
        now = before

        def difference(what: str) -> None:
            nonlocal now
            last, now = now, node.listing(*left_out)
            print(f"# {what}: {len(now)} files and directories")
            for line in changes(last, now):
                print(line)
            print(flush=True)

        difference("before the installation")
        base.install(node, base.image.package(progress=say))
        difference("installed")
        node.run("apt-get", "-q", "-y", "remove", "cloud-init-kraken", check=True)
        difference("removed")
        node.run("apt-get", "-q", "-y", "purge", "cloud-init-kraken", check=True)
        difference("purged")
        same = "as before" if now == before else "NOT as before"
        print(f"The file system is {same} the installation.\n")


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is new, gone or changed; a directory with its files is one line."""
    lines = []
    for sign, whole, other in (("+", after, before), ("-", before, after)):
        paths = set(whole) - set(other)
        for path in paths:
            if any(str(parent) in paths for parent in Path(path).parents):
                continue
            below = sum(1 for one in paths if one.startswith(f"{path}/"))
            more = f" (and {below} below it)" if below else ""
            lines.append(f"{path}\0{sign} {path}{more}")
    both = set(before) & set(after)
    lines += [f"{path}\0~ {path}" for path in both if before[path] != after[path]]
    return [line.partition("\0")[2] for line in sorted(lines)]


def main(releases: list[str]) -> int:
    try:
        with ended_by_signals():
            for release in releases or ["bookworm"]:
                layers = base.installed(release, say)
                with Node(layers) as node:
                    version = node.run("cloud-init", "--version")
                    python = node.run("python3", "--version").out
                    number = (version.out + version.err).split()[-1]
                    print(f"== {release}: cloud-init {number}, {python}")
                print(f"-- {release}: a right section\n")
                booted(layers, RIGHT)
                print(f"-- {release}: a wrong section\n")
                booted(layers, WRONG)
                print(f"-- {release}: the package\n")
                package_life(release)
    except LabError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
