"""The allocator of device names."""

from __future__ import annotations

import re
import threading
from typing import List, Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.cloud.device_names import CANDIDATES, Names, allocate, canonical
from cc_kraken.model import KrakenError


def test_candidates_suffice_for_the_largest_limit_and_are_unique() -> None:
    # 128 attachments with the root volume, which has one more name
    assert len({canonical(name) for name in CANDIDATES}) == len(CANDIDATES) == 127


def test_every_candidate_has_the_form_that_ec2_documents_or_accepts() -> None:
    form = re.compile(r"/dev/(sd[b-z]|xvd[a-d][a-z])")
    assert all(form.fullmatch(name) for name in CANDIDATES)
    assert "/dev/xvddx" in CANDIDATES and "/dev/xvddy" not in CANDIDATES


def test_documented_names_come_first() -> None:
    documented = re.compile(r"/dev/(sd[f-p]|xvd[bc][a-z])")
    assert all(documented.fullmatch(name) for name in CANDIDATES[: 52 + 11])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/dev/sdf", "sdf"),
        ("/dev/xvdf", "sdf"),
        ("xvdf", "sdf"),
        ("/dev/xvdba", "xvdba"),
        ("/dev/sda1", "sda1"),
        ("/dev/xvda1", "sda1"),
        ("/dev/xvda", "sda"),
    ],
)
def test_canonical(name: str, expected: str) -> None:
    assert canonical(name) == expected


def test_names_in_use_and_refused_ones_are_left_out() -> None:
    in_use = {"/dev/sda1", "/dev/xvdba", "xvdbc"}
    assert allocate(in_use, {"/dev/xvdbb"}, 2) == ("/dev/xvdbd", "/dev/xvdbe")


def test_a_one_letter_xvd_in_use_keeps_its_sd_twin_from_being_taken() -> None:
    everything = allocate({"/dev/xvdf"}, count=126)
    assert "/dev/sdf" not in everything and "/dev/sdg" in everything


def test_exhausted_says_how_many_are_in_use_and_refused() -> None:
    with pytest.raises(KrakenError) as caught:
        allocate(CANDIDATES[:100], CANDIDATES[100:126], 2)
    trouble = caught.value.trouble
    assert trouble.kind == "device-names-exhausted" and not trouble.waits
    assert "only 1 device names" in trouble.found
    assert "100 in use, 26 refused" in trouble.found


@given(
    st.sets(st.sampled_from(CANDIDATES)),
    st.sets(st.sampled_from(CANDIDATES)),
    st.integers(0, 130),
)
def test_allocate_gives_free_distinct_names_or_raises(
    in_use: Set[str], bad: Set[str], count: int
) -> None:
    free = len(set(CANDIDATES) - in_use - bad)
    if count > free:
        with pytest.raises(KrakenError):
            allocate(in_use, bad, count)
        return
    names = allocate(in_use, bad, count)
    assert len(set(names)) == len(names) == count
    assert not set(names) & (in_use | bad)


def test_a_refused_name_is_never_given_out_again() -> None:
    names = Names({"/dev/sda1"})
    first = names.take()
    second = names.reject(first)
    rest = [names.take() for _ in range(125)]
    assert first != second and names.bad == (first,)
    assert first not in rest and second not in rest
    with pytest.raises(KrakenError):
        names.take()


def test_threads_never_share_a_name() -> None:
    names = Names(frozenset())
    given_out: List[str] = []

    def work() -> None:
        for _ in range(10):
            given_out.append(names.reject(names.take()))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given_out) == len(set(given_out)) == 60
    assert not set(given_out) & set(names.bad)
