"""`torch.compile` of the mixing: whole graphs, and no new one per batch."""

import pytest
import torch

from paperworks.sequence.fnet.mixers import FourierMixing
from paperworks.testing import assert_compiles


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["matmul", "fft"])
def test_mixing_compiles_as_one_graph_and_not_anew_per_batch(backend):
    torch.manual_seed(0)
    others = [(torch.randn(batch, 24, 16),) for batch in (3, 5, 7)]
    assert_compiles(FourierMixing(16, backend=backend), torch.randn(2, 24, 16), more=others)
