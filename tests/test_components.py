"""One matrix over all mixers of the catalogue: whatever a card offers keeps the contract that it states."""

import pytest
import torch

from paperworks import catalog
from paperworks.nn import BlockOptions, MixerEncoder
from paperworks.nn.registry import build_mixer
from paperworks.testing import check_mixer

MIXERS = sorted({mixer["name"] for card in catalog.cards() for mixer in card.mixers if mixer["kind"] == "mixer"})
DIM, HEADS, LENGTH = 16, 2, 12


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_keeps_the_contract_it_states(name):
    torch.manual_seed(0)
    check_mixer(build_mixer(name, dim=DIM, heads=HEADS, length=LENGTH), dim=DIM, length=LENGTH)


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_is_what_its_card_says(name):
    card = next(mixer for card in catalog.cards() for mixer in card.mixers if mixer["name"] == name)
    module = build_mixer(name, dim=DIM, heads=HEADS, length=LENGTH)(0)
    assert bool(getattr(module, "causal", False)) == card["causal"]
    flops = [module.flops(length) for length in (LENGTH, 64 * LENGTH)]
    grows_linearly = flops[1] <= 64 * max(flops[0], 1) * 1.01
    assert grows_linearly == card["linear"]


@pytest.mark.parametrize("name", MIXERS)
def test_every_parameter_of_an_encoder_learns(name):
    torch.manual_seed(0)
    mixer = build_mixer(name, dim=DIM, heads=HEADS, length=LENGTH)
    encoder = MixerEncoder(mixer, dim=DIM, depth=2, block=BlockOptions(ffn_dim=32, dropout=0.0))
    x, weights = torch.randn(3, LENGTH, DIM), torch.randn(DIM)
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.01)
    # Two steps: a factor that starts at 0 holds back the gradient of the other one at the first.
    for _ in range(2):
        optimiser.zero_grad()
        encoder(x).states.square().mul(weights).sum().backward()
        optimiser.step()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Softmax does not change when all scores of a query move together: a key's bias cannot learn.
    assert [name for name in idle if "key" not in name and "qkv" not in name] == []
