"""The edge to cloud-init: stand-ins of the documented shape, and contract
tests with the real thing where it can be imported."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from cc_kraken import host
from cc_kraken.model import Identity, KrakenError

WITH_CLOUD_INIT = pytest.mark.skipif(
    importlib.util.find_spec("cloudinit") is None,
    reason="cloudinit cannot be imported by this Python "
    "(Debian's package serves the system's Python only)",
)

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

    def get_instance_id(self) -> str:
        return "i-asked"


class Stranded:
    """A datasource from another version's pickle: every property fails."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else KeyError(name)


# ----------------------------------------------------------------- identity


def test_identity_from_the_document() -> None:
    assert host.identity(Ec2()) == Identity(
        "i-0123456789abcdef0", "us-east-1", "us-east-1a", None, "m5.large"
    )


@pytest.mark.parametrize("document", [None, {}, "gone"])
def test_identity_from_the_metadata(document: Any) -> None:
    assert host.identity(Ec2(identity=document)) == host.identity(Ec2())


def test_identity_without_the_attribute() -> None:
    datasource = Ec2()
    del datasource.identity
    assert host.identity(datasource) == host.identity(Ec2())


def test_identity_from_the_properties() -> None:
    datasource = Ec2(
        identity={},
        metadata=None,
        region="eu-west-1",
        availability_zone="eu-west-1b",
    )
    assert host.identity(datasource) == Identity("i-asked", "eu-west-1", "eu-west-1b")


def test_no_region_is_left_to_the_configuration() -> None:
    bare = {"instance-id": "i-1", "placement": {"availability-zone": "nova"}}
    assert host.identity(Ec2(identity={}, metadata=bare)).region == ""


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
def test_instance_tags(offered: Dict[str, Any], tags: Optional[dict]) -> None:
    assert host.identity(Ec2(metadata={**METADATA, **offered})).tags == tags


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
        host.identity(datasource)
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
    assert host.is_ec2(datasource) is ours


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
    # Whatever the command line says: all stages are one process since 24.3.
    assert host.stage(cloud_of(fullname), ["cloud-init", "--all-stages"]) == stage


@pytest.mark.parametrize(
    ("argv", "stage"),
    [
        (["cloud-init", "init"], "network"),
        (["cloud-init", "modules", "--mode=config"], "network"),
        (["cloud-init", "modules", "--mode=final"], "final"),
        (["cloud-init", "modules", "--mode", "final"], "final"),
        (["cloud-init", "single", "--name", "kraken"], "single"),
        (["final"], "network"),
        ([], "network"),
    ],
)
@pytest.mark.parametrize(
    "cloud", [cloud_of("unnamed-cloud-reporter"), cloud_of(None), object(), None]
)
def test_stage_by_the_command_line(argv: List[str], stage: str, cloud: Any) -> None:
    assert host.stage(cloud, argv) == stage


def test_waits_for_the_network_where_the_distribution_can() -> None:
    waited: List[int] = []
    cloud = cloud_of("init-network", wait_for_network=lambda: waited.append(1))
    assert host.wait_for_network(cloud)
    assert waited == [1]


def test_a_wait_that_fails_costs_nothing(caplog: Any) -> None:
    def fail() -> None:
        raise RuntimeError("no activator")

    with caplog.at_level("INFO"):
        assert host.wait_for_network(cloud_of("init-network", wait_for_network=fail))
    assert "no activator" in caplog.text


@pytest.mark.parametrize("cloud", [cloud_of("init-network"), object(), None])
def test_older_versions_do_not_wait(cloud: Any) -> None:
    assert not host.wait_for_network(cloud)


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
    assert host.final_entry({"cloud_final_modules": listed}) is there


def test_final_entry_without_a_list() -> None:
    assert not host.final_entry({})


# ------------------------------------------------------------------- events


class Stack:
    """The shape of ReportEventStack."""

    told: List[str] = []

    def __init__(self, name: str, description: str, parent: Any) -> None:
        self.name = f"{parent.fullname}/{name}"

    def __enter__(self) -> Stack:
        self.told.append(f"start {self.name}")
        return self

    def __exit__(self, *exception: Any) -> None:
        assert exception == (None, None, None)
        self.told.append(f"finish {self.name}")


