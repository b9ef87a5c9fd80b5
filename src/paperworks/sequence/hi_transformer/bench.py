"""Workloads of `paperworks bench hi_transformer`: one interactive layer, forward and backward, in float32.

Peers: the same three blocks at HAT's padding, every sentence to 128 tokens and every document to the batch's most
sentences (same weights, so the outputs must agree); and a flat Transformer of equal parameters, three blocks that all
see all tokens of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.data.benchmarks import benchmark_members
from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder
from paperworks.sequence.hi_transformer.layer import HiLayer
from paperworks.sequence.hi_transformer.packing import Packing, pack

Call = Callable[[], Any]
# HAT's sentence length, and the mean of the reviews' in words.
PADDED, SENTENCE = 128, 23


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_hat(_lengths(4, seed=0), dim=32, target=None, rounds=2), _flat(512, dim=32, target=None, rounds=2)]
    return [
        _hat(None, dim=256, target=2.5, rounds=5),
        _flat(2048, dim=256, target=2.5, rounds=7),
        _flat(4096, dim=256, target=None, memory=1 / 0.75, rounds=5),
        _flat(8192, dim=256, target=5.0, rounds=3),
    ]


def growth() -> list[Growth]:
    """Time per document of sentences of one length."""
    sizes = (1024, 2048, 4096, 8192, 16384)
    return [Growth(f"layer (N, 128), sentences of {SENTENCE}, both ways", sizes, partial(_hi, dim=128), limit=1.15)]


def review_lengths(count: int = 16) -> list[list[int]]:
    """Words of each sentence, and its sentence token, of the first `count` positive reviews; at most 128.

    Raises:
        DataMissing: the reviews are not on this machine.
    """
    members = benchmark_members("movie_reviews", "movie_reviews.zip", "movie_reviews/pos/*.txt")
    texts = [members[name].decode("latin-1") for name in sorted(members)[:count]]
    return [[min(PADDED, 1 + len(line.split())) for line in text.splitlines() if line.strip()] for text in texts]


def _lengths(documents: int, *, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(2, 60, generator.integers(3, 12)).tolist() for _ in range(documents)]


def _layer(dim: int) -> HiLayer:
    torch.manual_seed(0)
    return HiLayer(dim, heads=dim // 32, ffn_dim=4 * dim, cls="start", dropout=0.0)


def _packed(lengths: Sequence[Sequence[int]]) -> tuple[Packing, np.ndarray]:
    """The layout and the mask (S, 128) of documents with sentences of these lengths."""
    counts = [len(document) for document in lengths]
    flat = np.array([length for document in lengths for length in document])
    mask = np.arange(PADDED) < flat[:, None]
    index = np.concatenate([np.arange(count) for count in counts])
    doc_index = np.repeat(np.arange(len(counts)), counts)
    return pack(mask, doc_index, index, batch=len(counts), cls="start"), mask


def _hi(length: int, *, dim: int) -> Call:
    packing, _ = _packed([[SENTENCE] * (length // SENTENCE)])
    leaf = torch.randn(len(packing.doc_index), SENTENCE, dim, requires_grad=True)
    layer = _layer(dim)

    def step() -> tuple[Tensor, Tensor]:
        tokens = [leaf.index_select(0, here.rows)[:, : here.width] for here in packing.sentences]
        out = packing.read_tokens(layer(tokens, packing=packing).tokens)
        _scalar(out).backward()
        return out.detach(), _taken(leaf)

    return step


def _flat(length: int, *, dim: int, target: float | None, rounds: int, memory: float | None = None) -> Workload:
    def flat() -> Call:
        torch.manual_seed(0)
        block = BlockOptions(ffn_dim=4 * dim, activation="gelu", dropout=0.0)
        mixer = partial(_attention, dim)
        encoder: nn.Module = MixerEncoder(mixer, dim=dim, depth=3, block=block)
        leaf = torch.randn(1, length // SENTENCE * SENTENCE, dim, requires_grad=True)

        def step() -> tuple[Tensor, Tensor]:
            out = encoder(leaf).states
            _scalar(out).backward()
            return out.detach()[0], _taken(leaf)

        return step

    return Workload(
        f"layer, one document of {length} tokens, d = {dim}, forward + backward",
        Contender("HiLayer", lambda: _hi(length, dim=dim)),
        (Contender("flat, 3 blocks", flat),),
        lambda mine, theirs: None if mine[0].shape == theirs[0].shape else "shapes differ",
        target=target,
        memory=memory,
        note="another function at the same shape and parameters",
        rounds=rounds,
    )


def _attention(dim: int, index: int) -> nn.Module:
    return AttentionMixing(dim, dim // 32, dropout=0.0)


def _hat(lengths: Sequence[Sequence[int]] | None, *, dim: int, target: float | None, rounds: int) -> Workload:
    """Lengths None: those of sixteen reviews."""
    return Workload(
        f"layer, 16 reviews, d = {dim}, forward + backward" if lengths is None else "layer, 4 documents",
        Contender("HiLayer, packed", lambda: _ragged(lengths, dim, padded=False)),
        (Contender("padded as HAT", lambda: _ragged(lengths, dim, padded=True)),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _ragged(lengths: Sequence[Sequence[int]] | None, dim: int, *, padded: bool) -> Call:
    lengths = review_lengths() if lengths is None else lengths
    packing, mask = _packed(lengths)
    torch.manual_seed(1)
    leaf = torch.randn(*mask.shape, dim).requires_grad_()
    layer = _layer(dim)
    kept = torch.from_numpy(mask)
    run = partial(_padded, layer, packing, kept) if padded else partial(_buckets, layer, packing)

    def step() -> tuple[Tensor, Tensor]:
        out = run(leaf)
        _scalar(out).backward()
        return out.detach(), _taken(leaf)

    return step


def _buckets(layer: HiLayer, packing: Packing, rows: Tensor) -> Tensor:
    tokens = [rows.index_select(0, here.rows)[:, : here.width] for here in packing.sentences]
    return packing.read_tokens(layer(tokens, packing=packing).tokens)


def _padded(layer: HiLayer, packing: Packing, mask: Tensor, rows: Tensor) -> Tensor:
    """The layer's blocks over (B M, 128) and (B, M), sentences that are not there included."""
    most = int(packing.sentence_index.max()) + 1
    place = packing.doc_index * most + packing.sentence_index
    x = rows.new_zeros(packing.batch * most, PADDED, rows.shape[2]).index_copy(0, place, rows)
    kept = mask.new_zeros(packing.batch * most, PADDED).index_copy(0, place, mask)
    first, document, second = layer.stack.blocks
    x = first(x, mask=kept)
    r = document(x[:, 0].unflatten(0, (packing.batch, most)), mask=kept[:, 0].unflatten(0, (packing.batch, most)))
    x = second(torch.cat([r.flatten(0, 1)[:, None], x[:, 1:]], 1), mask=kept)
    return x.index_select(0, place)[mask]


def _scalar(out: Tensor) -> Tensor:
    """Something to differentiate: sums, and sums of squares, of what a norm gives are constant."""
    return (out @ torch.randn(out.shape[-1], generator=torch.Generator().manual_seed(2))).sum()


def _taken(leaf: Tensor) -> Tensor:
    """The leaf's gradient, which the next call starts without."""
    gradient, leaf.grad = leaf.grad, None
    assert gradient is not None
    return gradient


def _agree(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str | None:
    for name, one, two in zip(("output", "gradient"), mine, theirs, strict=True):
        off = float((one - two).abs().max() / two.abs().max())
        if off > 1e-3:
            return f"{name}: largest difference {off:.1e} of the largest number"
    return None
