"""Look around: what the machine shows, gathered into a :class:`World`.

Reads only.  Devices are read side by side; a set that is mounted costs a superblock,
not a proof.  What was found in the round before is believed as long as the kernel
vouches for it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Callable, Optional

from cc_kraken.decide.members import is_replacement, superblocks
from cc_kraken.decide.world import World
from cc_kraken.filesystems import registry
from cc_kraken.machine import (
    command,
    devices,
    fstab,
    md,
    mdadm_conf,
    mount_points,
    mountinfo,
    partitions,
)
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Claim,
    Content,
    Device,
    FstabLine,
    Known,
    KrakenError,
    Layer,
    Look,
    MdSuperblock,
    Mounted,
    PathState,
    Section,
    Signature,
    Unknown,
)
from cc_kraken.proof import directio, half_made, probe, signatures
from cc_kraken.proof.superblock import MD_MEMBER
from cc_kraken.state import array_history, layout
from cc_kraken.storage import grow

LOG = logging.getLogger(__name__)

WORKERS = 32
NO_ANSWER = 60.0
"""Seconds for one read: twice what the kernel gives a disk by default."""
WATCH_EVERY = 1.0
ACCOUNTS_EVERY = 1.0
"""Seconds: is the user there that a set waits for?"""


class Observer:
    """Looks at this machine for the sets of one node."""

    def __init__(self, paths: Paths, section: Section) -> None:
        self.paths = paths
        self.full = section.blank_proof == "full"
        self._hung: dict[str, "Future[Look]"] = {}
        self._seen: dict[str, Look] = {}
        self._former: Optional[dict[str, set[str]]] = None

    def disks(self) -> frozenset[tuple[str, str, str]]:
        """See :func:`devices.present`."""
        return devices.present(self.paths)

    def volumes_here(self) -> frozenset[str]:
        """The volumes whose disks are in this machine (sysfs)."""
        return frozenset(volume for _, volume, _ in self.disks())

    def volumes_in_use(self) -> frozenset[str]:
        """Those of them that are mounted, swapped on, or held by anything but an array
        that does not run."""
        idle = {array.name for array in md.scan(self.paths) if not array.running}
        return frozenset(
            device.volume_id
            for device in devices.scan(self.paths).by_volume.values()
            if device.mounted or device.swap or set(device.holders) - idle
        )

    def look(self, instance_id: str, claims: Sequence[Claim]) -> World:
        """Everything on this machine that a decision on ``claims`` may rest on."""
        scanned = devices.scan(self.paths)
        lines = fstab.parse(fstab.read(self.paths))
        ours = frozenset(volume.id for claim in claims for volume in claim.volumes)
        now = devices.mounts_now(self.paths)
        mounted = tuple(self._mounted(one, ours) for one in now)
        world = World(
            instance_id=instance_id,
            devices=scanned.by_volume,
            duplicates={
                volume: tuple(device.name for device in group)
                for volume, group in scanned.duplicates.items()
            },
            system_volumes=devices.root_volumes(self.paths),
            mounts=mounted,
            former=self._former_paths(instance_id, lines),
            fstab={line.set: line for line in reversed(lines) if line.set},
            fstab_twice=frozenset(
                name
                for name, count in Counter(line.set for line in lines).items()
                if count > 1
            ),
            fstab_foreign=tuple(line for line in lines if not line.set),
            fstab_devnos=_devnos(self.paths, lines),
            array_lines={
                uuid: name for name, uuid in mdadm_conf.current(self.paths).items()
            },
            array_lines_foreign=mdadm_conf.elsewhere(self.paths),
            left_out=mdadm_conf.left_out(self.paths, scanned.by_volume.values()),
            arrays_seen=array_history.load(self.paths, instance_id),
            accounts=_accounts(claims),
            missing_programs=_missing_programs(claims),
            paths=_paths(claims),
        )
        twins = [disk for group in scanned.duplicates.values() for disk in group]
        return self._contents(world, claims, [*scanned.by_volume.values(), *twins])

    def _former_paths(
        self, instance_id: str, lines: Sequence[FstabLine]
    ) -> dict[str, frozenset[str]]:
        """Kept over the rounds: what is found in fstab may be replaced by now."""
        if self._former is None:
            self._former = layout.former(self.paths, instance_id)
        for line in lines:
            if line.set:
                self._former.setdefault(line.spec, set()).add(line.path)
        return {key: frozenset(found) for key, found in self._former.items()}

    def _mounted(self, mounted: Mounted, ours: frozenset[str]) -> Mounted:
        mount, volumes = mounted.mount, mounted.volumes
        number = mountinfo.device_number(self.paths, mount)
        if not volumes or not volumes <= ours or number is None:
            return mounted
        if not mounted.seen:
            return replace(mounted, device=number)  # its path shows another one
        node = devices.node(self.paths, number)
        found = None if node is None else grow.state(mount, node)
        return replace(
            mounted,
            device=number,
            size=found.size if found is not None else None,
            errors=found is not None and found.errors,
            read_only=grow.read_only(mount),
        )

    def _contents(
        self, world: World, claims: Sequence[Claim], disks: Sequence[Device]
    ) -> World:
        there = [
            claim
            for claim in claims
            if claim.volumes
            and (claim.trouble is None or claim.wanted.members > 1)
            and all(volume.id in world.devices for volume in claim.volumes)
        ]
        in_use = {
            volume for mounted in world.mounts for volume in mounted.volumes or ()
        }
        asked = [
            (world.devices[volume.id], claim)
            for claim in there
            # A bare attachment of a volume that nobody asks to use is not read.
            if claim.wanted.members > 1 or claim.wanted.fs_type is not None
            for volume in claim.volumes
        ]
        found = self._side_by_side(
            {
                disk.path: partial(
                    self._look_at, disk, claim, disk.volume_id in in_use, {}
                )
                for disk, claim in asked
            }
        )
        looks = {disk.volume_id: found[disk.path] for disk, _ in asked}
        known = _with_uuids(md.scan(self.paths), looks, world.devices)
        return self._arrays(replace(world, looks=looks, arrays=known), there, disks)

    def _arrays(
        self, world: World, there: Sequence[Claim], disks: Sequence[Device]
    ) -> World:
        """The same with what the arrays hold, and what all other disks show."""
        looks = world.looks
        running: dict[str, tuple[Array, Claim]] = {}
        heads: dict[str, Content] = {}
        for claim in there:
            blocks = superblocks(looks, [volume.id for volume in claim.volumes])
            for uuid in {block.uuid for block in blocks.values()}:
                array = world.array(uuid)
                if array is not None and array.running:
                    running[uuid] = array, claim
                else:
                    head = self._head(uuid, blocks, world.devices)
                    if head is not None:
                        heads[uuid] = head
        array_jobs = {
            array.path: partial(self._look_at, array, claim, bool(array.mounted), looks)
            for array, claim in running.values()
        }
        places = signatures.places(self.paths, disks, world.arrays)
        jobs = {
            path: partial(signatures.ask, path)
            for path, volumes in places.items()
            if path not in array_jobs and not set(volumes) <= set(looks)
        }
        found = self._side_by_side({**array_jobs, **jobs})
        array_looks = {uuid: found[array.path] for uuid, (array, _) in running.items()}
        self._seen = {**looks, **array_looks}
        found.update((world.devices[one].path, look) for one, look in looks.items())
        shown = {path: found[path].content for path in places if path in found}
        uuids = tuple(
            Signature(places[path], path, content.type, content.uuid)
            for path, content in shown.items()
            if isinstance(content, Known) and content.uuid
        )
        return replace(world, array_looks=array_looks, heads=heads, signatures=uuids)

    def _side_by_side(self, jobs: Mapping[str, Callable[[], Look]]) -> dict[str, Look]:
        """What each finds on its device, by path.  One that answers no read is given
        up, its thread left behind: the other sets do not wait for it, and it
        is not looked at again before that thread has ended."""
        found = {
            path: _no_answer(path)
            for path in jobs
            if path in self._hung and not self._hung[path].done()
        }
        todo = [path for path in jobs if path not in found]
        if not todo:
            return found
        slots = threading.Semaphore(WORKERS)

        def in_turn(look: Callable[[], Look]) -> Look:
            with slots:
                return look()

        pool = ThreadPoolExecutor(len(todo), thread_name_prefix="kraken-look")
        at_work = {path: pool.submit(in_turn, jobs[path]) for path in todo}
        while at_work:
            wait(at_work.values(), WATCH_EVERY, FIRST_COMPLETED)
            for path, job in list(at_work.items()):
                if job.done():
                    found[path] = job.result()
                elif directio.waiting(path) >= NO_ANSWER:
                    found[path] = _no_answer(path)
                    self._hung[path] = job
                    slots.release()  # the next one takes its place
                else:
                    continue
                del at_work[path]
        pool.shutdown(wait=False)
        return found

    def _look_at(
        self, target: Layer, claim: Claim, in_use: bool, members: Mapping[str, Look]
    ) -> Look:
        """``members``: what was found on those of an array, where its record lies."""
        ask = partial(
            probe.look, target.path, volume_id=target.volume_id, full=self.full
        )
        try:
            look = ask(in_use=in_use, seen=self._seen.get(target.key))
            records = [members[volume.id].record for volume in claim.volumes if members]
            record = next((one for one in [look.record, *records] if one), None)
            if record is not None:
                options = claim.wanted.mkfs_options
                look = half_made.look(
                    self.paths, target, record, options, look, full=self.full
                )
            if target.volume_id and not look.fingerprint and _refused(look, claim):
                look = ask(fingerprint=True)
            shown = look.content
            if isinstance(shown, Known) and shown.type in partitions.TABLES:
                inside = partitions.inside(self.paths, target)
                look = replace(look, content=replace(shown, inside=inside))
            return look
        except KrakenError as error:
            return Look(Unknown(str(error)))
        except OSError as error:
            return Look(Unknown(f"{target.path}: {error.strerror}", unread=True))

    def _head(
        self, uuid: str, blocks: Mapping[str, MdSuperblock], found: Mapping[str, Device]
    ) -> Optional[Content]:
        """What the array would show first, read through the member that
        holds its first chunk."""
        first = 1 if any(block.level == 6 for block in blocks.values()) else 0
        for volume, block in blocks.items():
            if block.uuid == uuid and block.role == first and not is_replacement(block):
                return probe.head(found[volume].path, block.data_offset)
        return None


def _refused(look: Look, claim: Claim) -> bool:
    """Whether a person may want to name this content in ``overwrite``."""
    wanted = MD_MEMBER if claim.wanted.members > 1 else claim.wanted.fs_type
    return isinstance(look.content, Known) and look.content.type != wanted


def _no_answer(path: str) -> Look:
    reason = f"{path} has not answered a read for {NO_ANSWER:.0f} s"
    return Look(Unknown(reason, unread=True))


def _with_uuids(
    found: Sequence[Array], looks: Mapping[str, Look], by_volume: Mapping[str, Device]
) -> tuple[Array, ...]:
    """Arrays with the UUID that their members' superblocks say, where the
    kernel does not."""
    uuid_of = {
        by_volume[volume].name: block.uuid
        for volume, block in superblocks(looks, looks).items()
    }
    return tuple(
        array
        if array.uuid
        else replace(
            array, uuid=next((uuid_of[n] for n in array.members if n in uuid_of), "")
        )
        for array in found
    )


def _devnos(paths: Paths, lines: Sequence[FstabLine]) -> dict[str, str]:
    """The devices behind what the lines of others mount, as far as there is
    one now."""
    found: dict[str, str] = {}
    for line in lines:
        node = "" if line.set else fstab.node(line.spec)
        number = mountinfo.node_number(paths, node) if node else None
        if number is not None:
            found[line.spec] = number
    return found


def account_number(name: str) -> Optional[int]:
    """The number of ``user:NAME`` or ``group:NAME``, None: no such account."""
    kind, _, account = name.partition(":")
    return (
        mount_points.user_id(account)
        if kind == "user"
        else mount_points.group_id(account)
    )


def accounts_come(clock: Clock, names: Sequence[str]) -> Callable[[], bool]:
    """Asks, now and then, whether one of these absent accounts is there by now."""
    next_look = clock.now() + ACCOUNTS_EVERY

    def come() -> bool:
        nonlocal next_look
        if not names or clock.now() < next_look:
            return False
        next_look = clock.now() + ACCOUNTS_EVERY
        return any(account_number(name) is not None for name in names)

    return come


def _accounts(claims: Sequence[Claim]) -> dict[str, Optional[int]]:
    wishes = [("user", claim.wanted.owner) for claim in claims]
    wishes += [("group", claim.wanted.group) for claim in claims]
    names = [f"{kind}:{name}" for kind, name in wishes if name is not None]
    return {name: account_number(name) for name in names}


def _missing_programs(claims: Sequence[Claim]) -> frozenset[str]:
    needed: set[str] = set()
    for claim in claims:
        if claim.wanted.members > 1:
            needed.add("mdadm")
        if claim.wanted.fs_type:
            needed.add(registry.of(claim.wanted.fs_type).mkfs)
    return frozenset(name for name in needed if not command.available(name))


def _paths(claims: Sequence[Claim]) -> dict[str, PathState]:
    """A path that cannot be looked at (a dead filesystem above it) concerns
    its own set alone."""
    found = {}
    for claim in claims:
        path = claim.wanted.mount_path
        if path is None:
            continue
        try:
            found[path] = mount_points.path_state(path)
        except KrakenError as error:
            LOG.info("%s", error)
            found[path] = PathState(kind="unreadable")
    return found
