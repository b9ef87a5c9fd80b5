"""Training one arm of the study, and measuring it: errors, multiply-adds, active positions, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.data.depth import DepthPairs
from paperworks.lab.study import Progress
from paperworks.train import Budget, EpochBatches, Recipe, adamw, fit, make_fabric, warmup_cosine
from paperworks.vision.wavelet_depth.checkpoint import Blueprint, save_model
from paperworks.vision.wavelet_depth.decoder import WaveletDepthOutput, large_coefficients
from paperworks.vision.wavelet_depth.haar import haar_dwt2d, haar_idwt2d
from paperworks.vision.wavelet_depth.losses import coefficient_loss, multiscale_depth_loss
from paperworks.vision.wavelet_depth.metrics import depth_edge_error, depth_metrics
from paperworks.vision.wavelet_depth.model import WaveletDepthModel, disp_to_depth

BINS = np.linspace(-6, 0, 49)


@dataclass(frozen=True)
class Training:
    """How an arm is trained and measured; the same for all arms."""

    steps: int
    batch: int
    rate: float
    weight_decay: float
    warmup: int
    clip: float
    thresholds: tuple[float, ...]
    probe: int
    rounds: int
    keep: bool
    supervise: bool = False


def train_and_test(
    blueprint: Blueprint, training: Training, train: DepthPairs, test: DepthPairs, *, seed: int, progress: Progress
) -> dict[str, Any]:
    """Train a model on pictures with depth and test it, densely and, for wavelets, at every threshold."""
    torch.manual_seed(seed)
    model = blueprint.build().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batches = EpochBatches(
        {"images": torch.from_numpy(train.images), "depths": torch.from_numpy(train.depths)},
        size=training.batch,
        seed=seed,
    )
    recipe = Recipe(
        partial(adamw, lr=training.rate, weight_decay=training.weight_decay),
        schedule=warmup_cosine(training.steps, min(training.warmup, training.steps - 1)),
        clip=training.clip,
    )
    result = fit(
        model,
        partial(_loss, supervise=training.supervise),
        batches,
        recipe=recipe,
        budget=Budget(steps=training.steps),
        seed=seed,
        progress=progress,
        fabric=make_fabric(devices=1, accelerator="cpu"),
    )
    if training.keep:
        save_model(progress.folder / "model.pt", model, blueprint)
    model.eval()
    values = {
        "parameters": sum(p.numel() for p in model.decoder.parameters()),
        "steps": result.steps,
        "examples": result.steps * training.batch,
        "train_seconds": result.seconds,
        "curve": np.array(result.losses, dtype=np.float32),
    }
    values |= evaluate(model, test)
    if blueprint.decoder == "wavelet":
        values |= at_thresholds(model, training, train, test)
    else:
        values |= {"decoder_ms": measure_latency([lambda f: model.decoder(f)], model, test, training.rounds)[0]}
    return values


def to_images(pictures: np.ndarray) -> Tensor:
    """(B, 3, H, W) in [0, 1], channels last."""
    return (torch.from_numpy(np.ascontiguousarray(pictures)).float() / 255).to(memory_format=torch.channels_last)


def _loss(model: WaveletDepthModel, batch: dict[str, Tensor], *, supervise: bool) -> Tensor:
    images = (batch["images"].float() / 255).to(memory_format=torch.channels_last)
    depth = batch["depths"][:, None]
    output = model(images)
    loss = multiscale_depth_loss(output.maps, depth, to_depth=model.to_depth)
    if supervise and isinstance(output, WaveletDepthOutput):
        _, truths = haar_dwt2d(to_disparity(depth, model.min_depth, model.max_depth), levels=len(output.details))
        loss = loss + coefficient_loss(output.details, truths)
    return loss


def to_disparity(depth: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """The inverse of `disp_to_depth`, cut to [0, 1]."""
    return ((1 / depth - 1 / max_depth) / (1 / min_depth - 1 / max_depth)).clamp(0, 1)


@torch.no_grad()
def evaluate(model: WaveletDepthModel, test: DepthPairs, *, threshold: float | None = None) -> dict[str, Any]:
    """Errors over the test pictures and multiply-adds of the decoder per picture; shares of active positions by level.

    One picture at a time where the execution depends on the picture, since the choice between dense and sparse is one
    for a whole batch.
    """
    size = 16 if threshold is None else 1
    depths, macs, shares = [], 0, []
    for start in range(0, len(test), size):
        depth, output = model.inspect(to_images(test.images[start : start + size]), threshold)
        depths.append(depth[:, 0])
        macs += output.macs
        if isinstance(output, WaveletDepthOutput):
            shares.append([float(mask.float().mean()) for mask in output.masks])
    errors = score(torch.cat(depths).numpy(), test.depths)
    found: dict[str, Any] = errors | {"macs": macs / len(test)}
    return found | ({"shares": np.mean(shares, 0)} if shares and threshold is not None else {})


def score(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """abs_rel, rmse, d1 and, where depth has no holes, the edge error."""
    metrics = depth_metrics(pred, truth)
    found = {name: metrics[name] for name in ("abs_rel", "rmse", "d1")}
    full = (truth > 0).all(axis=(1, 2))
    try:
        edges = depth_edge_error(pred[full], truth[full])["edge_error"] if full.any() else float("nan")
    except ValueError:
        edges = float("nan")
    return found | {"edge_error": edges}


def at_thresholds(model: WaveletDepthModel, training: Training, train: DepthPairs, test: DepthPairs) -> dict[str, Any]:
    """The same weights executed sparsely: test errors, multiply-adds on test and on some training pictures, time."""
    decoder: Any = model.decoder
    # Sparse wherever it saves multiply-adds, whatever that does to time: both are reported.
    before = decoder.break_even, decoder.overhead
    decoder.break_even, decoder.overhead = 1.0, 0.0
    probe = train.take(np.linspace(0, len(train) - 1, min(training.probe, len(train))).round().astype(int))
    rows = [evaluate(model, test, threshold=t) for t in training.thresholds]
    probed = [mean_macs(model, probe, t) for t in training.thresholds]
    calls: list[Callable[[list[Tensor]], Any]] = [lambda f: decoder(f)]
    calls += [lambda f, t=t: decoder(f, threshold=t) for t in training.thresholds]
    times = measure_latency(calls, model, test, training.rounds)
    decoder.break_even, decoder.overhead = before
    names = ("abs_rel", "rmse", "d1", "edge_error", "macs", "shares")
    return {
        "thresholds": np.array(training.thresholds),
        **{f"{name}_t": np.array([row[name] for row in rows]) for name in names},
        "macs_probe_t": np.array(probed),
        "decoder_ms": times[0],
        "decoder_ms_t": np.array(times[1:]),
        "histogram": coefficient_histogram(model, test),
        **example(model, test, training.thresholds),
    }


@torch.no_grad()
def mean_macs(model: WaveletDepthModel, pairs: DepthPairs, threshold: float) -> float:
    """Multiply-adds of the decoder per picture, counted one picture at a time."""
    return float(np.mean([model.inspect(to_images(image[None]), threshold)[1].macs for image in pairs.images]))


@torch.no_grad()
def measure_latency(
    calls: list[Callable[[list[Tensor]], Any]], model: WaveletDepthModel, test: DepthPairs, rounds: int
) -> list[float]:
    """Milliseconds of a decoder for one picture, one thread: medians over rounds in which the calls take turns.

    Processor time of this thread, so that other work on the machine counts as little as it can.
    """
    from paperworks.vision.wavelet_depth.encoder import normalise

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = np.empty((rounds, len(calls)))
    try:
        for number in range(rounds):
            image = to_images(test.images[number % len(test)][None])
            maps = model.encoder(normalise(image))
            for place, call in enumerate(calls):
                call(maps)
                start = time.thread_time()
                call(maps)
                times[number, place] = (time.thread_time() - start) * 1e3
    finally:
        torch.set_num_threads(threads)
    return np.median(times, axis=0).tolist()


@torch.no_grad()
def coefficient_histogram(model: WaveletDepthModel, test: DepthPairs) -> np.ndarray:
    """(2, levels, bins): positions by log10 of the largest coefficient over the low-pass range; ours, then the true."""
    counts = np.zeros((2, 4, len(BINS) - 1))
    for start in range(0, min(len(test), 64), 16):
        _, output = model.inspect(to_images(test.images[start : start + 16]))
        assert isinstance(output, WaveletDepthOutput)
        truth = torch.from_numpy(test.depths[start : start + 16])[:, None]
        pyramid: list[tuple[Tensor, Sequence[Tensor]]] = [(output.ll, output.details)]
        if bool((truth > 0).all()) and not any(side % 16 for side in truth.shape[2:]):
            pyramid.append(haar_dwt2d(to_disparity(truth, model.min_depth, model.max_depth), levels=4))
        for kind, (ll, details) in enumerate(pyramid):
            for level in reversed(range(len(details))):
                ll = haar_idwt2d(ll, details[level])
                counts[kind, level] += np.histogram(_relative(details[level], ll), BINS)[0]
    return counts


def _relative(detail: Tensor, ll: Tensor) -> np.ndarray:
    spread = ll.flatten(1).amax(1) - ll.flatten(1).amin(1)
    size = detail.abs().amax((1, 2)) / spread[:, None, None]
    return size.clamp(1e-6, 1).log10().numpy().ravel()


def example(model: WaveletDepthModel, test: DepthPairs, thresholds: tuple[float, ...]) -> dict[str, Any]:
    """The first test picture, its depth, and how many levels were evaluated at each pixel for some thresholds."""
    chosen = thresholds[1:4] or thresholds
    image = to_images(test.images[:1])
    depth, _ = model.inspect(image)
    levels = []
    for threshold in chosen:
        _, output = model.inspect(image, threshold)
        assert isinstance(output, WaveletDepthOutput)
        levels.append(evaluated_levels(output.masks, test.images.shape[2:]))
    return {
        "example_image": test.images[0],
        "example_truth": test.depths[0],
        "example_depth": depth[0, 0].numpy().astype(np.float32),
        "example_levels": np.stack(levels),
        "example_thresholds": np.array(chosen),
    }


def evaluated_levels(masks: list[Tensor], size: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8: how many levels had coefficients at a pixel of the first picture; `masks` finest first."""
    total = np.zeros(size, np.uint8)
    for level, mask in enumerate(masks, 1):
        full = mask[0].repeat_interleave(2**level, 0).repeat_interleave(2**level, 1)
        total += full[: size[0], : size[1]].numpy().astype(np.uint8)
    return total


