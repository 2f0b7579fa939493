"""Contract tests (inside/contract.py) by the release's own Python, and what
another user than root is told."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.chroot import base
from tests.chroot.conftest import RELEASE, say
from tests.chroot.node import Node

CONTRACT = Path(__file__).parent / "inside" / "contract.py"
CHECK = Path(__file__).parent / "inside" / "check.py"
USERFILES = Path(__file__).parents[1] / "userfiles.py"
SITE = "/usr/lib/python3/dist-packages/cc_kraken"

#: Release: its Python, and what its cloud-init's version begins with.
VERSIONS = {
    "bullseye": ("3.9.", "20.4"),
    "bookworm": ("3.11.", "22.4"),
    "trixie": ("3.13.", "25.1"),
    "sid": ("3.", "2"),
}


def node_with_the_module() -> Node:
    """The package installed; on bullseye, whose cloud-init and boto3 are older
    than it asks for, its files."""
    if RELEASE != "bullseye":
        return Node(base.installed(RELEASE, say))
    return Node((base.tree(RELEASE, say),))


def test_the_real_code_of_cloud_init() -> None:
    with node_with_the_module() as node:
        if RELEASE == "bullseye":
            skipped = shutil.ignore_patterns("__pycache__")
            site = node.path(SITE)
            shutil.copytree(base.SOURCE / "cc_kraken", site, ignore=skipped)
            shutil.copytree(base.SOURCE / "schema", site / "schemas")
        python, cloud_init = VERSIONS[RELEASE]
        found = node.run("python3", "--version", check=True).out
        assert found.startswith(f"Python {python}"), found
        told = node.run("cloud-init", "--version", check=True)
        assert re.search(rf" {re.escape(cloud_init)}", told.out + told.err), told
        for path in (CONTRACT, CHECK, USERFILES):
            node.write(f"/srv/contract/{path.name}", path.read_text())
        words = (
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--show-capture=no",
        )
        done = node.run(
            *("python3", "-m", "pytest", *words, "--rootdir=/srv/contract"),
            "/srv/contract/contract.py",
            "/srv/contract/check.py",
            CC_KRAKEN_AT=SITE,
            PYTHONDONTWRITEBYTECODE="1",
        )
        print(found.strip(), told.out + told.err, done.out, sep="\n")
        assert done.code == 0, done
        assert " passed" in done.out and "skipped" not in done.out, done


def test_a_user_who_is_not_root_is_told_so() -> None:
    with node_with_the_module() as node:
        if RELEASE == "bullseye":
            return
        node.seed("#cloud-config\n{}\n")
        node.boot()
        node.run("chmod", "600", "/var/lib/cloud/instance/obj.pkl", check=True)
        code = (
            "from cc_kraken.boot import cloud_init as host\n"
            "try: host.load()\n"
            "except Exception as error: print(type(error).__name__, error)\n"
        )
        su = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        told = node.run(*su, "python3", "-c", code, check=True).out
        assert told.startswith("KrakenError") and "as root" in told, told
