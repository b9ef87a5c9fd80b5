"""Training and scoring the arms, the recall probe, and the time of one sublayer against length."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.data.tokenization import UNK
from paperworks.lab.study import Progress
from paperworks.nn import TokenTagger
from paperworks.sequence.poolingformer.labeller import SentenceLabeller
from paperworks.sequence.poolingformer.texts import IGNORED, Encoded, Recall, Task
from paperworks.sequence.poolingformer.variants import ARMS, Sizes, build_tagger
from paperworks.testing import peak_bytes
from paperworks.train import Budget, Recipe, TokenBatches, adamw, fit, make_fabric, mixed_precision, warmup_linear

REACHES = (8, 16, 32, 64, 128, 256, 512)  # upper ends of the bins of distance


class Schooling(NamedTuple):
    """How an arm is trained; `tokens` of a batch, `token_dropout` the share of words replaced by [UNK]."""

    rate: float
    epochs: int
    tokens: int
    warmup: float
    decay: float
    clip: float
    token_dropout: float


def train_and_score(
    arm: str, sizes: Sizes, schooling: Schooling, task: Task, *, seed: int, progress: Progress
) -> dict[str, Any]:
    """Train on the train part, then label all others.

    Returns:
        `micro_f1` and `macro_f1` over dev and test together, and of each with `dev_`, `test_`, `held_` before the
        name; `majority`, of always saying the most frequent label; `train_seconds`, `tokens_per_second`, `parameters`,
        `steps`, `examples`; and the arrays `labels`, `predictions` and `document` of all sentences of dev and test.
    """
    torch.manual_seed(seed)
    train = task.parts["train"]
    model = build_tagger(arm, sizes, vocabulary=task.tokenizer.vocab_size, classes=len(task.classes))
    batches = TokenBatches(
        {"ids": train.ids, "mask": train.mask, "targets": train.targets}, train.lengths, tokens=schooling.tokens,
        seed=seed, trim=("ids", "mask", "targets"),
    )  # fmt: skip
    steps = batches.count(schooling.epochs)
    recipe = Recipe(
        partial(adamw, lr=schooling.rate, weight_decay=schooling.decay),
        schedule=warmup_linear(steps, max(1, round(schooling.warmup * steps))),
        clip=schooling.clip,
    )
    loss = _loss(schooling.token_dropout, torch.Generator().manual_seed(seed))
    result = fit(
        model, loss, batches, recipe=recipe, budget=Budget(steps=steps), seed=seed, progress=progress,
        fabric=make_fabric(devices=1, accelerator="cpu", precision="mixed"),
    )  # fmt: skip
    if task.own:
        SentenceLabeller(model, task.tokenizer, task.classes, arm, sizes, task.sentence_tokens).save(progress.folder)
    read = schooling.epochs * int(train.lengths.sum())
    return {
        **_scores(model, task),
        "train_seconds": result.seconds,
        "tokens_per_second": read / result.seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": result.steps,
        "examples": schooling.epochs * len(train),
    }


def _loss(share: float, generator: torch.Generator) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        # The [SEP] of a sentence, where it is labelled, always stays.
        words = batch["mask"] & (batch["targets"] == IGNORED)
        dropped = words & (torch.rand(words.shape, generator=generator) < share)
        logits = model(batch["ids"].masked_fill(dropped, UNK), mask=batch["mask"])
        return F.cross_entropy(logits.float().flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)

    return loss


def _scores(model: TokenTagger, task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    said = {part: predict(model, task.parts[part]) for part in ("held", "dev", "test")}
    for part, predictions in said.items():
        labels = task.parts[part].labels.numpy()
        found |= {f"{part}_{name}": score for name, score in f1(labels, predictions, len(task.classes)).items()}
    both = [task.parts[part] for part in ("dev", "test")]
    labels = np.concatenate([part.labels.numpy() for part in both])
    predictions = np.concatenate([said["dev"], said["test"]])
    sentences = torch.cat([(part.targets != IGNORED).sum(1) for part in both]).numpy()
    common = int(torch.mode(task.parts["train"].labels).values)
    arrays = {"labels": labels, "predictions": predictions, "document": np.repeat(np.arange(len(sentences)), sentences)}
    return found | f1(labels, predictions, len(task.classes)) | {"majority": float(np.mean(labels == common))} | arrays


def f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """`micro_f1` (one label each: the share of right ones) and `macro_f1`, the mean over classes."""
    from sklearn.metrics import f1_score

    macro = f1_score(labels, predictions, labels=range(classes), average="macro", zero_division=0)  # pyright: ignore
    return {"micro_f1": float(np.mean(labels == predictions)), "macro_f1": float(macro)}


@torch.no_grad()
def predict(model: TokenTagger, part: Encoded, *, batch: int = 32) -> np.ndarray:
    """The label of every sentence, in order; documents of similar length at a time."""
    model.eval()
    order = part.lengths.argsort(stable=True)
    answers = torch.full_like(part.targets, IGNORED)
    with mixed_precision():
        for rows in order.split(batch):
            longest = int(part.lengths[rows].max())
            logits = model(part.ids[rows, :longest], mask=part.mask[rows, :longest])
            answers[rows, :longest] = logits.argmax(-1)
    return answers[part.targets != IGNORED].numpy()


# Recall --------------------------------------------------------------------------------------------------------------


def train_and_probe(
    arm: str, sizes: Sizes, schooling: Schooling, *, symbols: int, steps: int, batch: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Learn to recall, then ask at all distances.

    Returns:
        `recall`, share of right answers; `by_distance` (bins,), the same where the distance is at most 8, 16, .. 512
        and above the bin before (NaN: none asked); and `parameters`, `steps`, `examples`.
    """
    torch.manual_seed(seed)
    model = build_tagger(arm, sizes, vocabulary=3 * symbols, classes=symbols)
    recipe = Recipe(
        partial(adamw, lr=schooling.rate, weight_decay=0.0),
        schedule=warmup_linear(steps, max(1, steps // 10)),
        clip=schooling.clip,
    )
    result = fit(
        model, _recall_loss, Recall(symbols=symbols, length=sizes.length, batch=batch, seed=seed), recipe=recipe,
        budget=Budget(steps=steps), seed=seed, progress=progress,
        fabric=make_fabric(devices=1, accelerator="cpu", precision="mixed"),
    )  # fmt: skip
    asked = Recall(symbols=symbols, length=sizes.length, batch=64, seed=seed + 1_000_003)
    model.eval()
    with torch.no_grad():
        pairs = [_answer(model, asked(position)) for position in range(8)]
    right, distance = (torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
    place = np.searchsorted(REACHES, distance)
    with np.errstate(invalid="ignore"):
        by_distance = np.bincount(place, right, minlength=len(REACHES)) / np.bincount(place, minlength=len(REACHES))
    return {
        "recall": float(right.mean()),
        "by_distance": by_distance,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": result.steps,
        "examples": result.steps * batch,
    }


def _recall_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["ids"])[:, -1].float(), batch["value"])


def _answer(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return (model(batch["ids"])[:, -1].argmax(-1) == batch["value"]).double(), batch["distance"]


# One sublayer against length -----------------------------------------------------------------------------------------


def time_sublayers(arms: tuple[str, ...], sizes: Sizes, *, rounds: int, seed: int) -> dict[str, float]:
    """Forward and backward of one attention sublayer of each arm at `sizes.length`, interleaved.

    Returns:
        `{arm}_ms`, the median, and `{arm}_bytes` held at once.
    """
    torch.manual_seed(seed)
    x = torch.randn(1, sizes.length, sizes.dim, requires_grad=True)
    steps = {arm: _step(ARMS[arm](sizes), x) for arm in arms}
    for step in steps.values():
        step()
    times = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms if number % 2 else arms[::-1]:
            start = time.perf_counter()
            steps[arm]()
            times[arm].append(time.perf_counter() - start)
    found = {f"{arm}_ms": float(np.median(times[arm]) * 1e3) for arm in arms}
    return found | {f"{arm}_bytes": float(peak_bytes(steps[arm])) for arm in arms}


def _step(mixer: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        mixer.zero_grad(set_to_none=True)
        x.grad = None
        mixer(x).sum().backward()

    return step
