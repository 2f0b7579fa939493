"""Whole runs against the strict EC2: real HTTP, real botocore, virtual time.

The machine is a sysfs tree in a directory; the lab's hook puts a disk into it
when EC2 has attached a volume.  Sets are of one volume without a filesystem:
they are up when they are attached.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from cc_kraken.act.observe import Observer
from cc_kraken.act.pacing import LONGEST_RETRY
from cc_kraken.act.run import TITLES, Run
from cc_kraken.act.waiting import (
    LONGEST_POLL,
    SLOW_AFTER,
    SLOW_POLL,
    UNREACHED_POLL,
    Limits,
)
from cc_kraken.boot.cloud_init import Events
from cc_kraken.cloud import errors as reactions
from cc_kraken.cloud import session
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.commands.shown import status_text
from cc_kraken.machine.clock import Clock
from cc_kraken.model import Ec2Options, Identity, Section
from cc_kraken.state.report import DONE, FAILED, PENDING, Report
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.metadata import Facts, Metadata
from tests.lab.tls import Authority
from tests.unit.tree import Tree

pytest.importorskip("boto3")
pytestmark = pytest.mark.long

ZONE = "us-east-1a"
ME = {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"}
FIRST_NAME = "/dev/xvdba"


def tags(name: str, **more: str) -> dict[str, str]:
    extra = {f"KRKN-IN:{key}": value for key, value in more.items()}
    return {**ME, "KRKN-IN:VolumeName": name, **extra}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own credentials, configuration or proxies."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


class LabClock(Clock):
    """Sleeping moves the lab's clock, and what falls due there happens."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.at: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        self._clock.advance(max(seconds, 0.001))


class Scene:
    """A lab, an instance and its machine."""

    def __init__(self, base: Path, kind: str = "m5.large", **lab: Any) -> None:
        self.clock = ManualClock()
        settings: dict[str, Any] = {"attach_seconds": 2.0, **lab}
        self.lab = Ec2Lab(
            clock=self.clock,
            on_attach=self._plug,
            on_detach=self._unplug,
            **settings,
        )
        self.base = base
        self.tree = Tree(base)
        self.disks: dict[str, int] = {}
        self.disk_seconds = 0.0
        """From AttachVolume to the disk, where that is longer than EC2 takes."""
        self.plugged = 0
        self.statuses: list[dict[str, Any]] = []
        self.lab.start()
        self.instance = self.lab.run_instance(kind, zone=ZONE, tags=ME)

    def _plug(self, instance_id: str, volume_id: str, device: str) -> None:
        if instance_id != self.instance:
            return

        def appear() -> None:
            if not any(
                x.volume_id == volume_id for x in self.lab.attached_to(instance_id)
            ):
                return
            number = self.plugged = self.plugged + 1
            self.disks[volume_id] = number
            self.tree.disk(number, volume_id.replace("-", ""))
            self.tree.nodeless(f"nvme{number}n1")

        self.clock.later(max(self.lab.attach_seconds, self.disk_seconds), appear)

    def _unplug(self, instance_id: str, volume_id: str, device: str) -> None:
        if instance_id == self.instance and volume_id in self.disks:
            number = self.disks.pop(volume_id)
            for link in (self.base / "sys").glob(f"*/nvme{number}n1"):
                link.unlink()

    def volume(self, name: str = "data", **more: str) -> str:
        return self.lab.create_volume(1, ZONE, tags(name, **more))

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        self.clock.later(seconds, do)

    def run(
        self,
        seconds: float = 300.0,
        *,
        final: bool = True,
        background: bool = False,
        dry_run: bool = False,
        ask_tags: bool = False,
        section: Optional[Section] = None,
        metadata_url: str = "",
        **ec2: Any,
    ) -> str:
        """One run; its end state.  ``told`` has the report."""
        options = Ec2Options(**{"endpoint_url": self.lab.endpoint_url, **ec2})
        identity = Identity(
            self.instance, "us-east-1", ZONE, dict(ME), metadata_url=metadata_url
        )
        self.report = Report(self.tree.paths, "test")
        section = section or Section(ec2=options)
        self.run_now = Run(
            section,
            identity,
            self.tree.paths,
            self.report,
            Limits(seconds, final, background),
            Events(None).enter,
            Ec2(identity, section),
            ask_tags=ask_tags,
            dry_run=dry_run,
            clock=LabClock(self.clock),
        )
        self.begun = self.clock.now()
        state = self.run_now.go()
        self.took = self.clock.now() - self.begun
        return state

    @property
    def calls(self) -> Counter[str]:
        return self.lab.calls.counts()

    def status(self) -> dict[str, Any]:
        """What status.json says now."""
        found: dict[str, Any] = json.loads(Path(self.tree.paths.status).read_text())
        return found

    def error(self, name: str = "data") -> dict[str, str]:
        found: dict[str, str] = self.report.sets[name]["error"]
        return found

    def attached(self) -> dict[str, str]:
        """Volume to device name, in EC2's view."""
        return {
            one.volume_id: one.device
            for one in self.lab.attached_to(self.instance)
            if one.device != "/dev/xvda"
        }


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def made(**lab: Any) -> Scene:
        scenes.append(Scene(tmp_path / f"scene{len(scenes)}", **lab))
        return scenes[-1]

    yield made
    for scene in scenes:
        scene.lab.stop()


