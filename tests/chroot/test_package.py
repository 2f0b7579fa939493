"""The package's life, with real apt and dpkg: installed, cloud-init renewed
underneath, removed, purged; and what an administrator did meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chroot import base
from tests.chroot.conftest import RELEASE, Launch
from tests.chroot.node import Done, Node
from tests.conftest import soon

PACKAGE = "cloud-init-kraken"
CONFIG = "/etc/cloud/cloud.cfg"
DROP_IN = "/etc/cloud/cloud.cfg.d/zzz-cc-kraken.cfg"
SCHEMA = (
    "/usr/lib/python3/dist-packages/cloudinit/config/schemas/"
    "schema-cloud-config-v1.json"
)
ENTRY = ["kraken", "always"]
LISTS = ("cloud_init_modules", "cloud_final_modules")

#: What dpkg, apt and the dynamic linker note for themselves.
NOTES = (
    "/var/lib/dpkg/",
    "/var/lib/apt/",
    "/var/cache/",
    "/var/log/",
    "/etc/ld.so.cache",
    "/var/local/",
)

EFFECTIVE = """
import json, sys
from cloudinit import util
cfg = util.read_conf_with_confd("/etc/cloud/cloud.cfg")
print(json.dumps({key: cfg.get(key) for key in sys.argv[1:]}))
"""


def effective(node: Node) -> dict[str, list[Any]]:
    """cloud-init's lists of modules, as it merges them."""
    found: dict[str, list[Any]] = json.loads(node.python(EFFECTIVE, *LISTS))
    return found


def knows_the_key(node: Node) -> bool:
    schema = json.loads(node.read(SCHEMA))
    node.write("/tmp/probe.yaml", '#cloud-config\nkraken: {prefix: "a"}\n')
    done = node.run("cloud-init", "schema", "--config-file", "/tmp/probe.yaml")
    known = "cc_kraken" in schema["$defs"]
    assert done.code == 0 or not known, done
    return known


def names(modules: list[Any]) -> list[str]:
    return [one if isinstance(one, str) else one[0] for one in modules]


def without_us(lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        key: [module for module in value if module != ENTRY]
        for key, value in lists.items()
    }


def apt(node: Node, *words: str) -> Done:
    return node.run("apt-get", "-q", "-y", *words)


def divert(node: Node) -> str:
    return node.run("dpkg-divert", "--list", f"{SCHEMA}*", check=True).out


def settled(node: Node) -> None:
    """dpkg has nothing left to do, and finds nothing wrong."""
    assert node.run("dpkg", "--audit").out == ""


@pytest.fixture(scope="session")
def kept(bare: tuple[Path, ...]) -> Path:
    """The package with cloud-init's configuration, as the release has it."""
    (found,) = (bare[-1] / base.KEPT).glob("*.deb")
    return found


