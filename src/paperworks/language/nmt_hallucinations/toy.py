"""A small translator of `ToyMT`, and the sentences that it is tested on.

The model knows 5 to 20 words a sentence and learned, absolute positions: longer sources, and words it has hardly seen,
are where it lets go of the source, without anything being shuffled or spoiled at test time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.language.nmt_hallucinations.batching import pad_rows
from paperworks.language.nmt_hallucinations.models import WordTranslator
from paperworks.nn.encoder_decoder import EncoderDecoder
from paperworks.nn.log_prob import token_log_prob
from paperworks.train import Budget, Evaluation, Recipe, adamw, fit, make_fabric, warmup_constant
from paperworks.worlds.text import BOS, EOS, PAD, Corpus, Noise, ToyMT

HALLUCINATED, DETACHED = 0.5, 0.8
SLICES = ("in_domain", "long", "rare", "half_rare")
POOL = 64
# Sentences and steps between looks at the target.
CHECKED, CHECK_EVERY = 100, 20


@dataclass(frozen=True)
class ToyTest:
    """Test sources with their slice, their right translations, and those of a held-out in-domain part."""

    source: tuple[str, ...]
    slice: np.ndarray
    reference: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """Exact labels: the unsupported share of each output, hallucinated from .5, detached from .8."""

    unsupported: np.ndarray

    @property
    def hallucinated(self) -> np.ndarray:
        return self.unsupported >= HALLUCINATED

    @property
    def detached(self) -> np.ndarray:
        return self.unsupported >= DETACHED


def toy_test(world: ToyMT, *, scale: float = 1.0, seed: int = 0) -> ToyTest:
    """400 in-domain sentences, 200 long ones (21-30 words), 400 of ranks 201-400, 400 half and half; 400 held out.

    `scale` shrinks all of them.
    """
    size = {name: max(8, round(scale * count)) for name, count in zip(SLICES, (400, 200, 400, 400), strict=True)}
    parts = {
        "in_domain": world.sentences(size["in_domain"], seed=10_000 + seed),
        "long": world.sentences(size["long"], seed=10_000 + seed, lengths=(21, 30)),
        "rare": world.sentences(size["rare"], seed=10_000 + seed, ranks=(world.words // 2 + 1, world.words)),
        "half_rare": world.half_rare(size["half_rare"], seed=10_000 + seed),
    }
    source = tuple(text for name in SLICES for text in parts[name])
    held_out = world.sentences(max(40, size["in_domain"]), seed=20_000 + seed)
    return ToyTest(
        source,
        np.repeat(SLICES, [size[name] for name in SLICES]),
        tuple(world.translate(text) for text in source),
        tuple(held_out),
    )


def train_toy(
    world: ToyMT,
    noise: Noise,
    *,
    pairs: int = 20_000,
    steps: int = 1100,
    batch: int = 64,
    rate: float = 2e-3,
    target: float | None = None,
    seed: int = 0,
    progress: Callable[..., None] | None = None,
) -> WordTranslator:
    """Train the 2 + 2-layer, 64-wide transformer on a corpus with or without noise.

    Adam, constant rate after a short warm-up, batches of sentences of similar length. With `target` training ends, at
    the latest after `steps`, where greedy translations of held-out in-domain sentences reach this token F1: a
    translator that is good and still errs, whatever the seed and the noise. Only right translations have a say in it.
    """
    corpus = world.corpus(pairs, seed=seed, noise=noise)
    torch.manual_seed(seed)
    model = EncoderDecoder.small(
        len(world.source_vocabulary), len(world.target_vocabulary), bos_id=BOS, eos_id=EOS, pad_id=PAD
    )
    face = WordTranslator(model, world.source_vocabulary, world.target_vocabulary)
    evaluation = None if target is None else Evaluation(_Until(world, face, target, seed), every=CHECK_EVERY)
    with contextlib.suppress(_Reached):
        _fit(model, _LengthBatches(world, corpus, size=batch, seed=seed), steps, rate, seed, evaluation, progress)
    model.eval()
    return face


def _fit(
    model: EncoderDecoder,
    batches: _LengthBatches,
    steps: int,
    rate: float,
    seed: int,
    evaluation: Evaluation | None,
    progress: Callable[..., None] | None,
) -> None:
    fit(
        model,
        _loss,
        batches,
        recipe=Recipe(
            partial(adamw, lr=rate, weight_decay=0.0), schedule=warmup_constant(max(1, steps // 20)), clip=1.0
        ),
        budget=Budget(steps=steps),
        seed=seed,
        evaluation=evaluation,
        progress=progress,
        fabric=make_fabric(accelerator="cpu"),
    )


def label(world: ToyMT, sources: tuple[str, ...] | list[str], outputs: list[str]) -> Labels:
    """Exact labels of outputs, by the language's own rules."""
    shares = [world.unsupported(source, output) for source, output in zip(sources, outputs, strict=True)]
    return Labels(np.array(shares))