@pytest.fixture
def scene(make: Callable[..., Scene]) -> Scene:
    return make()


def most(seconds: float, longest: float) -> float:
    """The most questions in so many seconds, however the intervals are drawn: none is
    shorter than half of the longest, but for the first five."""
    return 5 + seconds / (longest / 2)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines about waiting so far."""
    caplog.set_level(logging.INFO, "cc_kraken")
    return lambda: [text for text in caplog.messages if text.startswith("Waiting: ")]


# ------------------------------------------- every code, and what becomes of it


def taken(scene: Scene, volume: str) -> None:
    """Somebody else has got the volume, and the first answer is too old to
    show it."""
    scene.clock.advance(60)
    other = scene.lab.run_instance(zone=ZONE, tags={"Name": "stranger"})
    scene.lab.attach_volume(volume, other, "/dev/sdf")
    scene.lab.lag(30, answers=1)


def fail(
    code: str, text: str = "Text.", *, status: int = 400, calls: Optional[int] = 6
) -> Callable[[Scene, str], None]:
    def prepare(scene: Scene, volume: str) -> None:
        scene.lab.fail("AttachVolume", code, text, status=status, calls=calls)

    return prepare


def lab(do: str, *arguments: Any, **named: Any) -> Callable[[Scene, str], None]:
    """A method of the lab; VOLUME and ME stand for the ids."""

    def prepare(scene: Scene, volume: str) -> None:
        words = {"VOLUME": volume, "ME": scene.instance}
        values = [
            words.get(one, one) if isinstance(one, str) else one for one in arguments
        ]
        getattr(scene.lab, do)(*values, **named)

    return prepare


def limited(scene: Scene, volume: str) -> None:
    scene.lab.attachment_limits["m5.large"] = 1


def expired(scene: Scene, volume: str) -> None:
    scene.lab.fail("*", "RequestExpired", "Request has expired.", calls=3)


def undone(scene: Scene, volume: str) -> None:
    for _ in range(3):
        scene.lab.take_back_attaching(volume, 5)


UP = "attached"
BAD_NAME = (
    "Value (/dev/xvdba) for parameter device is invalid. /dev/xvdba is not a valid "
    "EBS device name."
)

# what happens, how the set ends ("attached" or the kind of its error), how
# often AttachVolume was called (None: as often as there was time for), and words
# of its error or of what was awaited
Prepare = Callable[[Scene, str], None]
CODES: dict[str, tuple[Prepare, str, Optional[int], tuple[str, ...]]] = {
    "VolumeInUse by this instance": (lab("unavailable", "AttachVolume"), UP, 1, ()),
    "VolumeInUse by another": (taken, "holder-running", 1, ("running", "i-")),
    "IncorrectState": (
        fail("IncorrectState", "Instance 'i-1' is not 'running'."),
        UP,
        7,
        ("is not 'running'",),
    ),
    "IncorrectInstanceState": (
        fail("IncorrectInstanceState"),
        "marketplace-code",
        1,
        ("Marketplace",),
    ),
    "InvalidVolume.ZoneMismatch": (
        fail("InvalidVolume.ZoneMismatch"),
        "zone-mismatch",
        1,
        ("availability zone",),
    ),
    "InvalidParameterValue, in use": (lab("hide_device", "ME", FIRST_NAME), UP, 2, ()),
    "InvalidParameterValue, no name": (
        fail("InvalidParameterValue", BAD_NAME, calls=1),
        UP,
        2,
        (),
    ),
    "InvalidParameterValue, other": (
        fail("InvalidParameterValue", "Value (x) is invalid."),
        "ec2-request",
        1,
        ("Value (x) is invalid",),
    ),
    "AttachmentLimitExceeded": (
        limited,
        "attachment-limit",
        1,
        (
            "You may attach up to 1 devices for this instance type",
            "1 volumes are attached",
            "The type m5.large can have 1",
        ),
    ),
    "CustomerKeyHasBeenRevoked": (
        lab("refuse_key", "VOLUME"),
        "kms-permission-missing",
        1,
        ("kms:CreateGrant", "kms:Decrypt"),
    ),
    "InvalidInstanceID.NotFound": (
        fail("InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist"),
        UP,
        7,
        ("does not exist",),
    ),
    "InvalidVolume.NotFound": (
        fail("InvalidVolume.NotFound", "The volume 'vol-1' does not exist."),
        UP,
        7,
        ("does not exist",),
    ),
    "RequestLimitExceeded": (
        lab("throttle", "AttachVolume", 12),
        UP,
        13,
        ("Request limit exceeded",),
    ),
    "EC2ThrottledException": (fail("EC2ThrottledException", calls=3), UP, 4, ()),
    "UnauthorizedOperation, encoded": (
        lab("forbid", "AttachVolume", encoded=True),
        "permission-missing",
        None,
        ("Allow ec2:AttachVolume", "is not authorized to perform"),
    ),
    "UnauthorizedOperation, bare": (
        lab("forbid", "AttachVolume", bare=True),
        "permission-missing",
        None,
        ("Allow ec2:AttachVolume",),
    ),
    "UnauthorizedOperation, names": (
        lab("forbid", "DescribeInstances"),
        "permission-missing",
        0,
        ("Allow ec2:DescribeInstances",),
    ),
    "TagLimitExceeded": (fail("TagLimitExceeded"), "account-limit", 1, ()),
    "VolumeLimitExceeded": (fail("VolumeLimitExceeded"), "account-limit", 1, ()),
    "IdempotentParameterMismatch": (
        fail("IdempotentParameterMismatch"),
        "ec2-request",
        1,
        (),
    ),
    "Unavailable, not done": (
        lab("unavailable", "AttachVolume", 6, after_success=False),
        UP,
        7,
        ("overloaded",),
    ),
    "InternalError": (fail("InternalError", status=500), UP, 7, ()),
    "RequestExpired": (expired, UP, 1, ("Request has expired",)),
    "a code that nobody knows, 503": (fail("New", status=503), UP, 7, ()),
    "a code that nobody knows, 400": (fail("New"), "ec2-request", 1, ("New",)),
    "stuck in attaching": (
        lab("hold_attaching", "VOLUME"),
        "attach-stuck",
        1,
        ("attaching", "within 90 s"),
    ),
    "accepted and taken back": (undone, "attach-undone", 3, ("KMS", "3 times")),
}


@pytest.mark.parametrize("name", list(CODES))
def test_what_a_run_makes_of_each_code(
    scene: Scene, name: str, lines: Callable[[], list[str]]
) -> None:
    prepare, end, attaches, words = CODES[name]
    volume = scene.volume()
    prepare(scene, volume)
    state = scene.run(600)
    found = scene.report.sets["data"]
    if attaches is None:
        assert 1 < scene.calls["AttachVolume"] <= most(600, LONGEST_RETRY)
        assert scene.took > 590
    else:
        assert scene.calls["AttachVolume"] == attaches
    if end == UP:
        assert (state, found["state"]) == (DONE, UP)
        assert list(scene.attached()) == [volume]
        text = "\n".join(lines())
    else:
        assert (state, found["state"]) == (FAILED, "failed")
        assert scene.error()["kind"] == end
        assert scene.error()["remedy"].endswith(".")
        text = scene.error()["message"]
        assert "Traceback" not in text and "Encoded" not in text
    for word in words:
        assert word in text
    # one line for a reason, however often it is met
    assert len(lines()) <= 3


def test_the_table_names_every_code_of_the_edge() -> None:
    """What the table above leaves out behaves like a line that it has."""
    shown = {reactions.TABLE[code].kind for code in reactions.TABLE}
    tested = {
        reactions.rule("AttachVolume", re.split("[, ]", name)[0], "", 400).kind
        for name in CODES
    }
    assert shown - tested <= {
        "account-refused",
        "device-name-taken",
        "ec2-unsupported",
        "not-attached",
    }


# ------------------------------------------------------ a role that comes late

CALLED = ("DescribeTags", "DescribeVolumes", "DescribeInstances", "AttachVolume")


def shown(scene: Scene, seen: list[str]) -> Callable[[], None]:
    """Keeps what ``cc-kraken status`` prints, at the time that it is called."""
    return lambda: seen.append(status_text(scene.status()))


@pytest.mark.parametrize("action", CALLED)
def test_a_policy_that_was_changed_a_moment_ago_is_awaited(
    scene: Scene, action: str
) -> None:
    """A role's permissions take effect seconds to minutes after the change."""
    volume = scene.volume()
    scene.lab.forbid(action, seconds=150)
    seen: list[str] = []
    scene.later(5, shown(scene, seen))
    assert scene.run(90, ask_tags=True, final=False) == PENDING
    scene.later(5, shown(scene, seen))
    assert scene.run(600, ask_tags=True) == DONE
    assert list(scene.attached()) == [volume]
    for text in seen:
        assert f"Allow ec2:{action}" in text and "waiting: " in text
    assert len(seen) == 2 and scene.calls[action] < 40
    assert not scene.calls["DetachVolume"]


