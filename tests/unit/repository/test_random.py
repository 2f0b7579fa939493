"""What `make check` draws is the same in every run; `make random` draws by a seed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
DRAW = """
import hashlib, sys
from tests import conftest
if sys.argv[2:]:
    import hypothesis
    hypothesis.settings.load_profile("random")
    hypothesis.core.global_force_seed = int(sys.argv[2])
from hypothesis import given, settings, strategies as st
from tests.unit.simulations.test_properties import machines
told = hashlib.sha256()

@settings(max_examples=40)
@given(machines(), st.lists(st.integers()), st.text())
def draw(world, numbers, text):
    told.update(repr((world, numbers, text)).encode())

exec(sys.argv[1])
draw()
print(told.hexdigest())
"""


@functools.lru_cache(None)
def drawn(*seed: str, order: str = "", before: str = "") -> str:
    """A digest of worlds and values; ``order``: of sets, ``before``: a statement."""
    done = subprocess.run(
        [sys.executable, "-c", DRAW, before, *seed],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": order or "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_check_draws_the_same_in_every_run() -> None:
    """Whatever the order of sets, and what other tests have loaded."""
    more = (
        "import tests.unit.act.test_run, tests.unit.config.test_schema, cc_kraken.cli"
    )
    assert drawn() == drawn(order="2", before=more)


def test_a_seed_draws_otherwise_and_again_the_same() -> None:
    by_seed = drawn("5")
    assert by_seed == drawn("5", order="2")
    assert len({by_seed, drawn("6"), drawn()}) == 3


def test_make_random_hands_on_its_seed_and_says_how_to_repeat() -> None:
    done = subprocess.run(
        ["make", "-n", "random", "SEED=5", "EXAMPLES=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seed=5;" in done.stdout and "--hypothesis-seed=$seed" in done.stdout
    assert 'again="make random SEED=$seed EXAMPLES=3"' in done.stdout