# What needs no training -----------------------------------------------------------------------------------------------


def best_constant_map(train: DepthPairs, test: DepthPairs) -> dict[str, float]:
    """Errors of the best prediction that does not look at the picture: the mean log depth at each pixel."""
    valid = train.depths > 0
    logs = np.where(valid, np.log(np.where(valid, train.depths, 1.0)), 0.0).sum(0)
    seen = valid.sum(0)
    mean = logs / np.maximum(seen, 1)
    mean = np.exp(np.where(seen > 0, mean, logs.sum() / max(seen.sum(), 1)))
    return score(np.broadcast_to(mean, test.depths.shape), test.depths)


def oracle(test: DepthPairs, thresholds: tuple[float, ...], min_depth: float, max_depth: float) -> dict[str, Any]:
    """The true map's own coefficients under the same thresholds: what sparsity the pictures allow."""
    height, width = (side - side % 16 for side in test.depths.shape[1:])
    depth = torch.from_numpy(test.depths[:, None, :height, :width])
    full = (depth > 0).flatten(1).all(1)
    if not bool(full.any()):
        return {}
    depth = depth[full]
    ll, details = haar_dwt2d(to_disparity(depth, min_depth, max_depth), levels=4)
    errors, shares = [], []
    for threshold in thresholds:
        low, masks = ll, []
        mask = torch.ones_like(details[3][:, 0, 0], dtype=torch.bool)
        for detail in reversed(details):
            kept = detail * mask[:, None, None]
            low = haar_idwt2d(low, kept)
            masks.append(float(mask.float().mean()))
            large = large_coefficients(kept, low, torch.full((len(low),), threshold))
            mask = large.repeat_interleave(2, 1).repeat_interleave(2, 2)
        rebuilt = disp_to_depth(low.clamp(0, 1), min_depth, max_depth)
        errors.append(depth_metrics(rebuilt.numpy(), depth.numpy())["abs_rel"])
        shares.append(masks[::-1])
    return {"abs_rel_t": np.array(errors), "shares_t": np.array(shares), "thresholds": np.array(thresholds)}


def haar_sparsity(pairs: DepthPairs, share: float = 0.05) -> np.ndarray:
    """(levels,) finest first: positions whose largest coefficient exceeds `share` of the range of LL at its level."""
    height, width = (side - side % 16 for side in pairs.depths.shape[1:])
    depth = torch.from_numpy(pairs.depths[:, None, :height, :width])
    found = []
    ll = depth
    for _ in range(4):
        ll, detail = haar_dwt2d(ll)
        spread = ll.flatten(1).amax(1) - ll.flatten(1).amin(1)
        found.append(float((detail.abs().amax((1, 2)) > share * spread[:, None, None]).float().mean()))
    return np.array(found)