@pytest.fixture
def told(monkeypatch: Any) -> Iterator[List[str]]:
    events = types.ModuleType("cloudinit.reporting.events")
    events.ReportEventStack = Stack  # type: ignore[attr-defined]
    reporting = types.ModuleType("cloudinit.reporting")
    reporting.events = events  # type: ignore[attr-defined]
    for module in (types.ModuleType("cloudinit"), reporting, events):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Stack, "told", [])
    yield Stack.told


def test_phases_are_events_one_after_another(told: List[str]) -> None:
    events = host.Events(cloud_of("init-network"), "kraken")
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


def test_other_threads_tell_nothing(told: List[str]) -> None:
    events = host.Events(cloud_of("init-network"), "kraken")
    events.enter("attach")
    thread = threading.Thread(target=events.enter, args=("mount",))
    thread.start()
    thread.join()
    assert told == ["start init-network/config-kraken/attach"]


def test_events_that_fail_cost_nothing(told: List[str], monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no reporter")

    events = host.Events(cloud_of("init-network"), "kraken")
    monkeypatch.setattr(Stack, "__exit__", fail)
    events.enter("attach")
    events.enter("mount")
    monkeypatch.setattr(Stack, "__enter__", fail)
    events.enter("identify")
    events.enter(None)
    assert [line.rpartition("/")[2] for line in told] == ["attach", "mount"]


@pytest.mark.parametrize("cloud", [None, object(), cloud_of("init-network")])
def test_no_events_without_cloud_init(cloud: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "cloudinit", None)
    monkeypatch.setitem(sys.modules, "cloudinit.reporting", None)
    events = host.Events(cloud)
    events.enter("attach")
    events.enter(None)


# ---------------------------------------------------------- outside a stage


def refused(kind: str) -> KrakenError:
    with pytest.raises(KrakenError) as caught:
        host.load()
    assert caught.value.trouble.kind == kind, str(caught.value)
    assert str(caught.value).isprintable()
    return caught.value


def test_no_cloud_init(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "cloudinit", None)
    assert sys.executable in str(refused("cloud-init-missing"))


def test_nothing_of_cloud_init_is_imported_by_the_module() -> None:
    tree = Path(host.__file__).read_text()
    top = [line for line in tree.splitlines() if line.startswith(("import", "from"))]
    assert top
    assert not any("cloudinit" in line for line in top)


@pytest.fixture
def cloud_dir(tmp_path: Path, monkeypatch: Any) -> Path:
    """A directory that the real cloud-init takes for /var/lib/cloud."""
    cloud_dir = tmp_path / "cloud"
    run_dir = tmp_path / "run"
    instance = cloud_dir / "instances" / "i-0123456789abcdef0"
    instance.mkdir(parents=True)
    run_dir.mkdir()
    (cloud_dir / "instance").symlink_to(instance)
    config = tmp_path / "cloud.cfg"
    config.write_text(
        "system_info:\n"
        "  distro: debian\n"
        f"  paths: {{cloud_dir: {cloud_dir}, run_dir: {run_dir}}}\n"
        "cloud_final_modules: [runcmd, [kraken, always]]\n"
        "kraken: {prefix: image, boot_wait: 5}\n"
    )
    monkeypatch.setenv("CLOUD_CFG", str(config))
    return cloud_dir


def real_datasource() -> Any:
    from cloudinit import stages
    from cloudinit.sources.DataSourceEc2 import DataSourceEc2

    init = stages.Init(ds_deps=[])
    init.read_cfg()
    datasource = DataSourceEc2({}, init.distro, init.paths)
    datasource._cloud_name = "aws"
    datasource.identity = dict(DOCUMENT)
    datasource.metadata = {
        **METADATA,
        "tags": {"instance": {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"}},
    }
    return datasource


@WITH_CLOUD_INIT
def test_real_load(cloud_dir: Path) -> None:
    datasource = real_datasource()
    (cloud_dir / "instance" / "obj.pkl").write_bytes(pickle.dumps(datasource))
    (cloud_dir / "instance" / "cloud-config.txt").write_text(
        "#cloud-config\npackages: [mdadm]\n"
    )
    before = sorted(str(path) for path in cloud_dir.rglob("*"))
    cfg, found = host.load()
    assert cfg["packages"] == ["mdadm"]
    assert cfg["kraken"] == {"prefix": "image", "boot_wait": 5}
    assert host.final_entry(cfg)
    assert host.is_ec2(found)
    assert host.identity(found) == Identity(
        "i-0123456789abcdef0",
        "us-east-1",
        "us-east-1a",
        {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"},
        "m5.large",
    )
    assert sorted(str(path) for path in cloud_dir.rglob("*")) == before


@WITH_CLOUD_INIT
def test_real_load_before_a_boot(cloud_dir: Path) -> None:
    assert "obj.pkl is missing" in str(refused("cloud-init-not-run"))
    assert (cloud_dir / "instance").is_symlink()


@WITH_CLOUD_INIT
def test_real_load_of_a_broken_cache(cloud_dir: Path) -> None:
    (cloud_dir / "instance" / "obj.pkl").write_bytes(b"\x80\x04garbage")
    refused("cloud-init-unusable")
    assert (cloud_dir / "instance").is_symlink()


@WITH_CLOUD_INIT
def test_real_stages_have_the_names_that_we_know() -> None:
    from cloudinit.cmd import main

    source = inspect.getsource(main)
    for name in ("init-local", "init-network", "modules-%s", "single/%s"):
        assert f'"{name}"' in source


@WITH_CLOUD_INIT
def test_real_cloud_has_what_we_read(cloud_dir: Path) -> None:
    from cloudinit import stages
    from cloudinit.reporting import events

    datasource = real_datasource()
    (cloud_dir / "instance" / "obj.pkl").write_bytes(pickle.dumps(datasource))
    reporter = events.ReportEventStack("modules-final", "", reporting_enabled=False)
    init = stages.Init(ds_deps=[], reporter=reporter)
    init.fetch(existing="trust")
    cloud = init.cloudify()
    assert host.stage(cloud, ["cloud-init", "init"]) == "final"
    assert host.identity(cloud.datasource).instance_id == "i-0123456789abcdef0"
    waits = hasattr(cloud.distro, "wait_for_network")
    assert host.wait_for_network(cloud) is waits


@WITH_CLOUD_INIT
def test_real_events() -> None:
    from cloudinit import reporting
    from cloudinit.reporting import events

    told: List[str] = []
    recorder = types.SimpleNamespace(
        publish_event=lambda event: told.append(event.as_string())
    )
    registry = reporting.instantiated_handler_registry
    registry.register_item("recorder", recorder)
    try:
        with events.ReportEventStack("init-network", "", reporting_enabled=True) as top:
            phases = host.Events(types.SimpleNamespace(reporter=top), "kraken")
            phases.enter("attach")
            phases.enter("mount")
            phases.enter(None)
    finally:
        registry.unregister_item("recorder")
    names = [line.split(":")[0] + ":" + line.split(":")[1].strip() for line in told]
    below = "init-network/config-kraken"
    assert names == [
        "start:init-network",
        f"start:{below}/attach",
        f"finish:{below}/attach",
        f"start:{below}/mount",
        f"finish:{below}/mount",
        "finish:init-network",
    ]
    assert all("SUCCESS" in line for line in told if line.startswith("finish"))


@WITH_CLOUD_INIT
def test_real_names_are_compared_alike() -> None:
    from cloudinit.config import modules

    for name in (
        "kraken",
        "cc_kraken",
        "cc-kraken",
        "kraken.py",
        " kraken ",
        "write-files",
    ):
        assert host._canonical(name) == modules.form_module_name(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@WITH_CLOUD_INIT
def test_real_load_without_the_rights(cloud_dir: Path) -> None:
    (cloud_dir / "instance" / "obj.pkl").touch(mode=0)
    assert "as root" in str(refused("cloud-init-unusable"))
