"""Random orders have every row once, block by block, the same in any process."""

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.errors import OptionError
from layertap.results.training.row_order import RowOrder

sizes = st.integers(1, 50)
ranges = st.builds(
    range, st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 2, 3, 70, -1])
)
lists = st.lists(st.integers(0, 300), max_size=200).map(lambda r: np.array(r, np.intp))
seeds = st.integers(0, 2**70)


def all_of(order, epoch=0):
    return part_of(order, 0, len(order), epoch)


def part_of(order, start, end, epoch=0):
    return np.arange(10_000)[order.rows(start, end, epoch)].tolist()


@given(rows=ranges | lists, size=sizes, seed=seeds, epoch=st.integers(0, 3))
def test_each_row_comes_once_and_blocks_one_after_the_other(rows, size, seed, epoch):
    order = RowOrder(rows, size, shuffle=True, seed=seed)
    ordered = all_of(order, epoch)
    assert sorted(ordered) == sorted(np.asarray(rows).tolist())
    blocks = [row // size for row in ordered]
    runs = [b for at, b in enumerate(blocks) if at == 0 or blocks[at - 1] != b]
    assert len(runs) == len(set(blocks))
    reported = list(order.blocks(epoch))
    assert [block for block, _ in reported] == runs
    ends = [at + 1 for at, b in enumerate(blocks) if blocks[at + 1 : at + 2] != [b]]
    assert [end for _, end in reported] == ends


@given(
    rows=ranges | lists,
    size=sizes,
    shuffle=st.booleans(),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_parts_equal_the_complete_order_in_any_process(rows, size, shuffle, cuts):
    order = RowOrder(rows, size, shuffle=shuffle, seed=3)
    complete = {epoch: all_of(order, epoch) for epoch in (0, 1)}
    other = pickle.loads(pickle.dumps(order))
    for start, length in zip(cuts, reversed(cuts), strict=True):
        end = min(start + length, len(order))
        for epoch in (1, 0):
            part = part_of(other, min(start, end), end, epoch)
            assert part == complete[epoch][min(start, end) : end]


@given(rows=ranges | lists, size=sizes)
def test_without_shuffling_rows_stay_in_order(rows, size):
    order = RowOrder(rows, size)
    assert all_of(order) == np.asarray(rows).tolist()
    at = 0
    for block, end in order.blocks():
        assert {row // size for row in all_of(order)[at:end]} == {block}
        at = end
    assert at == len(rows)


def test_epochs_and_seeds_have_different_orders():
    orders = {
        (seed, epoch): tuple(
            all_of(RowOrder(range(100), 10, shuffle=True, seed=seed), epoch)
        )
        for seed in (0, 1, 2**64 + 1)
        for epoch in (0, 1, 2)
    }
    assert len(set(orders.values())) == 9
    # Blocks shuffle their rows differently.
    blocks = np.array(orders[0, 0]).reshape(10, 10) % 10
    assert len({tuple(block) for block in blocks}) > 8
    unseeded = [all_of(RowOrder(range(100), 10, shuffle=True)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_a_part_of_a_billion_rows_needs_no_memory_for_all():
    order = RowOrder(range(10**9), 10**6, shuffle=True, seed=1)
    part = order.rows(5 * 10**8 - 10, 5 * 10**8 + 10)
    assert len(set(part.tolist())) == 20
    assert len({row // 10**6 for row in part.tolist()}) == 2
    cached = sum(rows.nbytes for rows in order._cache._values.values())
    for start in range(0, 10**9, 10**8):
        order.rows(start, start + 1)
        cached = max(cached, sum(rows.nbytes for rows in order._cache._values.values()))
    assert cached <= 2**26


def test_threads_read_the_same_order():
    order = RowOrder(range(10_000), 100, shuffle=True, seed=1)
    expected = all_of(RowOrder(range(10_000), 100, shuffle=True, seed=1))
    wrong = []

    def read(offset):
        for start in range(offset, 10_000, 70):
            end = min(start + 70, 10_000)
            if order.rows(start, end).tolist() != expected[start:end]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(n * 7,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("seed", [-1, 1.5, "one"])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(OptionError, match="whole number, at least 0"):
        RowOrder(range(3), 2, shuffle=True, seed=seed)
