"""Baselines of self-supervised learning, under the protocol of `fit_self_supervised`: SimCLR and BYOL.

infonce: l(i) = -log exp(<z_i, z_i'> / tau) / sum_j exp(<z_i, z_j> / tau), rows of unit length
byol:    |q_1 - z_2'|^2 + |q_2 - z_1'|^2 = 2 (1 - <q_1, z_2'>) + 2 (1 - <q_2, z_1'>), z' from the target, no gradient

Both views pass each network in calls of their own, so batch norm normalises them apart, as in BYOL and lightly;
the original SimCLR passes them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperworks.nn.mlp_head import MLPHead
from paperworks.nn.momentum_twin import MomentumTwin
from paperworks.train.gather import gather_rows


class ViewOutput(NamedTuple):
    """What SimCLR and BYOL return: the loss, and what it compared, unit rows (B, D) of the two views."""

    loss: Tensor
    z1: Tensor
    z2: Tensor


def infonce_loss(
    z1: Tensor, z2: Tensor, *, temperature: float, negatives: Literal["both", "across"] = "both"
) -> Tensor:
    """The InfoNCE loss, the mean over both directions.

    l = -1/2B sum_v sum_i log softmax_j(<z_i, z_j> / tau)[partner of i]

    Args:
        z1, z2: (B, D) each; normalised here, in float32 at least. Row i of one belongs to row i of the other.
        temperature: tau.
        negatives: "both": j runs over the 2B - 1 other rows of both views, NT-Xent of SimCLR; "across": over the B
            rows of the other view only, as in CLIP and (times 2 tau) in MoCo v3.

    Raises:
        ValueError: shapes that differ, a single row, a temperature that is not positive.

    Reference: van den Oord et al. 2018, arXiv 1807.03748; Chen et al. 2020, arXiv 2002.05709.
    """
    if z1.ndim != 2 or z1.shape != z2.shape or len(z1) < 2:
        raise ValueError(f"z1, z2: expected (batch of at least 2, dim) twice, got {tuple(z1.shape)}, {tuple(z2.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature: must be positive, got {temperature}")
    if negatives not in ("both", "across"):
        raise ValueError(f"negatives: expected both or across, got {negatives!r}")
    z1, z2 = unit_rows(z1), unit_rows(z2)
    batch = len(z1)
    partner = torch.arange(batch, device=z1.device)
    with torch.autocast(z1.device.type, enabled=False):
        if negatives == "across":
            logits = z1 @ z2.T / temperature
            return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
        rows = torch.cat([z1, z2])
        logits = (rows @ rows.T / temperature).fill_diagonal_(-math.inf)
        return F.cross_entropy(logits, torch.cat([partner + batch, partner]))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length one, in float32 at least: in bfloat16 their lengths would be off by a percent."""
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)


