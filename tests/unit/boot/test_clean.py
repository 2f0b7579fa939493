"""cc_kraken.boot.clean: an image without traces of the node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cc_kraken.boot import clean
from cc_kraken.machine import command, fstab, mdadm_conf
from cc_kraken.machine.md import mdadm_uuid
from cc_kraken.machine.paths import Paths
from cc_kraken.state import last_resort, udev_rules

UUID = "0d1f4e0a-6f5d-4cc4-9a43-4f6d1c1b9d11"
ROOT = "UUID=aa / ext4 defaults 0 1  # root\n"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    # The tool would make the initramfs of this very machine anew.
    monkeypatch.setattr(command, "PATH", str(tmp_path / "bin"))
    for name in ("etc/mdadm", "run", "state/deep", "bin"):
        (tmp_path / name).mkdir(parents=True)
    paths = Paths(
        etc=str(tmp_path / "etc"),
        run=str(tmp_path / "run"),
        state=str(tmp_path / "state"),
    )
    Path(paths.etc, "mdadm", "mdadm.conf").write_text("HOMEHOST <system>\n")
    Path(paths.fstab).write_text(ROOT)
    return paths


def test_our_lines_and_state_go_and_others_stay(paths: Paths) -> None:
    lines = {
        name: fstab.entry(name, UUID, f"/{name}", "xfs") for name in ("log", "a b")
    }
    fstab.write(paths, fstab.replace(ROOT, lines))
    mdadm_conf.write(paths, {"log": UUID})
    rules = Path(udev_rules.location(paths))
    rules.parent.mkdir(parents=True)
    rules.write_text("rules")
    Path(paths.layout).write_text("{}")
    Path(paths.status).write_text("{}")
    said = "\n".join(clean.clean(paths))
    assert Path(paths.fstab).read_text() == ROOT
    assert not Path(mdadm_conf.location(paths)).exists()
    assert Path(paths.etc, "mdadm", "mdadm.conf").read_text() == "HOMEHOST <system>\n"
    assert not rules.exists()
    assert not Path(paths.state).exists()
    assert not Path(paths.status).exists()
    assert "a b, log" in said
    assert clean.clean(paths) == []


@pytest.mark.parametrize(
    "name, words",
    [("update-initramfs", "-u"), ("dracut", "--force --regenerate-all")],
)
def test_the_initramfs_is_made_anew_where_there_is_one(
    paths: Paths, tmp_path: Path, name: str, words: str
) -> None:
    tool = tmp_path / "bin" / name
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    tool.chmod(0o755)
    assert "initramfs anew" not in "\n".join(clean.clean(paths))
    assert not (tmp_path / "called").exists()
    mdadm_conf.write(paths, {"log": UUID})
    assert "Made the initramfs anew." in clean.clean(paths)
    assert (tmp_path / "called").read_text() == f"{words}\n"


OTHER, ME = "i-0000000000000000a", "i-0000000000000000b"


@pytest.fixture
def image(paths: Paths, tmp_path: Path) -> Paths:
    """What the image of another node has brought along; one of its disks is here."""
    paths = replace(paths, dev=str(tmp_path / "dev"))
    for directory in ("by-uuid", "by-id"):
        (tmp_path / "dev/disk" / directory).mkdir(parents=True)
    lines = {
        name: fstab.entry(name, f"{UUID[:-1]}{number}", f"/{name}", "xfs")
        for number, name in enumerate(("here", "gone"))
    }
    fstab.write(paths, fstab.replace(ROOT, lines))
    (tmp_path / "dev/disk/by-uuid" / f"{UUID[:-1]}0").touch()
    mdadm_conf.write(paths, {"here": f"{UUID[:-1]}2", "gone": f"{UUID[:-1]}3"})
    known = mdadm_uuid(f"{UUID[:-1]}2")
    (tmp_path / "dev/disk/by-id" / f"md-uuid-{known}").touch()
    last_resort.write(paths, OTHER, [])
    return paths


def test_the_lines_of_another_instance_go_where_their_disks_are_not(
    image: Paths,
) -> None:
    said = clean.forget_other(image, ME)
    assert [OTHER in text and text.endswith(": gone") for text in said] == [True] * 2
    assert Path(image.fstab).read_text().startswith(ROOT)
    assert set(fstab.ours(fstab.read(image))) == {"here"}
    assert set(mdadm_conf.current(image)) == {"here"}
    assert Path(image.unread).exists(), "systemd has to read fstab"
    assert clean.forget_other(image, ME) == []


def test_a_node_keeps_its_lines_whatever_is_missing(image: Paths) -> None:
    before = Path(image.fstab).read_text()
    assert clean.forget_other(image, OTHER) == []
    Path(last_resort.location(image.state)).unlink()  # nobody knows whose they are
    assert clean.forget_other(image, ME) == []
    assert Path(image.fstab).read_text() == before


def test_a_machine_that_never_ran_is_left_as_it_is(tmp_path: Path) -> None:
    empty = Paths(etc=str(tmp_path), run=str(tmp_path), state=str(tmp_path / "no"))
    assert clean.clean(empty) == []
    assert list(tmp_path.iterdir()) == []