@pytest.mark.parametrize("action", CALLED)
def test_a_permission_that_never_comes_is_an_error_at_the_end(
    scene: Scene, action: str
) -> None:
    scene.volume()
    scene.lab.forbid(action)
    assert scene.run(120, ask_tags=True) == FAILED
    errors = scene.report.status["errors"]
    error = errors[0] if errors else scene.error()
    assert error["kind"] == "permission-missing"
    assert "awaited for 120 s" in error["found"]
    assert f"Allow ec2:{action}" in error["remedy"]
    assert not scene.attached()


@pytest.fixture
def on_instance(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Metadata]]:
    """Credentials come from the metadata service alone, as on an instance;
    a function that starts it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with contextlib.ExitStack() as stack:

        def start() -> Metadata:
            facts = Facts.of(scene.lab, scene.instance)
            service = stack.enter_context(Metadata(facts, hop_limit=1))
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
            return service

        yield start


@pytest.mark.parametrize("seconds", [25.0, 540.0])
def test_an_instance_profile_that_comes_late_is_awaited(
    scene: Scene, on_instance: Callable[[], Metadata], seconds: float
) -> None:
    scene.lab.profile_seconds = seconds
    launched = scene.clock.now()
    volume = scene.volume()
    service = on_instance()
    seen: list[str] = []
    scene.later(3, shown(scene, seen))
    if scene.run(90, final=False) == PENDING:
        assert "no instance profile" in scene.status()["waiting_for"]
        scene.later(3, shown(scene, seen))
        assert scene.run(3600) == DONE
    assert list(scene.attached()) == [volume]
    assert all("waiting: " in text for text in seen)
    assert all("no instance profile" in text for text in seen)
    assert scene.clock.now() - launched < seconds + 60
    # Each question is a token and a path, twice.
    questions = most(90, UNREACHED_POLL) + most(SLOW_AFTER, UNREACHED_POLL)
    questions += most(seconds, SLOW_POLL)
    assert len(service.requests) <= 4 * questions
    assert {call.instance_id for call in scene.lab.calls} == {scene.instance}


def test_an_instance_profile_that_never_comes_is_an_error_at_the_end(
    scene: Scene, on_instance: Callable[[], Metadata]
) -> None:
    scene.lab.profile_seconds = 1e9
    scene.volume()
    on_instance()
    assert scene.run(120) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "credentials-missing"
    assert "awaited for 120 s" in error["found"]


def test_a_profile_that_was_exchanged_brings_its_own_credentials(
    scene: Scene, on_instance: Callable[[], Metadata]
) -> None:
    """The keys of the role before it are good for hours, and of no use."""
    scene.volume()
    on_instance()
    scene.lab.forbid("AttachVolume", seconds=60)
    scene.later(50, lambda: scene.lab.renew_credentials(scene.instance))
    assert scene.run(600) == DONE
    first, *_, last = [one.access_key for one in scene.lab.calls if not one.code]
    assert first != last
    assert last == scene.lab.credentials(scene.instance)["AccessKeyId"]


# ------------------------------------------------------------------- deadlines


def test_the_deadline_says_what_was_awaited(scene: Scene) -> None:
    scene.volume()
    scene.lab.throttle("AttachVolume", None)
    assert scene.run(120) == FAILED
    assert scene.took == pytest.approx(120, abs=1)
    error = scene.error()
    assert error["kind"] == "ec2-throttled"
    assert "awaited for 120 s" in error["found"] and "AttachVolume" in error["found"]
    # names are few: a volume keeps the one that it was asked for with
    asked = {c.parameters["Device"] for c in scene.lab.calls if c.writes}
    assert asked == {FIRST_NAME}


def test_what_is_pending_is_handed_on(scene: Scene) -> None:
    scene.volume()
    scene.lab.throttle("AttachVolume", None)
    assert scene.run(30, final=False) == PENDING
    assert scene.status()["sets"]["data"]["state"] == "pending"
    assert "Request limit exceeded" in scene.status()["sets"]["data"]["reason"]
    scene.lab.heal()
    assert scene.run(30) == DONE


@pytest.mark.parametrize("how", ["hang", "drop", "refuse"])
def test_a_peer_that_does_not_answer_does_not_hold_the_boot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(session, "READ_TIMEOUT", 0.2)
    scene.volume()
    scene.lab.down(how)
    assert scene.run(20, final=False) == PENDING
    # Handed on with its reason: nothing is known of any set yet.
    assert scene.status()["waiting_for"]
    assert scene.run(20) == FAILED
    assert scene.status()["waiting_for"] is None
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "ec2-unreachable" and "awaited for 20 s" in error["found"]
    # No interval is shorter than half of the longest, but for the first two.
    questions = 2 + 20 / (UNREACHED_POLL / 2)
    assert scene.run_now.cloud.calls["DescribeVolumes"] <= questions
    scene.lab.up()
    assert scene.run(20) == DONE


@pytest.mark.parametrize("how", ["refuse", "no metadata"])
def test_a_network_that_comes_late_is_used_soon(
    scene: Scene, on_instance: Callable[[], Metadata], how: str
) -> None:
    """The boot does not wait for the network; the run asks until EC2 answers."""
    scene.volume()
    if how == "refuse":
        service = on_instance()
        scene.lab.down("refuse")
        scene.later(30, scene.lab.up)
    else:
        service = on_instance()
        service.away("refuse")
        scene.later(30, service.back)
    assert scene.run(90, final=False) == DONE
    assert scene.took < 30 + 2 + 5


def test_an_api_that_goes_away_does_not_stop_what_needs_none(scene: Scene) -> None:
    """A device that is there is used, though EC2 cannot be asked any more."""
    scene.volume("data")
    scene.volume("log")
    scene.lab.attach_seconds = 30.0
    scene.later(5, lambda: scene.lab.down("drop"))
    assert scene.run(60) == DONE
    assert {s["state"] for s in scene.report.sets.values()} == {"attached"}


# --------------------------------------------------------- reasons, told as they are


def test_reasons_are_told_when_they_change(
    scene: Scene, lines: Callable[[], list[str]]
) -> None:
    """Tags first, then a member, then the holder's end, then the device."""
    volume = scene.lab.create_volume(1, ZONE)
    old = scene.lab.run_instance(zone=ZONE, tags=ME)
    scene.lab.attach_volume(volume, old, "/dev/sdf")
    seen: list[str] = []

    def look() -> None:
        seen.append(scene.status()["waiting_for"] or "")

    scene.later(40, look)
    scene.later(60, lambda: scene.lab.tag(volume, tags("data")))
    scene.later(120, look)
    scene.later(150, lambda: scene.lab.terminate_instance(old, 90, 3))
    scene.later(215, look)
    assert scene.run(600) == DONE
    assert "No volume" in seen[0]
    assert "running as the same node kafka/0" in seen[1]
    assert "shutting-down" in seen[2] and old in seen[2]
    told = lines()
    assert len(told) == len(set(told)) and 4 <= len(told) <= 7, told
    assert scene.status()["waiting_for"] is None


