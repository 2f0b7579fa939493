"""The repository that ``make repo`` makes, as apt, dnf and Ansible take it from a
server."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.chroot.node import Done, Node

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SOURCES = "/etc/apt/sources.list.d/cc-kraken.sources"
NAME = "cloud-init-kraken"

RPM = "rpm/el9"
"""Each distribution has a repository of its own."""


def run(*argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
    )


@contextlib.contextmanager
def served(at: Path) -> Iterator[int]:
    """The port of 127.0.0.1 on which a web server shows a directory."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(at))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def keyring(*names: str) -> Iterator[str]:
    """A GNUPGHOME with a secret key for each name."""
    # In /tmp: the path of the agent's socket must be short.
    home = tempfile.mkdtemp(prefix="cc-gpg-", dir="/tmp")
    try:
        for name in names:
            made = run(
                *("gpg", "--batch", "--quiet", "--passphrase", ""),
                *("--quick-generate-key", name, "rsa3072", "sign", "never"),
                GNUPGHOME=home,
            )
            assert made.returncode == 0, made.stderr
        yield home
    finally:
        run("gpgconf", "--kill", "all", GNUPGHOME=home)
        shutil.rmtree(home)


@dataclass
class Built:
    dist: Path
    home: str
    port: int

    @property
    def repo(self) -> Path:
        return self.dist / "repo"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/repo"

    def build(self, key: str = "first@example.com", url: str = "") -> str:
        """Run ``make repo``; what it printed, if that went well."""
        made = self.tried(key, url)
        assert made.returncode == 0, made.stderr
        return made.stdout

    def tried(self, key: str, url: str = "") -> subprocess.CompletedProcess[str]:
        words = [f"DIST={self.dist}", f"KEY={key}", f"URL={url}"]
        return run("make", "-C", ROOT, "repo", *words, GNUPGHOME=self.home)


@pytest.fixture(scope="session")
def packages(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deb and the rpm of this tree."""
    at = tmp_path_factory.mktemp("packages")
    shutil.copy(deb, at)
    made = run(ROOT / "packaging/build-rpm", at)
    assert made.returncode == 0, made.stderr
    return at


@pytest.fixture(scope="session")
def keys() -> Iterator[str]:
    with keyring("First <first@example.com>", "Other <other@example.com>") as home:
        yield home


@pytest.fixture(scope="session")
def first(packages: Path, keys: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A repository of these packages, made once; its URL is not served."""
    dist = tmp_path_factory.mktemp("first") / "dist"
    shutil.copytree(packages, dist)
    made = Built(dist, keys, 1)
    made.build(url=made.url)
    return made


@pytest.fixture
def built(first: Built, tmp_path: Path) -> Iterator[Built]:
    """A copy of it, on a server."""
    dist = tmp_path / "dist"
    shutil.copytree(first.dist, dist)
    with served(dist) as port:
        made = Built(dist, first.home, port)
        for name in ("apt/cc-kraken.sources", f"{RPM}/cc-kraken.repo"):
            path = made.repo / name
            path.write_text(path.read_text().replace(first.url, made.url))
        yield made


@pytest.fixture
def customer(built: Built, empty: Node) -> Node:
    """A node without our package, whose apt knows our repository and no other."""
    empty.forward("127.0.0.1", built.port, built.port)
    empty.run("rm", "-f", "/etc/apt/sources.list", check=True)
    for left in empty.path("/etc/apt/sources.list.d").iterdir():
        left.unlink()
    empty.write(SOURCES, (built.repo / "apt/cc-kraken.sources").read_text())
    return empty


def update(node: Node) -> Done:
    return node.run("apt-get", "-q", "update", "--error-on=any")


def install(node: Node) -> Done:
    words = ("-q", "-y", "--no-install-recommends", "install", NAME)
    return node.run("apt-get", *words)


# ------------------------------------------------------------------------- apt


def test_apt_installs_the_package_by_the_one_file_that_adds_the_repository(
    customer: Node,
) -> None:
    updated = update(customer)
    assert updated.code == 0, updated
    assert "W:" not in updated.out + updated.err
    assert install(customer).code == 0
    assert customer.run("cc-kraken", "--version").out.startswith("cc-kraken 0.")
    lists = customer.read("/etc/cloud/cloud.cfg.d/zzz-cc-kraken.cfg")
    assert lists.count("kraken") >= 2
    policy = customer.run("apt-cache", "policy", NAME).out
    assert re.search(r"http://127\.0\.0\.1:\d+/repo/apt stable/main", policy)


def tamper_release(repo: Path) -> None:
    for name in ("InRelease", "Release"):
        path = repo / "apt/dists/stable" / name
        path.write_text(path.read_text().replace("Suite: stable", "Suite: stabel"))


def tamper_index(repo: Path) -> None:
    for path in (repo / "apt/dists/stable").rglob("*"):
        if path.is_file() and path.parent.name.startswith(("SHA", "MD5", "binary-")):
            text = path.read_bytes()
            packed = text[:2] == b"\x1f\x8b"
            plain = gzip.decompress(text) if packed else text
            plain = plain.replace(b"Section: admin", b"Section: games")
            path.write_bytes(gzip.compress(plain) if packed else plain)


def tamper_package(repo: Path) -> None:
    (deb,) = (repo / "apt/pool").rglob("*.deb")
    content = bytearray(deb.read_bytes())
    content[-100] ^= 1
    deb.write_bytes(content)


@pytest.mark.parametrize(
    "tamper, refusal",
    [
        (tamper_release, "BADSIG|invalid|has been manipulated"),
        (tamper_index, "Hash Sum mismatch|unexpected size"),
        (tamper_package, "Hash Sum mismatch"),
    ],
)
def test_apt_refuses_what_was_changed_on_the_server(
    customer: Node, built: Built, tamper: Callable[[Path], None], refusal: str
) -> None:
    tamper(built.repo)
    done = update(customer)
    if tamper is tamper_package:
        assert done.code == 0, done
        done = install(customer)
    assert done.code != 0
    assert re.search(refusal, done.out + done.err), done
    assert not customer.exists("/usr/bin/cc-kraken")


def test_apt_refuses_a_repository_that_another_key_signed(
    customer: Node, built: Built
) -> None:
    built.build("other@example.com")
    done = update(customer)
    assert done.code != 0
    assert re.search("NO_PUBKEY|Missing key|not available", done.out + done.err), done


def with_version(deb: Path, version: str, target: Path) -> None:
    """The package with another version."""
    with tempfile.TemporaryDirectory() as at:
        tree = Path(at) / "tree"
        assert run("dpkg-deb", "-R", deb, tree).returncode == 0
        control = tree / "DEBIAN/control"
        text = re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text())
        control.write_text(text)
        built = run("dpkg-deb", "--root-owner-group", "-b", tree, target)
        assert built.returncode == 0, built.stderr


