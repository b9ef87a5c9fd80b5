"""The same attentions for many small graphs at once, or between two sets: dense, with a mask of edges."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind: TypeAlias = Literal["gatv2", "gat", "dot"]
KINDS = ("gatv2", "gat", "dot")


class DenseGATv2(nn.Module):
    r"""Graph attention over a batch of small graphs, every target against every source.

    With `conv="gatv2"`: $e_{ij} = a^\top \mathrm{LeakyReLU}(W_l x_j + W_r x_i)$, softmax over the sources that the mask
    allows, out = $\sum_j \alpha_{ij} W_l x_j$. Parameters are named as in the sparse layers `GATv2Conv`, `GATConv` and
    `DotProductGATConv`, whose state dicts load. Memory is B N M dim: for large sparse graphs use the sparse layers.

    Args:
        dim: width of the output, `heads` x channels.
        heads: H, a divisor of `dim`.
        in_channels: width of the input (default `dim`), or that of (sources, targets).
        negative_slope: of LeakyReLU.
        dropout: share of attention weights dropped in training.
        bias: of the projections (gatv2, dot) and of the output.
        share_weights: one matrix for sources and targets (gatv2).
        conv: gatv2, gat (static) or dot.

    Shapes:
        x (B, N, F), or (targets (B, N, F), sources (B, M, F)); mask (B, N, M) bool, True = edge; out (B, N, dim). A
        target without an edge gets the bias.

    Raises:
        ValueError: numbers or shapes that do not fit.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        *,
        in_channels: int | tuple[int, int] | None = None,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        bias: bool = True,
        share_weights: bool = False,
        conv: Kind = "gatv2",
    ):
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise ValueError(f"heads: expected a divisor of dim={dim}, got {heads}")
        if conv not in KINDS:
            raise ValueError(f"conv: expected one of {', '.join(KINDS)}, got {conv!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        widths = dim if in_channels is None else in_channels
        self.sizes = (widths, widths) if isinstance(widths, int) else tuple(widths)
        if (share_weights or conv == "gat") and self.sizes[0] != self.sizes[1]:
            raise ValueError(f"in_channels: one matrix for both sides needs equal widths, got {self.sizes}")
        self.dim, self.heads, self.channels, self.conv = dim, heads, dim // heads, conv
        self.negative_slope, self.dropout, self.share_weights = negative_slope, dropout, share_weights
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        if conv == "gat":
            self.lin = nn.Linear(self.sizes[0], dim, bias=False)
            self.att_src = nn.Parameter(torch.empty(1, heads, self.channels))
            self.att_dst = nn.Parameter(torch.empty(1, heads, self.channels))
        elif conv == "gatv2":
            self.att = nn.Parameter(torch.empty(1, heads, self.channels))
            self.lin_l = nn.Linear(self.sizes[0], dim, bias=bias)
            self.lin_r = self.lin_l if share_weights else nn.Linear(self.sizes[1], dim, bias=bias)
        else:
            self.lin_q = nn.Linear(self.sizes[1], dim, bias=bias)
            self.lin_k = nn.Linear(self.sizes[0], dim, bias=bias)
            self.lin_v = nn.Linear(self.sizes[0], dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot uniform for matrices and attention vectors, zero for biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                bound = (6 / (parameter.shape[-2] + parameter.shape[-1])) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, x: Tensor | tuple[Tensor, Tensor], mask: Tensor | None = None, *, return_attention_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend; with `return_attention_weights` also alpha (B, N, M, H), before dropout."""
        targets, sources = (x, x) if isinstance(x, Tensor) else x
        self._check(targets, sources, mask)
        scores, values = self._scores(targets, sources)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], float("-inf"))
        # A row without edges would be 0/0; against a finite top all its weights become 0 instead.
        top = scores.amax(2, keepdim=True).detach().clamp(min=torch.finfo(scores.dtype).min)
        mass = torch.exp(scores - top)
        alpha = mass / mass.sum(2, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
        kept = F.dropout(alpha, self.dropout, self.training)
        out = torch.einsum("bnmh,bmhc->bnhc", kept, values).flatten(2)
        out = out if self.bias is None else out + self.bias
        return (out, alpha) if return_attention_weights else out

    def _scores(self, targets: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """(scores (B, N, M, H), values (B, M, H, C))."""
        if self.conv == "gat":
            values = self._split(self.lin(sources))
            queries = values if targets is sources else self._split(self.lin(targets))
            own = (queries * self.att_dst).sum(-1)[:, :, None]
            return F.leaky_relu(own + (values * self.att_src).sum(-1)[:, None], self.negative_slope), values
        if self.conv == "gatv2":
            values, queries = self._split(self.lin_l(sources)), self._split(self.lin_r(targets))
            pair = F.leaky_relu(queries[:, :, None] + values[:, None], self.negative_slope)
            return torch.einsum("bnmhc,hc->bnmh", pair, self.att[0]), values
        keys, queries = self._split(self.lin_k(sources)), self._split(self.lin_q(targets))
        scores = torch.einsum("bnhc,bmhc->bnmh", queries, keys) * self.channels**-0.5
        return scores, self._split(self.lin_v(sources))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.channels))

    def _check(self, targets: Tensor, sources: Tensor, mask: Tensor | None) -> None:
        for name, side, size in (("sources", sources, self.sizes[0]), ("targets", targets, self.sizes[1])):
            if side.ndim != 3 or side.shape[2] != size:
                raise ValueError(f"{name}: expected (batch, nodes, {size}), got {tuple(side.shape)}")
        if targets.shape[0] != sources.shape[0]:
            raise ValueError(f"x: {targets.shape[0]} batches of targets, {sources.shape[0]} of sources")
        shape = (targets.shape[0], targets.shape[1], sources.shape[1])
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != shape):
            raise ValueError(f"mask: expected bool {shape}, True = edge, got {mask.dtype} {tuple(mask.shape)}")

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, conv={self.conv!r}"