def test_late_instance_tags(make: Callable[..., Scene]) -> None:
    scene = make(tag_seconds=60.0)
    scene.instance = scene.lab.run_instance(zone=ZONE, tags=ME)
    scene.volume()
    seen: list[str] = []
    scene.later(30, lambda: seen.append(scene.status()["waiting_for"]))
    assert scene.run(300, ask_tags=True) == DONE
    assert "has no tag KRKN-IN:Prefix" in seen[0]
    assert 60 <= scene.took < 90


def test_reasons_that_take_turns_are_not_told_each_time(
    scene: Scene, lines: Callable[[], list[str]]
) -> None:
    volume = scene.volume()
    old = scene.lab.run_instance(zone=ZONE, tags=ME)
    scene.lab.attach_volume(volume, old, "/dev/sdf")
    # Each reason comes back within a minute, for EC2 is asked every 12 s at least.
    for number in range(5):
        scene.later(number * 20, lambda: scene.lab.throttle("DescribeVolumes", 1))
    scene.later(100, lambda: scene.lab.terminate_instance(old, 20, 3))
    assert scene.run(600) == DONE
    assert len(lines()) <= 6, lines()


# -------------------------------------------------------------- holders and rivals


@pytest.mark.parametrize("seconds", [45.0, 600.0])
def test_the_old_holder_ends_after_the_new_one_has_booted(
    scene: Scene, seconds: float
) -> None:
    volume = scene.volume()
    old = scene.lab.run_instance(zone=ZONE, tags=ME)
    scene.lab.attach_volume(volume, old, "/dev/sdf")
    scene.later(seconds, lambda: scene.lab.terminate_instance(old, 20, 3))
    assert scene.run(1200) == DONE
    assert list(scene.attached()) == [volume]
    assert seconds + 23 <= scene.took < seconds + 70
    assert not scene.calls["DetachVolume"]


