"""The RPM's life by real dnf: installed, cloud-init renewed underneath, a broken
configuration, removed. The file system is the release's, with its own Python."""

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

from tests.chroot.node import Done

ROOT = Path(__file__).parents[2]
PACKAGE = "cloud-init-kraken"
ENTRY = ["kraken", "always"]
LISTS = ("cloud_init_modules", "cloud_final_modules")
DROP_IN = "etc/cloud/cloud.cfg.d/zzz-cc-kraken.cfg"
CONFIG = "etc/cloud/cloud.cfg"

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("dnf", "createrepo_c", "rpmbuild"))),
    reason="not installed: dnf, createrepo-c or rpm",
)

# A mount that ends with this process.
HOLDER = """
set -eu
mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" overlay "$4"
mount --bind /dev/null "$4/dev/null"
echo ready
read never
"""

SPEC = """
Name: {name}
Version: {version}
Release: 1
Summary: stands for the distribution's
License: none
BuildArch: noarch
AutoReqProv: no
{provides}
%global __os_install_post %{{nil}}
%description
%install
cp -a {files}/. %{{buildroot}}/
%files
/*
"""
PROVIDED = (
    *("python3", "python3-jsonschema", "python3-pyyaml", "e2fsprogs", "mdadm"),
    *("systemd-udev", "util-linux", "xfsprogs", "/bin/sh", "/usr/bin/python3"),
)


class Root:
    """A file system at ``top``, changed by dnf alone."""

    def __init__(self, top: Path, pid: int, repository: Path) -> None:
        self.top, self._pid, self._repository = top, pid, repository

    def _run(self, *argv: str) -> Done:
        words = ["nsenter", f"--mount=/proc/{self._pid}/ns/mnt", "--", *argv]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment, timeout=300
        )
        return Done(argv, done.returncode, done.stdout, done.stderr)

    def dnf(self, *words: str) -> Done:
        return self._run(
            *("dnf", "-y", f"--installroot={self.top}", "--releasever=9"),
            *("--setopt=reposdir=/dev/null", "--setopt=plugins=0"),
            f"--setopt=cachedir={self.top}/var/cache/dnf",
            f"--repofrompath=here,file://{self._repository}",
            *("--repo=here", "--nogpgcheck", "--refresh", *words),
        )

    def inside(self, *argv: str) -> Done:
        return self._run("chroot", str(self.top), *argv)

    def verify(self, package: str) -> str:
        """What rpm says of the files of a package."""
        return self._run("rpm", f"--root={self.top}", "-V", package).out

    def path(self, name: str) -> Path:
        return Path(f"/proc/{self._pid}/root{self.top}/{name}")

    def lists(self) -> dict[str, list[Any]]:
        code = (
            "import json, sys; from cloudinit import util;"
            "cfg = util.read_conf_with_confd('/etc/cloud/cloud.cfg');"
            "print(json.dumps({key: cfg[key] for key in sys.argv[1:]}))"
        )
        done = self.inside("/usr/bin/python3", "-B", "-c", code, *LISTS)
        assert done.code == 0, done
        found: dict[str, list[Any]] = json.loads(done.out)
        return found


@pytest.fixture(scope="module")
def python(bare: tuple[Path, ...]) -> str:
    """The release's Python, as 3.11."""
    (library,) = (bare[-1] / "usr/lib").glob("python3.*")
    return library.name[len("python") :]


