"""Our mdadm command lines before the real mdadm.

Without md in the kernel, or without a superblock, none of them succeeds; but
mdadm judges its options first, and says so in words of its own.
"""

from __future__ import annotations

import shutil
from typing import Callable

import pytest

from cc_kraken.machine import md
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError

UUID = "01234567-89ab-4def-8123-456789abcdef"

pytestmark = pytest.mark.skipif(not shutil.which("mdadm"), reason="needs mdadm")


@pytest.mark.parametrize("incomplete", [False, True])
def test_blank_device_is_no_member(
    loop_device: Callable[..., str], incomplete: bool
) -> None:
    device = loop_device(4 << 20)
    with pytest.raises(KrakenError) as caught:
        md.assemble(Paths(), "KRKN-data", UUID, [device], incomplete=incomplete)
    assert caught.value.trouble.kind == "assemble-failed"
    assert "no recogni" in caught.value.trouble.found
    with open(device, "rb") as stream:
        assert stream.read() == bytes(4 << 20)