def test_a_stopped_holder_is_named_at_once_and_waited_for(
    scene: Scene, lines: Callable[[], list[str]]
) -> None:
    volume = scene.volume()
    other = scene.lab.run_instance(zone=ZONE, tags={"Name": "x"})
    scene.lab.attach_volume(volume, other, "/dev/sdf")
    scene.lab.stop_instance(other)
    assert scene.run(100) == FAILED
    assert scene.error()["kind"] == "holder-stopped"
    assert other in lines()[0] and "stopped" in lines()[0]
    assert "awaited for 100 s" in scene.error()["found"]


def test_a_stranger_that_runs_is_refused_at_once(scene: Scene) -> None:
    volume = scene.volume()
    other = scene.lab.run_instance(zone=ZONE, tags={**ME, "KRKN-IN:NodeId": "1"})
    scene.lab.attach_volume(volume, other, "/dev/sdf")
    assert scene.run(600) == FAILED
    assert scene.error()["kind"] == "holder-running" and scene.took < 1
    assert scene.calls == {"DescribeVolumes": 1, "DescribeInstances": 1}


@pytest.mark.parametrize("detach_seconds", [0.0, 30.0])
def test_a_holder_whose_system_does_not_let_go_is_awaited(
    scene: Scene, detach_seconds: float
) -> None:
    """A stranger, for somebody has asked EC2 to detach the volume from it: busy
    at once, or while this run waits already."""
    scene.lab.detach_seconds = detach_seconds
    volume = scene.volume()
    other = scene.lab.run_instance(zone=ZONE, tags={"Name": "x"})
    scene.lab.attach_volume(volume, other, "/dev/sdf")
    scene.lab.hold_busy(volume)
    scene.lab.detach_volume(volume)
    seen: list[str] = []
    scene.later(60, lambda: seen.append(scene.status()["sets"]["data"]["reason"]))
    scene.later(120, lambda: scene.lab.let_go(volume))
    assert scene.run(600) == DONE
    assert list(scene.attached()) == [volume] and scene.took >= 120
    assert "busy" in seen[0] and other in seen[0]
    assert not scene.calls["DetachVolume"]


