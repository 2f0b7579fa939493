"""The edge to cloud-init, with stand-ins of the documented shape.  The real
thing: tests/chroot/inside."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, Optional

import pytest
from pytest_mock import MockerFixture

from cc_kraken.boot import cloud_init
from cc_kraken.boot.configured import is_ec2
from cc_kraken.model import Identity, KrakenError

DOCUMENT = {
    "instanceId": "i-0123456789abcdef0",
    "region": "us-east-1",
    "availabilityZone": "us-east-1a",
    "instanceType": "m5.large",
}
METADATA = {
    "instance-id": "i-0123456789abcdef0",
    "instance-type": "m5.large",
    "placement": {"availability-zone": "us-east-1a", "region": "us-east-1"},
}


class Ec2:
    """The shape of DataSourceEc2."""

    cloud_name = "aws"
    platform = "ec2"

    def __init__(self, **given: Any) -> None:
        self.identity: Any = DOCUMENT
        self.metadata: Any = METADATA
        vars(self).update(given)


class Stranded:
    """A datasource from another version's pickle: every property fails."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else KeyError(name)


# ----------------------------------------------------------------- identity


def test_identity_from_the_document() -> None:
    assert cloud_init.identity(Ec2()) == Identity(
        "i-0123456789abcdef0", "us-east-1", "us-east-1a", None
    )


def test_where_the_metadata_service_and_the_api_are() -> None:
    """As the datasource has found them: perhaps IPv6 alone, perhaps not AWS's first
    partition."""
    services = {"domain": "amazonaws.eu", "partition": "aws-eusc"}
    url = "http://[fd00:ec2::254]"
    found = cloud_init.identity(
        Ec2(metadata={**METADATA, "services": services}, metadata_address=url)
    )
    assert (found.metadata_url, found.partition, found.domain) == (
        url,
        "aws-eusc",
        "amazonaws.eu",
    )


@pytest.mark.parametrize("document", [None, {}, "gone"])
def test_identity_from_the_metadata(document: Any) -> None:
    assert cloud_init.identity(Ec2(identity=document)) == cloud_init.identity(Ec2())


def test_identity_without_the_attribute() -> None:
    datasource = Ec2()
    del datasource.identity
    assert cloud_init.identity(datasource) == cloud_init.identity(Ec2())


def test_the_region_that_cloud_init_makes_of_the_zone() -> None:
    bare = {"instance-id": "i-1", "placement": {"availability-zone": "eu-west-1b"}}
    datasource = Ec2(identity={}, metadata=bare, region="eu-west-1")
    assert cloud_init.identity(datasource) == Identity("i-1", "eu-west-1", "eu-west-1b")


def test_no_region_is_left_to_the_configuration() -> None:
    bare = {"instance-id": "i-1", "placement": {"availability-zone": "nova"}}
    assert cloud_init.identity(Ec2(identity={}, metadata=bare)).region == ""


@pytest.mark.parametrize(
    ("offered", "tags"),
    [
        ({}, None),
        ({"tags": ""}, None),
        ({"tags": {"instance": ""}}, None),
        ({"tags": {"instance": {}}}, {}),
        (
            {"tags": {"instance": {"KRKN-IN:Prefix": "a", "J": {"a": 1}, "L": ["x"]}}},
            {"KRKN-IN:Prefix": "a", "J": '{"a": 1}', "L": "x"},
        ),
    ],
)
def test_instance_tags(offered: dict[str, Any], tags: Optional[dict]) -> None:
    assert cloud_init.identity(Ec2(metadata={**METADATA, **offered})).tags == tags


@pytest.mark.parametrize(
    "datasource",
    [
        object(),
        Stranded(),
        Ec2(identity={}, metadata={"placement": {}}),
        Ec2(identity={"instanceId": "iid-datasource-none"}),
        Ec2(identity={"instanceId": 7}, metadata={}),
    ],
)
def test_an_instance_that_is_not_known(datasource: object) -> None:
    with pytest.raises(KrakenError) as caught:
        cloud_init.identity(datasource)
    assert caught.value.trouble.kind == "instance-unknown"


@pytest.mark.parametrize(
    ("datasource", "ours"),
    [
        (Ec2(), True),
        (Ec2(cloud_name="unknown"), True),
        (Ec2(cloud_name="nocloud", platform="nocloud"), False),
        (Ec2(cloud_name="openstack", platform="openstack"), False),
        (object(), False),
        (Stranded(), False),
        (None, False),
    ],
)
def test_is_ec2(datasource: object, ours: bool) -> None:
    assert is_ec2(datasource) is ours


# ------------------------------------------------------------------- stages


def cloud_of(fullname: Optional[str], **distro: Any) -> Any:
    reporter = types.SimpleNamespace(fullname=fullname)
    return types.SimpleNamespace(
        reporter=reporter, distro=types.SimpleNamespace(**distro)
    )


@pytest.mark.parametrize(
    ("fullname", "stage"),
    [
        ("init-network", "network"),
        ("init-network/config-kraken", "network"),
        ("modules-init", "network"),
        ("modules-config", "network"),
        ("modules-final", "final"),
        ("single/kraken", "single"),
        ("single/cc_kraken/config-cc_kraken", "single"),
    ],
)
def test_stage_by_the_reporter(fullname: str, stage: str) -> None:
    assert cloud_init.stage(cloud_of(fullname)) == stage


