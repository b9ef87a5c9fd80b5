"""SSL-HSIC as a method of self-supervised learning, for `fit_self_supervised`.

    with a target:  views = q(v1), q(v2), sg z'(v2), sg z'(v1)      M = 4, q = predictor(projector(backbone)), z' target
    without:        views = z(v1), z(v2)                            M = 2, z = projector(backbone)

each of unit length; every pair of views of one image is a positive. After the optimiser's step the target follows,
theta' <- m theta' + (1 - m) theta with m from `momentum` to 1 by a cosine, and the kernel's width by a rule of its own.

Reference: Li et al. 2021, arXiv 2106.08320, section 3.3 and appendix; order of the views as in the official code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from paperworks.nn.mlp_head import MLPHead
from paperworks.nn.momentum_twin import MomentumTwin
from paperworks.representation.ssl_hsic.loss import HsicTerms, ssl_hsic_loss
from paperworks.representation.ssl_hsic.width import KernelWidth
from paperworks.train.contrast import check_views, cosine_momentum, features_of, resolve_backbone, unit_rows
from paperworks.train.gather import gather_rows

SOLVE_EVERY = 10


class SslHsicOutput(NamedTuple):
    """The loss, its two parts (scalars), and what it compared: unit rows (M, B, D), of all processes."""

    loss: Tensor
    hsic_zy: Tensor
    hsic_zz: Tensor
    views: Tensor


class SSLHSIC(nn.Module):
    """Backbone, heads, target and kernel width under `ssl_hsic_loss`.

    Args:
        backbone: images -> features (B, F), a module or the name of a timm model.
        feature_dim: F; None: the backbone's `num_features`.
        target: compare with a target network too. It starts with random weights of its own where layers have
            `reset_parameters`, as in the official code, and its batch norm's statistics are its own.
        gamma: weight of the regulariser sqrt(HSIC(Z, Z)).
        width: of the kernel. "adam": one step of Adam uphill after each step, as in the paper (short runs barely move
            it); "solve": the batch's optimum, at the first and every tenth step; a number: fixed.
        momentum: m_0 of the target.
        projector: widths after the input, the last is the output.
        predictor: the same, ending in the projector's width; `()`: none. None: (4096, 256) with a target (of the
            projector's width where that is another), none without.
        average: constant momentum of a further average of the backbone, which `embed` then uses in evaluation mode
            (the paper: 0.999, of use in long runs); None: no average.
        objective: called as `objective(views, gamma=, c=, validate=False, generator=)`, such as
            `partial(ssl_hsic_loss, estimator="features", features=2048)`.

    Raises:
        ValueError: a number out of range, heads that do not fit, an unknown rule for the width.

    With several processes the features of all are compared, under the same draw of frequencies. `forward` moves
    nothing but statistics of batch norm. The released configuration has no run without target; whether the paper's
    passed the predictor is not known, so both can be built.
    """

    updates: Tensor
    draw_seed: Tensor

    def __init__(
        self,
        backbone: nn.Module | str,
        *,
        feature_dim: int | None = None,
        target: bool = True,
        gamma: float = 3.0,
        width: Literal["adam", "solve"] | float = "adam",
        momentum: float = 0.99,
        projector: Sequence[int] = (4096, 256),
        predictor: Sequence[int] | None = None,
        average: float | None = None,
        objective: Callable[..., HsicTerms] = ssl_hsic_loss,
    ):
        super().__init__()
        _check(gamma, width, momentum, average)
        backbone, features = resolve_backbone(backbone, feature_dim)
        self.online = nn.ModuleDict({"backbone": backbone, "projector": MLPHead((features, *projector))})
        self.predictor = _predictor(projector[-1], predictor, target)
        self.target = MomentumTwin(self.online, buffers="own") if target else None
        if self.target is not None:
            _draw_anew(self.target.module)
        self.average = None if average is None else MomentumTwin(backbone, buffers="ema")
        self.average_momentum = average
        self.width = KernelWidth(1.0 if isinstance(width, str) else width)
        self.width_rule: str = width if isinstance(width, str) else "fixed"
        self.gamma, self.momentum, self.objective = gamma, momentum, objective
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("draw_seed", torch.randint(2**40, ()))

    def before_step(self, progress: float) -> None:
        """Nothing to do: target and width move after the step."""

    def forward(self, view1: Tensor, view2: Tensor) -> SslHsicOutput:
        check_views(view1, view2)
        views = [self._predict(self._project(self.online, view)) for view in (view1, view2)]
        if self.target is not None:
            with torch.no_grad():
                views += [self._project(self.target.module, view) for view in (view2, view1)]
        # Processes hold different images: the batch is what is gathered, once for all views.
        rows = torch.stack([unit_rows(view) for view in views], dim=1)
        together = gather_rows(rows).transpose(0, 1)
        terms = self.objective(
            together, gamma=self.gamma, c=self.width.width, validate=False, generator=self._generator(0)
        )
        return SslHsicOutput(*terms, together)

    def after_step(self, output: Any, progress: float) -> None:
        """Move the target, the average and the width."""
        if self.target is not None:
            self.target.update(cosine_momentum(self.momentum, progress))
        if self.average is not None and self.average_momentum is not None:
            self.average.update(self.average_momentum)
        rows = output.views.detach().flatten(0, 1)
        if self.width_rule == "adam":
            self.width.step(rows, generator=self._generator(1))
        elif self.width_rule == "solve" and int(self.updates) % SOLVE_EVERY == 0:
            self.width.solve(rows, generator=self._generator(1))
        self.updates += 1

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, F) of the online backbone, or of its average."""
        averaged = self.average is not None and not self.training
        return features_of(self.average.module if averaged else self.online["backbone"], images)  # pyright: ignore[reportOptionalMemberAccess]

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, width={self.width_rule}, momentum={self.momentum:g}"

    def _project(self, network: Any, view: Tensor) -> Tensor:
        return network["projector"](features_of(network["backbone"], view))

    def _predict(self, projected: Tensor) -> Tensor:
        return projected if self.predictor is None else self.predictor(projected)

    def _generator(self, use: int) -> torch.Generator:
        """The step's own random numbers: alike in all processes, whatever else they draw."""
        return torch.Generator().manual_seed(int(self.draw_seed) + 2 * int(self.updates) + use)


def _predictor(width: int, widths: Sequence[int] | None, target: bool) -> MLPHead | None:
    if widths is None:
        widths = (4096, width) if target else ()
    if not widths:
        return None
    if widths[-1] != width:
        raise ValueError(f"predictor: must end in the projector's width {width}, got {widths[-1]}")
    return MLPHead((width, *widths))


def _draw_anew(module: nn.Module) -> None:
    for part in module.modules():
        reset: Any = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()


def _check(gamma: float, width: Any, momentum: float, average: float | None) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma: must be >= 0, got {gamma:g}")
    if isinstance(width, str) and width not in ("adam", "solve"):
        raise ValueError(f"width: expected adam, solve or a positive number, got {width!r}")
    if not isinstance(width, str) and not width > 0:
        raise ValueError(f"width: expected adam, solve or a positive number, got {width}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum: expected a number in [0, 1], got {momentum}")
    if average is not None and not 0 <= average <= 1:
        raise ValueError(f"average: expected a number in [0, 1] or None, got {average}")
