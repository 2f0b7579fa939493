"""cc_kraken.boot.enable: cloud-init's lists of modules."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cc_kraken.boot import cloud_init, enable
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError
from cc_kraken.state import udev_rules

ENTRY = ["kraken", "always"]

# The lists as cloud-init ships them (Debian's packages), shortened to what
# is near our place, in the spelling of each version.
BOOKWORM = """
cloud_init_modules:
 - write-files
 - disk_setup
 - mounts
 - set_hostname
 - users-groups
 - ssh
cloud_config_modules:
 - runcmd
cloud_final_modules:
 - package-update-upgrade-install
 - write-files-deferred
 - puppet
 - scripts-vendor
 - scripts-user
"""
SID = BOOKWORM.replace("-", "_").replace(" _ ", " - ")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    directory = tmp_path / "etc" / "cloud"
    (directory / "cloud.cfg.d").mkdir(parents=True)
    (directory / "cloud.cfg").write_text(BOOKWORM)
    return Paths(etc=str(tmp_path / "etc"))


def cloud(paths: Paths, name: str) -> Path:
    return Path(paths.etc, "cloud", name)


def tree(paths: Paths) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in Path(paths.etc).rglob("*")
        if path.is_file()
    }


def effective(paths: Paths) -> dict[str, list[object]]:
    """The lists, our file included, merged in the order of cloud-init."""
    merged: dict[str, list[object]] = {}
    drop_ins = sorted(cloud(paths, "cloud.cfg.d").glob("*.cfg"))
    for path in [cloud(paths, "cloud.cfg"), *drop_ins]:
        merged.update(yaml.safe_load(path.read_text()) or {})
    return merged


# ----------------------------------------------------------------- one entry


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ("kraken", "cc_kraken"),
        ("cc_kraken", "cc_kraken"),
        ("cc-kraken", "cc_kraken"),
        ("kraken.py", "cc_kraken"),
        (["kraken", "always"], "cc_kraken"),
        ({"name": "kraken", "frequency": "always"}, "cc_kraken"),
        ("write-files-deferred", "cc_write_files_deferred"),
        ([], ""),
        (None, ""),
        (7, ""),
        ({"frequency": "always"}, ""),
    ],
)
def test_names_are_read_as_cloud_init_reads_them(item: object, name: str) -> None:
    assert cloud_init.module_name(item) == name


@pytest.mark.parametrize(
    ("key", "modules", "place"),
    [
        ("cloud_init_modules", ["disk_setup", "mounts", "ssh"], 2),
        ("cloud_init_modules", [["mounts", "always"], "ssh"], 1),
        ("cloud_init_modules", ["mounts", "a", "cc-mounts", "b"], 3),
        ("cloud_init_modules", ["disk-setup", "a", "users-groups"], 1),
        ("cloud_init_modules", ["a", "users-groups", "ssh"], 1),
        # RHEL 8: disk_setup first, mounts in the config stage.
        (
            "cloud_init_modules",
            ["disk_setup", "migrator", "bootcmd", "write-files", "growpart", "ssh"],
            4,
        ),
        ("cloud_init_modules", ["mounts", "write_files", "ssh"], 2),
        ("cloud_init_modules", ["users-groups", "write_files"], 2),
        ("cloud_init_modules", ["a", "b"], 2),
        ("cloud_init_modules", [], 0),
        (
            "cloud_final_modules",
            ["package_update_upgrade_install", "write_files_deferred", "x"],
            2,
        ),
        ("cloud_final_modules", ["package-update-upgrade-install", "puppet"], 1),
        ("cloud_final_modules", ["a", "scripts_per_boot", "scripts_user"], 1),
    ],
)
def test_the_entry_has_its_place(key: str, modules: list[object], place: int) -> None:
    result = enable.with_entry(modules, enable.PLACES[key])
    assert result.index(ENTRY) == place
    assert [item for item in result if item != ENTRY] == modules


def test_an_entry_of_the_administrator_is_left_where_it_is() -> None:
    modules = ["cc-kraken", "mounts"]
    assert enable.with_entry(modules, enable.PLACES["cloud_init_modules"]) == modules


names = st.sampled_from(
    ["mounts", "cc_mounts", "disk-setup", "users_groups", "ssh", "x", "write-files"]
)
items = st.one_of(names, st.tuples(names, st.just("always")).map(list))


@given(st.lists(items))
def test_no_entry_is_lost_and_twice_is_once(modules: list[object]) -> None:
    place = enable.PLACES["cloud_init_modules"]
    once = enable.with_entry(modules, place)
    assert enable.with_entry(once, place) == once
    assert once.count(ENTRY) == 1
    once.remove(ENTRY)
    assert once == modules


# ------------------------------------------------------------------ the file


@pytest.mark.parametrize("config", [BOOKWORM, SID])
def test_enable_puts_it_into_both_lists(paths: Paths, config: str) -> None:
    cloud(paths, "cloud.cfg").write_text(config)
    said = enable.enable(paths=paths)
    stock = yaml.safe_load(config)
    now = effective(paths)
    assert now["cloud_config_modules"] == stock["cloud_config_modules"]
    for key, last in (("cloud_init_modules", 3), ("cloud_final_modules", 2)):
        assert now[key] == [*stock[key][:last], ENTRY, *stock[key][last:]]
    assert "cloud_init_modules: [kraken, always] after mounts." in said


def test_mounts_in_a_later_stage_is_said(paths: Paths) -> None:
    text = BOOKWORM.replace(" - mounts\n", "").replace("- runcmd", "- mounts")
    cloud(paths, "cloud.cfg").write_text(text)
    said = " ".join(enable.enable(paths=paths))
    assert "has mounts in a later stage" in said
    assert effective(paths)["cloud_init_modules"][2] == ENTRY


def test_a_second_enable_changes_nothing_and_says_so(paths: Paths) -> None:
    enable.enable(paths=paths)
    before = tree(paths)
    stamp = cloud(paths, "cloud.cfg.d/zzz-cc-kraken.cfg").stat().st_mtime_ns
    assert "already" in enable.enable(paths=paths)[0]
    assert tree(paths) == before
    assert cloud(paths, "cloud.cfg.d/zzz-cc-kraken.cfg").stat().st_mtime_ns == stamp


def test_disable_without_cloud_init_has_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (told,) = enable.disable(Paths(etc=str(tmp_path / "etc")))
    assert "nothing to do" in told
    assert list((tmp_path / "etc").iterdir()) == []


def test_disable_takes_back_exactly_that(paths: Paths) -> None:
    cloud(paths, "cloud.cfg.d/10-other.cfg").write_text("ssh_pwauth: false\n")
    before = tree(paths)
    enable.enable(paths=paths)
    enable.disable(paths=paths)
    after = tree(paths)
    assert json.loads(after.pop(f"{paths.etc}/cc-kraken/enable.json")) == {
        "modules": False,
        "schema": None,
    }
    assert after == before


def test_the_list_of_another_drop_in_counts(paths: Paths) -> None:
    cloud(paths, "cloud.cfg.d/50-image.cfg").write_text(
        "cloud_init_modules: [mounts, image-thing]\n"
    )
    enable.enable(paths=paths)
    assert effective(paths)["cloud_init_modules"] == ["mounts", ENTRY, "image-thing"]


def test_changed_lists_are_stale_until_refreshed(paths: Paths) -> None:
    assert enable.stale(paths) is None
    enable.enable(paths=paths)
    assert enable.stale(paths) is None
    config = cloud(paths, "cloud.cfg")
    config.write_text(BOOKWORM.replace("- set_hostname", "- new\n - set_hostname"))
    assert "cc-kraken enable" in (enable.stale(paths) or "")
    enable.refresh(paths)
    assert enable.stale(paths) is None
    assert "new" in effective(paths)["cloud_init_modules"]


def test_other_changes_are_not_stale(paths: Paths) -> None:
    enable.enable(paths=paths)
    cloud(paths, "cloud.cfg").write_text(f"{BOOKWORM}ssh_pwauth: true\n")
    assert enable.stale(paths) is None


def test_lists_that_hold_it_already_need_no_file(paths: Paths) -> None:
    enable.enable(paths=paths)
    cloud(paths, "cloud.cfg").write_text(
        BOOKWORM.replace("- mounts", "- mounts\n - kraken").replace(
            "- puppet", "- cc_kraken"
        )
    )
    enable.refresh(paths)
    assert not cloud(paths, "cloud.cfg.d/zzz-cc-kraken.cfg").exists()


def test_what_was_chosen_is_remembered(paths: Paths) -> None:
    enable.enable(schema=False, paths=paths)
    assert enable.chosen(paths) == enable.Choice(modules=True, schema=False)
    enable.disable(paths)
    assert enable.chosen(paths) == enable.Choice(modules=False, schema=False)
    before = tree(paths)
    assert "disabled" in enable.refresh(paths)[0]
    assert tree(paths) == before
    enable.enable(paths=paths)
    assert enable.chosen(paths) == enable.Choice()


def test_a_schema_that_was_asked_for_stays_so(paths: Paths) -> None:
    enable.enable(schema=True, paths=paths)
    enable.enable(paths=paths)
    assert enable.chosen(paths) == enable.Choice(schema=True)
    enable.enable(schema=False, paths=paths)
    enable.enable(paths=paths)
    assert enable.chosen(paths) == enable.Choice(schema=None)


def test_the_check_names_what_keeps_the_module_from_running(
    paths: Paths, mocker: MockerFixture
) -> None:
    mocker.patch.object(enable, "NEEDED", ("yaml", "no_such_module"))
    missing, network, final = enable.faults(paths)
    assert "cannot import no_such_module" in missing
    assert "cloud_init_modules" in network and "cc-kraken enable" in network
    assert "cloud_final_modules" in final
    mocker.patch.object(enable, "NEEDED", ("yaml",))
    enable.enable(paths=paths)
    assert enable.faults(paths) == []
    cloud(paths, "cloud.cfg").write_text(f"{BOOKWORM} - later\n")
    (old,) = enable.faults(paths)
    assert "was made from other lists" in old
    cloud(paths, "cloud.cfg.d/5.cfg").write_text("a: b: c\n")
    (unreadable,) = enable.faults(paths)
    assert "5.cfg" in unreadable


def test_who_is_not_root_is_told_to_be(paths: Paths, mocker: MockerFixture) -> None:
    """Ubuntu's installer leaves a file that root alone reads; cloud-init can."""
    secret = cloud(paths, "cloud.cfg.d/99-installer.cfg")
    secret.write_text("a: b\n")
    there = open

    def as_user(path: Any, *given: Any, **named: Any) -> Any:
        if str(path) == str(secret):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return there(path, *given, **named)

    mocker.patch.object(enable, "NEEDED", ("yaml",))
    mocker.patch("builtins.open", as_user)
    mocker.patch("os.geteuid", return_value=1000)
    (told,) = enable.faults(paths)
    assert "99-installer.cfg cannot be read: Permission denied" in told
    assert "sudo" in told and "Repair" not in told


