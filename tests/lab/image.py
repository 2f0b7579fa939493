"""Root disks for the lab's instances: a Debian release, and cc_kraken in it.

Two layers, both cached under ``${CC_KRAKEN_CACHE:-~/.cache/cc-kraken}``:

- the base (``<release>-<digest of the recipe>/``): root file system as a raw
  ext4 image, kernel and initrd beside it, built by mmdebstrap;
- the layer (``…/layers/<digest of the source>.raw``): a sparse copy of the base
  with the package of this source tree installed, renewed in seconds.

A release may have a variant: ``bookworm+selinux``, ``sid+dracut``.

An instance never writes to either: it runs on a qcow2 overlay of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

Progress = Callable[[str], None]

SOURCE = Path(__file__).resolve().parents[2]
ROOT_LABEL = "lab-root"
ROOT_SIZE = "6G"
SPARE_LAYERS = 3
BASE_KEPT_SECONDS = 24 * 3600

# What the lab itself calls, and the Debian package that has it.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "losetup": "mount",
    "nc": "netcat-openbsd",
    "dpkg-buildpackage": "dpkg-dev",
}

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "initramfs-tools",
    "lz4",
    "linux-image-cloud-amd64",
    "cloud-init",
    "mdadm",
    "xfsprogs",
    "btrfs-progs",
    "e2fsprogs",
    "dmsetup",
    "fdisk",
    "python3-boto3",
    "python3-jsonschema",
    "qemu-guest-agent",
    "locales",
    "openssh-server",
    "iproute2",
    "procps",
    "sudo",
    "less",
)

# cloud-init 22.4 asks for its address with dhclient only; later ones know dhcpcd.
NETWORK_PACKAGES = {
    "bookworm": ("ifupdown", "isc-dhcp-client"),
    "trixie": ("netplan.io", "dhcpcd-base", "systemd-resolved"),
    "sid": ("netplan.io", "dhcpcd-base", "systemd-resolved"),
}

# Where ifupdown has the network, networkd would wait two minutes for its own.
NETWORK_MASKED_UNITS = {
    "bookworm": ("systemd-networkd.service", "systemd-networkd-wait-online.service"),
}

# The instances of most releases say nothing of either.
QUIET_KERNEL = ("apparmor=0", "audit=0")


@dataclass(frozen=True)
class Variant:
    """What is other than in the release itself.

    `policy`: what is added to SELinux's policy (CIL); then each file has the label
    that the policy has for its path.
    """

    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    kernel_options: tuple[str, ...] = QUIET_KERNEL
    policy: str = ""


VARIANTS = {
    "": Variant(),
    "dracut": Variant(packages=("dracut",), without=("initramfs-tools",)),
    "selinux": Variant(
        packages=("selinux-policy-default", "selinux-basics"),
        files=(("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=default\n"),),
        kernel_options=("security=selinux", "selinux=1", "audit_backlog_limit=8192"),
        # Debian's policy does not know cloud-init: its generator may not write to
        # /run, and no boot would ever start cloud-init.
        policy="(typepermissive systemd_generator_t)\n",
    ),
}

# Nothing that a node needs, and each costs seconds when the CPU is emulated.
MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "mdcheck_start.timer",
    "mdcheck_continue.timer",
    "getty@tty1.service",
    "systemd-timesyncd.service",
    "keyboard-setup.service",
    "console-setup.service",
    "systemd-pstore.service",
)

FILES = {
    "/etc/hostname": "localhost\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/fstab": f"LABEL={ROOT_LABEL} / ext4 defaults,errors=remount-ro 0 1\n",
    "/etc/machine-id": "uninitialized\n",
    "/etc/cloud/cloud.cfg.d/90_lab.cfg": (
        "datasource_list: [Ec2, None]\n"
        "datasource:\n"
        "  Ec2:\n"
        "    strict_id: false\n"
        "    max_wait: 60\n"
        "    timeout: 20\n"
        "growpart: {mode: 'off'}\n"
        "resize_rootfs: false\n"
        "apt: {preserve_sources_list: true}\n"
        "ssh_genkeytypes: [ed25519]\n"
    ),
    # The agent has to answer while the boot is still waiting for something,
    # so that a test can look at that: before sysinit.target, unlike sshd.
    "/etc/systemd/system/qemu-guest-agent.service.d/early.conf": (
        "[Unit]\n"
        "DefaultDependencies=no\n"
        "After=systemd-remount-fs.service systemd-tmpfiles-setup.service\n"
        "Conflicts=shutdown.target\n"
        "Before=shutdown.target\n"
    ),
    "/etc/systemd/journald.conf.d/lab.conf": (
        "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n"
    ),
    "/etc/resolv.conf": "",  # there is no name service in the lab
    "/etc/default/locale": "LANG=C.UTF-8\n",
}

INITRAMFS_OPTIONS = "COMPRESS=lz4\n"
# For no machine in particular: it is made in a chroot.
DRACUT_OPTIONS = 'hostonly="no"\ncompress="lz4"\n'

DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)

# Seen by the instance as modules or built in; the build stops if one is missing.
KERNEL_OPTIONS = (
    "BLK_DEV_NVME",
    "BLK_DEV_MD",
    "MD_RAID0",
    "MD_RAID1",
    "MD_RAID10",
    "MD_RAID456",
    "EXT4_FS",
    "XFS_FS",
    "BTRFS_FS",
    "VIRTIO_PCI",
    "VIRTIO_NET",
    "VIRTIO_BLK",
    "VIRTIO_CONSOLE",
    "HOTPLUG_PCI_PCIE",
    "HOTPLUG_PCI_ACPI",
    "SERIAL_8250_CONSOLE",
)


class LabError(Exception):
    """Something in the lab itself failed: not the program under test."""


@dataclass(frozen=True)
class Image:
    """What an instance is started from; all three files are only read."""

    release: str
    root: Path
    kernel: Path
    initrd: Path

    @property
    def kernel_options(self) -> tuple[str, ...]:
        """What its kernel is told besides what every instance's is."""
        return VARIANTS[self.release.partition("+")[2]].kernel_options


