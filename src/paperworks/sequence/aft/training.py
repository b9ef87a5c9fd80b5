"""Training one language model of the study, scoring the whole validation text, and timing one layer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.data.running_text import VOCABULARY, RunningText
from paperworks.lab.study import Progress
from paperworks.nn import BlockOptions, MixerLayer
from paperworks.sequence.aft.language import AFTConfig, AFTLanguageModel, make_mixer
from paperworks.testing import peak_bytes
from paperworks.train import Budget, Evaluation, Recipe, adamw, fit, make_fabric, warmup_cosine

SCORED = 64  # windows of one scoring batch
WATCHED = 200  # validation windows that are looked at while training; nothing depends on them


@dataclass(frozen=True)
class Lesson:
    """How an arm is trained."""

    mixer: str
    dim: int
    depth: int
    heads: int
    length: int
    window: int
    rate: float
    steps: int
    batch: int
    warmup: int
    decay: float
    clip: float
    dropout: float
    looks: int


class Windows:
    """Random windows of the training text, a function of the step alone; inputs and what follows each."""

    def __init__(self, text: RunningText, *, length: int, batch: int, seed: int) -> None:
        self.tokens, self.length, self.batch, self.seed = torch.from_numpy(text.train.copy()), length, batch, seed
        self.identity = f"{batch} windows of {length}, seed {seed}, {text.fingerprint[:8]}"

    def __call__(self, position: int) -> Tensor:
        rng = np.random.default_rng((self.seed, position))
        starts = rng.integers(len(self.tokens) - self.length, size=self.batch)
        return torch.stack([self.tokens[start : start + self.length + 1] for start in starts]).long()


def train_and_score(lesson: Lesson, text: RunningText, *, seed: int, progress: Progress, keep: bool) -> dict[str, Any]:
    """Train, then score all of the validation text.

    Returns:
        `bits`, per character over the validation text; `train_seconds`, `tokens_per_second`, `parameters`, `steps`,
        `examples` (tokens read), `streaming_ms` of one token, and `curve` (steps, bits a token on some windows,
        seconds).
    """
    torch.manual_seed(seed)
    config = AFTConfig(
        text.vocabulary,
        lesson.dim,
        lesson.depth,
        lesson.length,
        lesson.mixer,
        lesson.window,
        lesson.heads,
        lesson.dropout,
    )
    model = AFTLanguageModel(config)
    recipe = Recipe(
        partial(adamw, lr=lesson.rate, weight_decay=lesson.decay),
        schedule=warmup_cosine(lesson.steps, lesson.warmup),
        clip=lesson.clip,
    )
    some = _validation_windows(text, lesson.length)[:WATCHED]

    def watch(net: nn.Module) -> dict[str, float]:
        return {"bits": _nats(net, some) / int((some[:, 1:] >= 0).sum()) / math.log(2)}

    result = fit(
        model,
        _loss,
        Windows(text, length=lesson.length, batch=lesson.batch, seed=seed),
        recipe=recipe,
        budget=Budget(steps=lesson.steps),
        seed=seed,
        evaluation=Evaluation(watch, max(1, lesson.steps // lesson.looks)),
        progress=progress,
        fabric=make_fabric(devices=1, accelerator="cpu", precision="mixed"),
    )
    model.eval()
    if keep:
        model.save(progress.folder)
        if text.tokenizer is not None:
            text.tokenizer.save(progress.folder / "tokenizer.json")
    seconds = result.seconds
    looks = [(step, values["bits"], seconds * step / result.steps) for step, values in result.evaluations]
    return {
        "bits": bits_per_character(model, text, lesson.length),
        "train_seconds": seconds,
        "tokens_per_second": lesson.steps * lesson.batch * lesson.length / seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": result.steps,
        "examples": result.steps * lesson.batch * lesson.length,
        "streaming_ms": streaming_ms(model),
        "curve": np.array(looks),
    }


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def _validation_windows(text: RunningText, length: int) -> Tensor:
    """(n, length + 1), each beginning with the last token of the one before; the last is filled up with -1."""
    content = torch.from_numpy(text.validation.copy()).long()
    count = -(-(len(content) - 1) // length)
    padded = F.pad(content, (0, count * length + 1 - len(content)), value=-1)
    return padded.unfold(0, length + 1, length)


@torch.no_grad()
def _nats(model: nn.Module, windows: Tensor) -> float:
    """Summed negative log-probability of everything but each window's first token."""
    total = 0.0
    for part in windows.split(SCORED):
        logits = model(part[:, :-1].clamp(min=0)).float().flatten(0, 1)
        total += float(F.cross_entropy(logits, part[:, 1:].flatten(), ignore_index=-1, reduction="sum"))
    return total


def bits_per_character(model: nn.Module, text: RunningText, length: int) -> float:
    """Over the whole validation text, in windows of `length` that start without a past; the first token is given."""
    return _nats(model, _validation_windows(text, length)) / math.log(2) / text.characters


@torch.no_grad()
def streaming_ms(model: AFTLanguageModel, *, tokens: int = 32) -> float:
    """Milliseconds to read one token and say what follows, one text, the median."""
    state, times = model.encoder.init_state(1), []  # pyright: ignore[reportCallIssue]
    for position in range(min(tokens, model.config.length)):
        start = time.perf_counter()
        x = model.embedding(torch.full((1, 1), 101), start=position)[:, 0]
        _, state = model.encoder.step(x, state)  # pyright: ignore[reportCallIssue]
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)


# One layer against length --------------------------------------------------------------------------------------------


def time_layers(
    mixers: tuple[str, ...], *, length: int, dim: int, heads: int, window: int, rounds: int, seed: int
) -> dict[str, float]:
    """Forward and backward of one layer of each mixer, interleaved: `{mixer}_ms`, `{mixer}_bytes` held at once, and
    `ratio_{mixer}`, the median of attention's time over it, round by round."""
    torch.manual_seed(seed)
    x = torch.randn(1, length, dim, requires_grad=True)
    steps = {name: _step(name, x, length=length, dim=dim, heads=heads, window=window) for name in mixers}
    for step in steps.values():
        step()
    times = {name: [] for name in mixers}
    for number in range(rounds):
        for name in mixers if number % 2 else mixers[::-1]:
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    found: dict[str, float] = {}
    for name in mixers:
        found[f"{name}_ms"] = float(np.median(times[name]) * 1e3)
        found[f"{name}_bytes"] = float(peak_bytes(steps[name]))
        if "attention" in times:
            found[f"ratio_{name}"] = float(np.median(np.array(times["attention"]) / np.array(times[name])))
    return found


def _step(name: str, x: Tensor, *, length: int, dim: int, heads: int, window: int) -> Callable[[], None]:
    config = AFTConfig(VOCABULARY, dim, 1, length, name, window, heads, 0.0)
    block = BlockOptions(ffn_dim=4 * dim, norm="pre", activation="gelu", dropout=0.0)
    layer = MixerLayer(make_mixer(config)(0), dim=dim, block=block)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x).sum().backward()

    return step