def test_a_volume_in_modification_is_awaited(scene: Scene) -> None:
    """Somebody enlarges the volume and replaces the instance in one go."""
    volume = scene.volume()
    scene.lab.modify_seconds, scene.lab.optimize_seconds = 200.0, 3600.0
    scene.lab.resize_volume(volume, 2)
    seen: list[tuple[str, str]] = []

    def look() -> None:
        told = scene.status()
        seen.append((told["sets"]["data"]["state"], told["sets"]["data"]["reason"]))
        seen.append((told["state"], told["waiting_for"]))

    scene.later(5, look)
    assert scene.run(100, final=False) == PENDING
    scene.later(50, look)
    assert scene.run(600) == DONE
    assert list(scene.attached()) == [volume]
    assert [state for state, _ in seen] == ["pending", "running"] * 2
    assert all("modification state: MODIFYING" in text for _, text in seen)
    assert scene.calls["AttachVolume"] < 25


def test_a_set_in_modification_holds_up_no_other(scene: Scene) -> None:
    """Though it has the lowest volume id, which is asked for first."""
    first, second = sorted(scene.volume(name) for name in ("data", "log"))
    scene.lab.modify_seconds, scene.lab.optimize_seconds = 600.0, 3600.0
    scene.lab.resize_volume(first, 2)
    assert scene.run(30, final=False) == PENDING
    assert list(scene.attached()) == [second]