def test_the_check_wants_the_schema_that_was_asked_for(
    paths: Paths, mocker: MockerFixture
) -> None:
    mocker.patch.object(enable, "NEEDED", ())
    enable.enable(schema=True, paths=paths)  # there is none to be changed
    (told,) = enable.faults(paths)
    assert "does not know the key kraken" in told


def test_withdraw_keeps_the_choice(paths: Paths) -> None:
    enable.enable(schema=False, paths=paths)
    rules = Path(udev_rules.location(paths))
    rules.parent.mkdir(parents=True)
    rules.write_text("rules")
    assert any(str(rules) in text for text in enable.withdraw(paths))
    assert not rules.exists()
    assert not cloud(paths, "cloud.cfg.d/zzz-cc-kraken.cfg").exists()
    assert enable.chosen(paths) == enable.Choice(modules=True, schema=False)
    assert "not in" in enable.withdraw(paths)[0]


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "content", "kind", "text"),
    [
        ("cloud.cfg", b"a: [\n", "cloud-config-unreadable", "line 2"),
        ("cloud.cfg", b"- a\n", "cloud-config-unreadable", "mapping"),
        ("cloud.cfg", b"a: \xff\n", "cloud-config-unreadable", "UTF-8"),
        ("cloud.cfg", b"", "cloud-config-lists", "no list cloud_init_modules"),
        (
            "cloud.cfg",
            b"cloud_init_modules: x\n",
            "cloud-config-lists",
            "not a list",
        ),
        (
            "cloud.cfg",
            b"conf_d: /elsewhere\n",
            "cloud-config-directory",
            "conf_d",
        ),
        ("cloud.cfg.d/5.cfg", b"a: b: c\n", "cloud-config-unreadable", "line 1"),
        (
            "cloud.cfg.d/5.cfg",
            b"## template: jinja\ncloud_init_modules: {{ x }}\n",
            "cloud-config-template",
            "5.cfg",
        ),
        (
            "cloud.cfg.d/zzzz.cfg",
            b"cloud_init_modules: [mounts]\n",
            "cloud-config-overruled",
            "zzzz.cfg",
        ),
        (
            "cloud.cfg.d/5.cfg",
            b"cloud_init_modules: [mounts]\nmerge_how: list(append)\n",
            "cloud-config-overruled",
            "5.cfg sets cloud_init_modules and merge_how",
        ),
        (
            "cloud.cfg",
            f"{BOOKWORM}merge_how: list(append)\n".encode(),
            "cloud-config-overruled",
            "cloud.cfg sets cloud_init_modules and merge_how",
        ),
        (
            "cloud.cfg.d/zzz-cc-kraken.cfg",
            b"cloud_init_modules: [mounts]\n",
            "cloud-config-foreign",
            "zzz-cc-kraken.cfg",
        ),
    ],
)
def test_what_cannot_be_read_changes_nothing(
    paths: Paths, name: str, content: bytes, kind: str, text: str
) -> None:
    cloud(paths, name).write_bytes(content)
    before = tree(paths)
    with pytest.raises(KrakenError, match=text) as caught:
        enable.enable(paths=paths)
    assert caught.value.trouble.kind == kind
    assert tree(paths) == before


