"""The sets of a node: what is wished for, complete or not, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from cc_kraken.config import sets as wanted
from cc_kraken.config import tags, values
from cc_kraken.filesystems import registry
from cc_kraken.model import Claim, Node, Section, Trouble, Volume, WantedSet
from tests.conftest import MORE

NODE = Node("kafka", "0")
ZONE = "us-east-1a"
NS = "KRKN-IN"


def volume(number: int, name: Optional[str] = "data", **given: Any) -> Volume:
    """A volume of the node, ``vol-…<number>``; keys that are fields of a
    Volume are that, the others are tags."""
    fields: dict[str, Any] = {"size_gib": 10, "zone": ZONE, "state": "available"}
    own = {"Prefix": NODE.prefix, "NodeId": NODE.node_id}
    if name is not None:
        own["VolumeName"] = name
    for key, value in given.items():
        if key in Volume.__dataclass_fields__:
            fields[key] = value
        else:
            own[key] = value
    namespace = fields.pop("namespace", NS)
    marks = {f"{namespace}:{key}": value for key, value in own.items()}
    return Volume(id=f"vol-{number:017x}", tags=marks, **fields)


def ids(*numbers: int) -> tuple:
    return tuple(f"vol-{number:017x}" for number in numbers)


RAID = {"VolumeSize": "3", "RaidLevel": "0", "FsType": "ext4", "MountPath": "/data"}


def raid(*numbers: int, **given: Any) -> list[Volume]:
    return [volume(number, **{**RAID, **given}) for number in numbers]


def judge(
    volumes: Sequence[Volume], section: Optional[Section] = None, *must_exist: str
) -> dict[str, Claim]:
    section = section or Section()
    names = must_exist or tags.declared(section, None)
    judged = wanted.claims(section, NODE, ZONE, volumes, names)
    return {claim.name: claim for claim in judged.claims}


def one(volumes: Sequence[Volume], section: Optional[Section] = None) -> Claim:
    (claim,) = judge(volumes, section).values()
    return claim


def configured(**data: Any) -> Section:
    return Section(volumes={"data": data})


def refused(claim: Claim, kind: str, *words: str, waits: bool = False) -> Trouble:
    trouble = claim.trouble
    assert trouble is not None
    assert trouble.kind == kind, str(trouble)
    assert trouble.waits is waits
    assert trouble.remedy
    for word in words:
        assert word in str(trouble), str(trouble)
    return trouble


# ------------------------------------------------------------------ complete


def test_the_two_sets_of_the_deck() -> None:
    log = volume(9, "log", VolumeSize="1", FsType="ext4", MountPath="/krkn_log")
    claims = judge([log, *raid(3, 1, 2)])
    assert list(claims) == ["data", "log"]
    assert claims["data"] == Claim(
        "data",
        WantedSet("data", 3, raid_level=0, fs_type="ext4", mount_path="/data"),
        tuple(raid(1, 2, 3)),
    )
    assert claims["log"].wanted == WantedSet(
        "log", fs_type="ext4", mount_path="/krkn_log"
    )
    assert claims["log"].trouble is None


def test_all_tags() -> None:
    claim = one(
        [
            volume(
                1,
                FsType="xfs",
                MountPath="/data",
                MountOptions="noatime,nofail",
                MkfsOptions="-m reflink=0",
                Owner="kafka",
                Group="1000",
                Mode="2750",
                Label="queue",
                RaidLevel="nonsense is ignored in a set of one",
            )
        ]
    )
    assert claim.trouble is None
    assert claim.wanted == WantedSet(
        "data",
        fs_type="xfs",
        mount_path="/data",
        mount_options=("noatime",),
        mkfs_options=("-m", "reflink=0"),
        owner="kafka",
        group="1000",
        mode=0o2750,
        label="queue",
    )


def test_defaults_below_tags_below_the_set() -> None:
    section = Section(
        defaults={"fs_type": "ext4", "owner": "a", "mode": "0700", "required": False},
        volumes={"data": {"owner": "c", "required": True, "grow": False}},
    )
    claims = judge(
        [volume(1, FsType="xfs", Owner="b", MountPath="/d"), volume(2, "log")], section
    )
    data, log = claims["data"].wanted, claims["log"].wanted
    assert (data.fs_type, data.owner, data.mode) == ("xfs", "c", 0o700)
    assert (data.required, data.grow, data.declared) == (True, False, True)
    assert (log.fs_type, log.owner, log.mode) == ("ext4", "a", 0o700)
    assert (log.required, log.grow, log.declared) == (False, True, False)


def test_what_the_configuration_fixes_need_not_agree() -> None:
    some = [*raid(1, 2), *raid(3, MountPath="/other", FsType="xfs")]
    claim = one(some, configured(mount_path="/d", fs_type="btrfs"))
    assert claim.trouble is None
    assert (claim.wanted.mount_path, claim.wanted.fs_type) == ("/d", "btrfs")


def test_configuration_only() -> None:
    section = configured(
        fs_type="ext4",
        mount_path="/d",
        members=2,
        raid_level=1,
        mkfs_options=["-m", 0],
        mode="0750",
        owner=7,
        allow_degraded=True,
        mount_over=True,
        overwrite={ids(1)[0]: "ab" * 8},
    )
    claim = one([volume(1), volume(2)], section)
    assert claim.trouble is None
    assert claim.wanted == WantedSet(
        "data",
        2,
        raid_level=1,
        fs_type="ext4",
        mount_path="/d",
        mkfs_options=("-m", "0"),
        mode=0o750,
        owner="7",
        allow_degraded=True,
        mount_over=True,
        overwrite={ids(1)[0]: "ab" * 8},
        declared=True,
    )


@pytest.mark.parametrize("key", ["AllowDegraded", "MountOver", "Overwrite"])
def test_what_tags_may_not_say(key: str) -> None:
    claim = one([volume(1, **{key: "true"})])
    assert claim.wanted == WantedSet("data")


def test_fs_type_none_attaches_and_assembles_only() -> None:
    claim = one(raid(1, 2, 3, FsType="none"))
    assert claim.trouble is None
    assert (claim.wanted.fs_type, claim.wanted.mount_path) == (None, None)
    assert claim.wanted.raid_level == 0
    assert claim.warnings == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"MountPth": "/data", "FsType": "xfs"}, "(KRKN-IN:MountPath?)"),
        ({"MountPath": "/data", "Fstype": "xfs"}, "(KRKN-IN:FsType?)"),
        ({"MountPath": "/data", "FsType": "xfs", "Ownr": "12"}, "(KRKN-IN:Owner?)"),
    ],
)
def test_a_misspelt_tag_is_refused_with_the_one_that_is_meant(
    given: dict[str, str], words: str
) -> None:
    refused(one([volume(1, **given)]), "tag-misspelt", ids(1)[0], words)


def test_a_misspelt_tag_that_changes_nothing_is_a_warning() -> None:
    some = [volume(1, MountPath="/data", Mountpath="/other", FsType="xfs")]
    claim = one(some)
    assert claim.trouble is None and "(KRKN-IN:MountPath?)" in claim.warnings[0]
    claim = one([volume(1, Mountpath="/a", FsType="xfs")], configured(mount_path="/a"))
    assert claim.trouble is None and claim.warnings
    # A default is for every set, so the misspelt tag meant something else.
    section = Section(defaults={"fs_type": "ext4"})
    some = [volume(1, Fstype="xfs", MountPath="/data")]
    refused(one(some, section), "tag-misspelt")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"MountPath": "/data"}, "FsType"),
        ({"FsType": "xfs"}, "MountPath"),
        ({"FsType": "xfs", "MountPoint": "/data"}, "MountPath"),
        ({"MountOptions": "noatime"}, "MountPath"),
        ({"MkfsOptions": "-K"}, "MountPath"),
        ({"Owner": "12"}, "MountPath"),
        ({"Group": "12"}, "MountPath"),
        ({"Mode": "0750"}, "MountPath"),
        ({"Label": "x"}, "MountPath"),
    ],
)
def test_a_set_that_would_not_be_mounted_is_refused(
    given: dict[str, str], missing: str
) -> None:
    trouble = refused(one([volume(1, **given)]), "mount-incomplete", "data")
    assert f"no KRKN-IN:{missing}" in trouble.found
    assert ("KRKN-IN:MountPoint" in str(trouble)) == ("MountPoint" in given)
    assert one([volume(1, **{**given, "FsType": "none"})]).trouble is None
    (key,) = [tags.NAMES[name] for name in given if name in tags.NAMES]
    value = "-K".split() if key == "mkfs_options" else next(iter(given.values()))
    refused(one([volume(1)], configured(**{key: value})), "mount-incomplete")


def test_defaults_alone_ask_for_no_mount() -> None:
    section = Section(defaults={"mount_options": "noatime", "owner": "12"})
    assert one([volume(1)], section).trouble is None
    section = Section(defaults={"fs_type": "ext4"})
    refused(one([volume(1)], section), "mount-incomplete", "kraken.defaults.fs_type")


@pytest.mark.parametrize(
    "given", [{"FsType": "xfs"}, {"MountPath": "/data"}, {"VolumeNme": "data"}]
)
def test_tags_of_a_set_without_its_name_are_refused(given: dict[str, str]) -> None:
    claim = one([volume(1, None, **given)])
    trouble = refused(claim, "volume-name-missing", "no KRKN-IN:VolumeName", ids(1)[0])
    assert f"KRKN-IN:{next(iter(given))}" in trouble.found
    assert one([volume(1, None)]).trouble is None


def test_a_set_of_several_without_level_and_filesystem_is_attached_only() -> None:
    claim = one([volume(1, VolumeSize="2"), volume(2, VolumeSize="2")])
    assert claim.trouble is None
    assert claim.wanted == WantedSet("data", 2)


def test_another_namespace() -> None:
    mark = Volume(
        ids(1)[0],
        10,
        ZONE,
        "available",
        {"G:Prefix": "kafka", "G:NodeId": "0", "G:VolumeName": "d"},
    )
    claim = one([mark], Section(tag_namespace="G"))
    assert (claim.wanted, claim.trouble) == (WantedSet("d"), None)


# ------------------------------------------------------------- whose volumes


def test_volumes_of_another_node_are_none_of_ours() -> None:
    assert judge([volume(1, Prefix="other"), volume(2, NodeId="1")]) == {}


def test_no_volumes() -> None:
    assert judge([]) == {}
    trouble = wanted.no_volumes(NODE, Section())
    assert trouble.waits
    assert "KRKN-IN:Prefix=kafka and KRKN-IN:NodeId=0" in str(trouble)


def test_a_volume_without_name_is_attached_and_left_alone() -> None:
    some = volume(1, None, Team="search")
    assert one([some]) == Claim(some.id, WantedSet(some.id), (some,))
    other = volume(1, None, zone="us-east-1c")
    refused(one([other]), "zone-other", "is in us-east-1c", ZONE)


def test_the_same_volume_twice_in_the_answer_is_one() -> None:
    assert one([volume(1), volume(1)]).volumes == (volume(1),)


# ---------------------------------------------------------------- incomplete


def test_fewer_members() -> None:
    trouble = refused(one(raid(1, 2)), "members-missing", "2 of 3", waits=True)
    for volume_id in ids(1, 2):
        assert volume_id in trouble.found
    assert "KRKN-IN:VolumeSize" in trouble.expected


NO_SIZE = "VolumeSize counts volumes, it is no size in GiB"


def test_a_size_in_gib_is_answered_with_what_the_tag_counts() -> None:
    own = {"FsType": "xfs", "MountPath": "/data"}
    refused(one([volume(1, VolumeSize="20", **own)]), "raid-level-missing", NO_SIZE)
    given = {"RaidLevel": "0", **own}
    missing = one([volume(1, VolumeSize="20", **given)])
    refused(missing, "members-missing", NO_SIZE, waits=True)
    refused(one([volume(1, VolumeSize="500", **own)]), "tag-value", NO_SIZE)
    trouble = one([volume(1, Members="3", **given)]).trouble
    assert "KRKN-IN:Members" in str(trouble) and "GiB" not in str(trouble)


def test_more_members() -> None:
    some = [*raid(1, 2, 3), *raid(4, 5, 6, origin="snap-1")]
    words = ("6 volumes instead of 3", "kraken.volumes.data.volume_ids")
    trouble = refused(one(some), "members-surplus", *words, waits=True)
    assert f"copies: {', '.join(ids(4, 5, 6))}." in trouble.found
    assert trouble.remedy.startswith("Copies from snapshots carry the tags, too.")
    assert "meant to have" not in trouble.remedy


def test_more_members_than_the_one_of_a_set_that_says_no_number() -> None:
    own = {"FsType": "xfs", "MountPath": "/data"}
    trouble = one([volume(1, **own), volume(2, **own)]).trouble
    assert trouble is not None and trouble.kind == "members-surplus"
    assert trouble.expected == "It must have 1 (no KRKN-IN:Members: 1)."
    says = "If the set is meant to have 2, set KRKN-IN:Members to 2, and KRKN-IN:RaidL"
    assert trouble.remedy.startswith(says) and "snapshots" not in trouble.remedy
    trouble = one(raid(1, 2, 3, 4)).trouble
    assert trouble is not None
    says = "If the set is meant to have 4, set KRKN-IN:VolumeSize to 4. If not, "
    assert trouble.remedy.startswith(says)
    trouble = one([volume(1, **own), volume(2, **own)], configured(members=1)).trouble
    assert trouble is not None
    assert "set kraken.volumes.data.members to 2, and" in trouble.remedy
    assert trouble.expected == "It must have 1 (kraken.volumes.data.members)."


def test_pins_choose_among_copies() -> None:
    some = [*raid(1, 2, 3), *raid(4, 5, 6, origin="snap-1")]
    claim = one(some, configured(volume_ids=list(ids(4, 5, 6))))
    assert claim.trouble is None
    assert [each.id for each in claim.volumes] == list(ids(4, 5, 6))
    assert claim.wanted.volume_ids == ids(4, 5, 6)


def test_pins_count_the_members_where_nobody_else_does() -> None:
    section = configured(volume_ids=list(ids(1, 2)), raid_level=1)
    claim = one([volume(1), volume(2), volume(3)], section)
    assert claim.trouble is None
    assert claim.wanted.members == 2


def test_pins_that_do_not_make_the_number() -> None:
    claim = one(raid(1, 2, 3), configured(volume_ids=list(ids(1, 2))))
    refused(claim, "pin-count", "names 2 of the volumes", "set of 3")


@pytest.mark.parametrize(
    ("third", "words"),
    [
        ([], "is not among the volumes of the node kafka/0"),
        ([volume(3, "log")], "has 'log' as KRKN-IN:VolumeName"),
        ([volume(3, None)], "has no name as"),
        ([volume(3, state="deleting", **RAID)], "is deleting"),
    ],
)
def test_a_pin_that_is_missing(third: list, words: str) -> None:
    section = configured(volume_ids=list(ids(1, 2, 3)))
    claim = judge([*raid(1, 2), *third], section)["data"]
    trouble = refused(claim, "pinned-missing", f"{ids(3)[0]} {words}", waits=True)
    assert f"pinned to {ids(3)[0]}, and" in trouble.found


def test_a_declared_set_without_a_volume() -> None:
    claim = one([], configured(members=3, raid_level=0, fs_type="ext4"))
    refused(
        claim,
        "set-absent",
        "KRKN-IN:VolumeName=data",
        "Each member of the set data must have a volume (3)",
        waits=True,
    )
    assert claim.wanted.declared
    assert claim.wanted.members == 3
    assert judge([], Section(), "log")["log"].trouble is not None


def test_disagreeing_tags_are_awaited() -> None:
    some = [*raid(1, 2), *raid(3, MountPath="/other")]
    trouble = refused(one(some), "tags-disagree", "KRKN-IN:MountPath", waits=True)
    assert f"{ids(1)[0]} has '/data'" in trouble.found
    assert f"{ids(3)[0]} has '/other'" in trouble.found
    assert "kraken.volumes.data.mount_path" in trouble.remedy


def test_a_tag_that_only_some_have_is_a_disagreement() -> None:
    some = raid(1, 2, 3)
    bare = volume(3, VolumeSize="3", RaidLevel="0", MountPath="/data")
    words = ("KRKN-IN:FsType", f"{ids(3)[0]} has none")
    refused(one([*some[:2], bare]), "tags-disagree", *words, waits=True)


def test_members_and_volume_size_that_differ() -> None:
    claim = one([volume(1, VolumeSize="3", Members="2")])
    refused(claim, "tag-value", "2 (Members) and 3 (VolumeSize)")


# -------------------------------------------------------------------- places


def test_all_in_another_zone_is_refused_at_once() -> None:
    words = ("all in us-east-1a", "this instance is in us-east-1c")
    judged = wanted.claims(Section(), NODE, "us-east-1c", raid(1, 2, 3))
    refused(judged.claims[0], "zone-other", *words, *ids(1, 2, 3))


def test_some_in_another_zone() -> None:
    some = [*raid(1, 2), *raid(3, zone="us-east-1b")]
    words = (f"{ids(1)[0]} in us-east-1a", f"{ids(3)[0]} in us-east-1b")
    refused(one(some), "zone-mixed", *words, waits=True)


def test_copies_in_another_zone_are_not_passed_over_in_silence() -> None:
    some = [*raid(1, 2, 3), *raid(4, 5, 6, zone="us-east-1b")]
    refused(one(some), "zone-mixed", waits=True)
    assert one(some, configured(volume_ids=list(ids(1, 2, 3)))).trouble is None


# -------------------------------------------------------- volumes themselves


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"state": "error"}, "volume-state"),
        ({"multi_attach": True}, "multi-attach"),
        ({"managed": True}, "managed"),
    ],
)
def test_volumes_that_are_refused(given: dict, kind: str) -> None:
    claim = one([*raid(1, 2), *raid(3, **given)])
    assert ids(3)[0] in refused(claim, kind).found
    refused(one([volume(3, None, **given)]), kind, ids(3)[0])


def test_a_volume_that_is_being_made_is_awaited() -> None:
    some = [*raid(1, 2), *raid(3, state="creating")]
    refused(one(some), "volume-creating", ids(3)[0], waits=True)


@pytest.mark.parametrize("state", ["deleting", "deleted"])
def test_a_volume_that_is_being_deleted_is_not_there(state: str) -> None:
    gone = raid(4, state=state)
    assert one([*raid(1, 2, 3), *gone]).trouble is None
    words = ("2 of 3", f"{ids(4)[0]} is {state}")
    refused(one([*raid(1, 2), *gone]), "members-missing", *words, waits=True)
    assert judge(gone) == {}
    assert judge([volume(4, None, state=state)]) == {}
    refused(judge(gone, Section(), "data")["data"], "set-absent", state, waits=True)


@pytest.mark.parametrize("level", ["0", "1", "5", "6", "10"])
def test_partly_from_snapshots_is_refused_at_every_level(level: str) -> None:
    some = raid(1, 2, 3, 4, VolumeSize="4", RaidLevel=level)
    mixed = [*some[:3], *raid(4, VolumeSize="4", RaidLevel=level, origin="snap-1")]
    refused(one(mixed), "snapshot-mixed", f"{ids(4)[0]} comes from")
    all_of_them = raid(1, 2, 3, 4, VolumeSize="4", RaidLevel=level, origin="snap-1")
    assert one(all_of_them).trouble is None


def test_members_of_unequal_size() -> None:
    some = [*raid(1, 2), *raid(3, size_gib=11)]
    refused(one(some), "sizes-differ", f"{ids(3)[0]} 11 GiB")


@pytest.mark.parametrize(
    ("level", "members", "right"),
    [(0, 2, 1), (1, 2, 1), (5, 3, 1), (5, 2, 0), (6, 4, 1), (6, 3, 0), (10, 2, 1)],
)
def test_members_enough_for_the_level(level: int, members: int, right: int) -> None:
    given = {"VolumeSize": str(members), "RaidLevel": str(level)}
    claim = one(raid(*range(1, members + 1), **given))
    if right:
        assert claim.trouble is None
    else:
        refused(claim, "members-too-few", f"RAID level {level}")


def test_a_filesystem_over_several_volumes_needs_a_level() -> None:
    some = [volume(number, VolumeSize="2", FsType="xfs") for number in (1, 2)]
    refused(one(some), "raid-level-missing", "KRKN-IN:RaidLevel")


# ------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("VolumeSize", "three", "KRKN-IN:VolumeSize of"),
        ("VolumeSize", "0", "from 1 to 128"),
        ("RaidLevel", "4", "one of 0, 1, 5, 6, 10"),
        ("FsType", "ext3", "one of ext4, xfs, btrfs, none"),
        ("MountPath", "/etc", "one of the system's own directories"),
        ("MountPath", "/a\u202eb", "U+202E"),
        ("MountPath", ["/a", "/b"], "U+000A"),
        ("MountPath", {"a": 1}, "is not absolute"),
        ("MountOptions", "bind", "has the option 'bind'"),
        ("Owner", "-R", "is not a user or group"),
        ("Group", "a b", "is not a user or group"),
        ("Mode", "rwx", "three or four octal digits"),
        ("Label", "a/b", "is not a label"),
        ("MkfsOptions", "\x01", "printable ASCII"),
    ],
)
def test_unfit_tags(tag: str, value: Any, words: str) -> None:
    given = {**RAID, "VolumeSize": "2", tag: value}
    claim = one([volume(1, **given), volume(2, **given)])
    trouble = refused(claim, "tag-value", words, ids(1)[0], f"KRKN-IN:{tag} of")
    assert str(trouble).isprintable()


@pytest.mark.parametrize("value", ["-F", "--force", "-d file", "/dev/sda", "-U x"])
def test_options_that_mkfs_may_not_get(value: str) -> None:
    claim = one([volume(1, FsType="ext4", MountPath="/d", MkfsOptions=value)])
    refused(claim, "mkfs-options", "KRKN-IN:MkfsOptions of")


def test_all_that_is_wrong_with_the_tags_of_a_set_is_said_at_once() -> None:
    data = volume(1, FsType="ext4", MountPath="/etc", Mode="99", Ownr="me")
    found = refused(one([data]), "tag-misspelt", "KRKN-IN:Ownr")
    also = found.remedy.partition(" Also wrong: ")[2]
    path, mode = also.split(". Correct the tag.")[:2]
    assert path.startswith("[tag-value] KRKN-IN:MountPath of vol-")
    assert mode.startswith(" [tag-value] KRKN-IN:Mode of vol-")


def test_an_unfit_value_of_the_configuration() -> None:
    claim = one(raid(1, 2, 3), configured(mount_path="/etc"))
    refused(claim, "config-value", "kraken.volumes.data.mount_path, '/etc', is one of")
    section = Section(defaults={"owner": "a b"})
    refused(one([volume(1)], section), "config-value", "kraken.defaults.owner")


@pytest.mark.parametrize("name", ["../x", "a b", "vol-0a1b", "x" * 65, "a\nb", "-x"])
def test_unfit_names(name: str) -> None:
    claim = one([volume(1, name), volume(2, name, zone="b", VolumeSize="x")])
    trouble = refused(claim, "volume-name", "KRKN-IN:VolumeName of", *ids(1, 2))
    assert str(trouble).isprintable()
    assert claim.name.isprintable()
    assert claim.name != name
    declared = judge([], Section(), name)[claim.name]
    refused(declared, "volume-name", "KRKN-IN:Volumes of this instance")


# -------------------------------------------------------------- mount paths


def test_two_sets_on_one_mount_path_are_both_refused() -> None:
    log = volume(9, "log", FsType="ext4", MountPath="/data")
    other = volume(8, "other", FsType="ext4", MountPath="/data/below")
    claims = judge([log, other, *raid(1, 2)])
    words = ("The sets data and log have the same mount path /data",)
    refused(claims["data"], "mount-path-shared", *words)
    refused(claims["log"], "mount-path-shared", *words)
    assert claims["other"].trouble is None


def test_a_set_without_mount_shares_no_path() -> None:
    log = volume(9, "log", FsType="none", MountPath="/data")
    assert judge([log, *raid(1, 2, 3)])["data"].trouble is None


def test_one_refused_set_does_not_stop_the_others() -> None:
    claims = judge([volume(9, "log", FsType="ext3"), *raid(1, 2, 3)])
    assert claims["data"].trouble is None
    assert claims["log"].trouble is not None


# --------------------------------------------------------------- properties

TEXTS: Mapping[str, Sequence[str]] = {
    "VolumeName": ["data", "data", "log", "a b", ""],
    "VolumeSize": ["1", "2", "3", "0", "x", ""],
    "Members": ["2", "3"],
    "RaidLevel": ["0", "1", "5", "6", "10", "4", ""],
    "FsType": ["ext4", "xfs", "btrfs", "none", "zfs"],
    "MountPath": ["/data", "/log", "/data/log", "/etc", "data"],
    "MountOptions": ["noatime", "bind"],
    "MkfsOptions": ["-F", "-m reflink=0"],
    "Mode": ["0750", "9"],
    "Owner": ["kafka", "-R"],
    "Label": ["x", "a/b"],
}
SOME_TAGS = st.fixed_dictionaries(
    {}, optional={key: st.sampled_from(each) for key, each in TEXTS.items()}
)
ANY_TAGS = st.dictionaries(st.sampled_from(sorted(TEXTS)), st.text(max_size=6))


@st.composite
def sets_of_any_kind(draw: Any, name: str, first: int) -> list[Volume]:
    """A set that is right, or nearly: at most a few things are changed."""
    members = draw(st.integers(1, 4))
    alike = {
        "VolumeName": name,
        "VolumeSize": str(members),
        "RaidLevel": draw(st.sampled_from(["0", "1", "10", "5", "6"])),
        "FsType": draw(st.sampled_from(list(registry.TYPES))),
        "MountPath": draw(st.sampled_from(["/data", "/log"])),
    }
    alike.update(draw(st.just({}) | SOME_TAGS))
    more = draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
    found = [
        Volume(
            id=f"vol-{first + number:017x}",
            size_gib=10,
            zone=ZONE,
            state=draw(st.sampled_from(["available", "in-use"])),
            tags={f"{NS}:{key}": each for key, each in {**NODE_TAGS, **alike}.items()},
        )
        for number in range(members + more)
    ]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])) if found else 0):
        place = draw(st.integers(0, len(found) - 1))
        found[place] = replace(found[place], **draw(CHANGES))
    return found


NODE_TAGS = {"Prefix": "kafka", "NodeId": "0"}
CHANGES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"size_gib": 20}),
    st.just({"zone": "us-east-1b"}),
    st.sampled_from(["creating", "deleting", "error"]).map(lambda one: {"state": one}),
    st.just({"origin": "snap-1"}),
    st.sampled_from([{"multi_attach": True}, {"managed": True}]),
    (SOME_TAGS | ANY_TAGS).map(
        lambda own: {
            "tags": {f"{NS}:{key}": each for key, each in {**NODE_TAGS, **own}.items()}
        }
    ),
)
VOLUMES = st.tuples(sets_of_any_kind("data", 0), sets_of_any_kind("log", 10)).map(
    lambda two: [*two[0], *two[1]]
)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "members": st.integers(1, 4),
        "raid_level": st.sampled_from([0, 1, 5, 6, 10]),
        "fs_type": st.sampled_from(["ext4", "none"]),
        "mount_path": st.sampled_from(["/data", "/etc"]),
        "volume_ids": st.lists(st.sampled_from(ids(0, 1, 2, 3)), max_size=3),
    },
)


@given(
    VOLUMES,
    st.dictionaries(st.sampled_from(["data", "log"]), SETTINGS),
    st.fixed_dictionaries({}, optional={"fs_type": st.just("xfs")}),
)
@settings(max_examples=500 * MORE)
def test_a_claim_without_trouble_is_complete(
    some: list[Volume], sets: dict[str, Any], defaults: dict[str, Any]
) -> None:
    section = Section(volumes=sets, defaults=defaults)
    names = tags.declared(section, None)
    judged = wanted.claims(section, NODE, ZONE, some, names)
    again = wanted.claims(section, NODE, ZONE, list(reversed(some)), names)
    assert judged.claims == again.claims
    assert set(names) <= {claim.name for claim in judged.claims}
    assert len({claim.name for claim in judged.claims}) == len(judged.claims)
    claimed = [each.id for claim in judged.claims for each in claim.volumes]
    assert len(claimed) == len(set(claimed))
    paths = []
    for claim in judged.claims:
        if claim.trouble is not None:
            assert str(claim.trouble).isprintable()
            assert claim.trouble.remedy
            continue
        wish = claim.wanted
        assert len(claim.volumes) == wish.members >= 1
        assert {each.zone for each in claim.volumes} == {ZONE}
        assert {each.state for each in claim.volumes} <= {"available", "in-use"}
        assert not any(each.multi_attach or each.managed for each in claim.volumes)
        assert len({bool(each.origin) for each in claim.volumes}) == 1
        assert len({each.size_gib for each in claim.volumes}) == 1
        pins = sets.get(claim.name, {}).get("volume_ids")
        if pins:
            assert {each.id for each in claim.volumes} == set(pins)
        if wish.members == 1:
            assert wish.raid_level is None
        elif wish.raid_level is not None:
            assert wish.members >= values.FEWEST_MEMBERS[wish.raid_level]
        else:
            assert wish.fs_type is None
        assert (wish.mount_path is None) == (wish.fs_type is None)
        if wish.mount_path is not None:
            assert wish.fs_type in registry.TYPES
            assert values.mount_path(wish.mount_path) == wish.mount_path
            paths.append(wish.mount_path)
        assert not (wish.mount_over or wish.allow_degraded or wish.overwrite)
    assert len(paths) == len(set(paths))
