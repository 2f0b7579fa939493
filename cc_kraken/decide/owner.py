"""Whose is the root of a filesystem?  Set while it is as mkfs left it, not again."""

from __future__ import annotations

from typing import Optional

from cc_kraken.decide.case import Case
from cc_kraken.decide.steps import SetOwner
from cc_kraken.machine.mountinfo import names_inside
from cc_kraken.model import PathState, Trouble


def is_wanted(case: Case) -> bool:
    wishes = (case.wanted.owner, case.wanted.group, case.wanted.mode)
    return any(wish is not None for wish in wishes)


def steps(case: Case, path: str) -> list[SetOwner]:
    """On a filesystem that is as mkfs left it."""
    wanted = case.wanted
    if not is_wanted(case) or _unknown_accounts(case) or "ro" in wanted.mount_options:
        return []
    return [SetOwner(case.name, path, wanted.owner, wanted.group, wanted.mode)]


def steps_mounted(case: Case, path: str) -> list[SetOwner]:
    """On a filesystem that is mounted, used or not."""
    state = case.world.paths.get(path)
    if not is_wanted(case) or state is None or _is_right(case, state):
        return []
    as_made = _is_as_made(case, path, state)
    if as_made and _read_only(case):
        case.note(
            f"{path} can only be read: Owner, Group and Mode are set when it can be "
            "written, and is still empty."
        )
        return []
    if _unknown_accounts(case):
        return []
    if as_made:
        return steps(case, path)
    case.note(
        f"{path} belongs to {state.uid}:{state.gid} with mode "
        f"{state.mode:04o}, which is not what Owner, Group and Mode say: "
        "they are set when a filesystem is new, and it is left as it is."
    )
    return []


def pending(case: Case, path: str) -> Optional[Trouble]:
    """The user or the group does not exist yet."""
    state = case.world.paths.get(path)
    unknown = _unknown_accounts(case)
    if not unknown or state is None or _read_only(case):
        return None
    if not _is_as_made(case, path, state):
        return None
    return Trouble(
        "owner-pending",
        f"There is no {' and no '.join(unknown)} yet, so {path} stays with root.",
        f"The set {case.name} names it in Owner or Group.",
        f"Make {' and '.join(unknown)}, or correct Owner and Group. The owner is "
        f"set when they exist (cc-kraken wait {case.name} does it right "
        "before a service).",
        waits=True,
    )


def _is_as_made(case: Case, path: str, state: PathState) -> bool:
    """The mount points of other sets were made by a run."""
    others = [claim.wanted.mount_path for claim in case.claims]
    return state.as_made_but_for(names_inside(path, others))


def _read_only(case: Case) -> bool:
    up = case.mounted()
    return up is not None and up.read_only


def _unknown_accounts(case: Case) -> list[str]:
    return [
        f"{kind} {name}"
        for kind, name in (("user", case.wanted.owner), ("group", case.wanted.group))
        if name is not None and case.world.accounts.get(f"{kind}:{name}") is None
    ]


def _is_right(case: Case, state: PathState) -> bool:
    accounts, wanted = case.world.accounts, case.wanted
    uid = accounts.get(f"user:{wanted.owner}") if wanted.owner else state.uid
    gid = accounts.get(f"group:{wanted.group}") if wanted.group else state.gid
    mode = state.mode if wanted.mode is None else wanted.mode
    return (state.uid, state.gid, state.mode) == (uid, gid, mode)
