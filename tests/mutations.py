"""Do the tests see it when a guard is broken?  ``python3 -m tests.mutations``.

Each mutation is applied to a copy of the tree, and the tests that should care
are run there until the first one fails; a table says which.  A mutation that
no test sees, or that does not fit the source any more, is a failure.  With
words as arguments: only the mutations whose title contains one of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("cc_kraken", "tests", "schema", "debian", "docs", "examples", "packaging")
FILES = ("pyproject.toml", "setup.cfg", "README.md", "Makefile")

DECISION = "tests/unit/decide"
PROPERTIES = "tests/unit/simulations/test_properties.py"
WANTED = "tests/unit/config/test_sets.py"
DEVICES = "tests/unit/machine/test_devices.py"
EXECUTOR = "tests/unit/act/test_executor.py"
EC2 = "tests/unit/cloud/test_ec2.py"
PROBE = "tests/loop/test_probe.py"
DESTROY = "tests/loop/test_destroy.py"
WRITE_COUNTERS = "tests/loop/test_write_counters.py"
GROW = "tests/loop/test_grow.py"
RUN = "tests/loop/test_run.py"
MOUNTED = "tests/loop/test_mounted.py"
COUNTERS = "tests/unit/proof/test_write_counters.py"
AGAIN = "tests/loop/test_again.py"
USERDATA = "tests/unit/commands/test_userdata.py"
RUN_EC2 = "tests/unit/act/test_run.py"
LAUNCH = "tests/unit/boot/test_launch.py"
UDEVRULES = "tests/unit/state/test_udev_rules.py"
EVER_MOUNTED = "tests/loop/test_ever_mounted.py"


@dataclass(frozen=True)
class Mutation:
    """``edits``: module, what is there (once), what is put there."""

    title: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


def change(title: str, module: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(title, ((module, old, new),), tests)


MUTATIONS = (
    change(
        "a copy beside a set is no matter",
        "decide/copies",
        "if one.uuid and one.uuid in uuids",
        "if one.uuid and False",
        DECISION,
    ),
    change(
        "an array of copies counts as the set's own",
        "decide/world",
        "key=lambda array: not own & set(array.members)",
        "key=lambda array: 0",
        DECISION,
    ),
    change(
        "udev hides the disk that the machine boots from",
        "state/udev_rules",
        "if entry.fit and not system & {entry.filesystem, entry.array}:",
        "if entry.fit:",
        UDEVRULES,
    ),
    change(
        "a pattern comes into a rule for udev",
        "state/udev_rules",
        "all(_VOLUME.fullmatch(volume) for volume in self.volumes)",
        "True",
        UDEVRULES,
    ),
    change(
        "udev hides what is mounted",
        "state/udev_rules",
        'TEST=="{one.mounted_test}", GOTO=',
        'TEST=="", GOTO=',
        UDEVRULES,
    ),
    change(
        "only the first page of a piece is compared with zeros",
        "proof/directio",
        "return _ZERO.startswith(data)",
        "return _ZERO.startswith(data[:PAGE])",
        PROBE,
    ),
    change(
        "how much a read gave is not asked",
        "proof/directio",
        "        if count != length:\n",
        "        if False:\n",
        AGAIN,
    ),
    change(
        "what most of the reading threads found is forgotten",
        "proof/directio",
        "for pieces in shares for piece in pieces",
        "for pieces in shares[:1] for piece in pieces",
        PROBE,
    ),
    change(
        "a read error counts as zeros",
        "proof/directio",
        "return [Piece(start, in_the_way=error.offset, error=str(error))]",
        "return []",
        PROBE,
    ),
    change(
        "of the disk itself the serial is believed that was read before",
        "machine/devices",
        "return device if serial_of(paths, name) == volume else None",
        "return device",
        DEVICES,
    ),
    change(
        "what is mounted is mounted before systemd has read fstab",
        "act/executor",
        "                self._reload(self._unfailed(_of(steps, BY_FSTAB)))\n"
        "                self._side_by_side(phase, _of(steps, AFTER_FSTAB))\n",
        "                self._side_by_side(phase, _of(steps, AFTER_FSTAB))\n"
        "                self._reload(self._unfailed(_of(steps, BY_FSTAB)))\n",
        EXECUTOR,
    ),
    change(
        "what blkid would find is not asked",
        "proof/judgement",
        "if code == 0 and not listed:",
        "if True:",
        PROBE,
    ),
    change(
        "the serial is not read again before a write",
        "storage/preconditions",
        "if found != target.volume_id:",
        "if False:",
        DESTROY,
    ),
    Mutation(
        "mkfs comes before the intent record",
        (
            ("decide/steps", "class WriteRecords(Step, phase=ASSEMBLE):",
             "class WriteRecords(Step, phase=MKFS):"),
            ("decide/filesystem",
             "return [write, _mkfs(case, intent, uuid), _erase(case, intent)]",
             "return [_mkfs(case, intent, uuid), write, _erase(case, intent)]"),
        ),
        (PROPERTIES,),
    ),
    change(
        "the record is erased before mkfs",
        "decide/filesystem",
        "return [_mkfs(case, present, uuid), _erase(case, present)]",
        "return [_erase(case, present), _mkfs(case, present, uuid)]",
        PROPERTIES,
    ),
    change(
        "a proof holds also after a write",
        "proof/probe",
        "same = testimony is not None and seen.testimony == testimony",
        "same = testimony is not None",
        WRITE_COUNTERS,
    ),
    change(
        "a proof holds also where the kernel does not see every write",
        "proof/write_counters",
        "if not TRUSTED.fullmatch(os.path.basename(directory)):",
        "if False:",
        WRITE_COUNTERS,
    ),
    change(
        "a write beside the record is taken for the record's",
        "proof/write_counters",
        "or replace(now, written=now.written - length // SECTOR) != before:",
        "or False:",
        WRITE_COUNTERS,
    ),
    change(
        "what blkid and wipefs do not know counts as blank",
        "proof/probe",
        'return (Blank(), "") if content is None else (content, mark)',
        'return Blank(), ""',
        PROBE,
    ),
    change(
        "the last 16 MiB are not read",
        "proof/places",
        "    yield size - EDGE, size\n",
        "",
        "tests/unit/proof/test_places.py",
        PROBE,
    ),
    change(
        "no samples are drawn",
        "proof/probe",
        "rest = places.samples(size, random.Random(self.drawn))",
        "rest = ()",
        PROBE,
    ),
    change(
        "what was made over remains is believed",
        "storage/make",
        "look = disk.look(made=blank)",
        "look = disk.look(made=True)",
        "tests/loop/test_destroy.py",
    ),
    change(
        "a volume made of a snapshot may be formatted",
        "decide/records",
        "        if volume.origin:\n",
        "        if False:\n",
        DECISION,
        PROPERTIES,
    ),
    change(
        "an incomplete set is brought up",
        "config/sets",
        "        if there == wanted:\n",
        "        if there <= wanted:\n",
        WANTED,
    ),
    change(
        "a misspelt tag is passed over",
        "config/wish",
        "            if lost:\n",
        "            if False:\n",
        WANTED,
    ),
    change(
        "a set that would not be mounted comes up",
        "config/sets",
        "            or self.unmountable()\n",
        "",
        WANTED,
    ),
    change(
        "members from snapshots are mixed with others",
        "config/sets",
        "if copies and len(copies) < len(self._volumes):",
        "if False:",
        WANTED,
    ),
    change(
        "volumes are attached although a member is held",
        "decide/attach",
        "    if troubles:\n        troubles.sort",
        "    if troubles and not free:\n        troubles.sort",
        DECISION,
        PROPERTIES,
    ),
    change(
        "a volume that its holder's system has not let go is called held",
        "decide/attach",
        'elif states & set(DETACHING):',
        'elif states & {"detaching"}:',
        DECISION,
    ),
    change(
        "a policy that was changed a moment ago is not awaited",
        "cloud/errors",
        "_PERMISSION = Rule(\n    Reaction.RETRY,\n",
        "_PERMISSION = Rule(\n    Reaction.FATAL,\n",
        RUN_EC2,
    ),
    change(
        "the keys of an instance profile that was exchanged are kept",
        "cloud/ec2",
        'in ("credentials-refused", "permission-missing"):',
        'in ("credentials-refused",):',
        RUN_EC2,
    ),
    change(
        "any text of OperationNotPermitted is awaited",
        "cloud/errors",
        '(("modification state", _MODIFYING),),',
        '(("", _MODIFYING),),',
        RUN_EC2,
    ),
    change(
        "a part that cloud-init ignores is called right",
        "commands/userdata",
        "        if _SECTION.search(text.text):\n",
        "        if False:\n",
        USERDATA,
    ),
    change(
        "overwrite permits any content",
        "decide/records",
        "and given == look.fingerprint",
        "and bool(given)",
        DECISION,
        PROPERTIES,
    ),
    change(
        "the wipe does not compare the fingerprint again",
        "storage/make",
        "if look.fingerprint != fingerprint:",
        "if False:",
        DESTROY,
    ),
    change(
        "the record of another volume is a licence (snapshot)",
        "proof/probe",
        "if decoded.volume_id != self.volume_id:",
        "if False:",
        PROBE,
    ),
    change(
        "the record of another set is a licence",
        "decide/records",
        "        if record.identity != case.identity:\n",
        "        if False:\n",
        DECISION,
        PROPERTIES,
    ),
    change(
        "a filesystem is mounted with its intent record",
        "decide/filesystem",
        "    if present:\n        try:",
        "    if not isinstance(content, Known) and present:\n        try:",
        DECISION,
        PROPERTIES,
    ),
    change(
        "half made needs no record",
        "proof/probe",
        "if self.ours and self.strange is None and (self.record or self.licence):",
        "if self.ours and self.strange is None:",
        PROBE,
        DESTROY,
    ),
    change(
        "what looks like a filesystem is whole",
        "proof/half_made",
        "    return finished.code == 0",
        "    return True",
        "tests/loop/test_fscheck.py",
    ),
    change(
        "devices in use are written to",
        "storage/preconditions",
        "    if uses:\n        raise unwritten.in_use(device",
        "    if False:\n        raise unwritten.in_use(device",
        DESTROY,
    ),
    change(
        "blankness is not proved again before the record",
        "storage/make",
        "        if isinstance(look.content, Blank):\n            return\n"
        "        wiped",
        "        if not isinstance(look.content, HalfMade):\n            return\n"
        "        wiped",
        DESTROY,
    ),
    change(
        "a stale member is taken for fresh",
        "decide/members",
        "if block.events + EVENT_MARGIN < freshest.events or ",
        "if ",
        DECISION,
        PROPERTIES,
    ),
    change(
        "members of different arrays are one array",
        "decide/members",
        "    if len({block.uuid for _, block in blocks}) > 1:",
        "    if False:",
        DECISION,
        PROPERTIES,
    ),
    change(
        "an array starts without members, unasked",
        "decide/array",
        "state.redundant and case.wanted.allow_degraded and",
        "state.redundant and",
        DECISION,
        PROPERTIES,
    ),
    change(
        "the volume behind / is no exception",
        "decide/disks",
        "        if volume in case.world.system_volumes:\n",
        "        if False:\n",
        DECISION,
    ),
    change(
        "a tagged root volume counts as a member",
        "config/sets",
        "volume for volume in every if volume.id not in system)",
        "volume for volume in every if volume.id)",
        "tests/unit/config/test_system_volume.py",
    ),
    change(
        "a line of fstab that says more than ours is replaced",
        "decide/fstab_line",
        "        if not one.set and (more or not fstab.same_type(one, line)):\n",
        "        if False:\n",
        DECISION,
    ),
    change(
        "the line of an ignored array is replaced",
        "machine/mdadm_conf",
        "    if line.device.lower() == _IGNORE:\n",
        "    if False:\n",
        DECISION,
    ),
    change(
        "our ARRAY line is put beside one by devices",
        "machine/mdadm_conf",
        "        return any(_covers(one, path) for path in devices",
        "        return False and any(_covers(one, path) for path in devices",
        DECISION,
    ),
    change(
        "what is used by now is detached",
        "storage/release",
        "    preconditions.check_unused(paths, device, partitions=True)\n",
        "",
        "tests/unit/storage/test_release.py",
    ),
    change(
        "a volume is not held while it is detached",
        "storage/release",
        "        held.enter_context(disk.opened(",
        "        (lambda _: None)(disk.opened(",
        "tests/loop/test_release.py",
    ),
    change(
        "a mirror with an empty member is created anew",
        "decide/array",
        "if len(blocks) == len(looks) or len(intent) != len(looks):",
        "if len(blocks) == len(looks):",
        DECISION,
        PROPERTIES,
    ),
    # ---- overwrite
    change(
        "a wipe leaves a superblock to the end",
        "storage/make",
        "            disk.zero(superblock.FILESYSTEMS)\n"
        "            disk.zero((*places.places(device.size), *own))\n",
        "            disk.zero((*places.places(device.size), *own)[::-1])\n",
        f"{DESTROY}::test_a_wipe_that_was_cut_off_asks_for_a_new_fingerprint",
    ),
    change(
        "what was not wiped counts as wiped where overwrite permits it",
        "storage/make",
        "        disk.check_blank(look, True, record)\n",
        "        pass\n",
        f"{DESTROY}::test_permitted_alone_permits_nothing",
    ),
    # ---- what was ever mounted
    Mutation(
        "what was mounted beside its record counts as half made",
        (
            (
                "proof/probe",
                "            if not any(one.ever_mounted for one in found):\n"
                "                return self._half_made(found)\n",
                "            if True:\n                return self._half_made(found)\n",
            ),
            (
                "proof/half_made",
                "if not meant or shown.ever_mounted or ",
                "if not meant or ",
            ),
        ),
        (f"{EVER_MOUNTED}::test_what_was_ever_mounted_is_never_made_again",),
    ),
    change(
        "an ext4 that was mounted does not say so",
        "filesystems/ext4",
        "used = bool(mounts or any(data[44:48]) or incompat & _RECOVER)",
        "used = False",
        f"{EVER_MOUNTED}::test_what_was_mounted_is_whole_at_any_crash",
    ),
    change(
        "an xfs that was mounted does not say so",
        "filesystems/xfs",
        "    return any(read(at + headers * SECTOR + length, 4096))",
        "    return False",
        f"{EVER_MOUNTED}::test_what_was_mounted_is_whole_at_any_crash",
    ),
    change(
        "a btrfs that was mounted does not say so",
        "filesystems/btrfs",
        "bool(log_root or uuid_tree)",
        "bool(log_root)",
        f"{EVER_MOUNTED}::test_a_btrfs_says_so_when_it_has_looked_at_its_uuids",
    ),
    change(
        "a user's copy of a record keeps the set from being mounted",
        "decide/filesystem",
        "[one for one in present if records.is_of(case, one, content)]",
        "present",
        DECISION,
    ),
    change(
        "a copy of another volume's record makes a used filesystem unknown",
        "proof/probe",
        "if used and not any(self._speaks_of(decoded, one) for one in used):",
        "if False:",
        f"{EVER_MOUNTED}::test_a_copy_that_a_user_has_written_is_his",
    ),
    change(
        "the data of an array carries records",
        "proof/probe",
        "        if users or not self.volume_id:\n            return\n",
        "        if users:\n            return\n",
        f"{EVER_MOUNTED}::test_the_data_of_an_array_carries_no_record",
    ),
    change(
        "what its checker cannot judge is made anew",
        "proof/probe",
        "whole is not None and not self._is_gap(self.ours):",
        "whole is not None and False:",
        f"{EVER_MOUNTED}::test_what_the_checker_cannot_judge_is_no_licence",
    ),
    change(
        "a run stops between mkfs and the erased record",
        "act/executor",
        "            if self.clock.stopped and name not in self._begun:",
        "            if self.clock.stopped:",
        EXECUTOR,
    ),
    change(
        "a journal may reach the record's place",
        "filesystems/ext4",
        "        if wanted > most:",
        "        if False:",
        "tests/unit/filesystems/test_mkfs.py",
        DECISION,
    ),
    # ---- what is mounted
    change(
        "a mount that another one hides counts as mounted",
        "decide/seen",
        "here = [one for one in mounts if one.seen and one.mount.path == path]",
        "here = [one for one in mounts if one.mount.path == path]",
        DECISION,
    ),
    change(
        "a set is up at the path of another set",
        "decide/mounted",
        "    if not whose and any(",
        "    if any(",
        DECISION,
    ),
    change(
        "a set is mounted over what is mounted below its path",
        "decide/mount",
        "    if below:\n",
        "    if False:\n",
        DECISION,
    ),
    change(
        "what is hidden in the moment of the mount is not looked for",
        "storage/mount_point",
        "    if here.below:\n",
        "    if here.below and not source:\n",
        MOUNTED,
    ),
    change(
        "the volume that was mounted in the place of another one stays",
        "storage/mount_point",
        "    if not here.upon:\n        return",
        "    if True:\n        return",
        MOUNTED,
    ),
    change(
        "the volumes behind a mount are not asked for once it is made",
        "storage/mount_point",
        "if seen.up_at(now, path, volumes) is None:",
        "if False:",
        MOUNTED,
    ),
    # ---- enlarged volumes
    change(
        "a record from before an enlargement is overlooked",
        "proof/probe",
        "places_of = {single, *(place for place in former if place is not None)}",
        "places_of = {single}",
        "tests/loop/test_enlarged.py",
    ),
    change(
        "what an old record may explain is made anew on a larger volume",
        "decide/filesystem",
        "if look.moved is not None and not isinstance(content, Known):",
        "if False:",
        f"{RUN}::test_enlarged_after_a_cut_within_mkfs",
    ),
    change(
        "an array that has lost a member is grown",
        "storage/grow",
        "if found.degraded or found.action",
        "if found.action",
        GROW,
        "tests/unit/decide/test_grow.py",
    ),
    change(
        "the filesystem that is grown need not be the one that was seen",
        "storage/grow",
        "    mount = mountinfo.verify(paths, path, target.devno)\n",
        "    mount = mountinfo.at(paths, path)\n    assert mount is not None\n",
        GROW,
    ),
    # ---- arrays that udev put together
    change(
        "a half-made array is stopped although its members hold data",
        "storage/make",
        "            disk.check_record(record)\n            _check_half_made(disk)\n",
        "            disk.check_record(record)\n",
        f"{DESTROY}::test_stop_array",
    ),
    change(
        "a running half-made array is stopped although it holds data",
        "storage/make",
        "                if not isinstance(look.content, Blank):\n",
        "                if False:\n",
        f"{DESTROY}::test_stop_array",
    ),
    # ---- copies, histories, half a mirror
    change(
        "a copy with a record of its own is formatted",
        "decide/filesystem",
        "    records.check_no_copy(case)\n    return _go_on",
        "    return _go_on",
        f"{PROPERTIES}::test_a_record_does_not_permit_to_format_a_copy",
    ),
    change(
        "an array is made of copies with records of their own",
        "decide/array",
        "    records.check_no_copy(case)\n    if any(",
        "    if any(",
        f"{PROPERTIES}::test_a_record_does_not_permit_to_format_a_copy",
    ),
    change(
        "what was finished for an older wish is mounted",
        "decide/filesystem",
        "        if content.type != case.wanted.fs_type:\n            # The wish",
        "        if False:\n            # The wish",
        DECISION,
    ),
    change(
        "an array that was made once more is the one of before",
        "decide/members",
        "elif len({block.created for _, block in blocks}) > 1:",
        "elif False:",
        DECISION,
    ),
    change(
        "a stale copy of a member is a member that fell out",
        "decide/members",
        "        if other != volume:\n",
        "        if False:\n",
        DECISION,
    ),
    change(
        "the half that was used alone is a stale one",
        "decide/members",
        "    if not alone or not fresh:\n",
        "    if True:\n",
        DECISION,
    ),
    change(
        "a replacement under way stands in for its original",
        "decide/members",
        "    return bool(block.feature_map & _REPLACEMENT)",
        "    return False",
        DECISION,
    ),
    change(
        "a member that is being rebuilt carries the data",
        "decide/members",
        "        return len(self.fresh) - len(self.rebuilt)",
        "        return len(self.fresh)",
        DECISION,
    ),
    change(
        "the older half is started although the newer one was seen",
        "decide/array",
        "    if outdated is not None:\n",
        "    if False:\n",
        DECISION,
    ),
    change(
        "a stranger in a second array of the set is overlooked",
        "decide/array",
        "        if not mine and (array.uuid != uuid or apart):\n",
        "        if array is not world.array(uuid):\n",
        DECISION,
    ),
    change(
        "a copy that udev adds in the middle is mounted with the set",
        "act/step_actions",
        "        if trouble is not None:\n            raise KrakenError(trouble)\n",
        "        if False:\n            raise KrakenError(trouble)\n",
        EXECUTOR,
    ),
    # ---- what the kernel counts, and asks to be asked again
    change(
        "a write that ends between two counters is missed",
        "proof/write_counters",
        '    waiting = _numbers(directory, "inflight")[1]\n'
        '    counts = _numbers(directory, "stat")\n',
        '    counts = _numbers(directory, "stat")\n'
        '    waiting = _numbers(directory, "inflight")[1]\n',
        COUNTERS,
    ),
    change(
        "the counters vouch for a volume over a hibernation",
        "proof/write_counters",
        "replace(found, slept=_slept())",
        "found",
        COUNTERS,
    ),
    change(
        "a read that the kernel wants to be repeated is an error",
        "proof/directio",
        "            if error.errno not in AGAIN:\n",
        "            if True:\n",
        AGAIN,
    ),
    change(
        "an error of the disk is tried away",
        "proof/directio",
        "            if error.errno not in AGAIN:\n",
        "            if False:\n",
        AGAIN,
    ),
    # ---- errors of the disk
    change(
        "what was written is not read back",
        "storage/make",
        "if done != len(data) or self.read(start, len(data)) != data:",
        "if done != len(data):",
        f"{DESTROY}::test_a_disk_that_loses_writes",
    ),
    change(
        "an I/O error is a fault of cc_kraken",
        "storage/make",
        "        yield\n    except OSError as error:",
        "        yield\n    except ZeroDivisionError as error:",
        f"{DESTROY}::test_a_disk_that_takes_no_write",
    ),
    change(
        "with an older botocore a copy of a volume is none",
        "cloud/session",
        'loader.extras_types.append("kraken")',
        "pass",
        EC2,
    ),
    change(
        "the boot waits for a run that hangs",
        "boot/launch",
        "if left <= 0:",
        "if False:",
        LAUNCH,
    ),
    change(
        "a run that hangs is killed",
        "boot/launch",
        "    except TimeoutError:\n",
        "    except TimeoutError:\n        process.kill()\n",
        LAUNCH,
    ),
    change(
        "a thread that hangs keeps the program",
        "boot/program",
        "    os._exit(1 if",
        "    sys.exit(1 if",
        LAUNCH,
    ),
    change(
        "the program takes along what cloud-init has open",
        "boot/launch",
        "stdout=subprocess.PIPE, cwd=",
        "stdout=subprocess.PIPE, close_fds=False, cwd=",
        LAUNCH,
    ),
    change(
        "the program heeds the caller's PYTHON variables",
        "boot/launch",
        'PYTHON, "-I", ',
        "PYTHON, ",
        LAUNCH,
    ),
    change(
        "other libraries tell their details",
        "boot/program",
        "    ours.setLevel(logging.DEBUG)",
        "    logging.getLogger().setLevel(logging.DEBUG)",
        LAUNCH,
    ),
    change(
        "a shutdown does not end the run",
        "machine/clock",
        "        clock.stop()\n",
        "        pass\n",
        LAUNCH,
    ),
)  # fmt: skip


def copy(to: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, to / name)


def mutate(tree: Path, mutation: Mutation) -> str:
    """Apply it; what does not fit, or ""."""
    for module, old, new in mutation.edits:
        path = tree / "cc_kraken" / f"{module}.py"
        text = path.read_text()
        if text.count(old) != 1:
            return f"{module}.py has it {text.count(old)} times: {old.strip()!r}"
        path.write_text(text.replace(old, new))
    return ""


def first_failure(tree: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails there, "" for none."""
    for one in tests:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", one],
            cwd=tree,
            env={**os.environ, "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            continue
        found = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", done.stdout, re.M)
        if done.returncode != 1 or found is None:
            raise RuntimeError(f"pytest of {one}:\n{done.stdout}{done.stderr}")
        return found.group(1)
    return ""


def main(words: list[str]) -> int:
    chosen = [
        one
        for one in MUTATIONS
        if not words or any(word in one.title for word in words)
    ]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="cc-mutations-") as home:
        sound = Path(home) / "sound"
        copy(sound)
        used = sorted({test for one in chosen for test in one.tests})
        failing = first_failure(sound, tuple(used))
        if failing:
            print(f"without any mutation {failing} fails", file=sys.stderr)
            return 2
        for number, mutation in enumerate(chosen, 1):
            tree = Path(home) / f"m{number}"
            copy(tree)
            caught = mutate(tree, mutation)
            if caught:
                missed += 1
                caught = f"DOES NOT FIT: {caught}"
            else:
                caught = first_failure(tree, mutation.tests)
                if not caught:
                    missed += 1
                    caught = f"NOT SEEN by {', '.join(mutation.tests)}"
            print(f"{number:2} {mutation.title:55} {caught}", flush=True)
            shutil.rmtree(tree)
    print(f"{len(chosen) - missed} of {len(chosen)} mutations are seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
