"""python3 -m tests.kinds has a sample of every kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests import kinds

ROOT = Path(__file__).parents[3]

#: Not in the list yet: which of their tests is to be run.  This may only shrink.
WITHOUT = set(
    """
    peers-unknown
    peers-missing
    peer-unfit
    instance-unknown
    claim-incomplete
    metadata-unreachable
    jsonschema-missing
    fs-type-unknown
    schema-missing
    volume-managed
    holder-claiming
    attach-undone
    volume-detaching
    device-names-exhausted
    device-name-invalid
    volume-modifying
    certificate-refused
    ca-bundle-missing
    boto3-missing
    device-missing
    device-locked
    device-unseen
    device-changed
    content-refused
    content-changed
    record-present
    record-refused
    shadow-no-room
    made-otherwise
    write-failed
    filesystem-errors
    array-metadata
    array-refused
    array-absent
    mount-failed
    grow-refused
    grow-failed
    out-of-time
    stopped
    cloud-init-missing
    cloud-init-not-run
    cloud-init-unusable
    cloud-config-lists
    cloud-config-template
    cloud-config-directory
    cloud-config-overruled
    cloud-config-foreign
    cloud-config-unreadable
    choice-unreadable
    diversion-failed
    create-capacity
    create-snapshot
    no-progress
    internal-error
    """.split()
)


def test_every_kind_has_a_test_that_makes_the_program_say_it() -> None:
    assert set(kinds.listed()) == set(kinds.kinds()) - WITHOUT
    assert set(kinds.kinds()) >= WITHOUT


def test_a_kind_is_printed_as_a_user_sees_it() -> None:
    words = ["zone-other", "mount-path-files", "not-root"]
    command = [sys.executable, "-m", "tests.kinds", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.findall(r"^\[([a-z0-9-]+)\] \S", done.stdout, re.M) == words