def silent(_line: str) -> None:
    """A `Progress` that says nothing."""


def cache_directory() -> Path:
    """Where images are kept between runs."""
    chosen = os.environ.get("CC_KRAKEN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "cc-kraken"


def missing() -> list[str]:
    """Why images cannot be built or run here: one sentence each, or nothing."""
    found = []
    if os.geteuid() != 0:
        found.append("not root: images are built in a chroot and mounted by loop")
    if not os.path.exists("/dev/loop-control"):
        found.append("no loop devices: /dev/loop-control does not exist")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=path) is None:
            found.append(f"{program} is not installed: apt-get install {package}")
    return found


def base_image(release: str = "bookworm", progress: Progress = silent) -> Image:
    """The release without cc_kraken, built when the cache has none (1 to 3 min)."""
    reasons = missing()
    if reasons:
        raise LabError("the lab cannot run: " + "; ".join(reasons))
    home = cache_directory() / f"{release}-{_recipe_digest(release)}"
    image = Image(release, home / "root.raw", home / "vmlinuz", home / "initrd.img")
    with locked(cache_directory() / f"{release}.lock"):
        if not image.root.exists():
            mark = f"build-{release}-"
            for left in home.parent.glob(f"{mark}*"):
                shutil.rmtree(left)  # of a build that was killed
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=mark) as at:
                _build_base(release, Path(at), progress)
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                for name in ("vmlinuz", "initrd.img", "root.raw"):
                    os.rename(Path(at) / name, home / name)
        os.utime(image.root)
        _prune_bases(home, release)
    return image


def installed_image(
    release: str = "bookworm",
    progress: Progress = silent,
    source: Path = SOURCE,
) -> Image:
    """The release with the cc_kraken of the tree at `source` (half a minute)."""
    base = base_image(release, progress)
    layers = base.root.parent / "layers"
    layers.mkdir(exist_ok=True)
    root = layers / f"{source_digest(source)}.raw"
    image = Image(release, root, base.kernel, root.with_suffix(".initrd"))
    with locked(cache_directory() / f"{release}.lock"):
        if root.exists() and image.initrd.exists():
            os.utime(root)
        else:
            _build_layer(base, image, source, progress)
        _prune_layers(layers, root)
    return image


