"""The CUDA kernels in Triton's interpreter, against the CPU kernels. No GPU is needed, and none is tested."""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = """
import torch
from paperworks.graphs.gatv2 import graph as graphs, ops, triton_kernels as kernels

graphs.SEGMENT = 5
torch.manual_seed(0)
sources, targets, edges, heads, width, channels = 5, 4, 24, 2, 3, 2
ends = torch.stack([torch.randint(sources, (edges,)), torch.randint(targets - 1, (edges,))])
graph = graphs.CSRGraph.from_edge_index(ends, num_nodes=(sources, targets))
normal = lambda *shape: torch.randn(shape, dtype=torch.float64)
left, right, att = normal(sources, heads * width), normal(targets, heads * width), normal(heads, width)
value, none = normal(sources, heads * channels), (normal(0, 0), normal(0, heads * width))
mask, seed = torch.rand(edges) < 0.7, torch.tensor(2**61 + 5)
for dot in (False, True):
    for bias, kept, dropout in ((normal(edges, heads), mask, 0.3),):
        given = (left, right, att, value, *none, bias, kept, seed, graph.rows, graph.columns, 0.25, dropout, dot)
        one, two = ops.graph_attention(*given, True), kernels.forward(*given, True)
        for a, b in zip(one, two):
            assert torch.equal(a.isfinite(), b.isfinite())
            assert (a - b)[a.isfinite()].abs().max() < 1e-6
        grad, through = normal(targets, heads * channels), normal(edges, heads)
        through = through * kept[graph.rows[4].long(), None] if len(kept) else through
        delta = (grad * one[0]).view(targets, heads, channels).sum(-1)
        rest = (grad, one[1], delta, one[2], through, False, len(bias) > 0)
        pairs = zip(ops.graph_attention_backward(*given, *rest), kernels.backward(*given, *rest))
        for a, b in pairs:
            assert a.shape == b.shape
            assert not a.numel() or (a - b).abs().max() < 1e-5
print("agree")
"""


@pytest.mark.slow
def test_cuda_kernels_agree_with_the_cpu_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("agree")