@pytest.fixture(scope="module")
def packages(
    bare: tuple[Path, ...], python: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Ours, and what stands for the distribution's: cloud-init 1 is the release's own
    code and configuration, cloud-init 2 has another module and another schema."""
    at = tmp_path_factory.mktemp("packages")
    script = ROOT / "packaging" / "build-rpm"
    run(str(script), str(at / "rpms"), f"test:{python}")
    site = f"usr/lib/python{python}/site-packages"
    for version in ("22.4.1", "22.4.2"):
        files = at / f"files-{version}"
        lower = bare[-1]
        shutil.copytree(
            lower / "usr/lib/python3/dist-packages/cloudinit",
            files / site / "cloudinit",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        (files / CONFIG).with_suffix(".cfg.d").mkdir(parents=True)
        text = (lower / CONFIG).read_text()
        if version == "22.4.2":
            config = yaml.safe_load(text)
            config["cloud_init_modules"].append("later")
            text = yaml.safe_dump(config)
            schema = files / site / SCHEMA
            content = json.loads(schema.read_text())
            content["$defs"]["later"] = {}
            schema.write_text(json.dumps(content))
        (files / CONFIG).write_text(text)
        build(at, "cloud-init", version, files)
    (at / "files-system").mkdir()
    provided = [*PROVIDED, f"python(abi) = {python}"]
    build(at, "system", python, at / "files-system", *provided)
    (at / "boto3").mkdir()
    build(at, "python3-boto3", "1.33.6", at / "files-system")
    run("createrepo_c", "-q", str(at / "rpms"))
    return at / "rpms"


SCHEMA = "cloudinit/config/schemas/schema-cloud-config-v1.json"


def build(at: Path, name: str, version: str, files: Path, *provides: str) -> None:
    told = []
    for one in provides:
        versioned = one if " " in one or one.startswith("/") else f"{one} = {version}"
        told.append(f"Provides: {versioned}")
    spec = at / f"{name}.spec"
    (files / "usr/share" / name).mkdir(parents=True, exist_ok=True)
    spec.write_text(
        SPEC.format(name=name, version=version, files=files, provides="\n".join(told))
    )
    run(
        "rpmbuild",
        "-bb",
        "--quiet",
        "--define",
        f"_topdir {at}/top",
        "--define",
        f"_rpmdir {at}/rpms",
        str(spec),
    )


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def root(
    bare: tuple[Path, ...], packages: Path, python: str, tmp_path: Path
) -> Iterator[Root]:
    """The release without dpkg-divert and without its cloud-init."""
    upper, work, top = tmp_path / "upper", tmp_path / "work", tmp_path / "root"
    for directory in (upper, work, top):
        directory.mkdir()
    words = (":".join(map(str, bare)), str(upper), str(work), str(top))
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLDER, "sh"]
        + list(words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        made = Root(top, holder.pid, packages)
        made.path("usr/bin/dpkg-divert").unlink()
        shutil.rmtree(made.path("usr/lib/python3/dist-packages/cloudinit"))
        shutil.rmtree(made.path("etc/cloud"))
        site = f"/usr/lib/python{python}/site-packages\n"
        made.path("usr/lib/python3/dist-packages/site.pth").write_text(site)
        yield made
    finally:
        holder.stdin.close()
        holder.wait(20)
        holder.stdout.close()


def without_us(lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {key: [one for one in lists[key] if one != ENTRY] for key in LISTS}


def expect_listed(root: Root) -> None:
    for modules in root.lists().values():
        assert modules.count(ENTRY) == 1
    done = root.inside("cc-kraken", "enable", "--check")
    assert done.code == 0, done


def ours(root: Root) -> set[str]:
    """Every path with our name in it."""
    found = root.inside(
        *("find", "/", "-xdev", "(", "-path", "/var/cache", "-o", "-path", "/proc"),
        *(")", "-prune", "-o", "-name", "*kraken*", "-print"),
    )
    return set(found.out.split())


def test_installed_renewed_underneath_and_removed(root: Root, python: str) -> None:
    installed = root.dnf("install", "cloud-init-22.4.1", PACKAGE)
    assert installed.code == 0, installed
    assert "[kraken, always] after mounts" in installed.out, installed
    assert "cc-kraken enable --schema" in installed.out, installed
    expect_listed(root)
    # Unasked, nothing of another package's is changed.
    assert root.verify("cloud-init") == "" and root.verify(PACKAGE) == ""

    done = root.inside("cc-kraken", "enable", "--schema")
    assert done.code == 0, done
    schema = f"usr/lib/python{python}/site-packages/{SCHEMA}"
    changed = root.verify("cloud-init")
    assert re.fullmatch(rf"\S*5\S* +/{schema}\n", changed), changed

    renewed = root.dnf("upgrade", "cloud-init")
    assert renewed.code == 0, renewed
    print(installed, changed, renewed, sep="\n")
    expect_listed(root)
    assert "later" in root.lists()["cloud_init_modules"]
    known = json.loads(root.path(schema).read_text())["$defs"]
    assert {"later", "cc_kraken"} <= set(known)

    lists = without_us(root.lists())
    removed = root.dnf("remove", PACKAGE)
    print(removed)
    assert removed.code == 0 and "warning" not in removed.err.lower(), removed
    assert root.lists() == lists
    assert root.verify("cloud-init") == ""
    # What the administrator chose stays; no bytecode does.
    assert ours(root) <= {"/etc/cc-kraken", "/etc/cc-kraken/enable.json"}
    assert not root.path(f"{schema}.distrib").exists()


def test_disabled_stays_so_through_an_upgrade(root: Root) -> None:
    assert root.dnf("install", "cloud-init-22.4.1", PACKAGE).code == 0
    assert root.inside("cc-kraken", "disable").code == 0
    assert root.dnf("upgrade", "cloud-init").code == 0
    assert without_us(root.lists()) == root.lists()
    told = root.inside("cc-kraken", "enable", "--check")
    assert told.code == 1 and "not in cloud_init_modules" in told.err, told


def test_a_broken_configuration_is_found_by_the_check(root: Root) -> None:
    """dnf installs the package whatever its scriptlet says."""
    assert root.dnf("install", "cloud-init").code == 0
    broken = root.path("etc/cloud/cloud.cfg.d/60_theirs.cfg")
    broken.parent.mkdir(exist_ok=True)
    broken.write_text("a: b: c\n")
    installed = root.dnf("install", PACKAGE)
    print(installed)
    told = installed.out + installed.err
    assert (
        "60_theirs.cfg cannot be read: line 1" in told
        and "cc-kraken enable --check" in told
    )
    assert installed.code == 0 and "Error in POSTIN scriptlet" in told, installed
    assert not root.path(DROP_IN).exists()
    check = root.inside("cc-kraken", "enable", "--check")
    print(check)
    assert check.code == 1 and "60_theirs.cfg cannot be read: line 1" in check.err, (
        check
    )
    broken.unlink()
    check = root.inside("cc-kraken", "enable", "--check")
    assert check.code == 1 and "Run: cc-kraken enable" in check.err, check
    assert root.inside("cc-kraken", "enable").code == 0
    expect_listed(root)


def test_broken_later_fails_no_upgrade_of_cloud_init(root: Root) -> None:
    assert root.dnf("install", "cloud-init-22.4.1", PACKAGE).code == 0
    drop_in = root.path(DROP_IN).read_text()
    root.path("etc/cloud/cloud.cfg.d/60_theirs.cfg").write_text("a: b: c\n")
    renewed = root.dnf("upgrade", "cloud-init")
    assert renewed.code == 0 and "left as they were" in renewed.out, renewed
    assert root.path(DROP_IN).read_text() == drop_in


def test_what_dnf_says_where_boto3_is_missing(root: Root) -> None:
    """A RHEL without EPEL."""
    refused = root.dnf("--exclude=python3-boto3", "install", PACKAGE)
    print(refused)
    assert refused.code != 0 and "python3-boto3 >= 1.26" in refused.err, refused


def test_it_is_not_installed_for_another_python(root: Root, python: str) -> None:
    """The module would lie where cloud-init's Python does not look."""
    at = root.path("tmp")
    script = ROOT / "packaging" / "build-rpm"
    run(str(script), str(at / "other"), "test:3.8")
    (rpm,) = (at / "other").iterdir()
    refused = root.dnf("install", f"{root.top}/tmp/other/{rpm.name}")
    assert refused.code != 0, refused
    assert "nothing provides python(abi) = 3.8" in refused.err, refused
