"""The module and cloud-init's own code, as the release has it.

Run inside a chroot, by its Python and its pytest (../test_contract.py): the
installed package, found as cloud-init finds it.  Python 3.9 and pytest 6.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.boot import cloud_init
from cc_kraken.boot.configured import is_ec2
from cc_kraken.model import Identity, KrakenError

try:
    from cloudinit.config.modules import Modules, form_module_name
except ImportError:  # before 22.2
    from cloudinit.config import form_module_name
    from cloudinit.stages import Modules

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
STATUS = Path("/run/cc-kraken/status.json")
HERE = os.environ["CC_KRAKEN_AT"]
LISTS = ("cloud_init_modules", "cloud_final_modules")


def refused(kind: str) -> KrakenError:
    with pytest.raises(KrakenError) as caught:
        cloud_init.load()
    assert caught.value.trouble.kind == kind, str(caught.value)
    assert str(caught.value).isprintable()
    return caught.value


def test_it_is_the_installed_package() -> None:
    import cc_kraken

    assert cc_kraken.__file__ == f"{HERE}/__init__.py"


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


def test_real_load(cloud_dir: Path) -> None:
    datasource = real_datasource()
    (cloud_dir / "instance" / "obj.pkl").write_bytes(pickle.dumps(datasource))
    (cloud_dir / "instance" / "cloud-config.txt").write_text(
        "#cloud-config\npackages: [mdadm]\n"
    )
    before = sorted(str(path) for path in cloud_dir.rglob("*"))
    cfg, found = cloud_init.load()
    assert cfg["packages"] == ["mdadm"]
    assert cfg["kraken"] == {"prefix": "image", "boot_wait": 5}
    assert cloud_init.final_entry(cfg)
    assert is_ec2(found)
    assert cloud_init.identity(found) == Identity(
        "i-0123456789abcdef0",
        "us-east-1",
        "us-east-1a",
        {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"},
    )
    assert sorted(str(path) for path in cloud_dir.rglob("*")) == before


def test_real_load_before_a_boot(cloud_dir: Path) -> None:
    assert "obj.pkl is missing" in str(refused("cloud-init-not-run"))
    assert (cloud_dir / "instance").is_symlink()


def test_real_load_of_a_broken_cache(cloud_dir: Path) -> None:
    (cloud_dir / "instance" / "obj.pkl").write_bytes(b"\x80\x04garbage")
    refused("cloud-init-unusable")
    assert (cloud_dir / "instance").is_symlink()


def test_real_stages_have_the_names_that_we_know() -> None:
    from cloudinit.cmd import main

    source = inspect.getsource(main)
    for name in ("init-local", "init-network", "modules-%s", "single/%s"):
        assert f'"{name}"' in source


def test_real_cloud_has_what_we_read(cloud_dir: Path) -> None:
    from cloudinit import stages
    from cloudinit.reporting import events

    datasource = real_datasource()
    (cloud_dir / "instance" / "obj.pkl").write_bytes(pickle.dumps(datasource))
    reporter = events.ReportEventStack("modules-final", "", reporting_enabled=False)
    init = stages.Init(ds_deps=[], reporter=reporter)
    init.fetch(existing="trust")
    cloud = init.cloudify()
    assert cloud_init.stage(cloud) == "final"
    assert cloud_init.identity(cloud.datasource).instance_id == "i-0123456789abcdef0"


def test_real_events() -> None:
    from cloudinit import reporting
    from cloudinit.reporting import events

    told: list[str] = []
    recorder = types.SimpleNamespace(
        publish_event=lambda event: told.append(event.as_string())
    )
    registry = reporting.instantiated_handler_registry
    registry.register_item("recorder", recorder)
    try:
        with events.ReportEventStack("init-network", "", reporting_enabled=True) as top:
            phases = cloud_init.Events(types.SimpleNamespace(reporter=top), "kraken")
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


def test_real_names_are_compared_alike() -> None:
    for name in (
        "kraken",
        "cc_kraken",
        "cc-kraken",
        "kraken.py",
        " kraken ",
        "write-files",
    ):
        assert cloud_init.module_name(name) == form_module_name(name)


# ----------------------------------------------- how cloud-init runs a module


FORMS = [
    "kraken",
    "cc_kraken",
    "cc-kraken",
    ["kraken", "always"],
    ["cc_kraken", "always"],
    {"name": "kraken", "frequency": "always"},
]


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Every record of the process."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    keep, root = Keep(), logging.getLogger()
    level = root.level
    root.addHandler(keep)
    root.setLevel(logging.DEBUG)
    yield found
    root.removeHandler(keep)
    root.setLevel(level)


def forget() -> None:
    """As after a reboot."""
    if STATUS.exists():
        STATUS.unlink()


def run_section(cloud_dir: Path, content: dict[str, Any], stage: str) -> Any:
    """One list of modules, run as cloud-init does: what ran, what failed."""
    from cloudinit import stages
    from cloudinit.reporting import events

    forget()
    config = Path(os.environ["CLOUD_CFG"])
    lines = [f"{key}: {json.dumps(value)}" for key, value in content.items()]
    own = config.read_text().split("# test\n")[0]
    config.write_text("\n".join([own, "# test", *lines, ""]))
    (cloud_dir / "instance" / "obj.pkl").write_bytes(pickle.dumps(real_datasource()))
    reporter = events.ReportEventStack(stage, "", reporting_enabled=True)
    init = stages.Init(ds_deps=[], reporter=reporter)
    init.fetch(existing="trust")
    modules = Modules(init, reporter=reporter)
    section = LISTS[0] if stage == "init-network" else LISTS[1]
    return modules.run_section(section)


@pytest.fixture
def plain(cloud_dir: Path) -> Path:
    """Without lists and section in the image."""
    config = Path(os.environ["CLOUD_CFG"])
    text = config.read_text().split("cloud_final_modules")[0]
    config.write_text(text)
    return cloud_dir


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("stage", ["init-network", "modules-final"])
def test_run_as_cloud_init_runs_modules(
    plain: Path, records: list[logging.LogRecord], form: Any, stage: str
) -> None:
    lists = {name: [form] for name in LISTS}
    off = {"kraken": {"enabled": False}, **lists}
    ran, failed = run_section(plain, off, stage)
    assert (list(ran), list(failed)) == ([form_of(form)], [])
    # Called, with the configuration, the cloud and the stage.
    if stage == "init-network":
        told = json.loads(STATUS.read_text())
        assert (told["state"], told["stage"]) == ("off", "network")
    complaints = [
        record.getMessage()
        for record in records
        if record.levelno >= logging.WARNING or record.levelname == "DEPRECATED"
    ]
    assert complaints == []


def form_of(form: Any) -> str:
    """The name as the list has it."""
    if isinstance(form, dict):
        form = form["name"]
    return str(form[0] if isinstance(form, list) else form)


def test_every_boot(plain: Path) -> None:
    """No semaphore: it runs again."""
    off = {"kraken": {"enabled": False}, "cloud_init_modules": [["kraken", "always"]]}
    for _ in range(2):
        ran, failed = run_section(plain, off, "init-network")
        assert (list(ran), list(failed)) == (["kraken"], [])
        assert STATUS.exists()
    left = [path.name for path in plain.rglob("*kraken*")]
    assert left == []


def test_a_wrong_section_is_one_failure(plain: Path) -> None:
    wrong = {"kraken": {"volmes": {}}, LISTS[0]: ["kraken"], LISTS[1]: ["runcmd"]}
    ran, failed = run_section(plain, wrong, "init-network")
    assert list(ran) == ["kraken"]
    ((name, error),) = failed
    assert name == "kraken" and isinstance(error, RuntimeError)
    assert "volmes" in str(error) and "volumes" in str(error)


SILENT = """
import sys
before = set(sys.modules)
import cc_kraken, inspect
assert len(inspect.signature(cc_kraken.handle).parameters) == 2
class Source:
    cloud_name = "aws"
