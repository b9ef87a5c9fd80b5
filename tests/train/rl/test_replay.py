"""Replay keeps transitions whole, seeds apart and the newest at hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.train.rl.replay import Transitions


def batch(values, seeds=2):
    """Transitions whose fields all carry their number."""
    number = torch.tensor(values, dtype=torch.float32)
    rows = torch.stack([number + 1000 * seed for seed in range(seeds)])
    return {"obs": rows[..., None].expand(-1, -1, 3), "next_obs": rows[..., None] + 0.5, "terminal": rows % 2}


FIELDS = {"obs": (3,), "next_obs": (1,), "terminal": ()}


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 40))
def test_the_newest_stay_whole_and_every_draw_comes_from_them(chunks, last):
    replay = Transitions(10, FIELDS, seeds=2)
    total = 0
    for size in chunks:
        replay.add(**batch(range(total, total + size)))
        total += size
    held = min(total, 10)
    assert len(replay) == held
    newest = replay.newest(10)
    assert newest["obs"][0, :, 0].tolist() == list(range(total - held, total))
    drawn = replay.sample(200, last=last, generator=torch.Generator().manual_seed(0))
    number = drawn["obs"][0, :, 0]
    assert drawn["obs"].shape == (2, 200, 3)
    assert number.min() >= total - min(held, last)
    assert number.max() < total
    # A transition's fields belong together, and a seed's to the seed.
    assert torch.equal(drawn["next_obs"], drawn["obs"][..., :1] + 0.5)
    assert torch.equal(drawn["terminal"], drawn["obs"][..., 0] % 2)
    assert (drawn["obs"][1] >= 1000).all()


def test_draws_are_uniform_and_apart_for_each_seed():
    replay = Transitions(8, FIELDS, seeds=2)
    replay.add(**batch(range(8)))
    drawn = replay.sample(8000, generator=torch.Generator().manual_seed(1))["obs"][..., 0]
    counts = torch.bincount(drawn[0].long(), minlength=8)
    assert (counts - 1000).abs().max() < 130
    assert not torch.equal(drawn[0], drawn[1] - 1000)


def test_unfit_transitions_are_refused():
    replay = Transitions(4, FIELDS, seeds=2)
    with pytest.raises(ValueError, match="nothing to sample"):
        replay.sample(1)
    good = batch([1])
    with pytest.raises(ValueError, match="fields: expected"):
        replay.add(obs=good["obs"])
    with pytest.raises(ValueError, match="next_obs: expected"):
        replay.add(**(good | {"next_obs": torch.zeros(2, 1, 2)}))
    with pytest.raises(ValueError, match="n: expected 1 to 4"):
        replay.add(**batch(range(5)))
    with pytest.raises(ValueError, match="at least one each"):
        Transitions(0, FIELDS)
