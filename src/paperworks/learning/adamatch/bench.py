"""Workloads of `paperworks bench adamatch`: CTAugment against PIL, and a training step against the plain way to do it.

PIL's side applies the same policies image by image, as the published code does. The plain step is what PyTorch ports
compute (two whole passes in float32, contiguous), corrected so that the loss is the same. One row gives a share rather
than a peer: how much of a step the loss code is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.learning.adamatch.ctaugment import CTAugment, Policy
from paperworks.learning.adamatch.loss import DistributionAverages, adamatch_loss, mu_schedule
from paperworks.learning.adamatch.method import AdaMatch, interleave
from paperworks.learning.adamatch.networks import StemBody, cnn5, wide_resnet
from paperworks.train.batch_statistics import frozen_batch_statistics
from paperworks.train.devices import multiplies_bfloat16

Call = Callable[[], Any]
CLASSES = 10
# 8-bit rounding between PIL's operations, and its own interpolation.
_LIKE_PIL = 6 / 255
_LIKE_BFLOAT16 = 0.05


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [
            _augmentation(32, target=None, rounds=2),
            _step("cnn5, 16 pixels, n = 4, u = 3", partial(cnn5, CLASSES), (4, 3, 1, 16), low=False, rounds=2),
        ]
    wide, low = partial(wide_resnet, CLASSES), multiplies_bfloat16()
    return [
        _augmentation(512, target=5.0, rounds=5),
        _step("cnn5, 16 pixels, n = 32, u = 3", partial(cnn5, CLASSES), (32, 3, 1, 16), low=False, rounds=9),
        _step("WRN-28-2, 32 pixels, n = 8, u = 1", wide, (8, 1, 3, 32), low=low, target=2.0, rounds=3),
        _step("WRN-28-2, 32 pixels, n = 8, u = 3", wide, (8, 3, 3, 32), low=low, target=2.0, rounds=3),
        _loss_share(),
    ]


def growth() -> list[Growth]:
    """Linear in the batch."""
    return [Growth("cnn5, step, n images", (8, 16, 32, 64), _growing, limit=1.15)]


# CTAugment -----------------------------------------------------------------------------------------------------------


def _augmentation(count: int, *, target: float | None, rounds: int) -> Workload:
    images = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augment = CTAugment(tuple(name for name in CTAugment().rates if name not in ("cutout", "rescale")))
    policy = augment.sample(count, probe=True, generator=torch.Generator().manual_seed(1))
    names = [operation.name for operation in augment.operations]

    def ours() -> Call:
        return lambda: augment.apply(images, policy)

    def theirs() -> Call:
        return lambda: _by_pil(images, policy, names)

    return Workload(
        f"CTAugment, {count} x 3 x 32 x 32, depth 2",
        Contender("CTAugment", ours),
        (Contender("PIL, image by image", theirs, requires="PIL"),),
        _like_pil,
        target=target,
        rounds=rounds,
        note="without cutout and rescale, whose places and filters PIL's side would draw by itself",
    )


def _by_pil(images: Tensor, policy: Policy, names: list[str]) -> Tensor:
    from PIL import Image

    done = []
    for pixels, chosen, levels in zip(images, policy.chosen.tolist(), policy.levels[..., 0].tolist(), strict=True):
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        for index, level in zip(chosen, levels, strict=True):
            picture = _PIL_OPERATIONS[names[index]](picture, level)
        done.append(np.asarray(picture))
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2).float() / 255


def _enhanced(name: str, picture: Any, level: float) -> Any:
    from PIL import ImageEnhance

    return getattr(ImageEnhance, name)(picture).enhance(0.1 + 1.9 * level)


def _blended(name: str, picture: Any, level: float) -> Any:
    from PIL import Image, ImageFilter, ImageOps

    kernel = getattr(ImageFilter, name, None)
    changed = picture.filter(kernel) if kernel else getattr(ImageOps, name)(picture)
    return Image.blend(picture, changed, level)


def _moved(rows: Callable[[float, int], tuple[float, ...]], picture: Any, level: float) -> Any:
    from PIL import Image

    side = picture.size[0]
    shape, how = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return picture.transform(picture.size, shape, rows(0.3 * (2 * level - 1), side), resample=how)


def _rotated(picture: Any, level: float) -> Any:
    from PIL import Image

    return picture.rotate(45 * (2 * level - 1), resample=Image.Resampling.BILINEAR)


def _posterized(picture: Any, level: float) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(picture, 1 + int(level * 7.999))


def _solarized(picture: Any, level: float) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(picture, int(level * 255.999))


_PIL_OPERATIONS: dict[str, Callable[[Any, float], Any]] = {
    "identity": lambda picture, level: picture,
    "brightness": partial(_enhanced, "Brightness"),
    "color": partial(_enhanced, "Color"),
    "contrast": partial(_enhanced, "Contrast"),
    "sharpness": partial(_enhanced, "Sharpness"),
    "autocontrast": partial(_blended, "autocontrast"),
    "equalize": partial(_blended, "equalize"),
    "invert": partial(_blended, "invert"),
    "blur": partial(_blended, "BLUR"),
    "smooth": partial(_blended, "SMOOTH"),
    "posterize": _posterized,
    "solarize": _solarized,
    "rotate": _rotated,
    "shear_x": partial(_moved, lambda amount, side: (1, amount, 0, 0, 1, 0)),
    "shear_y": partial(_moved, lambda amount, side: (1, 0, 0, amount, 1, 0)),
    "translate_x": partial(_moved, lambda amount, side: (1, 0, amount * side, 0, 1, 0)),
    "translate_y": partial(_moved, lambda amount, side: (1, 0, 0, 0, 1, amount * side)),
}


def _like_pil(ours: Tensor, theirs: Tensor) -> str | None:
    distance = float((ours - theirs).abs().mean())
    return None if distance < _LIKE_PIL else f"mean difference {255 * distance:.1f} of 255"


# A step --------------------------------------------------------------------------------------------------------------


def _step(
    name: str,
    build: Callable[[], StemBody],
    sizes: tuple[int, int, int, int],
    *,
    low: bool,
    target: float | None = None,
    rounds: int,
) -> Workload:
    """Forward and backward of one batch; `low`: our side under bfloat16 autocast."""

    def ours() -> Call:
        method, batch = _method(build), _batch(*sizes)
        return partial(_ours, method, batch, low)

    def theirs() -> Call:
        torch.manual_seed(0)
        return partial(_plainly, build(), _batch(*sizes))

    def agree(one: tuple[float, float], other: tuple[float, float]) -> str | None:
        # In bfloat16 masks near the threshold may flip: the supervised part is compared.
        ours, theirs, limit = (one[1], other[1], _LIKE_BFLOAT16) if low else (one[0], other[0], 1e-4)
        return None if abs(ours - theirs) < limit * abs(theirs) else f"losses {ours:.5f} and {theirs:.5f}"

    return Workload(
        f"step, {name}" + (", bfloat16" if low else ""),
        Contender("AdaMatch", ours),
        (Contender("two whole passes, float32", theirs),),
        agree,
        target=target,
        rounds=rounds,
    )


def _method(build: Callable[[], StemBody]) -> AdaMatch:
    torch.manual_seed(0)
    model: Any = build().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return AdaMatch(model, CLASSES, unlabelled_ratio=None)


def _batch(n: int, ratio: int, channels: int, side: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    known, unknown = (
        [torch.rand(count, channels, side, side, generator=generator) for _ in range(2)] for count in (n, n * ratio)
    )
    return (*known, torch.arange(n) % CLASSES), tuple(unknown)


def _ours(method: AdaMatch, batch: tuple[Any, Any], low: bool) -> tuple[float, float]:
    method.zero_grad()
    method.averages = DistributionAverages(CLASSES)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        output = method.training_step(*batch, progress=0.5, generator=torch.Generator().manual_seed(1))
    output.loss.backward()
    return float(output.loss.detach()), float(output.supervised.detach())


def _plainly(model: StemBody, batch: tuple[Any, Any]) -> tuple[float, float]:
    (weak, strong, labels), target = batch
    model.zero_grad()
    known = interleave(weak, strong)
    with frozen_batch_statistics(model):
        alone = model(known)
    together = model(torch.cat([known, interleave(*target)]))
    output = adamatch_loss(
        alone, together, labels, len(labels), state=DistributionAverages(CLASSES), mu=mu_schedule(0.5),
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    output.loss.backward()
    return float(output.loss.detach()), float(output.supervised.detach())


def _loss_share() -> Workload:
    """The loss code, forward and backward, against the step that it is part of."""

    def ours() -> Call:
        logits = torch.randn(512, CLASSES, generator=torch.Generator().manual_seed(0), requires_grad=True)
        labels, state = torch.arange(64) % CLASSES, DistributionAverages(CLASSES)
        return lambda: adamatch_loss(logits[:128], logits, labels, 64, state=state, mu=1.0).loss.backward()

    def whole() -> Call:
        return partial(_ours, _method(partial(wide_resnet, CLASSES, repeat=1)), _batch(64, 3, 3, 32), False)

    return Workload(
        "share of the loss code in a step (1 / ratio), n = 64, u = 3, a network of a quarter of the depth",
        Contender("loss alone", ours),
        (Contender("whole step", whole),),
        lambda one, other: None,
        target=1 / 0.03,
        rounds=3,
    )


def _growing(n: int) -> Call:
    return partial(_ours, _method(partial(cnn5, CLASSES)), _batch(n, 3, 1, 16), False)
