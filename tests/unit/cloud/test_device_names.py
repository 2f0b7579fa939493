"""The allocator of device names."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.cloud.device_names import CANDIDATES, Names, canonical
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
    names = Names({"/dev/sda1", "/dev/xvdba", "xvdbc"})
    assert names.of("vol-1") == "/dev/xvdbb"
    assert names.refused("vol-1") == names.of("vol-1") == "/dev/xvdbd"
    assert names.of("vol-2") == "/dev/xvdbe"


def test_a_name_that_was_freed_is_not_used_again() -> None:
    names = Names(())
    first = names.of("vol-1")
    names.freed("vol-1")
    names.freed("vol-2")
    assert first not in {names.of("vol-1"), names.of("vol-2")}


def test_a_one_letter_xvd_in_use_keeps_its_sd_twin_from_being_taken() -> None:
    names = Names({"/dev/xvdf"})
    everything = {names.of(str(number)) for number in range(126)}
    assert "/dev/sdf" not in everything and "/dev/sdg" in everything


@given(st.sets(st.sampled_from(CANDIDATES)), st.integers(0, 130))
def test_names_are_free_and_distinct_or_there_is_none(
    in_use: set[str], count: int
) -> None:
    names = Names(in_use)
    free = len(CANDIDATES) - len(in_use)
    given_out = {names.of(str(number)) for number in range(min(count, free))}
    assert len(given_out) == min(count, free) and not given_out & in_use
    if count > free:
        with pytest.raises(KrakenError) as caught:
            names.of("one more")
        assert caught.value.trouble.kind == "device-names-exhausted"
        assert not caught.value.trouble.waits


def test_threads_never_share_a_name() -> None:
    names = Names(())
    given_out: list[str] = []

    def work(thread: int) -> None:
        for number in range(10):
            given_out.append(names.of(f"{thread} {number}"))
            given_out.append(names.refused(f"{thread} {number}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given_out) == len(set(given_out)) == 120