class SimCLR(nn.Module):
    """Backbone and projector under the InfoNCE loss (Chen et al. 2020, arXiv 2002.05709).

    Args:
        backbone: images -> features (B, F), a module or the name of a timm model.
        feature_dim: F; None: the backbone's `num_features`.
        projector: widths after the input, the last is the output.
        temperature: the paper's is 0.1 for long, 0.5 for short training.

    With several processes the features of all are compared.
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        *,
        feature_dim: int | None = None,
        projector: Sequence[int] = (2048, 128),
        temperature: float = 0.1,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: must be positive, got {temperature}")
        self.backbone, width = resolve_backbone(backbone, feature_dim)
        self.projector = MLPHead((width, *projector))
        self.temperature = temperature

    def before_step(self, progress: float) -> None:
        """Nothing to do."""

    def forward(self, view1: Tensor, view2: Tensor) -> ViewOutput:
        check_views(view1, view2)
        z1, z2 = (unit_rows(self.projector(features_of(self.backbone, view))) for view in (view1, view2))
        loss = infonce_loss(gather_rows(z1), gather_rows(z2), temperature=self.temperature)
        return ViewOutput(loss, z1, z2)

    def after_step(self, output: Any, progress: float) -> None:
        """Nothing to do."""

    def embed(self, images: Tensor) -> Tensor:
        """Features of the backbone."""
        return features_of(self.backbone, images)


class BYOL(nn.Module):
    """Predict the target network's projection of the other view, without negatives (Grill et al. 2020, 2006.07733).

    The target follows after each optimiser step with m_t = 1 - (1 - momentum) (cos(pi t / T) + 1) / 2, t counted from
    0; its batch norm's statistics are its own. It starts as a copy of the online network (the official code draws it
    anew). Views are compared in both directions.

    Args:
        backbone, feature_dim: as for `SimCLR`.
        projector, predictor: widths after the input, the last is the output; both end in the same width.
        momentum: m_0.
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        *,
        feature_dim: int | None = None,
        projector: Sequence[int] = (4096, 256),
        predictor: Sequence[int] = (4096, 256),
        momentum: float = 0.99,
    ):
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number in [0, 1], got {momentum}")
        if projector[-1] != predictor[-1]:
            raise ValueError(f"predictor: must end in the projector's width {projector[-1]}, got {predictor[-1]}")
        backbone, width = resolve_backbone(backbone, feature_dim)
        self.online = nn.ModuleDict({"backbone": backbone, "projector": MLPHead((width, *projector))})
        self.predictor = MLPHead((projector[-1], *predictor))
        self.target = MomentumTwin(self.online, buffers="own")
        self.momentum = momentum

    def before_step(self, progress: float) -> None:
        """Nothing to do: the target moves after the step."""

    def forward(self, view1: Tensor, view2: Tensor) -> ViewOutput:
        check_views(view1, view2)
        q1, q2 = (unit_rows(self.predictor(_project(self.online, view))) for view in (view1, view2))
        with torch.no_grad():
            k1, k2 = (unit_rows(_project(self.target.module, view)) for view in (view1, view2))
        return ViewOutput(byol_loss(q1, k2) + byol_loss(q2, k1), q1, q2)

    def after_step(self, output: Any, progress: float) -> None:
        """Move the target."""
        self.target.update(cosine_momentum(self.momentum, progress))

    def embed(self, images: Tensor) -> Tensor:
        """Features of the online backbone."""
        return features_of(self.online["backbone"], images)


def byol_loss(q: Tensor, k: Tensor) -> Tensor:
    """Mean of 2 - 2 cos(q, k) over rows (B, D); no gradient reaches `k`.

    Raises:
        ValueError: shapes that differ.
    """
    if q.shape != k.shape or q.ndim != 2:
        raise ValueError(f"q, k: expected (batch, dim) twice, got {tuple(q.shape)}, {tuple(k.shape)}")
    return (2 - 2 * (unit_rows(q) * unit_rows(k.detach())).sum(-1)).mean()


def cosine_momentum(start: float, progress: float) -> float:
    """1 - (1 - start) (cos(pi progress) + 1) / 2: from `start` at 0 to 1 at the end."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def resolve_backbone(backbone: nn.Module | str, feature_dim: int | None) -> tuple[nn.Module, int]:
    """A module images -> (B, features), and the number of features.

    Raises:
        ValueError: neither a module nor a name, or nobody says how many features.
        ImportError: a name, and timm is not installed.
    """
    if isinstance(backbone, str):
        try:
            import timm
        except ImportError as error:
            raise ImportError("backbone: a name needs timm: pip install 'paperworks[representation]'") from error
        backbone = timm.create_model(backbone, pretrained=False, num_classes=0)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"backbone: expected a module or the name of a timm model, got {type(backbone).__name__}")
    width = getattr(backbone, "num_features", None) if feature_dim is None else feature_dim
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"feature_dim: {type(backbone).__name__} has no num_features; say how many features it gives")
    return backbone, width


def features_of(backbone: nn.Module, images: Tensor) -> Tensor:
    """What the backbone says of images.

    Raises:
        ValueError: it does not return one vector for each image.
    """
    features = backbone(images)
    if not isinstance(features, Tensor) or features.ndim != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"backbone: output must be (batch, features), got {got}")
    return features


def check_views(view1: Tensor, view2: Tensor) -> None:
    """Refuse views that are not of the same images.

    Raises:
        ValueError: shapes that differ.
    """
    if view1.ndim != 4 or view1.shape != view2.shape:
        expected = tuple(view1.shape) if view1.ndim == 4 else "(batch, channels, height, width)"
        raise ValueError(f"view2: expected the shape of view1 {expected}, got {tuple(view2.shape)}")


def _project(network: Any, view: Tensor) -> Tensor:
    return network["projector"](features_of(network["backbone"], view))