def test_a_machine_gets_the_next_version_and_may_go_back_to_the_old_one(
    customer: Node, built: Built
) -> None:
    assert update(customer).code == 0 and install(customer).code == 0
    (old,) = built.dist.glob("*.deb")
    version = old.name.split("_")[1]
    with_version(old, "99.1", built.dist / f"{NAME}_99.1_all.deb")
    old.unlink()  # as make packages does
    built.build()
    assert update(customer).code == 0
    done = customer.run("apt-get", "-q", "-y", "upgrade")
    assert f"Unpacking {NAME} (99.1) over ({version})" in done.out, done
    words = ("-q", "-y", "--allow-downgrades", "install", f"{NAME}={version}")
    assert customer.run("apt-get", *words).code == 0


# ------------------------------------------------------------------------- dnf

FILLER = """
Name: filler
Version: 1
Release: 1
Summary: stands for what the distribution has
License: none
BuildArch: noarch
{provides}
%description
Nothing.
%files
"""


@pytest.fixture
def filler(packages: Path, tmp_path: Path) -> Path:
    """A repository with one package that provides all that ours needs."""
    (rpm,) = packages.glob("*.el9.noarch.rpm")
    needs = run("rpm", "-qp", "--requires", rpm).stdout.splitlines()
    provides = [
        re.sub(" >= ", " = ", need)
        for need in sorted(set(needs))
        if not need.startswith("rpmlib(") and "config(" not in need
    ]
    spec = tmp_path / "filler.spec"
    lines = "\n".join(f"Provides: {one}" for one in provides)
    spec.write_text(FILLER.format(provides=lines))
    out = tmp_path / "filler"
    top = f"_topdir {tmp_path / 'top'}"
    made = run("rpmbuild", "-bb", "-D", top, "-D", f"_rpmdir {out}", spec)
    assert made.returncode == 0, made.stderr
    assert run("createrepo_c", out).returncode == 0
    return out


