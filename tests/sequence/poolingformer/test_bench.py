"""The rows of the benchmark: outputs agree before anything is timed; and what speed rests on, in bytes."""

import pytest
import torch

from paperworks.lab.bench import measure
from paperworks.nn import local_attention
from paperworks.sequence.poolingformer import bench
from paperworks.sequence.poolingformer.pooling import pooling_attention
from paperworks.testing import peak_bytes


def test_quick_rows_agree_with_their_peers():
    pytest.importorskip("transformers")
    rows = list(measure(bench.workloads(quick=True), rounds=1))
    assert [row.status for row in rows] == ["measured"] * 3, [row.note for row in rows]


def test_agreement_sees_a_wrong_gradient():
    one = tuple(torch.ones(2) for _ in range(4))
    assert bench._agree(one, one) is None
    assert "gradient of v" in bench._agree(one, (*one[:3], one[3] * 1.01))


@pytest.mark.parametrize(
    "attend",
    [
        lambda q, k, v: local_attention(q, k, v, window=128),
        lambda q, k, v: local_attention(q, k, v, window=128) + pooling_attention(q, k, v, **bench.POOLED),
    ],
)
def test_forward_holds_at_most_four_tensors_beyond_its_output(attend):
    q, k, v = (x.detach() for x in bench._inputs((1, 4, 4096, 64)))
    assert peak_bytes(lambda: attend(q, k, v)) <= 5 * q.numel() * q.element_size()


def test_backward_holds_at_most_four_tensors_beyond_output_and_gradients():
    inputs = bench._inputs((1, 4, 4096, 64))
    step = bench._both(lambda q, k, v: local_attention(q, k, v, window=128), inputs)
    assert peak_bytes(step) <= 8 * inputs[0].numel() * inputs[0].element_size()
