"""The stages of many releases of cloud-init, as each distribution lists them.

    python -m tests.chroot.distros [--docs] [--on RELEASE] [--python PREFIX]
                                   [--variants NAME,…] [TREE …]

A TREE is a source tree of cloud-init's. It takes the place of the one in the chroot
(``--on``; bullseye, for Python 3.9, unless said otherwise), with each distribution's
cloud.cfg as the tree renders it.  ``--python``: an installation of Python that takes
the place of Debian's.  Without a tree: what Debian itself packages.

Each boot is held against one of the same machine without us: complaints that the tree
has about its own files do not count.

Prints a row for each, and puts it into docs/reference/distributions.md with
``--docs``.  A cell is "yes", or what went wrong.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.chroot import base
from tests.chroot.ec2 import Machine, api, cloud_config
from tests.chroot.node import Node
from tests.lab.image import SOURCE, LabError, ended_by_signals

DOCS = SOURCE / "docs" / "reference" / "distributions.md"
VARIANTS = ("amazon", "rhel", "centos", "rhel8", "suse", "ubuntu", "debian")
RPM = ("amazon", "rhel", "centos", "rhel8", "suse")
PACKAGED = ("bookworm", "trixie", "sid")
OLDEST = "bullseye"
#: bullseye's own is older than 1.26; this is Amazon Linux 2023's.
BOTO3 = {"bullseye": ("boto3==1.33.6", "urllib3<1.27")}
CHECKS = (
    *("found", "called", "lists", "schema", "status", "mounts", "second boot"),
    *("single", "analyze", "disable", "enable"),
)
HEAD = ("cloud-init", "lists of", "Python", "boto3", "run on", *CHECKS)

SITE = "usr/lib/python3/dist-packages"
LISTS = ("cloud_init_modules", "cloud_config_modules", "cloud_final_modules")
PLACED = ("cloud_init_modules", "cloud_final_modules")
ENTRY = ["kraken", "always"]
RIGHT = {"kraken": api(volumes={"data": {"fs_type": "xfs"}})}
WRONG = {"kraken": api(volmes={})}
FOUND = """
import importlib.util  # which the importer of 22.3 takes for granted
from cloudinit import importer
print(importer.find_module("cc_kraken", ["", "cloudinit.config"], ["handle"])[0][0])
"""
MERGED = """
import json, sys
from cloudinit import util
cfg = util.read_conf_with_confd("/etc/cloud/cloud.cfg")
print(json.dumps({key: cfg.get(key) for key in sys.argv[1:]}))
"""
VERSIONS = """
import json, platform, boto3
from cloudinit import version
print(json.dumps([version.version_string(), platform.python_version(),
                  boto3.__version__]))
"""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ file systems


@contextmanager
def unpacked(
    tree: Path, release: str, python: Path | None
) -> Iterator[tuple[Path, ...]]:
    """Lower directories of the release with that cloud-init, and our files."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distros-")))
        upper, work = home / "upper", home / "work"
        upper.mkdir()
        work.mkdir()
        lower = (base.tree(release, say),)
        with Node(lower, upper=upper, work=work) as node:
            _place(node, tree)
            if python is not None:
                _replace_python(node, python)
            elif release in BOTO3:
                _add_boto3(node, *BOTO3[release])
            _install_ours(node)
        yield (upper, *lower)


def _place(node: Node, tree: Path) -> None:
    """Instead of the package's: the tree's modules, templates and command."""
    node.run("rm", "-rf", f"/{SITE}/cloudinit", "/etc/cloud/templates", check=True)
    node.run("rm", "-f", "/etc/cloud/cloud.cfg.d/05_logging.cfg", check=True)
    shutil.copytree(tree / "cloudinit", node.path(f"/{SITE}/cloudinit"))
    shutil.copytree(tree / "templates", node.path("/etc/cloud/templates"))
    for part in ("cloudinit", "config", "tools"):
        shutil.copytree(tree / part, node.path("/srv/cloud-init") / part, symlinks=True)
    logging = tree / "config" / "cloud.cfg.d" / "05_logging.cfg"
    node.write("/etc/cloud/cloud.cfg.d/05_logging.cfg", logging.read_text())
    meson = tree / "meson.build"
    if meson.exists():  # from 25.3 on the version is written by the build
        found = re.search(r"version: '([^']+)'", meson.read_text())
        assert found is not None, meson
        node.write(
            f"/{SITE}/cloudinit/meson_versions.py",
            f"UPSTREAM_VERSION = {found[1]!r}\nDOWNSTREAM_VERSION = {found[1]!r}\n",
        )
    node.write(
        "/usr/bin/cloud-init",
        "#!/usr/bin/python3\nimport sys\n\nfrom cloudinit.cmd.main import main\n\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n',
        0o755,
    )


