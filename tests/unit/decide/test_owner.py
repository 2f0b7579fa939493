"""Whose is the root of a filesystem?"""

from __future__ import annotations

import dataclasses

from cc_kraken.decide.plan import MOUNTED
from cc_kraken.machine import fstab
from cc_kraken.model import Known
from tests.unit import worlds as w
from tests.unit.decide.cases import FS, decide, kind, names


def test_the_owner_is_set_on_a_new_filesystem_and_pending_without_the_user() -> None:
    claim = w.claim(w.single(owner="kafka"), w.attached(1))
    there = w.world(1, looks={1: w.blank()}, accounts={"user:kafka": 1001})
    assert names(decide(claim, there).steps)[-1] == "SetOwner"
    absent = w.world(1, looks={1: w.blank()}, accounts={"user:kafka": None})
    assert names(decide(claim, absent).steps)[-1] == "MountFilesystem"
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    up = w.world(
        1,
        looks={1: w.look(Known("ext4", FS))},
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
        paths={"/krkn_log": w.directory()},
        fstab={"log": line},
        accounts={"user:kafka": None},
    )
    plan = decide(claim, up)
    assert (plan.state, kind(plan)) == (MOUNTED, "owner-pending")
    used = dataclasses.replace(up, paths={"/krkn_log": w.directory("data")})
    assert decide(claim, used).trouble is None


def test_the_owner_of_what_can_only_be_read_is_left() -> None:
    """A chown would fail at each run, and the set with it."""
    claim = w.claim(w.single(owner="kafka", mount_options=("ro",)), w.attached(1))
    new = w.world(1, looks={1: w.blank()}, accounts={"user:kafka": 1001})
    assert names(decide(claim, new).steps)[-1] == "MountFilesystem"
    mounted = dataclasses.replace(w.mounted("/krkn_log", "ext4", 1), read_only=True)
    for number in (1001, None):
        up = w.world(
            1,
            looks={1: w.look(Known("ext4", FS))},
            mounts=(mounted,),
            paths={"/krkn_log": w.directory()},
            fstab={"log": fstab.entry("log", FS, "/krkn_log", "ext4", ("ro",))},
            accounts={"user:kafka": number},
        )
        plan = decide(claim, up)
        assert (plan.state, plan.steps, plan.trouble) == (MOUNTED, (), None)
        assert len(plan.notes) == 1 and "can only be read" in plan.notes[0]