def test_a_second_set_is_asked_for_when_a_volume_of_the_node_is_here(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another instance of the node gets the first volume between describe and attach:
    it gets the other set too."""
    first, second = sorted(scene.volume(name) for name in ("data", "log"))
    twin = scene.lab.run_instance(zone=ZONE, tags=ME)
    attach = Ec2.attach

    def late(self: Ec2, volume: str) -> str:
        if not scene.lab.volume(first).attachments:
            scene.lab.attach_volume(first, twin, "/dev/sdf")
        return attach(self, volume)

    monkeypatch.setattr(Ec2, "attach", late)
    assert scene.run(200) == FAILED
    names = [scene.report.sets[name]["error"]["kind"] for name in ("data", "log")]
    assert names == ["holder-predecessor"] * 2
    assert scene.calls["AttachVolume"] == 1 and not scene.lab.volume(second).attachments


def test_other_operations_that_are_not_permitted_are_an_error(scene: Scene) -> None:
    scene.volume()
    scene.lab.fail("AttachVolume", "OperationNotPermitted", "Not so.", calls=None)
    assert scene.run(600) == FAILED
    assert scene.error()["kind"] == "ec2-request" and "Not so" in scene.error()["found"]
    assert scene.calls["AttachVolume"] == 1


def test_delete_on_termination_is_warned_of(scene: Scene) -> None:
    volume = scene.volume()
    scene.lab.attach_volume(volume, scene.instance, "/dev/sdf")
    scene.lab.set_delete_on_termination(volume, True)
    assert scene.run(60) == DONE
    assert any(
        "DeleteOnTermination" in text for text in scene.report.status["warnings"]
    )


def test_answers_that_go_backwards_undo_nothing(scene: Scene) -> None:
    """The old holder shows up again in an old answer after the attachment."""
    volume = scene.volume()
    scene.volume("log")
    old = scene.lab.run_instance(zone=ZONE, tags=ME)
    scene.lab.attach_volume(volume, old, "/dev/sdf")
    scene.clock.advance(60)
    scene.lab.terminate_instance(old, 1, 1)
    scene.lab.attach_seconds = 18.0  # longer than is waited without asking
    scene.clock.advance(5)
    scene.lab.lag(12, share=0.5, spread=True, seed=5)
    assert scene.run(300) == DONE
    assert set(scene.attached()) == set(scene.disks) and len(scene.disks) == 2
    assert not scene.calls["DetachVolume"]
    accepted = [c for c in scene.lab.calls if c.writes and not c.code]
    assert len(accepted) == 2


def test_what_cannot_be_attached_in_whole_is_given_back(scene: Scene) -> None:
    """The limit is reached at the second member: the first one is free again."""
    first = scene.volume("data", VolumeSize="2", RaidLevel="1")
    second = scene.volume("data", VolumeSize="2", RaidLevel="1")
    scene.lab.attachment_limits["m5.large"] = 2
    assert scene.run(60) == FAILED
    assert scene.error()["kind"] == "attachment-limit"
    scene.clock.advance(10)
    assert scene.attached() == {}
    assert {scene.lab.volume(v).state for v in (first, second)} == {"available"}


def test_who_loses_a_member_to_a_stranger_gives_the_others_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the second one between our two calls."""
    tags = {"VolumeSize": "2", "RaidLevel": "1"}
    first, second = sorted(scene.volume("data", **tags) for _ in range(2))
    other = scene.lab.run_instance(zone=ZONE, tags={"Name": "x"})
    attach = Ec2.attach

    def late(self: Ec2, volume: str) -> str:
        if volume == second and not scene.lab.volume(second).attachments:
            scene.lab.attach_volume(second, other, "/dev/sdf")
        return attach(self, volume)

    monkeypatch.setattr(Ec2, "attach", late)
    assert scene.run(60) == FAILED
    assert scene.error()["kind"] == "holder-running"
    assert scene.calls["DetachVolume"] == 1
    scene.clock.advance(10)
    assert scene.attached() == {}
    assert scene.lab.volume(first).state == "available"


# ------------------------------------------------------------------- few calls


@pytest.mark.parametrize("count", [1, 8, 20])
def test_the_calls_of_a_first_boot(scene: Scene, count: int) -> None:
    """One describe, the names once, one attach each; sysfs tells the rest."""
    for number in range(count):
        scene.volume(f"set{number}")
    assert scene.run(60) == DONE
    assert scene.calls == {
        "DescribeVolumes": 1,
        "DescribeInstances": 1,
        "AttachVolume": count,
    }
    mark = scene.lab.calls.mark()
    assert scene.run(60) == DONE
    assert scene.lab.calls.counts(mark) == {"DescribeVolumes": 1}


def test_two_ebs_cards(make: Callable[..., Scene]) -> None:
    """The default card for what is attached here; the card of whoever attached a
    volume before does not matter."""
    scene = make(kind="c8gb.48xlarge")
    ours, theirs = scene.volume("log"), scene.volume("data")
    scene.lab.client().attach_volume(
        VolumeId=theirs, InstanceId=scene.instance, Device="/dev/sdf", EbsCardIndex=1
    )
    assert scene.run(60) == DONE
    cards = {one.volume_id: one.card for one in scene.lab.attached_to(scene.instance)}
    assert (cards[ours], cards[theirs]) == (0, 1)
    assert scene.calls["AttachVolume"] == 2


def test_one_describe_for_each_page(make: Callable[..., Scene]) -> None:
    scene = make(page_size=5)
    for number in range(12):
        scene.volume(f"set{number}")
    assert scene.run(60) == DONE
    assert scene.calls["DescribeVolumes"] == 3


def test_slow_attachments_are_polled_with_one_describe_for_all(scene: Scene) -> None:
    scene.lab.attach_seconds = 40.0
    for number in range(10):
        scene.volume(f"set{number}")
    assert scene.run(120) == DONE
    assert scene.calls["AttachVolume"] == 10
    assert scene.calls["DescribeVolumes"] <= 1 + most(30, LONGEST_POLL)
    assert scene.calls["DescribeInstances"] == 1


@pytest.mark.parametrize("attach_seconds", [2.0, 40.0])
def test_a_disk_that_takes_40_seconds_is_attached_once(
    make: Callable[..., Scene], attach_seconds: float
) -> None:
    """EC2 is slow, or the machine is: longer than an answer is believed in."""
    scene = make(attach_seconds=attach_seconds)
    scene.disk_seconds = 40.0
    volumes = [scene.volume(name) for name in ("data", "log")]
    assert scene.run(300) == DONE
    assert sorted(scene.attached()) == sorted(volumes) == sorted(scene.disks)
    assert scene.took >= 40
    assert scene.calls["AttachVolume"] == 2 and not scene.calls["DetachVolume"]


def test_waiting_for_ten_minutes_is_a_few_dozen_calls(scene: Scene) -> None:
    volume = scene.volume()
    old = scene.lab.run_instance(zone=ZONE, tags=ME)
    scene.lab.attach_volume(volume, old, "/dev/sdf")
    assert scene.run(600) == FAILED
    questions = most(SLOW_AFTER, LONGEST_POLL) + most(600 - SLOW_AFTER, SLOW_POLL)
    assert scene.calls["DescribeVolumes"] <= questions
    assert scene.calls["DescribeInstances"] <= 21


# ------------------------------------------------------------------ the way to EC2


def test_tls_with_a_private_authority(
    make: Callable[..., Scene], tmp_path: Path
) -> None:
    authority = Authority()
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    scene = make(tls=authority.server("127.0.0.1"))
    scene.volume()
    assert scene.lab.endpoint_url.startswith("https://")
    assert scene.run(60) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "certificate-refused" and "ca_bundle" in error["remedy"]
    assert scene.calls == {}
    assert scene.run(60, ca_bundle=str(bundle)) == DONE


def test_through_a_proxy(make: Callable[..., Scene]) -> None:
    """The lab takes a proxy's requests, too (absolute URIs)."""
    scene = make()
    scene.volume()
    place = "http://ec2.example.invalid/"
    assert scene.run(60, endpoint_url=place) == FAILED
    assert scene.calls == {}
    proxy = scene.lab.endpoint_url
    assert scene.run(60, endpoint_url=place, https_proxy=proxy) == DONE
    assert scene.calls["AttachVolume"] == 1


def test_credentials_of_the_profile_that_expire_and_come_late(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    """IMDSv2 only, hop limit 1; away at first, then with tokens that it refuses;
    the first keys expire during the run."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    scene.volume()
    with Metadata(Facts.of(scene.lab, scene.instance), hop_limit=1) as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        service.away("drop")
        scene.later(30, service.back)
        scene.later(30, lambda: service.refuse_tokens(4))
        scene.lab.pending_seconds = 120.0
        scene.lab.stop_instance(scene.instance)
        scene.lab.start_instance(scene.instance)
        scene.later(80, lambda: scene.lab.expire_credentials(scene.instance))
        assert scene.run(300) == DONE
        assert all(
            one.method == "PUT" for one in service.requests if "token" in one.path
        )
    text = "\n".join(lines())
    assert "the metadata service does not answer" in text
    assert "Request has expired" in text
    assert {c.instance_id for c in scene.lab.calls} == {scene.instance}


def test_a_metadata_service_with_ipv6_alone(
    scene: Scene, on_instance: Callable[[], Metadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials come from where cloud-init has found it."""
    scene.volume()
    on_instance().away("refuse")
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    with Metadata(Facts.of(scene.lab, scene.instance), address="::1") as service:
        assert scene.run(60, metadata_url=service.url) == DONE
        assert {one.status for one in service.requests} == {200}


def test_a_region_of_ones_own(make: Callable[..., Scene]) -> None:
    scene = make()
    scene.volume()
    assert scene.run(60, region="eu-central-1") == DONE
    assert isinstance(scene.run_now.cloud, Ec2)
    assert scene.run_now.cloud.region == "eu-central-1"


def test_two_disks_of_one_serial_are_no_reason_to_look_again_and_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no disk of the volume, and no change either."""
    volume = scene.volume("log")
    scene.tree.disk(7, volume.replace("-", ""))
    looked, look = [], Observer.look

    def counted(self: Observer, *args: Any, **more: Any) -> Any:
        looked.append(1)
        return look(self, *args, **more)

    monkeypatch.setattr(Observer, "look", counted)
    scene.volume("late", VolumeSize="2")  # one of two: awaited to the end
    scene.run(60)
    assert len(looked) < 30


def test_a_run_without_any_time_says_how_to_give_it_some(scene: Scene) -> None:
    """With boot_wait: 0, cc-kraken apply has none either."""
    scene.volume()
    assert scene.run(0) == FAILED
    error = scene.error()
    assert error["kind"] == "out-of-time"
    assert "cc-kraken apply --wait" in error["remedy"]
    assert scene.run(300) == DONE


def test_no_two_phases_have_one_number() -> None:
    numbers = [title.split(":")[0] for title in TITLES.values()]
    assert numbers == [str(number) for number in range(1, len(TITLES) + 1)]