def dnf(built: Built, filler: Path, root: Path, *words: str) -> str:
    """What dnf says, in a root of its own, with our file for /etc/yum.repos.d."""
    configuration = root.parent / "repos"
    configuration.mkdir(exist_ok=True)
    shutil.copy(built.repo / f"{RPM}/cc-kraken.repo", configuration)
    (configuration / "filler.repo").write_text(
        f"[filler]\nname=filler\nbaseurl=file://{filler}\ngpgcheck=0\n"
    )
    done = run(
        *("dnf", "-y", f"--installroot={root}", "--releasever=9"),
        *(f"--setopt=reposdir={configuration}", "--setopt=gpgcheck=1"),
        *(f"--setopt=cachedir={root.parent / 'cache'}", "--setopt=tsflags=noscripts"),
        *(f"--setopt=logdir={root.parent}", f"--setopt=persistdir={root.parent}/kept"),
        *words,
    )
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def test_dnf_installs_the_signed_package_from_the_signed_repository(
    built: Built, filler: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    said = dnf(built, filler, root, "install", NAME)
    assert said.startswith("0\n"), said
    assert re.search(r"Importing GPG key .*\n Userid +: \"First", said), said
    assert (root / "usr/bin/cc-kraken").exists()


def test_dnf_refuses_an_index_that_was_changed(
    built: Built, filler: Path, tmp_path: Path
) -> None:
    index = built.repo / RPM / "repodata/repomd.xml"
    index.write_text(index.read_text() + "<!-- more -->\n")
    said = dnf(built, filler, tmp_path / "root", "install", NAME)
    assert not said.startswith("0\n")
    assert re.search("GPG verification|[Bb]ad GPG signature|[Bb]ad PGP", said), said


def test_dnf_refuses_a_package_that_another_key_signed(
    built: Built, filler: Path, tmp_path: Path
) -> None:
    (ours,) = (built.repo / RPM).glob("*.rpm")
    right = run("gpg", "--armor", "--export", "first@example.com", GNUPGHOME=built.home)
    gpg = shutil.which("gpg")
    signed = run(
        *("rpmsign", "-D", "_gpg_name other@example.com", "-D", f"__gpg {gpg}"),
        *("--resign", ours),
        GNUPGHOME=built.home,
    )
    assert signed.returncode == 0, signed.stderr
    # The index and the key stay those of the first.
    (built.repo / RPM / "repodata/repomd.xml.asc").unlink()
    assert run("createrepo_c", "--no-database", built.repo / RPM).returncode == 0
    index = built.repo / RPM / "repodata/repomd.xml"
    asc = built.repo / RPM / "repodata/repomd.xml.asc"
    words = ("--local-user", "first@example.com", "--armor", "--detach-sign")
    made = run("gpg", *words, "--output", asc, index, GNUPGHOME=built.home)
    assert made.returncode == 0, made.stderr
    assert (built.repo / "cc-kraken.asc").read_text() == right.stdout
    said = dnf(built, filler, tmp_path / "root", "install", NAME)
    assert not said.startswith("0\n")
    assert re.search("GPG check FAILED|not correct|not installed", said), said
    assert not (tmp_path / "root/usr/bin/cc-kraken").exists()


# --------------------------------------------------------------------- Ansible

SSH = """#!/bin/sh
# Stands for ssh: the last word is the command.
for last; do :; done
exec {enter} /bin/sh -c "$last"
"""


@pytest.fixture
def playbook(customer: Node, tmp_path: Path) -> Callable[..., str]:
    """A function that runs the playbook of the examples on the node, with variables;
    what Ansible said."""
    customer.run("rm", SOURCES, check=True)
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.format(enter=shlex.join(customer.enter)))
    ssh.chmod(0o755)

    def play(**variables: object) -> str:
        done = run(
            *(Path(sys.executable).parent / "ansible-playbook", "-i", "node,"),
            *("-e", json.dumps(variables), EXAMPLES / "ansible/image.yml"),
            ANSIBLE_HOME=str(tmp_path / "ansible"),
            ANSIBLE_LOCALHOST_WARNING="0",
            ANSIBLE_NOCOLOR="1",
            ANSIBLE_PIPELINING="1",
            ANSIBLE_SSH_ARGS="",
            ANSIBLE_SSH_EXECUTABLE=str(ssh),
            ANSIBLE_SSH_TRANSFER_METHOD="piped",
        )
        return f"{done.returncode}\n{done.stdout}{done.stderr}"

    return play


def test_ansible_makes_an_image_and_finds_nothing_to_do_the_second_time(
    playbook: Callable[..., str], customer: Node, built: Built
) -> None:
    said = playbook(cc_kraken_repository=built.url)
    assert said.startswith("0\n"), said
    assert customer.run("cc-kraken", "--version").code == 0
    defaults = "/etc/cloud/cloud.cfg.d/50-kraken-defaults.cfg"
    assert yaml.safe_load(customer.read(defaults))["kraken"]["enabled"] is False
    assert not customer.exists("/var/lib/cloud/instance")
    again = playbook(cc_kraken_repository=built.url, cc_kraken_clean=False)
    assert "changed=0" in again, again


