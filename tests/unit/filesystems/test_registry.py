"""A filesystem type is one module: nothing else of the package names one."""

from __future__ import annotations

import ast
import re

import pytest

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import BLOCK, HEAD, Filesystem
from cc_kraken.model import KrakenError
from tests.unit.repository.test_house import HOUSE, MODULES, ROOT, dotted

ANSWERS = sorted({*vars(Filesystem), *Filesystem.__annotations__} - {"__doc__"})


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_type_answers_everything(kind: str) -> None:
    one = registry.of(kind)
    assert one.name == kind
    for answer in ANSWERS:
        getattr(one, answer)
    for answer in ("words", "superblock", "places", "state", "grow_argv"):
        assert answer in vars(type(one)), f"{kind} does not say {answer}"
    assert one.offset + BLOCK <= HEAD


def test_a_type_that_is_not_made_is_refused() -> None:
    with pytest.raises(KrakenError) as caught:
        registry.of("zfs")
    trouble = caught.value.trouble
    assert trouble.kind == "fs-type-unknown"
    assert "'zfs'" in trouble.found and "FsType" in trouble.remedy
    assert all(kind in trouble.expected for kind in registry.TYPES)


def test_no_other_module_names_a_type() -> None:
    named = re.compile(rf"(mkfs\.)?({'|'.join(registry.TYPES)})")
    for path in MODULES:
        if path.is_relative_to(HOUSE / "filesystems"):
            continue
        words = [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [word for word in words if named.fullmatch(word)], dotted(path)


def test_a_type_is_registered_in_one_line() -> None:
    source = (HOUSE / "filesystems/registry.py").read_text()
    for one in registry.TYPES.values():
        assert source.count(f"{type(one).__name__}()") == 1


def test_the_schema_lists_the_types() -> None:
    text = (ROOT / "schema/cloud-config-kraken.json").read_text()
    lists = re.findall(r'"fs_type": \{\s*"type": "string",\s*"enum": \[([^]]*)\]', text)
    assert len(lists) == 2
    for found in lists:
        assert re.findall(r'"(\w+)"', found) == [*registry.TYPES, "none"]