@pytest.mark.parametrize(
    "cloud", [cloud_of("unnamed-cloud-reporter"), cloud_of(None), object(), None]
)
def test_a_stage_that_is_not_known_counts_as_the_network_stage(cloud: Any) -> None:
    assert cloud_init.stage(cloud) == "network"


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        (None, False),
        ([], False),
        ("kraken", False),
        (["runcmd", "krakens"], False),
        (["kraken"], True),
        (["cc_kraken"], True),
        (["cc-kraken"], True),
        ([" kraken.py "], False),
        (["kraken.py"], True),
        ([["runcmd", "always"], ["kraken", "always"]], True),
        ([{"name": "cc_kraken", "frequency": "always"}], True),
        ([None, [], {}, [None], 7, {"name": 7}], False),
    ],
)
def test_final_entry(listed: Any, there: bool) -> None:
    assert cloud_init.final_entry({"cloud_final_modules": listed}) is there


def test_final_entry_without_a_list() -> None:
    assert not cloud_init.final_entry({})


# ------------------------------------------------------------------- events


class Stack:
    """The shape of ReportEventStack."""

    told: list[str] = []

    def __init__(self, name: str, description: str, parent: Any) -> None:
        self.name = f"{parent.fullname}/{name}"

    def __enter__(self) -> Stack:
        self.told.append(f"start {self.name}")
        return self

    def __exit__(self, *exception: Any) -> None:
        assert exception == (None, None, None)
        self.told.append(f"finish {self.name}")


@pytest.fixture
def told(mocker: MockerFixture) -> list[str]:
    events = mocker.Mock(ReportEventStack=Stack)
    reporting = mocker.Mock(events=events)
    modules = {"cloudinit": mocker.Mock(reporting=reporting)}
    modules["cloudinit.reporting"] = reporting
    modules["cloudinit.reporting.events"] = events
    mocker.patch.dict(sys.modules, modules)
    lines: list[str] = []
    mocker.patch.object(Stack, "told", lines)
    return lines


def test_phases_are_events_one_after_another(told: list[str]) -> None:
    events = cloud_init.Events(cloud_of("init-network"), "kraken")
    for phase in ("identify", "attach", "attach", None, None, "mount", None):
        events.enter(phase)
    below = "init-network/config-kraken"
    assert told == [
        f"start {below}/identify",
        f"finish {below}/identify",
        f"start {below}/attach",
        f"finish {below}/attach",
        f"start {below}/mount",
        f"finish {below}/mount",
    ]


def test_events_that_fail_cost_nothing(told: list[str], mocker: MockerFixture) -> None:
    broken = OSError("no reporter")
    events = cloud_init.Events(cloud_of("init-network"), "kraken")
    mocker.patch.object(Stack, "__exit__", side_effect=broken)
    events.enter("attach")
    events.enter("mount")
    mocker.patch.object(Stack, "__enter__", side_effect=broken)
    events.enter("identify")
    events.enter(None)
    assert [line.rpartition("/")[2] for line in told] == ["attach", "mount"]


@pytest.mark.parametrize("cloud", [None, object(), cloud_of("init-network")])
def test_no_events_without_cloud_init(cloud: Any, mocker: MockerFixture) -> None:
    gone = {"cloudinit": None, "cloudinit.reporting": None}
    mocker.patch.dict(sys.modules, gone)
    events = cloud_init.Events(cloud)
    events.enter("attach")
    events.enter(None)


# ---------------------------------------------------------- outside a stage


def refused(kind: str) -> KrakenError:
    with pytest.raises(KrakenError) as caught:
        cloud_init.load()
    assert caught.value.trouble.kind == kind, str(caught.value)
    assert str(caught.value).isprintable()
    return caught.value


def test_no_cloud_init(mocker: MockerFixture) -> None:
    mocker.patch.dict(sys.modules, {"cloudinit": None})
    assert sys.executable in str(refused("cloud-init-missing"))


class Init:
    """cloud-init's own, as far as it is asked where the datasource is kept."""

    def __init__(self, path: Path) -> None:
        self.paths = types.SimpleNamespace(get_ipath_cur=lambda _: str(path))

    def read_cfg(self) -> None:
        pass


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, "cloud-init-not-run", ["obj.pkl is missing", "cloud-init status"]),
        (b"no pickle", "cloud-init-unusable", ["obj.pkl cannot be read", "Reboot"]),
    ],
)
def test_a_datasource_that_is_not_there_or_cannot_be_read(
    content: Optional[bytes],
    kind: str,
    words: list[str],
    tmp_path: Path,
    mocker: MockerFixture,
) -> None:
    path = tmp_path / "obj.pkl"
    if content is not None:
        path.write_bytes(content)
    stages = types.SimpleNamespace(Init=lambda ds_deps: Init(path))
    mocker.patch.dict(
        sys.modules, {"cloudinit": types.SimpleNamespace(helpers=None, stages=stages)}
    )
    text = str(refused(kind))
    assert all(word in text for word in words), text


def test_nothing_of_cloud_init_is_imported_by_the_module() -> None:
    tree = Path(cloud_init.__file__).read_text()
    top = [line for line in tree.splitlines() if line.startswith(("import", "from"))]
    assert top
    assert not any("cloudinit" in line for line in top)