def test_ansible_installs_a_file_and_refuses_a_section_with_a_mistake(
    playbook: Callable[..., str], customer: Node, built: Built
) -> None:
    (deb,) = built.dist.glob("*.deb")
    wrong = {"defaults": {"fstype": "xfs"}}
    said = playbook(cc_kraken_package=str(deb), cc_kraken_section=wrong)
    assert not said.startswith("0\n")
    assert "kraken.defaults.fstype" in said
    assert customer.run("cc-kraken", "--version").code == 0
    assert not customer.exists("/etc/cloud/cloud.cfg.d/50-kraken-defaults.cfg")
    said = playbook()
    assert "Set cc_kraken_repository or cc_kraken_package" in said


# ------------------------------------------------------------- what it refuses


def everything(at: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(at)): path.read_bytes()
        for path in at.rglob("*")
        if path.is_file()
    }


def test_other_contents_under_a_version_that_is_there_are_refused(
    built: Built,
) -> None:
    built.build()
    (deb,) = built.dist.glob("*.deb")
    before = everything(built.repo)
    version = deb.name.split("_")[1]
    tree = built.dist / "tree"
    assert run("dpkg-deb", "-R", deb, tree).returncode == 0
    (tree / "usr/bin/cc-kraken").write_text("#!/bin/sh\n")
    assert run("dpkg-deb", "-b", tree, deb).returncode == 0
    shutil.rmtree(tree)
    made = built.tried("first@example.com")
    assert made.returncode != 0
    assert f"{NAME}_{version}_all.deb is in" in made.stderr
    assert "Raise the version" in made.stderr
    assert everything(built.repo) == before
    assert [path.name for path in built.dist.glob("repo*")] == ["repo"]


@pytest.mark.parametrize(
    "key, said",
    [
        ("", "KEY= is missing"),
        ("nobody@example.com", "gpg has 0 secret keys"),
        ("example.com", "gpg has 2 secret keys"),
    ],
)
def test_a_key_that_is_not_one_key_is_refused(
    built: Built, key: str, said: str
) -> None:
    before = everything(built.repo)
    made = built.tried(key)
    assert made.returncode != 0 and said in made.stderr
    assert everything(built.repo) == before


def test_without_packages_it_says_how_to_make_them(tmp_path: Path) -> None:
    with keyring("First <first@example.com>") as home:
        made = Built(tmp_path, home, 0).tried("first@example.com")
    assert made.returncode != 0 and "Run make packages first" in made.stderr


def test_missing_tools_are_named_with_the_command_that_installs_them(
    empty: Node,
) -> None:
    for name in ("build-repo", "check-tools"):
        script = (ROOT / "packaging" / name).read_text()
        empty.write(f"/root/packaging/{name}", script, 0o755)
    repo = empty.run("/root/packaging/build-repo", "/root", "me")
    assert repo.code == 1 and "createrepo-c" in repo.err
    assert "apt-get install --no-install-recommends" in repo.err
    tools = empty.run("/root/packaging/check-tools")
    assert tools.code == 1
    assert "apt-get build-dep --no-install-recommends ./" in tools.err
    assert "no-install-recommends rpm " in tools.err
    assert "python3-build" in tools.err


# ---------------------------------------------------------------- what it brings


def planned(deb: Path, at: Path, *words: str) -> set[str]:
    """What apt would install on a machine that has nothing, by this machine's lists."""
    status = at / "status"
    status.touch()
    done = run(
        *("apt-get", "-s", "-q", "-o", f"Dir::State::status={status}"),
        *("-o", f"Dir::State::extended_states={at / 'extended'}"),
        *(*words, "install", deb),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"(?m)^Inst (\S+)", done.stdout))


def test_the_mail_server_comes_by_recommends_alone(deb: Path, tmp_path: Path) -> None:
    if not list(Path("/var/lib/apt/lists").glob("*_Packages*")):
        pytest.skip("apt has no lists here: apt-get update")
    needed = planned(deb, tmp_path, "--no-install-recommends")
    assert {NAME, "mdadm", "cloud-init", "python3-boto3"} <= needed
    mail = {"exim4-base", "postfix", "default-mta"}
    assert not needed & mail
    # Not by a word of ours: mdadm recommends default-mta.
    assert planned(deb, tmp_path) & mail
