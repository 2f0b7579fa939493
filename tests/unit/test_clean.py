"""cc_kraken.boot.clean: an image without traces of the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from cc_kraken.act import udev_rules
from cc_kraken.boot import clean
from cc_kraken.machine import command, fstab, mdadm_conf
from cc_kraken.machine.paths import Paths

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


def test_the_initramfs_is_made_anew_where_there_is_one(
    paths: Paths, tmp_path: Path
) -> None:
    tool = tmp_path / "bin" / "update-initramfs"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    tool.chmod(0o755)
    assert "initramfs anew" not in "\n".join(clean.clean(paths))
    assert not (tmp_path / "called").exists()
    mdadm_conf.write(paths, {"log": UUID})
    assert "Made the initramfs anew." in clean.clean(paths)
    assert (tmp_path / "called").read_text() == "-u\n"


def test_a_machine_that_never_ran_is_left_as_it_is(tmp_path: Path) -> None:
    empty = Paths(etc=str(tmp_path), run=str(tmp_path), state=str(tmp_path / "no"))
    assert clean.clean(empty) == []
    assert list(tmp_path.iterdir()) == []