def _replace_python(node: Node, prefix: Path) -> None:
    """Another installation of Python as /usr/bin/python3, with Debian's modules."""
    prefix = prefix.resolve()
    skipped = shutil.ignore_patterns("__pycache__", "site-packages", "test", "config-*")
    place = node.path(str(prefix))
    for part in ("bin", "lib"):
        shutil.copytree(prefix / part, place / part, symlinks=True, ignore=skipped)
    (library,) = (place / "lib").glob("python3.*")
    site = library / "site-packages"
    site.mkdir()
    # Debian's needs a module in C, which is for Debian's Python.
    _pip(site, library.name[len("python") :], "jsonschema")
    (site / "debian.pth").write_text(f"/{SITE}\n")
    node.run("ln", "-sf", f"{prefix}/bin/python3", "/usr/bin/python3", check=True)


def _add_boto3(node: Node, *what: str) -> None:
    version = node.python("import sys; print('%d.%d' % sys.version_info[:2])").strip()
    place = node.path(f"/usr/local/lib/python{version}/dist-packages")
    place.mkdir(parents=True, exist_ok=True)
    _pip(place, version, *what)


def _pip(place: Path, version: str, *what: str) -> None:
    """Into a directory, for a Python of that version."""
    argv = [sys.executable, "-m", "pip", "install", "--no-compile"]
    argv += ["--only-binary=:all:", "--python-version", version]
    argv += ["--target", str(place), *what]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(what)} for Python {version}: {done.stderr}")


def _install_ours(node: Node) -> None:
    """What a package has in it, without the package."""
    skipped = shutil.ignore_patterns("__pycache__")
    site = node.path(f"/{SITE}/cc_kraken")
    shutil.copytree(SOURCE / "cc_kraken", site, ignore=skipped)
    shutil.copytree(SOURCE / "schema", site / "schemas")
    (site / "docs").mkdir()
    shutil.copy(SOURCE / "docs" / "operations.md", site / "docs")
    node.write(
        "/usr/bin/cc-kraken",
        "#!/usr/bin/python3\nimport sys\n\nfrom cc_kraken.cli import main\n\n"
        "sys.exit(main())\n",
        0o755,
    )


# -------------------------------------------------------------------------- rows


@dataclass
class Row:
    """One line of the table; ``faults`` by check, none: all is well."""

    cloud_init: str
    variant: str
    python: str
    boto3: str
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        today = datetime.date.today().isoformat()
        said = (self.faults.get(check, "yes") for check in CHECKS)
        return self.cloud_init, self.variant, self.python, self.boto3, today, *said


@dataclass(frozen=True)
class Said:
    """What cloud-init thinks of a boot."""

    code: int
    status: str
    complaints: frozenset[str]

    @classmethod
    def of(cls, node: Node) -> Said:
        told = node.status()
        lines = (re.sub(r"^.*? - ", "", line) for line in node.complaints())
        return cls(told["code"], told["status"], frozenset(lines))


def without_us(layers: Sequence[Path], variant: str | None) -> Said:
    """A boot of the same machine on which nobody asks for the module."""
    with Node(layers) as node, Machine(node, "#cloud-config\nruncmd: []\n") as machine:
        if variant is not None:
            _render(node, variant)
        else:
            node.run("cc-kraken", "disable", check=True)
        machine.boot()
        return Said.of(node)


def row(layers: Sequence[Path], variant: str | None) -> Row:
    """All checks on one node; ``variant`` None: with the package, as Debian has it."""
    before = without_us(layers, variant)
    with Node(layers) as node, Machine(node, cloud_config(RIGHT)) as machine:
        if variant is not None:
            _render(node, variant)
        versions = json.loads(node.python(VERSIONS))
        made = Row(versions[0], variant or "its own", versions[1], versions[2])
        plain = None
        if variant is not None:
            plain = lists(node), digest(node)
            wanted = ["--schema"] if variant in RPM else []
            node.run("cc-kraken", "enable", *wanted, check=True)
        machine.volume("data", MountPath="/data")
        machine.boot()
        _first_boot(made, machine, before)
        _later(made, machine, before, plain)
    return made


