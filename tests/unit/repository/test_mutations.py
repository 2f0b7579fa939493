"""Each guard that make mutations breaks stands where it is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.title)
def test_a_mutation_finds_its_guard_and_its_tests(mutation: Mutation) -> None:
    for module, old, new in mutation.edits:
        source = (ROOT / "cc_kraken" / f"{module}.py").read_text(encoding="utf-8")
        assert source.count(old) == 1, old
        assert new != old
    for test in mutation.tests:
        assert (ROOT / test.split("::")[0]).exists(), test
