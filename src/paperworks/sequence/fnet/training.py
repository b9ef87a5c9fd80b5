"""Training and testing one arm of the study."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.data.tokenization import UNK
from paperworks.lab.baseline import is_baseline, load_baseline
from paperworks.lab.study import Progress
from paperworks.nn import BlockOptions, MixerEncoder, SequenceClassifier, TextEmbedding
from paperworks.sequence.fnet import arms
from paperworks.sequence.fnet.classifier import TextClassifier
from paperworks.sequence.fnet.texts import Encoded, Task, drop_tokens
from paperworks.train import (
    Budget,
    EpochBatches,
    Evaluation,
    Recipe,
    adamw,
    fit,
    make_fabric,
    mixed_precision,
    warmup_linear,
)

MIXERS: dict[str, Callable[..., arms.LayerFactory]] = {
    "attention": arms.make_attention_mixer,
    "fourier": arms.make_fourier_mixer,
    "hybrid": arms.make_hybrid_mixer,
    "linear": arms.make_linear_mixer,
    "random": arms.make_random_mixer,
    "ff_only": arms.make_identity_mixer,
    "bag": arms.make_identity_mixer,
}


@dataclass(frozen=True)
class Arm:
    """One arm's model and training, in numbers."""

    arm: str
    width: int
    depth: int
    heads: int
    ffn_ratio: int
    dropout: float
    token_dropout: float
    rate: float
    weight_decay: float
    warmup: float
    clip: float
    batch: int
    epochs: float
    passages: int


@dataclass(frozen=True)
class Blueprint:
    """What a model must know of its task."""

    classes: int
    vocabulary: int
    length: int


def blueprint(task: Task) -> Blueprint:
    return Blueprint(len(task.classes), task.tokenizer.vocab_size, task.length)


def build_model(arm: Arm, task: Blueprint) -> SequenceClassifier:
    """The arm's classifier: equal embedding, depth and head for all; only the mixer differs, and `bag` pools the mean.

    Raises:
        ValueError: no such arm.
    """
    if is_baseline(arm.arm):
        make = load_baseline(arm.arm)
    elif arm.arm in MIXERS:
        make = MIXERS[arm.arm]
    else:
        raise ValueError(f"arms: expected some of {', '.join(MIXERS)} or file.py:function, got {arm.arm!r}")
    mixer = make(arm.width, heads=arm.heads, length=task.length)
    block = BlockOptions(ffn_dim=arm.ffn_ratio * arm.width, dropout=arm.dropout)
    encoder = MixerEncoder(mixer, dim=arm.width, depth=arm.depth, block=block)
    embedding = TextEmbedding(task.vocabulary, arm.width, max_length=task.length, dropout=arm.dropout)
    pooling = "mean" if arm.arm == "bag" else "cls"
    return SequenceClassifier(embedding, encoder, num_classes=task.classes, pooling=pooling)


def train_and_test(arm: Arm, task: Task, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Train on the task's train part, look at dev after every epoch, test once.

    Returns:
        Scalars (`accuracy`, `macro_f1`, `dev_accuracy`, `parameters`, `macs`, `steps`, `examples`, ...) and arrays
        (`predictions` of the test part and which are `correct`; `curve`: seconds and dev accuracy after each epoch).
    """
    torch.manual_seed(seed)
    model = build_model(arm, blueprint(task))
    encoder: Any = model.encoder
    train = _take(task.train, arm.passages)
    batches = EpochBatches({"ids": train.ids, "mask": train.mask, "labels": train.labels}, size=arm.batch, seed=seed)
    steps = math.ceil(arm.epochs * len(batches))
    recipe = Recipe(
        partial(adamw, lr=arm.rate, weight_decay=arm.weight_decay),
        schedule=warmup_linear(steps, max(1, round(arm.warmup * steps))),
        clip=arm.clip,
    )
    fabric = make_fabric(devices=1, precision="mixed")
    result = fit(
        model,
        _loss(arm.token_dropout, UNK, torch.Generator().manual_seed(seed)),
        batches,
        recipe=recipe,
        budget=Budget(steps=steps),
        seed=seed,
        evaluation=Evaluation(partial(_accuracy, part=task.dev), every=len(batches)),
        progress=progress,
        fabric=fabric,
    )
    logits = predict(model, task.test)
    predictions = logits.argmax(-1)
    if task.own:
        TextClassifier(model, task.tokenizer, task.classes, task.length, vars(arm)).save(progress.folder)
    return {
        "accuracy": _share(predictions == task.test.labels),
        "macro_f1": macro_f1(task.test.labels.numpy(), predictions.numpy(), len(task.classes)),
        "test_loss": float(F.cross_entropy(logits, task.test.labels)),
        "dev_accuracy": float(_accuracy(model, part=task.dev)["accuracy"]),
        "majority": task.majority(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": encoder.flops(task.length) / 2,
        "steps": result.steps,
        "examples": result.steps * arm.batch,
        "train_seconds": result.seconds,
        "recalls": recalls(task.test.labels.numpy(), predictions.numpy(), len(task.classes)),
        "class_names": "\x1f".join(task.classes),
        "predictions": predictions.numpy().astype(np.int16),
        "correct": (predictions == task.test.labels).numpy().astype(np.uint8),
        "curve": np.array([(step / steps, values["accuracy"]) for step, values in result.evaluations]),
    }


def _take(part: Encoded, count: int) -> Encoded:
    return part if count == 0 else Encoded(part.ids[:count], part.mask[:count], part.labels[:count])


def _loss(share: float, unknown: int, generator: torch.Generator) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        ids = drop_tokens(batch["ids"], batch["mask"], share=share, unknown=unknown, generator=generator)
        return F.cross_entropy(model(ids, mask=batch["mask"]).float(), batch["labels"])

    return loss


def _accuracy(model: nn.Module, *, part: Encoded) -> dict[str, float]:
    return {"accuracy": _share(predict(model, part).argmax(-1) == part.labels)}


def _share(correct: Tensor) -> float:
    return float(correct.float().mean())


@torch.no_grad()
def predict(model: nn.Module, part: Encoded, *, batch: int = 256) -> Tensor:
    """Logits (N, classes) in float32, the model in eval mode."""
    model.eval()
    with mixed_precision():
        pieces = [
            model(part.ids[start : start + batch], mask=part.mask[start : start + batch]).float()
            for start in range(0, len(part), batch)
        ]
    return torch.cat(pieces)


def macro_f1(truth: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Mean over the classes of their F1 (0 for a class that is neither there nor predicted)."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predictions, labels=range(classes), average="macro", zero_division=0))  # pyright: ignore[reportArgumentType]


def recalls(truth: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class's texts that are labelled right: (classes,); NaN for a class without test texts."""
    with np.errstate(invalid="ignore"):
        right = np.bincount(truth[truth == predictions], minlength=classes)
        return right / np.bincount(truth, minlength=classes)