def _first_boot(made: Row, machine: Machine, before: Said) -> None:
    node = machine.node
    with check(made, "found"):
        name = node.python(FOUND).strip()
        expect(name == "cc_kraken", name)
    with check(made, "called"):
        ran = re.findall(r"finish: (\S+)/config-kraken: SUCCESS", node.log)
        expect(ran == ["init-network", "modules-final"], f"ran in {ran}")
    with check(made, "lists"):
        expect_lists(lists(node))
    with check(made, "schema"):
        for content, code in ((RIGHT, 0), (WRONG, 1)):
            node.write("/root/user-data", cloud_config(content))
            done = node.run("cloud-init", "schema", "--config-file", "/root/user-data")
            expect(done.code == code, str(done))
    with check(made, "status"):
        expect_status(node, before)
    with check(made, "mounts"):
        expect(list(node.disks()) == ["/data"], str(node.disks()))
        expect("x-kraken.set=data" in node.read("/etc/fstab").lower(), "not in fstab")
    with check(made, "analyze"):
        shown = node.run("cloud-init", "analyze", "show", check=True).out
        missing = [f for f in ("attach", "mkfs", "mount") if f"->{f} " not in shown]
        expect(not missing, f"no {missing}")
        blame = node.run("cloud-init", "analyze", "blame", check=True).out
        expect("kraken" in blame, "not in blame")


def _later(
    made: Row, machine: Machine, before: Said, plain: tuple[Any, str] | None
) -> None:
    node = machine.node
    with check(made, "second boot"):
        node.restart()
        mark = machine.lab.calls.mark()
        machine.boot()
        asked = machine.lab.calls.since(mark)
        expect(asked == [], f"{len(asked)} API calls")
        state = machine.result["sets"]["data"]["state"]
        expect(state == "mounted", state)
        expect_status(node, before)
    with check(made, "single"):
        words = ("--name", "kraken", "--frequency", "always", "--report")
        done = node.run("cloud-init", "single", *words)
        expect(done.code == 0, str(done))
        expect(machine.result["stage"] == "single", machine.result["stage"])
    enabled, schema = lists(node), digest(node)
    with check(made, "disable"):
        node.run("cc-kraken", "disable", check=True)
        now = lists(node)
        expect(not any(ENTRY in now[key] for key in LISTS), "still listed")
        expect(plain is None or (now, digest(node)) == plain, "not as it was")
    with check(made, "enable"):
        node.run("cc-kraken", "enable", check=True)
        expect(lists(node) == enabled, "other lists than before")
        expect(digest(node) == schema, "another schema than before")
        done = node.run("cc-kraken", "enable", "--check")
        expect(done.code == 0, str(done))


