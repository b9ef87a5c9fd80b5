"""Streams of batches: each example once an epoch, any position at any time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from paperworks.train import EpochBatches, TokenBatches
from paperworks.train.batches import as_stream


@given(rows=st.integers(1, 50), size=st.integers(1, 60), seed=st.integers(0, 5), shuffle=st.booleans())
def test_every_example_once_an_epoch_in_a_new_order(rows, size, seed, shuffle):
    batches = EpochBatches(torch.arange(rows), size=size, seed=seed, shuffle=shuffle)
    per_epoch = -(-rows // size)
    assert len(batches) == per_epoch
    assert batches.count(3) == 3 * per_epoch
    epochs = [torch.cat([batches(epoch * per_epoch + i) for i in range(per_epoch)]).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    if not shuffle:
        assert epochs[0] == list(range(rows))
    elif rows > 20:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_drop_last_leaves_out_the_rest():
    batches = EpochBatches(torch.arange(10), size=4, seed=0, drop_last=True)
    assert (len(batches), batches.count(5)) == (2, 10)
    assert {len(batches(position)) for position in range(10)} == {4}


@given(order=st.permutations(range(12)))
def test_a_batch_depends_on_its_position_alone(order):
    lengths = torch.arange(23) % 7 + 1
    for make in (
        lambda: EpochBatches(torch.arange(23), size=5, seed=2),
        lambda: TokenBatches(torch.arange(23), lengths, tokens=14, seed=2, pool=10),
    ):
        forward, jumping = make(), make()
        expected = [forward(position).tolist() for position in range(12)]
        assert [jumping(position).tolist() for position in order] == [expected[position] for position in order]


def test_seeds_differ_and_forms_are_kept():
    x, y = torch.arange(40.0).reshape(20, 2), torch.arange(20)
    named = EpochBatches({"x": x, "y": y}, size=6, seed=1)(2)
    pair = EpochBatches((x, y), size=6, seed=1)(2)
    alone = EpochBatches(y, size=6, seed=1)(2)
    assert torch.equal(named["x"], pair[0])
    assert torch.equal(named["y"], pair[1])
    assert torch.equal(alone, pair[1])
    assert torch.equal(pair[0], x[pair[1]])
    assert not torch.equal(alone, EpochBatches(y, size=6, seed=2)(2))


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60), tokens=st.integers(9, 40), pool=st.integers(1, 70))
def test_token_batches_hold_the_budget_and_every_example(lengths, tokens, pool):
    ids = torch.arange(len(lengths) * 9).reshape(-1, 9)
    batches = TokenBatches({"ids": ids}, torch.tensor(lengths), tokens=tokens, seed=0, trim=("ids",), pool=pool)
    for epoch in range(2):
        first = batches.count(epoch) if epoch else 0
        rows = [batches.indices(position) for position in range(first, batches.count(epoch + 1))]
        assert sorted(np.concatenate(rows).tolist()) == list(range(len(lengths)))
        for position, members in enumerate(rows, first):
            longest = max(lengths[row] for row in members)
            assert len(members) * longest <= tokens
            assert torch.equal(batches(position)["ids"], ids[members, : max(1, longest)])


def test_token_batches_pad_less_than_batches_by_number():
    lengths = torch.from_numpy(np.random.default_rng(0).geometric(0.05, 2000).clip(1, 200))
    batches = TokenBatches(torch.arange(2000), lengths, tokens=2000, seed=0)
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in map(batches.indices, range(len(batches))))
    by_number = EpochBatches(torch.arange(2000), size=32, seed=0)
    usual = sum(len(rows) * int(lengths[rows].max()) for rows in map(by_number.indices, range(len(by_number))))
    assert padded < 1.1 * int(lengths.sum())
    assert usual > 2 * int(lengths.sum())


@pytest.mark.parametrize("make", [list, lambda items: DataLoader(items, batch_size=None)])
def test_iterables_are_gone_through_again(make):
    stream = as_stream(make([10, 11, 12]), exact=True)
    assert [int(stream(position)) for position in (0, 1, 2, 3, 7, 8, 1)] == [10, 11, 12, 10, 11, 12, 11]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EpochBatches([torch.ones(3), torch.ones(4)], size=1, seed=0), r"equally many rows.*\[3, 4\]"),
        (lambda: EpochBatches(torch.ones(0), size=1, seed=0), "at least one"),
        (lambda: EpochBatches({"a": np.ones(3)}, size=1, seed=0), "data: expected tensors .* got ndarray"),
        (lambda: EpochBatches(torch.ones(3), size=0, seed=0), "size: expected"),
        (lambda: EpochBatches(torch.ones(3), size=4, seed=0, drop_last=True), "size: expected 1 to 3"),
        (lambda: EpochBatches(torch.ones(3), size=1, seed=0)(-1), "position: expected"),
        (lambda: EpochBatches(torch.ones(3), size=1, seed=0).count(0), "epochs: expected"),
        (lambda: EpochBatches(torch.ones(3), size=1, seed=-1), "seed: expected"),
        (lambda: TokenBatches(torch.ones(3), [1, 2, 9], tokens=8, seed=0), "tokens: example 2 alone has 9"),
        (lambda: TokenBatches(torch.ones(3), [1, 2], tokens=8, seed=0), r"lengths: expected \(3,\)"),
        (lambda: TokenBatches(torch.ones(3), [1.0, 2, 3], tokens=8, seed=0), "lengths: expected"),
        (lambda: TokenBatches(torch.ones(3), [1, 2, 3], tokens=8, seed=0, pool=0), "pool: expected"),
        (lambda: TokenBatches(torch.ones(3), [1, 2, 3], tokens=8, seed=0, trim=(0,)), r"trim: 0 has shape \(3,\)"),
        (lambda: TokenBatches({"a": torch.ones(1, 3)}, [1], tokens=8, seed=0, trim=("b",)), "trim: 'b' is no part"),
        (lambda: as_stream(DataLoader([1, 2], shuffle=True), exact=True), "shuffling DataLoader"),
        (lambda: as_stream(3, exact=False), "batches: expected a function"),
        (lambda: as_stream([], exact=False)(0), "batches: ended after 0"),
    ],
)
def test_bad_input_is_refused_at_the_door(make, message):
    with pytest.raises(ValueError, match=message):
        make()
