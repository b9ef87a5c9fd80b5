"""Workloads of `paperworks bench nmt_hallucinations`: batched scoring against loops over sentences.

Public tools score one sentence at a time: force-decoding for Seq-Logprob, and ALTI with a vector for every pair of
positions, linear maps written out as matrices, and batch size one. The peers here are such loops, written from the
equations, over the same model. The model is Marian of the size of opus-mt with random weights: speed does not depend on
what it has learned, and nothing needs to be downloaded.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.lab.detection import auroc, resample_weights
from paperworks.language.nmt_hallucinations.alti import block_contributions
from paperworks.language.nmt_hallucinations.chrf import Grams, chrf_pairs
from paperworks.language.nmt_hallucinations.logprob import seq_logprob
from paperworks.language.nmt_hallucinations.models import Tokens, TransformersTranslator
from paperworks.language.nmt_hallucinations.ngrams import repeated_targets, top_ngram_excess
from paperworks.train import multiplies_bfloat16

Call = Callable[[], Any]
VOCABULARY = 58_101


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_alti(12, 32, 4, target=None, rounds=2), _bootstrap(300, 50, rounds=2)]
    # Where products in bfloat16 are emulated they are slower than in single precision, and nobody would ask for them.
    half = [_log_prob(64, autocast=True, target=5.0, rounds=3)] if multiplies_bfloat16() else []
    return [
        _log_prob(64, target=None, rounds=3),
        *half,
        _alti(30, 512, 8, post=True, target=10.0, rounds=5),
        _alti(30, 512, 8, post=False, target=None, rounds=5),
        _similarity(target=None, rounds=3),
        _heuristics(target=None, rounds=5),
        _bootstrap(3415, 1000, rounds=2),
    ]


def growth() -> list[Growth]:
    """Text-only detectors are linear in the number of pairs."""
    sizes = (5_000, 10_000, 20_000, 40_000)
    return [
        Growth("top_ngram_excess, N pairs", sizes, functools.partial(_growing, top_ngram_excess), limit=1.15),
        Growth("repeated_targets, N pairs", sizes, functools.partial(_growing, repeated_targets), limit=1.15),
    ]


class _Ids(TransformersTranslator):
    """A Marian of opus-mt's size without a tokenizer: a text is its ids."""

    def __init__(self) -> None:
        from transformers import MarianConfig, MarianMTModel

        torch.manual_seed(0)
        config = MarianConfig(
            vocab_size=VOCABULARY, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
            pad_token_id=VOCABULARY - 1, eos_token_id=0, decoder_start_token_id=VOCABULARY - 1,
            forced_eos_token_id=None,
        )  # fmt: skip
        self.model = MarianMTModel(config).eval()
        self.device, self.vocabulary, self.pad = torch.device("cpu"), VOCABULARY, VOCABULARY - 1
        self._scale = 1.0

    def sources(self, texts: Any) -> list[Tokens]:
        rows = [[*map(int, text.split()), 0] for text in texts]
        return [Tokens(ids, [True] * len(ids)) for ids in rows]

    targets = sources


@functools.cache
def _marian() -> _Ids:
    return _Ids()