@contextmanager
def check(made: Row, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the other columns are of interest all the same
        lines = str(error).strip().splitlines() or [type(error).__name__]
        made.faults[name] = " ".join(lines)


def expect(right: bool, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)


def expect_status(node: Node, before: Said) -> None:
    """cloud-init complains of nothing that it did not complain of without us."""
    now = Said.of(node)
    more = "; ".join(sorted(now.complaints - before.complaints))
    expect(not more, more)
    good = now.status in ("done", before.status) and now.code in (0, before.code)
    expect(good, f"{now.status}, exit status {now.code}")


def expect_lists(now: Mapping[str, list[Any]]) -> None:
    for key in PLACED:
        expect(now[key].count(ENTRY) == 1, f"not in {key}")
    early = [_name(one) for one in now["cloud_init_modules"]]
    at = early.index("kraken")
    for name in ("write_files", "disk_setup", "mounts"):  # where the list has it
        expect(name not in early[at:], f"before {name}")
    expect("users_groups" not in early[:at], "after users_groups")
    final = [_name(one) for one in now["cloud_final_modules"]]
    scripts = min(n for n, name in enumerate(final) if name.startswith("scripts_"))
    expect(final.index("kraken") < scripts, "after the scripts")


def _name(item: Any) -> str:
    return str(item[0] if isinstance(item, list) else item).replace("-", "_")


def lists(node: Node) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = json.loads(node.python(MERGED, *LISTS))
    return found


def digest(node: Node) -> str:
    path = f"/{SITE}/cloudinit/config/schemas/schema-cloud-config-v1.json"
    return node.run("sha256sum", path, check=True).out.split()[0]


def _render(node: Node, variant: str) -> None:
    """The distribution's cloud.cfg, and what it expects of the system."""
    at = "/srv/cloud-init"
    tool = "render-template" if node.exists(f"{at}/tools/render-template") else ""
    name = "rhel" if variant == "rhel8" else variant
    node.run(
        *("python3", f"{at}/tools/{tool or 'render-cloudcfg'}", "--variant", name),
        *(f"{at}/config/cloud.cfg.tmpl", "/etc/cloud/cloud.cfg"),
        check=True,
    )
    if variant == "rhel8":
        like_rhel_8(node)
    if variant == "suse":  # distro: suse, which no release has a class for
        text = node.read("/etc/cloud/cloud.cfg")
        node.write("/etc/cloud/cloud.cfg", text.replace("distro: suse", "distro: sles"))
    if variant in RPM:
        node.run("mv", "/usr/bin/dpkg-divert", "/usr/bin/not-here", check=True)
        helper = "/usr/libexec/cloud-init/write-ssh-key-fingerprints"
        node.write(helper, node.read(f"{at}/tools/write-ssh-key-fingerprints"), 0o755)


def like_rhel_8(node: Node) -> None:
    """Red Hat's own order: disk_setup comes first, mounts in the config stage."""
    config = yaml.safe_load(node.read("/etc/cloud/cloud.cfg"))
    early, late = config["cloud_init_modules"], config["cloud_config_modules"]
    early.remove("disk_setup")
    early.insert(0, "disk_setup")
    early.remove("mounts")
    late.insert(0, "mounts")
    node.write("/etc/cloud/cloud.cfg", yaml.safe_dump(config, sort_keys=False))


# --------------------------------------------------------------------- the table


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; a fault is cut where it is long (all of it is printed)."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for cells in rows:
        short = (cell.replace("|", "/")[:60] for cell in cells)
        lines.append(f"| {' | '.join(short)} |")
    return "\n".join(lines) + "\n"


def keep(rows: Sequence[Row]) -> None:
    """Put the rows into the page, in the place of older ones of the same kind."""
    head, mark, text = DOCS.read_text().partition(f"| {HEAD[0]} |")
    _, _, text = text.partition("\n")
    known: dict[tuple[str, ...], Sequence[str]] = {}
    body, _, tail = text.partition("\n\n")
    for line in body.splitlines()[1:] if mark else ():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        known[_key(cells)] = cells
    known.update((_key(one.cells), one.cells) for one in rows)
    shown = table([known[key] for key in sorted(known, key=_order)])
    DOCS.write_text(f"{head.rstrip()}\n\n{shown}" + (f"\n{tail}" if tail else ""))


def _key(cells: Sequence[str]) -> tuple[str, ...]:
    version, variant, python = cells[:3]
    return version, variant, ".".join(python.split(".")[:2])


def _order(key: tuple[str, ...]) -> Any:
    version, variant, python = key
    number = [int(part) for part in re.findall(r"\d+", version)[:3]]
    at = VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS)
    return at == len(VARIANTS), number, int(python.split(".")[1]), at


def nodes(
    given: argparse.Namespace,
) -> Iterator[tuple[str, Sequence[Path], str | None]]:
    """What a row is about, its file system, and whose lists it has."""
    for tree in given.tree:
        with unpacked(tree, given.on, given.python) as layers:
            for variant in given.variants:
                yield f"{tree}, {variant}", layers, variant
    for release in () if given.tree else PACKAGED:
        yield release, base.installed(release, say), None


def arguments() -> argparse.Namespace:
    def tree(text: str) -> Path:
        if not Path(text, "config", "cloud.cfg.tmpl").is_file():
            raise argparse.ArgumentTypeError(f"{text} is no source tree of cloud-init")
        return Path(text)

    def variants(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(VARIANTS)
        if unknown:
            raise argparse.ArgumentTypeError(f"not known: {', '.join(unknown)}")
        return text.split(",")

    parser = argparse.ArgumentParser(prog="tests.chroot.distros")
    parser.add_argument("tree", nargs="*", type=tree)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--on", default=OLDEST, choices=base.RELEASES)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--variants", default=VARIANTS, type=variants)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    rows: list[Row] = []
    lost = 0
    try:
        with ended_by_signals():
            print(table([]), end="", flush=True)
            for what, layers, variant in nodes(given):
                try:
                    made = row(layers, variant)
                except AssertionError as error:  # it does not come as far as to boot
                    lost += 1
                    say(f"distros: {what}: {error}")
                    continue
                rows.append(made)
                print(f"| {' | '.join(made.cells)} |", flush=True)
    except LabError as error:
        say(f"distros: {error}")
        return 1
    finally:
        if given.docs and rows:
            keep(rows)
    failed = lost + sum(bool(one.faults) for one in rows)
    say(f"distros: {len(rows) + lost} rows, {failed} with a fault")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
