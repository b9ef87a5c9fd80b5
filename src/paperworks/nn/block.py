"""One block of an encoder: a token mixer and a feed-forward network, each with a residual and a norm.

norm = "post":  x = LN(x + drop(mix(x)));   x = LN(x + drop(W2 f(W1 x)))
norm = "pre":   x = x + drop(mix(LN(x)));   x = x + drop(W2 f(W1 LN(x)))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.contract import check_context, check_mask, check_tokens, traits_of, warn_padding_mixed_in
from paperworks.nn.initial import normal_init

Activation = Literal["gelu_tanh", "gelu", "relu"]
Norm = Literal["post", "pre"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """How blocks are built around their mixers. The defaults are FNet's.

    Args:
        ffn_dim: width of the feed-forward network.
        norm: "post" (after the residual sum, as BERT and FNet) or "pre".
        norm_layer: called as `norm_layer(dim, eps=norm_eps)`.
        activation: "gelu_tanh" is GELU's tanh approximation.
        bias: whether the feed-forward dense layers have biases.
        dropout: after the feed-forward network.
        mixer_dropout: after the mixer. FNet has none there, BERT and T5 have 0.1.
        final_norm: a norm after the last block; None: where `norm="pre"`.
        init: called with each `FeedForward` (layers `inner` and `outer`). Mixers initialise themselves.

    T5 and ConvT5: `norm="pre", norm_layer=nn.RMSNorm, norm_eps=1e-6, activation="relu", bias=False, mixer_dropout=0.1`.
    """

    ffn_dim: int
    norm: Norm = "post"
    norm_layer: Callable[..., nn.Module] = nn.LayerNorm
    norm_eps: float = 1e-12
    activation: Activation = "gelu_tanh"
    bias: bool = True
    dropout: float = 0.1
    mixer_dropout: float = 0.0
    final_norm: bool | None = None
    init: Callable[[nn.Module], None] = normal_init

    def __post_init__(self) -> None:
        if self.ffn_dim < 1:
            raise ValueError(f"ffn_dim: must be at least 1, got {self.ffn_dim}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm: expected one of {', '.join(get_args(Norm))}, got {self.norm!r}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}")
        for name in ("dropout", "mixer_dropout"):
            check_probability(getattr(self, name), name)

    def make_norm(self, dim: int) -> nn.Module:
        return self.norm_layer(dim, eps=self.norm_eps)

    def make_final_norm(self, dim: int) -> nn.Module:
        wanted = self.norm == "pre" if self.final_norm is None else self.final_norm
        return self.make_norm(dim) if wanted else nn.Identity()


def check_probability(value: float, name: str) -> None:
    """Refuse a dropout outside [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {value}")


class FeedForward(nn.Module):
    """`W2 f(W1 x + b1) + b2`, position by position: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int, *, block: BlockOptions) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, block.ffn_dim, bias=block.bias)
        self.outer = nn.Linear(block.ffn_dim, dim, bias=block.bias)
        self.activation = _ACTIVATIONS[block.activation]
        block.init(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.activation(self.inner(x)))

    def flops(self, length: int) -> int:
        return 4 * length * self.inner.in_features * self.inner.out_features


class Residual(nn.Module):
    """A norm and a dropout around any sublayer: `LN(x + drop(f(x)))`, or `x + drop(f(LN(x)))` where `norm` is "pre"."""

    def __init__(self, dim: int, *, block: BlockOptions, dropout: float) -> None:
        super().__init__()
        self.norm = block.make_norm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre = block.norm == "pre"

    def enter(self, x: Tensor) -> Tensor:
        """What the sublayer reads."""
        return self.norm(x) if self.pre else x

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        """What comes of the input `x` and the sublayer's output `y`."""
        if y.shape != x.shape:
            raise ValueError(f"mixer: expected an output of shape {tuple(x.shape)}, got {tuple(y.shape)}")
        y = x + self.dropout(y)
        return y if self.pre else self.norm(y)


class MixerLayer(nn.Module):
    """One block: mixer, then feed-forward network, each with residual and norm.

    Args:
        mixer: a module that keeps the contract of `paperworks.nn.contract`.
        dim: width of the tokens.
        block: everything around the mixer.

    `traits` is what the mixer states about itself.

    Raises:
        ValueError: in `forward`, for an input, mask, length or context that the mixer cannot take.

    Reference: FNet (2021, arXiv 2105.03824), section 3, for the defaults; no dropout after the mixing there.
    """

    def __init__(self, mixer: nn.Module, *, dim: int, block: BlockOptions) -> None:
        super().__init__()
        if not isinstance(mixer, nn.Module):
            raise ValueError(f"mixer: expected an nn.Module, got {type(mixer).__name__}")
        self.dim = dim
        self.traits = traits_of(mixer)
        self.mixer = mixer
        self.mixer_residual = Residual(dim, block=block, dropout=block.mixer_dropout)
        self.feed_forward = FeedForward(dim, block=block)
        self.feed_forward_residual = Residual(dim, block=block, dropout=block.dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, context: Mapping[str, Any] | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); `mask` (B, N) bool, True = keep; `context`: tensors by the names the mixer takes."""
        check_tokens(x, dim=self.dim, traits=self.traits, name=type(self.mixer).__name__)
        check_mask(mask, x.shape[:2])
        check_context(context, self.traits.context_names)
        return self.run(x, mask, context or {})

    def run(self, x: Tensor, mask: Tensor | None, context: Mapping[str, Any]) -> Tensor:
        """`forward` without the checks; names in `context` that the mixer does not take are left out."""
        return self.feed(self.mix(x, mask, context))

    def mix(self, x: Tensor, mask: Tensor | None, context: Mapping[str, Any]) -> Tensor:
        """The first half: mixer, residual, norm."""
        if mask is not None and not self.traits.supports_mask:
            warn_padding_mixed_in(self.mixer)
        taken = {name: context[name] for name in self.traits.context_names if name in context}
        mixed = self.mixer(self.mixer_residual.enter(x), mask=mask, **taken)
        return self.mixer_residual.leave(x, mixed)

    def feed(self, x: Tensor) -> Tensor:
        """The second half: feed-forward network, residual, norm."""
        return self.feed_forward_residual.leave(x, self.feed_forward(self.feed_forward_residual.enter(x)))

    @property
    def streams(self) -> bool:
        """Whether the layer can run token by token."""
        return self.traits.causal and hasattr(self.mixer, "step") and hasattr(self.mixer, "init_state")

    def init_state(self, batch: int) -> Any:
        """State before the first token. Raises `ValueError` where the mixer cannot stream."""
        if not self.streams:
            reason = "has no init_state and step" if self.traits.causal else "is not causal"
            raise ValueError(f"mixer: {type(self.mixer).__name__} cannot stream, it {reason}")
        return self.mixer.init_state(batch)  # pyright: ignore[reportCallIssue]

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token, (B, D) -> (B, D), and the state after it."""
        x, state = self.mix_step(x, state)
        return self.feed(x), state

    def mix_step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The first half of `step`."""
        mixed, state = self.mixer.step(self.mixer_residual.enter(x), state)  # pyright: ignore[reportCallIssue]
        return self.mixer_residual.leave(x, mixed), state

    def flops(self, length: int) -> int:
        """Operations for one sequence. Raises `ValueError` where the mixer does not count its own."""
        if not hasattr(self.mixer, "flops"):
            raise ValueError(f"mixer: {type(self.mixer).__name__} has no flops(length), so its cost cannot be counted")
        return self.mixer.flops(length) + self.feed_forward.flops(length)  # pyright: ignore[reportCallIssue]
