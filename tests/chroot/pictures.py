"""The pictures of the documentation, from what the command prints:

    python -m tests.chroot.pictures DIRECTORY

A node in a chroot boots with volumes of the lab's EC2. The commands run on a
terminal, and what it shows becomes an SVG.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import ExitStack
from pathlib import Path

from tests.chroot import base
from tests.chroot.conftest import RELEASE, say
from tests.chroot.ec2 import Machine, api, cloud_config
from tests.chroot.node import ENVIRONMENT, Node
from tests.conftest import attach

COLUMNS, LINE, CHARACTER, MARGIN = 96, 20, 8.4, 16
#: Of SGR, the codes that the command uses: class in the picture.
CLASSES = {"1": "bold", "2": "soft", "31": "red", "32": "green", "33": "yellow"}
STYLE = """\
    .page { fill: #ffffff; stroke: #d0d7de }
    .text { fill: #1f2328 }
    .bold { fill: #1f2328; font-weight: bold }
    .soft { fill: #57606a }
    .red { fill: #cf222e }
    .green { fill: #116329 }
    .yellow { fill: #7d4e00 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d }
      .text { fill: #e6edf3 }
      .bold { fill: #e6edf3 }
      .soft { fill: #9da7b3 }
      .red { fill: #ff7b72 }
      .green { fill: #56d364 }
      .yellow { fill: #e3b341 }
    }"""

Cell = tuple[str, str]


def screen(shown: str, columns: int) -> list[list[Cell]]:
    """Lines of (character, classes), as a terminal of that width has them."""
    lines: list[list[Cell]] = [[]]
    classes = "text"
    for found in re.finditer(r"\x1b\[([\d;]*)m|(\r?\n)|(.)", shown):
        codes, newline, character = found.groups()
        if newline:
            lines.append([])
        elif character:
            if len(lines[-1]) == columns:
                lines.append([])
            lines[-1].append((character, classes))
        else:
            named = [
                CLASSES[code] for code in codes.split(";") if code not in ("", "0")
            ]
            classes = " ".join(named) or "text"
    while not lines[-1]:
        lines.pop()
    return lines


def runs(line: list[Cell]) -> list[tuple[int, str, str]]:
    """Column, text and classes of each stretch of a line."""
    found: list[tuple[int, str, str]] = []
    for column, (character, classes) in enumerate(line):
        if found and found[-1][2] == classes:
            found[-1] = (found[-1][0], found[-1][1] + character, classes)
        else:
            found.append((column, character, classes))
    return [one for one in found if one[1].strip()]


def svg(title: str, shown: str, columns: int = COLUMNS) -> str:
    """A picture of a terminal that shows this text (with SGR codes)."""
    lines = screen(shown, columns)
    width = round(columns * CHARACTER + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    words = "\n".join("".join(character for character, _ in line) for line in lines)
    made = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-labelledby="title desc"'
        ' font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">',
        f'  <title id="title">{html.escape(title)}</title>',
        f'  <desc id="desc">{html.escape(words)}</desc>',
        f"  <style>\n{STYLE}\n  </style>",
        f'  <rect class="page" x="0.5" y="0.5" width="{width - 1}"'
        f' height="{height - 1}" rx="10"/>',
    ]
    for number, line in enumerate(lines):
        y = MARGIN + number * LINE + 15
        for column, text, classes in runs(line):
            x = MARGIN + column * CHARACTER
            made.append(
                f'  <text class="{classes}" x="{x:.1f}" y="{y}" xml:space="preserve"'
                f' textLength="{len(text) * CHARACTER:.1f}">{html.escape(text)}</text>'
            )
    return "\n".join([*made, "</svg>\n"])


def typed(node: Node, *words: str) -> str:
    """The command, and what it shows on a terminal in the node."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    started = subprocess.Popen(
        [*node.enter, *words],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**ENVIRONMENT, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 1 << 16)
        except OSError:  # EIO: the other side has closed
            break
        if not more:
            break
        shown += more
    started.wait()
    os.close(ours)
    return f"\033[2m#\033[0m \033[1m{' '.join(words)}\033[0m\n{shown.decode()}"


class Nitro(Machine):
    """Its disks have the names that they have on EC2."""

    def plug(self, volume_id: str) -> str:
        file = self.account.backing(volume_id)
        device = attach(file)
        self._devices[volume_id] = device
        name = f"nvme{len(self._devices)}n1"
        self.node.plug(name, volume_id, device, file.stat().st_size)
        return device


def pictures() -> dict[str, str]:
    """Name and content of each picture."""
    lower = base.installed(RELEASE, say)
    section = cloud_config({"kraken": api(boot_wait=5, wait=5)})
    made = {}
    with ExitStack() as stack:
        node = stack.enter_context(Node(lower))
        machine = stack.enter_context(Nitro(node, section))
        machine.volume("log", FsType="ext4", MountPath="/krkn_log")
        machine.volume("data", FsType="xfs", MountPath="/krkn_data")
        machine.boot()
        shown = typed(node, "cc-kraken", "status")
        made["status.svg"] = svg("cc-kraken status: two sets are mounted", shown)
        for _ in range(2):
            machine.volume(
                "index", 2, RaidLevel="1", FsType="ext4", MountPath="/krkn_index"
            )
        shown = typed(node, "cc-kraken", "plan")
        made["plan.svg"] = svg("cc-kraken plan: what a run would do now", shown)
    with ExitStack() as stack:
        node = stack.enter_context(Node(lower))
        machine = stack.enter_context(Nitro(node, section))
        machine.volume("log", FsType="ext4", MountPath="/krkn_log")
        old = machine.volume("data", FsType="xfs", MountPath="/krkn_data")
        backing = machine.account.backing(old)
        subprocess.run(
            ["mkfs.btrfs", "-q", backing], check=True, stdout=subprocess.DEVNULL
        )
        machine.boot()
        shown = typed(node, "cc-kraken", "status")
        title = "cc-kraken status: a volume with other data on it is not formatted"
        made["refusal.svg"] = svg(title, shown)
    return made


def main() -> None:
    directory = Path(sys.argv[1])
    for name, content in pictures().items():
        (directory / name).write_text(content, encoding="utf-8")
        print(directory / name)


if __name__ == "__main__":
    main()