def source_digest(source: Path) -> str:
    """Digest of all that the installed module is built from."""
    digest = hashlib.sha256()
    for path in _source_files(source):
        digest.update(f"{path.relative_to(source)}\0".encode())
        digest.update(f"{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _source_files(source: Path) -> Iterator[Path]:
    for name in ("cc_kraken", "schema", "debian"):
        for path in sorted((source / name).rglob("*")):
            built = "__pycache__" in path.parts or _is_built(path, source)
            if path.is_file() and not built:
                yield path
    for pattern in ("setup.*", "pyproject.toml", "MANIFEST.in", "README*", "LICENSE*"):
        yield from sorted(p for p in source.glob(pattern) if p.is_file())


def package_files(source: Path) -> Iterator[Path]:
    """All that the Debian package is built from."""
    yield from _source_files(source)
    yield from _documents(source)


def _documents(source: Path) -> Iterator[Path]:
    """What the package has besides: no instance of the lab behaves otherwise."""
    yield from source.glob("CHANGELOG*")
    for name in ("docs", "examples", "packaging/completion"):
        yield from (path for path in (source / name).rglob("*") if path.is_file())


def _is_built(path: Path, source: Path) -> bool:
    """What dpkg-buildpackage leaves in debian/, should somebody build in the tree."""
    inside = path.relative_to(source).parts
    left = ("files", "debhelper-build-stamp", ".debhelper", "tmp", "cloud-init-kraken")
    return inside[0] == "debian" and len(inside) > 1 and inside[1] in left


def _recipe(name: str) -> tuple[str, Variant]:
    """The release and the variant of ``sid+dracut``."""
    release, _, word = name.partition("+")
    if release not in NETWORK_PACKAGES or word not in VARIANTS:
        known = ", ".join(sorted(NETWORK_PACKAGES))
        variants = ", ".join(f"+{one}" for one in sorted(VARIANTS) if one)
        raise LabError(
            f"no recipe for {name!r}: the releases are {known}, variants {variants}"
        )
    return release, VARIANTS[word]


def _recipe_digest(name: str) -> str:
    release, variant = _recipe(name)
    recipe = json.dumps(
        [
            release,
            PACKAGES,
            NETWORK_PACKAGES.get(release),
            MASKED_UNITS,
            NETWORK_MASKED_UNITS.get(release),
            FILES,
            INITRAMFS_OPTIONS,
            DPKG_OPTIONS,
            KERNEL_OPTIONS,
            ROOT_LABEL,
            ROOT_SIZE,
            apt_sources(release),
            *([] if variant == VARIANTS[""] else [repr(variant), DRACUT_OPTIONS]),
        ]
    )
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def apt_sources(release: str) -> list[str]:
    mirror = os.environ.get("CC_KRAKEN_MIRROR", "http://deb.debian.org/debian")
    lines = [f"deb {mirror} {release} main"]
    if release != "sid":
        lines.append(f"deb {mirror} {release}-updates main")
        lines.append(f"deb {mirror}-security {release}-security main")
    return lines


def _build_base(name: str, at: Path, progress: Progress) -> None:
    tree = at / "tree"
    release, variant = _recipe(name)
    early = {
        "/etc/initramfs-tools/conf.d": at / "initramfs",
        "/etc/dracut.conf.d": at / "lab.conf",
    }
    for path, options in zip(early.values(), (INITRAMFS_OPTIONS, DRACUT_OPTIONS)):
        path.write_text(options)
    wanted = (*PACKAGES, *NETWORK_PACKAGES[release], *variant.packages)
    packages = ",".join(one for one in wanted if one not in variant.without)
    sources = at / "sources.list"
    sources.write_text("\n".join(apt_sources(release)) + "\n")
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={packages}"]
    # An index of sid that was kept for a while has expired: that is no harm here.
    argv.append('--aptopt=Acquire::Check-Valid-Until "false"')
    argv.append('--aptopt=Acquire::Languages "none"')
    argv.append('--aptopt=Acquire::Retries "5"')
    argv += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    # Before the packages: their scripts make the initrd.
    for target, path in early.items():
        argv.append(f'--essential-hook=mkdir -p "$1{target}"')
        argv.append(f"--essential-hook=upload {path} {target}/lab.conf")
    argv += [release, str(tree), str(sources)]
    what = f"building the {name} root disk with mmdebstrap"
    log = cache_directory() / f"{name}-build.log"
    run_logged(argv, progress, what, log)
    _check_kernel(tree)
    for inside, text in (*FILES.items(), *variant.files):
        path = tree / inside.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    for unit in MASKED_UNITS + NETWORK_MASKED_UNITS.get(release, ()):
        _link(tree / "etc/systemd/system" / unit, "/dev/null")
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # cloud-init makes them, as on a real instance
    shutil.copyfile(_newest(tree / "boot", "vmlinuz-*"), at / "vmlinuz")
    shutil.copyfile(_newest(tree / "boot", "initrd.img-*"), at / "initrd.img")
    root = at / "root.raw"
    run_logged(["truncate", "-s", ROOT_SIZE, str(root)], progress, "making room", log)
    argv = ["mkfs.ext4", "-q", "-L", ROOT_LABEL, "-E", "lazy_itable_init=0"]
    argv += ["-d", str(tree), str(root)]
    run_logged(argv, progress, "writing the root file system", log)


def _check_kernel(tree: Path) -> None:
    text = _newest(tree / "boot", "config-*").read_text()
    options = dict(
        line.removeprefix("CONFIG_").split("=", 1)
        for line in text.splitlines()
        if line.startswith("CONFIG_")
    )
    lacking = [o for o in KERNEL_OPTIONS if options.get(o) not in ("y", "m")]
    if lacking:
        raise LabError("the image's kernel lacks " + ", ".join(lacking))


def _newest(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if not found:
        raise LabError(f"the image has no {pattern} in {directory.name}/")
    return found[-1]


def _link(path: Path, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(target)


def _build_layer(base: Image, image: Image, source: Path, progress: Progress) -> None:
    root = image.root
    log = cache_directory() / f"{base.release}-layer.log"
    log.unlink(missing_ok=True)
    for left in root.parent.glob("build-*"):
        if not os.path.ismount(left / "mnt"):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="build-") as at:
        copy = Path(at) / "root.raw"
        packed = None
        if (source / "debian" / "control").exists():
            packed = package(source, progress)
        argv = ["cp", "--sparse=always", "--reflink=auto", str(base.root), str(copy)]
        run_logged(argv, progress, "copying the root disk", log)
        with mounted(copy, Path(at) / "mnt") as tree:
            if packed is not None:
                _install_package(tree, packed, progress, log)
            else:
                _install_tree(tree, source)
            policy = _recipe(base.release)[1].policy
            if policy:
                _label(tree, policy, progress, log)
            # The package has a hook for it.
            shutil.copyfile(_newest(tree / "boot", "initrd.img-*"), image.initrd)
        os.rename(copy, root)


def package(source: Path = SOURCE, progress: Progress = silent) -> Path:
    """The Debian package of the tree at `source`, built when the cache has
    none (10 s)."""
    home = cache_directory() / "deb"
    kept = home / source_digest(source)
    log = cache_directory() / "deb-build.log"
    home.mkdir(parents=True, exist_ok=True)
    with locked(cache_directory() / "deb.lock"):
        if not kept.exists():
            log.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=home, prefix="build-") as at:
                found = build_package(source, Path(at), progress, log)
                os.makedirs(Path(at) / "kept")
                os.rename(found, Path(at) / "kept" / found.name)
                os.rename(Path(at) / "kept", kept)
        os.utime(kept)
        prune(home.iterdir(), kept)
    (deb,) = kept.glob("*.deb")
    return deb


def prune(found: Iterable[Path], used: Path) -> None:
    """Remove the directories that were not used for a day."""
    old = time.time() - BASE_KEPT_SECONDS
    for path in found:
        if path != used and path.stat().st_mtime < old:
            shutil.rmtree(path)


def build_package(source: Path, at: Path, progress: Progress, log: Path) -> Path:
    """Build the Debian package of `source` in a copy of it; the .deb in `at`."""
    copy = at / "package" / "cc-kraken"
    for path in package_files(source):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    argv = ["dpkg-buildpackage", "-us", "-uc", "-b"]
    environment = {**os.environ, "DEB_BUILD_OPTIONS": "nocheck"}
    run_logged(argv, progress, "building the Debian package", log, copy, environment)
    return _newest(at / "package", "cloud-init-kraken_*.deb")


def _install_package(tree: Path, packed: Path, progress: Progress, log: Path) -> None:
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copy2(packed, tree / "root" / packed.name)
    argv = ["chroot", str(tree), "dpkg", "-i", f"/root/{packed.name}"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    with _chroot_mounts(tree):
        what = f"installing {packed.name} in the image"
        run_logged(argv, progress, what, log, environment=environment)
    policy.unlink()
    (tree / "root" / packed.name).unlink()


def _install_tree(tree: Path, source: Path) -> None:
    """The bare package, for a source that has no debian/: not in any list."""
    home = tree / "usr/lib/python3/dist-packages/cc_kraken"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "cc_kraken", home, ignore=skipped)
    shutil.copytree(source / "schema", home / "schemas")


def _label(tree: Path, policy: str, progress: Progress, log: Path) -> None:
    """Add to SELinux's policy, and label all files, as a first boot with
    /.autorelabel does."""
    module = tree / "root/lab.cil"
    module.write_text(policy)
    types = "/etc/selinux/default/contexts/files/file_contexts"
    added = ["semodule", "-n", "-i", "/root/lab.cil"]
    labelled = ["setfiles", "-F", "-m", "-r", "/mnt", types, "/mnt"]
    with _chroot_mounts(tree), contextlib.ExitStack() as stack:
        # What lies below proc, run and tmp has labels, too.
        subprocess.run(["mount", "--bind", str(tree), str(tree / "mnt")], check=True)
        stack.callback(subprocess.run, ["umount", str(tree / "mnt")], check=True)
        for argv in (added, labelled):
            what = f"{argv[0]} in the image"
            run_logged(["chroot", str(tree), *argv], progress, what, log)


@contextlib.contextmanager
def mounted(raw: Path, at: Path) -> Iterator[Path]:
    """The file system of a root disk that no instance runs on, at `at`."""
    at.mkdir()
    argv = ["losetup", "--find", "--show", str(raw)]
    device = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE)
    name = device.stdout.strip()
    try:
        subprocess.run(["mount", name, str(at)], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", str(at)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)


@contextlib.contextmanager
def _chroot_mounts(tree: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for kind, inside in (("proc", "proc"), ("tmpfs", "run"), ("tmpfs", "tmp")):
            at = str(tree / inside)
            subprocess.run(["mount", "-t", kind, kind, at], check=True)
            stack.callback(subprocess.run, ["umount", at], check=True)
        yield


def _prune_layers(layers: Path, used: Path) -> None:
    others = sorted(
        (path for path in layers.glob("*.raw") if path != used),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in others[SPARE_LAYERS:]:
        if not _in_use(path):
            path.unlink()
            path.with_suffix(".initrd").unlink(missing_ok=True)


def _prune_bases(used: Path, release: str) -> None:
    """Drop what older recipes have made, unless it was used in the last day."""
    old = time.time() - BASE_KEPT_SECONDS
    for home in used.parent.glob(f"{release}-*/"):
        roots = [*home.glob("root.raw"), *home.glob("layers/*.raw")]
        recent = any(root.stat().st_mtime > old for root in roots)
        if home != used and not recent and not any(map(_in_use, roots)):
            shutil.rmtree(home)


def _in_use(root: Path) -> bool:
    with open(root, "rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def in_use(image: Image) -> Iterator[None]:
    """For as long as instances run on `image`: it stays in the cache."""
    with open(image.root, "rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_logged(
    argv: Sequence[str],
    progress: Progress,
    what: str,
    log: Path,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run a command with its output in `log`, and say what lasts how long.

    Our own Python's settings are not for the Pythons that it starts: packages that
    are installed would be compiled into the directory of our compiled files.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    given = dict(os.environ) if environment is None else environment
    environment = {
        name: value for name, value in given.items() if not name.startswith("PYTHON")
    }
    with telling(what, progress), open(log, "ab") as out:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment,
            start_new_session=True,  # so that its children end with it
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    if code:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        raise LabError(
            f"{argv[0]} ended with {code} while {what}; the end of {log}:\n"
            + "\n".join(tail)
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and its children; mounts of mmdebstrap go with its namespace."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    process.wait()


@contextlib.contextmanager
def telling(what: str, progress: Progress, every: float = 10) -> Iterator[None]:
    """Say that `what` is under way, every `every` seconds, and how long it took."""
    begun = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while not done.wait(every):
            progress(f"{what} … {time.monotonic() - begun:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    progress(f"{what} …")
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
    progress(f"{what}: {time.monotonic() - begun:.1f} s")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does: with all cleared away."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> int:
    """``python3 -m tests.lab.image [release]``: build and name the image."""
    release = argv[0] if argv else "bookworm"
    try:
        with ended_by_signals():
            image = installed_image(release, lambda line: print(line, flush=True))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(image.root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