def token_f1(outputs: list[str], references: list[str] | tuple[str, ...]) -> float:
    """Mean F1 of the words of outputs and right translations, as multisets."""
    scores = []
    for output, reference in zip(outputs, references, strict=True):
        mine, right = Counter(output.split()), Counter(reference.split())
        shared = sum((mine & right).values())
        scores.append(2 * shared / max(1, sum(mine.values()) + sum(right.values())))
    return float(np.mean(scores))


class _Reached(Exception):
    """Training has reached its target; the model holds the weights."""


class _Until:
    """An evaluation that ends the training when greedy translations are good enough."""

    def __init__(self, world: ToyMT, face: WordTranslator, target: float, seed: int) -> None:
        self.face, self.target = face, target
        self.source = world.sentences(CHECKED, seed=30_000 + seed)
        self.right = [world.translate(text) for text in self.source]

    def __call__(self, model: Any) -> dict[str, float]:
        ids, mask = pad_rows([tokens.ids for tokens in self.face.sources(self.source)], PAD, torch.device("cpu"))
        said = [row[0] for row in self.face.generate(ids, mask, num_beams=1, num_return=1)]
        score = token_f1(said, self.right)
        if score >= self.target:
            raise _Reached
        return {"f1": score}


class _LengthBatches:
    """Batches of one size of sentences of similar length, a function of the position in the stream."""

    def __init__(self, world: ToyMT, corpus: Corpus, *, size: int, seed: int) -> None:
        self.source = [world.source_vocabulary.encode(text) for text in corpus.source]
        self.target = [world.target_vocabulary.encode(text) for text in corpus.target]
        self.lengths = np.array([len(a) + len(b) for a, b in zip(self.source, self.target, strict=True)])
        self.size, self.seed = size, seed
        self._epoch, self._plan = -1, np.zeros((0, 0), dtype=int)
        self.identity = f"{len(self.source)} pairs by {size}, by length, seed {seed}"

    def __call__(self, position: int) -> dict[str, Tensor]:
        per_epoch = len(self.source) // self.size
        epoch, place = divmod(position, per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._plan_epoch(epoch, per_epoch)
        rows = self._plan[place]
        device = torch.device("cpu")
        source, source_mask = pad_rows([self.source[row] for row in rows], PAD, device)
        target, target_mask = pad_rows([self.target[row] for row in rows], PAD, device)
        return {"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}

    def _plan_epoch(self, epoch: int, count: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.source))[: count * self.size]
        pools = [order[first : first + POOL * self.size] for first in range(0, len(order), POOL * self.size)]
        ranked = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        return ranked.reshape(count, self.size)[rng.permutation(count)]


def _loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits = model(batch["source"], batch["target"], source_mask=batch["source_mask"], target_mask=batch["target_mask"])
    return -token_log_prob(logits, batch["target"], mask=batch["target_mask"]).sum(), batch["target_mask"].sum()