@pytest.fixture(scope="session")
def newer(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A later version of it: one module more in a list, one key in the
    schema."""
    at = tmp_path_factory.mktemp("newer") / "tree"
    subprocess.run(["dpkg-deb", "-R", kept, at], check=True)
    control = at / "DEBIAN/control"
    text = re.sub(r"(?m)^Version: (.*)$", r"Version: \1+later1", control.read_text())
    control.write_text(text)
    config = at / CONFIG.lstrip("/")
    text = config.read_text()
    line = re.search(r"(?m)^ +- write[-_]files\n", text)
    assert line is not None
    added = re.sub(r"write[-_]files", "later", line.group())
    config.write_text(text.replace(line.group(), line.group() + added, 1))
    schema = at / SCHEMA.lstrip("/")
    content = json.loads(schema.read_text())
    content["$defs"]["later"] = {}
    schema.write_text(json.dumps(content))
    deb = at.parent / "newer.deb"
    subprocess.run(["dpkg-deb", "-b", at, deb], check=True, stdout=subprocess.DEVNULL)
    yield deb
    shutil.rmtree(at)


def test_purge_leaves_nothing(empty: Node, deb: Path) -> None:
    before, lists = empty.listing(*NOTES), effective(empty)
    base.install(empty, deb)
    assert empty.exists("/usr/bin/cc-kraken") and empty.exists(DROP_IN)
    after = effective(empty)
    assert without_us(after) == lists
    for key in LISTS:
        assert after[key].count(ENTRY) == 1
    at = names(after["cloud_init_modules"]).index("kraken")
    assert names(after["cloud_init_modules"])[at - 1] == "mounts"
    last = names(after["cloud_final_modules"])
    assert "scripts" in last[last.index("kraken") + 1] or last.index("kraken") < (
        min(n for n, name in enumerate(last) if name.startswith("scripts"))
    )
    assert knows_the_key(empty)
    installed = empty.listing(*NOTES)
    assert installed[DROP_IN].startswith("0o100644\t0\t0")

    # Removed: only configuration files stay, and cloud-init is its own again.
    done = apt(empty, "remove", PACKAGE)
    assert done.code == 0, done
    assert effective(empty) == lists and not empty.exists(DROP_IN)
    assert not knows_the_key(empty) and divert(empty) == ""
    removed = empty.listing(*NOTES)
    assert set(removed) - set(before) <= {
        "/etc/cc-kraken",
        "/etc/cc-kraken/conf.d",
        "/etc/cc-kraken/enable.json",
        "/etc/cloud/clean.d",
        "/etc/cloud/clean.d/50-cc-kraken",
        "/tmp/probe.yaml",
        "/var/lib/cc-kraken",
    }, sorted(set(removed) - set(before))
    # What is left of the clean hook does no harm.
    assert empty.run("cloud-init", "clean").code == 0

    done = apt(empty, "purge", PACKAGE)
    assert done.code == 0, done
    left = empty.listing(*NOTES)
    changed = {
        path: (before.get(path), left.get(path))
        for path in {*before, *left}
        if before.get(path) != left.get(path) and path != "/tmp/probe.yaml"
    }
    assert changed == {}
    settled(empty)
    print(f"{RELEASE}: {len(before)} files before the installation and after purge;")
    print(f"  {len(set(installed) - set(before))} more while it was installed")


def test_cloud_init_reinstalled_underneath(launch: Launch, kept: Path) -> None:
    node = launch()
    lists, schema = effective(node), node.read(SCHEMA)
    base.install(node, kept)
    assert effective(node) == lists
    assert node.read(SCHEMA) == schema and knows_the_key(node)
    settled(node)


def test_cloud_init_upgraded_underneath(launch: Launch, newer: Path) -> None:
    node = launch()
    lists = effective(node)
    told = base.install(node, newer)
    assert "Processing triggers for cloud-init-kraken" in told
    now = effective(node)
    assert "later" in now["cloud_init_modules"], "the new list counts"
    for key in LISTS:
        assert now[key].count(ENTRY) == 1
        assert [name for name in now[key] if name != "later"] == lists[key]
    schema = json.loads(node.read(SCHEMA))
    assert {"later", "cc_kraken"} <= set(schema["$defs"])
    settled(node)
    # And taken back: what the new version brought, not what the old one had.
    assert apt(node, "purge", PACKAGE).code == 0
    assert effective(node) == without_us(now)
    schema = json.loads(node.read(SCHEMA))
    assert "later" in schema["$defs"] and "cc_kraken" not in schema["$defs"]
    assert divert(node) == "" and not node.exists(f"{SCHEMA}.distrib")


def test_disabled_stays_so_through_an_upgrade(launch: Launch, newer: Path) -> None:
    node = launch()
    lists = effective(node)
    node.run("cc-kraken", "disable", check=True)
    assert effective(node) == without_us(lists)
    base.install(node, newer)
    assert ENTRY not in effective(node)["cloud_init_modules"]
    assert not node.exists(DROP_IN) and not knows_the_key(node)
    node.run("cc-kraken", "enable", "--no-schema", check=True)
    assert ENTRY in effective(node)["cloud_init_modules"]
    assert not knows_the_key(node)


def test_reinstalled_after_a_removal_as_it_was_chosen(
    launch: Launch, deb: Path
) -> None:
    node = launch()
    node.run("cc-kraken", "disable", check=True)
    assert apt(node, "remove", PACKAGE).code == 0
    base.install(node, deb)
    assert not node.exists(DROP_IN)


def test_a_cloud_cfg_that_the_administrator_edited(
    empty: Node, deb: Path, newer: Path
) -> None:
    config = yaml.safe_load(empty.read(CONFIG))
    for unwanted in ("growpart", "resizefs"):
        config["cloud_init_modules"].remove(unwanted)
    config["cloud_init_modules"].append("their_own")
    text = yaml.safe_dump(config)
    empty.write(CONFIG, text)
    lists = effective(empty)
    base.install(empty, deb)
    assert without_us(effective(empty)) == lists
    base.install(empty, newer)  # dpkg keeps the edited file
    assert without_us(effective(empty)) == lists
    assert empty.read(CONFIG) == text
    assert apt(empty, "purge", PACKAGE).code == 0
    assert effective(empty) == lists and empty.read(CONFIG) == text


def test_another_drop_in_that_sets_the_same_list(launch: Launch, newer: Path) -> None:
    node = launch()
    theirs = {"cloud_final_modules": ["scripts-user", "crowdstrike", "final-message"]}
    node.write("/etc/cloud/cloud.cfg.d/60_theirs.cfg", yaml.safe_dump(theirs))
    stale = node.run("cc-kraken", "enable")
    assert stale.code == 0, stale
    final = effective(node)["cloud_final_modules"]
    assert [one for one in final if one != ENTRY] == theirs["cloud_final_modules"]
    assert final[0] == ENTRY, "before the user's scripts"
    # One that a package brings is seen by the trigger.
    theirs["cloud_final_modules"].append("phone_home")
    node.write("/etc/cloud/cloud.cfg.d/60_theirs.cfg", yaml.safe_dump(theirs))
    base.install(node, newer)
    final = effective(node)["cloud_final_modules"]
    assert [one for one in final if one != ENTRY] == theirs["cloud_final_modules"]


BROKEN: dict[str, tuple[str, str | bytes]] = {
    "syntax": (CONFIG, "cloud_init_modules: [mounts\n"),
    "no mapping": (CONFIG, "- mounts\n"),
    "no list": (CONFIG, "cloud_final_modules: []\n"),
    "bytes": (CONFIG, b"\xff\xfe\n"),
    "drop-in": ("/etc/cloud/cloud.cfg.d/60_theirs.cfg", "a: b: c\n"),
}


@pytest.mark.parametrize("how", soon(["syntax", "drop-in"], BROKEN))
def test_a_configuration_that_cannot_be_read(empty: Node, deb: Path, how: str) -> None:
    path, content = BROKEN[how]
    good = empty.read(path) if empty.exists(path) else None
    empty.write(path, content)
    before = empty.listing(*NOTES)
    empty.write(f"/tmp/{deb.name}", deb.read_bytes())
    done = apt(empty, "install", f"/tmp/{deb.name}")
    told = done.out + done.err
    assert done.code != 0 and str(Path(path).parent) in told, told
    assert "Traceback" not in told
    # Nothing of cloud-init's was changed.
    assert not empty.exists(DROP_IN) and divert(empty) == ""
    after = empty.listing(*NOTES)
    assert {p: after.get(p) for p in before} == before
    # Repaired, dpkg goes on.
    if good is None:
        empty.path(path).unlink()
    else:
        empty.write(path, good)
    empty.run("dpkg", "--configure", "-a", check=True)
    assert ENTRY in effective(empty)["cloud_init_modules"] and knows_the_key(empty)


def test_broken_later_fails_nobody_elses_upgrade(launch: Launch, newer: Path) -> None:
    node = launch()
    node.write("/etc/cloud/cloud.cfg.d/60_theirs.cfg", "a: b: c\n")
    drop_in = node.read(DROP_IN)
    told = base.install(node, newer)
    assert "60_theirs.cfg" in told or "left as they were" in told
    assert node.read(DROP_IN) == drop_in
    settled(node)


def test_at_no_moment_is_a_file_half_written(launch: Launch, newer: Path) -> None:
    """A reader that never pauses sees a whole schema and a whole list."""
    node = launch()
    node.write("/root/watch.py", WATCH)
    watching = node.start("python3", "/root/watch.py")
    base.install(node, newer)
    for words in (["disable"], ["enable"], ["enable", "--no-schema"], ["enable"]):
        node.run("cc-kraken", *words, check=True)
    assert apt(node, "remove", PACKAGE).code == 0
    node.write("/root/stop", "")
    seen = json.loads(watching.communicate(timeout=300)[0])
    assert seen["wrong"] == [] and seen["looked"] > 20, seen


WATCH = """
import json, os, yaml
looked, wrong = 0, []
while not os.path.exists("/root/stop"):
    looked += 1
    try:
        with open(SCHEMA) as file:
            if "$defs" not in json.load(file):
                wrong.append("schema without definitions")
    except Exception as error:
        wrong.append(f"schema: {error!r}")
    try:
        with open(DROP_IN) as file:
            if "kraken" not in str(yaml.safe_load(file)):
                wrong.append("a list without us")
    except FileNotFoundError:
        pass
    except Exception as error:
        wrong.append(f"list: {error!r}")
print(json.dumps({"looked": looked, "wrong": wrong}))
""".replace("SCHEMA", repr(SCHEMA)).replace("DROP_IN", repr(DROP_IN))
