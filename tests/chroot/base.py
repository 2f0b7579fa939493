"""Chroots of Debian releases with cloud-init: built once, kept in the cache.

Two layers under ``${CC_KRAKEN_CACHE:-~/.cache/cc-kraken}``, as the lab's root
disks have them:

- the base (``chroot-<release>-<digest of the recipe>/tree``), built by
  mmdebstrap, all that our package depends on in it, ours not;
- the layer (``…/layers/<digest of the source>``): what installing the package
  of this source tree by apt has added; the upper directory of an overlay.

Neither is written to: a `Node` has an overlay of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.chroot.node import Node
from tests.lab import image
from tests.lab.image import SOURCE, LabError, Progress, silent

RELEASES = ("bullseye", "bookworm", "trixie", "sid")
SPARE_LAYERS = 2

PACKAGES = (
    "apt",
    "cloud-init",
    "mdadm",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "udev",
    "iproute2",
    "locales",
    "openssh-server",
    "procps",
    "python3-apt",
    "python3-boto3",
    "python3-jsonschema",
    "python3-pytest",
    "python3-yaml",
    "rsync",
    "sudo",
)

NETWORK_PACKAGES = {
    "bullseye": ("ifupdown",),
    "bookworm": ("ifupdown",),
    "trixie": ("netplan.io",),
    "sid": ("netplan.io",),
}

#: Where the package of cloud-init's configuration lies, to be installed again.
KEPT = "var/local/cloud-init"

FILES = {
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/fstab": "",
    "etc/resolv.conf": "",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/cloud/cloud.cfg.d/90_chroot.cfg": (
        "datasource_list: [NoCloud, None]\n"
        "datasource: {Ec2: {strict_id: false, max_wait: 10, timeout: 5}}\n"
        "network: {config: disabled}\n"
        "growpart: {mode: 'off'}\n"
        "resize_rootfs: false\n"
        "apt: {preserve_sources_list: true}\n"
        "ssh_genkeytypes: [ed25519]\n"
    ),
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}

KEEP = (
    'mkdir -p "$1/{kept}" && chroot "$1" sh -c \'cd /{kept} && apt-get -q download '
    "$(dpkg -S /etc/cloud/cloud.cfg | cut -d: -f1)'"
)


def tree(release: str, progress: Progress = silent) -> Path:
    """The release without our package, built when the cache has none."""
    if release not in RELEASES:
        raise LabError(
            f"no recipe for the release {release!r}: known are {', '.join(RELEASES)}"
        )
    home = image.cache_directory() / f"chroot-{release}-{_digest(release)}"
    with image.locked(_lock(release)):
        if not (home / "tree").exists():
            mark = f"build-chroot-{release}-"
            for left in home.parent.glob(f"{mark}*"):
                shutil.rmtree(left)  # of a build that was killed
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=mark) as at:
                _build(release, Path(at), progress)
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                os.rename(Path(at) / "tree", home / "tree")
        os.utime(home)
        image.prune(home.parent.glob(f"chroot-{release}-*"), home)
    return home / "tree"


def installed(
    release: str, progress: Progress = silent, source: Path = SOURCE
) -> tuple[Path, ...]:
    """Lower directories, topmost first, of the release with the package of
    the tree at `source` installed."""
    base = tree(release, progress)
    layers = base.parent / "layers"
    layers.mkdir(exist_ok=True)
    layer = layers / image.source_digest(source)
    deb = image.package(source, progress)
    with image.locked(_lock(release)), ExitStack() as stack:
        if not layer.exists():
            for left in layers.glob("build-*"):
                shutil.rmtree(left)
            at = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(dir=layers, prefix="build-")
                )
            )
            (at / "upper").mkdir()
            (at / "work").mkdir()
            with image.telling(f"installing {deb.name} in {release}", progress):
                with Node((base,), upper=at / "upper", work=at / "work") as node:
                    install(node, deb)
            os.rename(at / "upper", layer)
        os.utime(layer)
        others = sorted(
            (path for path in layers.iterdir() if path != layer),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        image.prune(others[SPARE_LAYERS:], layer)
    return layer, base


def install(node: Node, *debs: Path) -> str:
    """Install packages by apt; what it printed."""
    for deb in debs:
        shutil.copy(deb, node.path("/tmp") / deb.name)
    names = [f"/tmp/{deb.name}" for deb in debs]
    done = node.run(
        *("apt-get", "-q", "-y", "--no-install-recommends", "--allow-downgrades"),
        *("-o", "Dpkg::Options::=--force-confdef"),
        *("-o", "Dpkg::Options::=--force-confold"),
        *("--reinstall", "install", *names),
        check=True,
    )
    for name in names:
        node.path(name).unlink()
    return done.out


def _lock(release: str) -> Path:
    return image.cache_directory() / f"chroot-{release}.lock"


def _digest(release: str) -> str:
    recipe = [
        release,
        PACKAGES,
        NETWORK_PACKAGES[release],
        FILES,
        KEEP,
        image.DPKG_OPTIONS,
        image.apt_sources(release),
    ]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def _build(release: str, at: Path, progress: Progress) -> None:
    top = at / "tree"
    sources = at / "sources.list"
    sources.write_text("\n".join(image.apt_sources(release)) + "\n")
    packages = ",".join(PACKAGES + NETWORK_PACKAGES[release])
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={packages}"]
    argv.append('--aptopt=Acquire::Check-Valid-Until "false"')
    argv.append('--aptopt=Acquire::Languages "none"')
    argv.append('--aptopt=Acquire::Retries "5"')
    argv += [f"--dpkgopt={option}" for option in image.DPKG_OPTIONS]
    argv.append(f"--customize-hook={KEEP.format(kept=KEPT)}")
    argv += [release, str(top), str(sources)]
    what = f"building a chroot of {release} with mmdebstrap"
    log = image.cache_directory() / f"chroot-{release}-build.log"
    log.unlink(missing_ok=True)
    image.run_logged(argv, progress, what, log)
    for name, text in FILES.items():
        path = top / name
        path.unlink(missing_ok=True)
        path.write_text(text)
    (top / "usr/sbin/policy-rc.d").chmod(0o755)
    for key in (top / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # cloud-init makes them
