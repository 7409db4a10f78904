"""The emulator itself: it notices planted mistakes, counts traffic right, rounds as torch does."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from emulation import KINDS, Emulator, EmulatorError, compiler, library

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

ORDERS = (False, True)
DRAWN = ({}, {"reversed": True}, *({"seed": seed} for seed in range(1, 6)))


def outcome(bug: str, reversed: bool = False, **options: Any) -> torch.Tensor | str:
    data = torch.arange(64.0)
    try:
        Emulator(reversed=reversed, **options).planted_bug(bug, data)
    except EmulatorError as error:
        return str(error)
    return data


@pytest.mark.parametrize("order", DRAWN, ids=str)
@pytest.mark.parametrize(
    "bug",
    (
        "none: barriers",
        "none: neighbour",
        "none: after a shuffle",
        "none: index",
        "none: vector",
        "none: fresh load",
        "none: whole barrier",
        "none: bulk copy",
        "none: small copy",
        "none: cluster",
    ),
)
def test_no_false_alarm(bug, order):
    result = outcome(bug, **order)
    assert isinstance(result, torch.Tensor)
    if bug == "none: barriers":
        assert torch.equal(result, torch.arange(64.0) + 2)
    if "copy" in bug:  # the first half into the second
        assert torch.equal(result, torch.arange(32.0).repeat(2))
    if bug == "none: cluster":
        assert torch.equal(result, torch.arange(64.0).roll(32))


@pytest.mark.parametrize("bug", ("read after write", "write after read"))
def test_missing_barrier_gives_a_wrong_result_in_one_of_the_orders(bug):
    right = outcome("none: barriers", False)
    wrong = [not torch.equal(outcome(bug, order, watch=False), right) for order in ORDERS]
    assert any(wrong)


@pytest.mark.parametrize("bug", ("no wait", "wrong phase"))
@pytest.mark.parametrize("backwards", ORDERS)
def test_what_is_read_before_its_copy_has_ended_is_wrong(bug, backwards):
    """A copy ends as late as it may, so that whoever does not wait reads what was there before."""
    assert (outcome(bug, backwards, watch=False)[32:] == -1).all()


def test_a_small_copy_that_nobody_waits_for_is_wrong_in_one_of_the_orders():
    """In the other the barrier lets its thread go on, and wait, before those who read."""
    results = [outcome("small copy without a wait", order, watch=False) for order in ORDERS]
    assert any(torch.isnan(result[32:]).all() for result in results)


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("no cluster barrier", "shared memory of a block that has left"),
        ("leaves the cluster", "shared memory of a block that has left"),
    ],
)
def test_missing_cluster_barrier_is_noticed_in_one_of_the_orders(bug, message):
    right = outcome("none: cluster", False)
    results = [outcome(bug, order, watch=False) for order in ORDERS]
    assert any(r == message if isinstance(r, str) else not torch.equal(r, right) for r in results)


@pytest.mark.parametrize("backwards", ORDERS)
def test_a_block_may_be_ahead_of_one_that_reads_its_memory(backwards):
    """Barriers of a block do not hold it back: the blocks of a cluster run as far apart as they
    may."""
    result = outcome("writes over what others read", backwards, watch=False)
    assert isinstance(result, torch.Tensor)
    assert (result == -1).sum() == 32  # of the block that is behind


@pytest.mark.parametrize("order", DRAWN, ids=str)
@pytest.mark.parametrize(
    "bug",
    (
        "read after write",
        "write after read",
        "neighbour without a barrier",
        "after a shuffle without a barrier",
        "copy before a barrier",
        "copy without a fence",
        "no wait",
        "wrong phase",
        "small copy without a wait",
        "no cluster barrier",
        "leaves the cluster",
        "writes over what others read",
    ),
)
def test_a_race_is_an_error_whatever_the_order(bug, order):
    result = outcome(bug, **order)
    assert isinstance(result, str)
    # What is noticed by chance may come first.
    assert order or "race: " in result or "block that has left" in result


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("no fence", "a bulk copy on an mbarrier without its fence"),
        ("too few bytes", "a wait that nothing ends"),
        ("no arrival", "a wait that nothing ends"),
        ("leaves its copy", "a block that leaves before its copies have ended"),
        ("arrives twice", "two arrivals without a wait"),
        ("reads nobody", "no block of the cluster has this rank"),
        ("index past the end", "out-of-range load"),
        ("index before the start", "out-of-range load"),
        ("misaligned vector", "misaligned load of 16 bytes"),
        ("read-only load of what is written", "load() of memory that the launch writes"),
        ("barrier of half a block", "a barrier that not all threads of the block reach"),
    ],
)
@pytest.mark.parametrize("backwards", ORDERS)
def test_mistake_is_named(bug, message, backwards):
    assert message in outcome(bug, backwards)


def test_traffic_of_a_known_kernel():
    """64 lanes copy one float each: two warps, four sectors for each access of each."""
    emulator = Emulator(count=True)
    buffer = torch.zeros(64 + 8)
    aligned = buffer[(-buffer.data_ptr() // 4) % 8 :][:64]
    emulator.planted_bug("none: index", aligned)
    traffic = emulator.traffic
    assert (traffic.loaded, traffic.stored) == (256, 256)
    assert (traffic.sectors, traffic.accesses, traffic.vector_accesses) == (16, 4, 0)
    assert traffic.sector_efficiency == 1
    # Each warp reads eight distinct 16-byte vectors, four times each: those bytes count once.
    emulator = Emulator(count=True)
    emulator.planted_bug("none: vector", aligned)
    assert emulator.traffic.loaded == 2 * 8 * 16
    assert emulator.traffic.vector_accesses == 2


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_sixteen_bit_conversions_are_those_of_torch(dtype):
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    wide = torch.empty(65536)
    library().emulate_widening(KINDS[dtype], ctypes.c_void_p(wide.data_ptr()))
    torch.testing.assert_close(wide, bits.view(dtype).float(), rtol=0, atol=0, equal_nan=True)

    values = torch.cat([torch.randn(20000) * 10.0 ** torch.randint(-9, 6, (20000,)), wide])
    rounded = torch.empty(values.numel(), dtype=torch.uint16)
    library().emulate_rounding(
        KINDS[dtype],
        ctypes.c_void_p(values.data_ptr()),
        ctypes.c_void_p(rounded.data_ptr()),
        values.numel(),
    )
    torch.testing.assert_close(
        rounded.view(dtype), values.to(dtype), rtol=0, atol=0, equal_nan=True
    )