class Cloud:
    datasource = Source()
cc_kraken.handle("kraken", {"users": []}, Cloud(), None, [])
cc_kraken.handle(name="kraken", cfg={}, cloud=Cloud(), args=[])
Source.cloud_name = "azure"
cc_kraken.handle(name="kraken", cfg={"kraken": {}}, cloud=Cloud(), args=[])
print(sorted(n for n in set(sys.modules) - before if n.startswith("cc_kraken")))
print([n for n in ("boto3", "botocore", "jsonschema", "yaml") if n in sys.modules])
"""


def test_where_nobody_asks_only_the_stub_is_imported() -> None:
    forget()
    done = subprocess.run(
        [sys.executable, "-c", SILENT], stdout=subprocess.PIPE, check=True, text=True
    )
    assert done.stdout.splitlines() == [
        "['cc_kraken', 'cc_kraken.boot', 'cc_kraken.boot.configured']",
        "[]",
    ]


def test_nothing_that_cloud_init_takes_for_its_own() -> None:
    import pkgutil

    import cc_kraken

    names = [found.name for found in pkgutil.iter_modules(cc_kraken.__path__)]
    assert not {"schema", "meta", "handle"} & set(names)
    assert not hasattr(cc_kraken, "schema")
    assert {"frequency", "distros"} <= set(cc_kraken.meta)