def test_without_cloud_init_it_says_so(paths: Paths) -> None:
    cloud(paths, "cloud.cfg").unlink()
    with pytest.raises(KrakenError, match="Install cloud-init"):
        enable.enable(paths=paths)
    assert tree(paths) == {}


def test_a_template_without_lists_is_no_obstacle(paths: Paths) -> None:
    cloud(paths, "cloud.cfg.d/5.cfg").write_text(
        "## template: jinja\nfqdn: {{ v1.region }}: x\n"
    )
    enable.enable(paths=paths)
    assert cloud(paths, "cloud.cfg.d/zzz-cc-kraken.cfg").exists()


@pytest.mark.parametrize(
    "lists", ["", "cloud_init_modules: [mounts, kraken]\n"], ids=["none", "by hand"]
)
def test_another_way_to_merge_is_no_obstacle(
    paths: Paths, lists: str, mocker: MockerFixture
) -> None:
    mocker.patch.object(enable, "NEEDED", ())
    text = f"{lists}merge_how: list(append)\n"
    cloud(paths, "cloud.cfg.d/5.cfg").write_text(text)
    enable.enable(paths=paths)
    assert enable.faults(paths) == []


def test_a_damaged_choice_is_not_guessed(paths: Paths) -> None:
    enable.enable(paths=paths)
    Path(paths.etc, "cc-kraken", "enable.json").write_text("{")
    with pytest.raises(KrakenError, match=r"enable\.json") as caught:
        enable.refresh(paths)
    assert caught.value.trouble.kind == "choice-unreadable"
    assert "cc-kraken enable" in caught.value.trouble.remedy


def test_the_scripts_entry_point_knows_its_two_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert enable.main(["purge"]) == 2
    assert enable.main([]) == 2
    assert "refresh|withdraw" in capsys.readouterr().out
