"""systemd reads fstab when it was changed, and until it has done so."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from cc_kraken.machine import command, systemd
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Trouble


def test_reload_where_systemd_is_not_the_init(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch.object(command, "SYSTEMD", str(tmp_path / "absent"))
    assert not systemd.reload()


def test_what_changes_while_systemd_reads_fstab_is_read_once_more(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    reload = mocker.patch.object(systemd, "reload", autospec=True)
    paths = Paths(run=str(tmp_path / "run"))
    Path(paths.run).mkdir()
    Path(paths.unread).touch()

    def read() -> bool:
        if reload.call_count == 1:
            Path(paths.unread).touch()
        if reload.call_count == 2:
            raise KrakenError(Trouble("command-timeout", "", "", ""))
        return True

    reload.side_effect = read
    systemd.read_fstab(paths)
    with pytest.raises(KrakenError):
        systemd.read_fstab(paths)
    for _ in range(2):
        systemd.read_fstab(paths)
    assert reload.call_count == 3
