"""Chroots for the tests here: built or taken from the cache, once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chroot import base
from tests.chroot.ec2 import Machine
from tests.chroot.node import Node
from tests.lab import image

RELEASE = os.environ.get("RELEASE", "bookworm")
#: Best effort: the contract tests alone.
OLD = {"bullseye": "bullseye's cloud-init is older than 22.2: no package for it"}
Launch = Callable[..., Node]


def obstacle() -> str:
    """Why there are no chroots here; "" if there are."""
    if os.geteuid() != 0:
        return "not root: chroots need root"
    lacking = [
        name
        for name in ("mmdebstrap", "unshare", "nsenter", "dpkg-buildpackage", "ip")
        if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None
    ]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = obstacle()
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.chroot)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
            elif RELEASE in OLD and item.path.stem != "test_contract":
                item.add_marker(pytest.mark.skip(reason=OLD[RELEASE]))


def say(line: str) -> None:
    print(line, flush=True)


@pytest.fixture(scope="session")
def bare() -> tuple[Path, ...]:
    """The release without our package."""
    return (base.tree(RELEASE, say),)


@pytest.fixture(scope="session")
def installed() -> tuple[Path, ...]:
    """The release with the package of this tree."""
    return base.installed(RELEASE, say)


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package of this tree."""
    return image.package(progress=say)


@pytest.fixture
def launch(installed: tuple[Path, ...]) -> Iterator[Launch]:
    """A function ``(user_data=None) -> Node`` with the package installed;
    all end with the test."""
    with ExitStack() as stack:

        def make(user_data: str | bytes | None = None) -> Node:
            return stack.enter_context(Node(installed, user_data=user_data))

        yield make


@pytest.fixture
def machine(installed: tuple[Path, ...]) -> Iterator[Callable[..., Machine]]:
    """A function that makes an instance of the lab's EC2 out of a node."""
    with ExitStack() as stack:

        def make(user_data: str | None = None, **tags: Any) -> Machine:
            node = stack.enter_context(Node(installed))
            return stack.enter_context(Machine(node, user_data, **tags))

        yield make


@pytest.fixture
def empty(bare: tuple[Path, ...]) -> Iterator[Node]:
    """A node without our package."""
    with Node(bare) as node:
        yield node