def _log_prob(pairs: int, *, autocast: bool = False, target: float | None, rounds: int) -> Workload:
    """A quarter of the pairs shares its source with another, as several systems' outputs do.

    With `autocast` our side computes products in bfloat16; the loop is as it is called, in single precision. A sentence
    alone has too few rows for bfloat16 to pay.
    """
    rng = np.random.default_rng(0)
    sources = [" ".join(map(str, rng.integers(1, 50_000, size=rng.integers(5, 40)))) for _ in range(pairs * 3 // 4)]
    sources += sources[: pairs - len(sources)]
    sizes = [round(len(source.split()) * rng.uniform(0.8, 1.2)) for source in sources]
    outputs = [" ".join(map(str, rng.integers(1, 50_000, size=size))) for size in sizes]

    def ours() -> Call:
        face = _marian()

        def call() -> np.ndarray:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return seq_logprob(face, None, sources, outputs)

        return call

    def loop() -> Call:
        face = _marian()
        model = face.model

        @torch.no_grad()
        def call() -> np.ndarray:
            losses = []
            for source, output in zip(sources, outputs, strict=True):
                ids, labels = (
                    torch.tensor([face.sources([source])[0].ids]),
                    torch.tensor([face.targets([output])[0].ids]),
                )
                losses.append(float(model(input_ids=ids, labels=labels).loss))
            return np.array(losses)

        return call

    return Workload(
        f"Seq-Logprob, {pairs} pairs, Marian of opus-mt's size{', bfloat16 autocast' * autocast}",
        Contender("seq_logprob", ours, requires="transformers"),
        (Contender("model(labels=).loss, pair by pair", loop, requires="transformers"),),
        lambda mine, theirs: _close(mine, theirs, 0.05 if autocast else 1e-4),
        target=target,
        rounds=rounds,
    )


def _alti(length: int, dim: int, heads: int, *, post: bool = True, target: float | None, rounds: int) -> Workload:
    """One attention block of one sentence."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    weights, values = draw(1, heads, length, length).softmax(-1), draw(1, heads, length, dim // heads)
    projection, bias, residual = draw(dim, dim) / dim**0.5, draw(dim), draw(1, length, dim)
    norm = torch.nn.LayerNorm(dim) if post else None

    @torch.no_grad()
    def ours() -> Tensor:
        return block_contributions(weights, values, projection, residual, bias=bias, norm=norm)

    @torch.no_grad()
    def loop() -> Tensor:
        return _written_out(weights, values, projection, bias, residual, norm)

    return Workload(
        f"ALTI block, {length} tokens, width {dim}, {'post' if post else 'pre'}-norm",
        Contender("block_contributions", lambda: ours),
        (Contender("written out, a matrix for every linear map", lambda: loop),),
        lambda mine, theirs: _close(mine.numpy(), theirs.numpy(), 1e-4),
        target=target,
        rounds=rounds,
    )


def _written_out(
    weights: Tensor, values: Tensor, projection: Tensor, bias: Tensor, residual: Tensor, norm: Any
) -> Tensor:
    """The same by one product a linear map: the residual spread by an identity matrix, the norm as two matrices."""
    heads, length, dim = weights.shape[1], weights.shape[2], projection.shape[0]
    per_head = projection.view(dim, heads, -1).permute(1, 2, 0)
    vectors = torch.einsum("bhqk,bhke,hef->bqkf", weights, values, per_head)
    vectors = vectors + torch.einsum("sk,bsd->bskd", torch.eye(length), residual)
    total = vectors.sum(2) + bias
    if norm is not None:
        centre = torch.eye(dim) - torch.ones(dim, dim) / dim
        scale = 1 / (total.var(-1, unbiased=False) + norm.eps).sqrt()
        vectors = torch.einsum("...e,ef,fg->...g", vectors, centre, torch.diag(norm.weight)) * scale[..., None, None]
        total = norm(total)
    distances = torch.nn.functional.pairwise_distance(vectors, total[:, :, None], p=1, eps=0.0)
    closer = (total.abs().sum(-1, keepdim=True) - distances).clamp(min=0)
    return closer / closer.sum(-1, keepdim=True)


def _similarity(*, target: float | None, rounds: int) -> Workload:
    """All pairs of ten hypotheses of a hundred sources, in both directions."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(60)]
    texts = [" ".join(rng.choice(words, size=rng.integers(8, 20))) for _ in range(1000)]
    left, right = np.triu_indices(10, 1)
    first = (np.arange(100)[:, None] * 10 + left).ravel()
    second = (np.arange(100)[:, None] * 10 + right).ravel()

    def loop() -> Call:
        from sacrebleu.metrics.chrf import CHRF

        metric = CHRF()

        def call() -> np.ndarray:
            one = [metric.sentence_score(texts[a], [texts[b]]).score for a, b in zip(first, second, strict=True)]
            two = [metric.sentence_score(texts[b], [texts[a]]).score for a, b in zip(first, second, strict=True)]
            return (np.array(one) + np.array(two)) / 200

        return call

    return Workload(
        "MC-DSim, 100 sources x 45 pairs of hypotheses",
        Contender("chrf_pairs", lambda: lambda: chrf_pairs(Grams(texts), first, second, both=True)),
        (Contender("sacrebleu sentence by sentence", loop, requires="sacrebleu"),),
        lambda mine, theirs: _close(mine, theirs, 1e-9),
        target=target,
        rounds=rounds,
    )


def _heuristics(*, target: float | None, rounds: int) -> Workload:
    sources, outputs = _texts(10_000)

    def loop() -> np.ndarray:
        def commonest(text: str) -> int:
            words = text.split()
            grams = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
            return max(Counter(grams).values(), default=0)

        pairs = zip(sources, outputs, strict=True)
        return np.array([commonest(output) - commonest(source) for source, output in pairs], dtype=float)

    return Workload(
        "top n-gram and repeated target, 10,000 pairs",
        Contender("top_ngram_excess", lambda: lambda: top_ngram_excess(sources, outputs)),
        (Contender("a Counter a text", lambda: loop),),
        lambda mine, theirs: _close(mine, theirs, 0.0),
        target=target,
        note=f"{_rate(sources, outputs):,.0f} pairs a second for both detectors together",
        rounds=rounds,
    )


def _rate(sources: list[str], outputs: list[str]) -> float:
    import time

    start = time.perf_counter()
    top_ngram_excess(sources, outputs)
    repeated_targets(sources, outputs)
    return len(sources) / (time.perf_counter() - start)


def _bootstrap(rows: int, draws: int, *, rounds: int) -> Workload:
    """Twelve detectors, every draw paired."""
    rng = np.random.default_rng(0)
    labels = rng.random(rows) < 0.1
    scores = [np.round(rng.normal(size=rows) + labels, 2) for _ in range(12)]
    weights = resample_weights(rows, draws=draws, seed=0)
    few = 20

    def loop() -> Call:
        from sklearn.metrics import roc_auc_score

        def call() -> np.ndarray:
            found = np.empty((12, few))
            for place, score in enumerate(scores):
                for draw in range(few):
                    rows_drawn = np.repeat(np.arange(rows), weights[draw])
                    found[place, draw] = roc_auc_score(labels[rows_drawn], score[rows_drawn])
            return found

        return call

    return Workload(
        f"AUROC of 12 detectors, {draws} resamples of {rows} rows",
        Contender(
            "auroc with weights", lambda: lambda: np.stack([auroc(score, labels, weights=weights) for score in scores])
        ),
        (Contender(f"scikit-learn, {few} of the {draws} resamples", loop),),
        lambda mine, theirs: _close(mine[:, :few], theirs, 1e-9),
        note=f"the peer does {few / draws:.0%} of the work",
        rounds=rounds,
    )


def _growing(detector: Callable[[list[str], list[str]], np.ndarray], pairs: int) -> Call:
    sources, outputs = _texts(pairs)
    return lambda: detector(sources, outputs)


def _texts(pairs: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    sizes = rng.integers(5, 40, size=2 * pairs)
    texts = [" ".join(part) for part in np.split(rng.choice(words, size=sizes.sum()), np.cumsum(sizes)[:-1])]
    return texts[:pairs], texts[pairs:]


def _close(mine: np.ndarray, theirs: np.ndarray, tolerance: float) -> str | None:
    off = float(np.abs(np.asarray(mine) - np.asarray(theirs)).max())
    return None if off <= tolerance else f"largest difference {off:.1e}"
