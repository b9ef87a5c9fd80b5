"""The contract check accepts mixers that keep it, and rejects one for each clause that breaks it."""

import pytest
import torch
from torch import Tensor, nn

from paperworks.testing import check_mixer

DIM = 6


class Running(nn.Module):
    """A causal decaying sum, right in every clause; the wrong ones below change one thing each."""

    causal = True

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.dim = dim
        self.decay = nn.Parameter(torch.linspace(0.2, 0.8, dim))

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else x.masked_fill(~mask[..., None], 0)
        power = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).clamp(min=0)
        weights = (self.decay ** power[..., None]) * torch.ones(power.shape).tril()[..., None]
        return torch.einsum("nmd,bmd->bnd", weights.to(x.dtype), x)

    def init_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.dim)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.decay * state + x
        return state, state

    def flops(self, length: int) -> int:
        return 2 * length**2 * self.dim


class Mean(nn.Module):
    """Mixes all tokens, padding included, and says so."""

    supports_mask = False

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return x + x.mean(1, keepdim=True)

    def flops(self, length: int) -> int:
        return length


class Limited(Mean):
    min_length, max_length = 4, 9

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if not 4 <= x.shape[1] <= 9:
            raise ValueError(f"x: expected 4 to 9 tokens, got {x.shape[1]}")
        return super().forward(x)


class Gated(Running):
    context_names = ("gate",)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        y = super().forward(x, mask=mask)
        return y if gate is None else y * gate[..., None]


def test_accepts() -> None:
    check_mixer(lambda layer: Running(), dim=DIM)
    check_mixer(lambda layer: Mean(), dim=DIM)
    check_mixer(lambda layer: Limited(), dim=DIM)
    check_mixer(lambda layer: Limited(), dim=DIM, length=2)
    check_mixer(lambda layer: Gated(), dim=DIM, context={"gate": torch.rand(3, 12)})


class WrongShape(Mean):
    def forward(self, x, *, mask=None):
        return x[:, :-1]


class WrongDtype(Mean):
    def forward(self, x, *, mask=None):
        return super().forward(x).double()


class Random(Mean):
    def forward(self, x, *, mask=None):
        return x + torch.rand_like(x)


class MixesRows(Mean):
    def forward(self, x, *, mask=None):
        return x + x.mean((0, 1))


class NoGradient(Mean):
    def forward(self, x, *, mask=None):
        return x.detach() + 0 * x


class PretendsMask(Mean):
    supports_mask = True


class RefusesMask(Mean):
    def forward(self, x, *, mask=None):
        return x * (1 if mask is None else float("nan"))


class LeaksNan(Running):
    def forward(self, x, *, mask=None):
        x = x if mask is None else x * mask[..., None]
        return super().forward(x)


class PretendsCausal(Mean):
    causal = True


class ForgetsToDecay(Running):
    def step(self, x, state):
        return state + x, state + x


class OneLate(Running):
    def step(self, x, state):
        _, after = super().step(x, state)
        return state, after


class WritesInPlace(Running):
    def step(self, x, state):
        state.mul_(self.decay).add_(x)
        return state.clone(), state


class OnlyStep(Mean):
    causal = True

    def forward(self, x, *, mask=None):
        return x * 2

    def step(self, x, state):
        return x * 2, state


class AcceptsAll(Limited):
    def forward(self, x, *, mask=None):
        return Mean.forward(self, x)


class RaisesElse(Limited):
    def forward(self, x, *, mask=None):
        if not 4 <= x.shape[1] <= 9:
            raise IndexError("too long")
        return Mean.forward(self, x)


class NoFlops(Mean):
    flops = None  # type: ignore[assignment]

    def __getattribute__(self, name):
        if name == "flops":
            raise AttributeError(name)
        return super().__getattribute__(name)


class FloatFlops(Mean):
    def flops(self, length):
        return length * 0.5


class ShrinkingFlops(Mean):
    def flops(self, length):
        return 100 - length


class NotSaved(Mean):
    """Random numbers that decide the result and are in no state_dict."""

    def __init__(self):
        super().__init__()
        self.hidden = torch.randn(DIM)

    def forward(self, x, *, mask=None):
        return super().forward(x) * self.hidden.to(x.dtype)


class Coarse(Mean):
    def forward(self, x, *, mask=None):
        return torch.sin(200 * super().forward(x))


class IntegerCausal(Mean):
    causal = 1


class TextLength(Mean):
    max_length = "9"


class NeedsContext(Gated):
    def forward(self, x, *, mask=None, gate=None):
        return super().forward(x, mask=mask, gate=gate + 0)


class LeaksByContext(Gated):
    """Causal without its context, not with it."""

    def forward(self, x, *, mask=None, gate=None):
        y = super().forward(x, mask=mask)
        return y if gate is None else y + (x * gate[..., None]).mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WrongShape, r"expected \(3, 12, 6\) torch.float32, got \(3, 11, 6\)"),
        (WrongDtype, "got .* torch.float64"),
        (Random, "two calls on one input differ"),
        (MixesRows, "rows are mixed"),
        (NoGradient, "the gradient by the input is zero"),
        (PretendsMask, "mask: other numbers at masked inputs change kept outputs"),
        (RefusesMask, "a mask must be accepted where supports_mask is False"),
        (LeaksNan, "mask: NaN at masked inputs change"),
        (PretendsCausal, "not causal"),
        (ForgetsToDecay, "step 1 differs from the parallel call"),
        (OneLate, "step 0 differs"),
        (WritesInPlace, "differs from the parallel call"),
        (OnlyStep, "has step alone"),
        (AcceptsAll, r"an input longer than max_length \(10\) is accepted"),
        (RaisesElse, "longer than max_length must raise ValueError, got IndexError"),
        (NoFlops, r"has no flops\(length\)"),
        (FloatFlops, "flops: expected ints"),
        (ShrinkingFlops, "flops: expected ints"),
        (NotSaved, "something that matters is not saved"),
        (Coarse, "off by"),
        (IntegerCausal, "causal: expected a bool, got 1"),
        (TextLength, "max_length: expected an int or None, got '9'"),
    ],
)
def test_rejects(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_mixer(lambda layer: kind(), dim=DIM)


def test_rejects_by_context() -> None:
    with pytest.raises(TypeError):
        check_mixer(lambda layer: NeedsContext(), dim=DIM)
    check_mixer(lambda layer: LeaksByContext(), dim=DIM)
    with pytest.raises(AssertionError):
        check_mixer(lambda layer: LeaksByContext(), dim=DIM, context={"gate": torch.ones(3, 12)})


def test_rejects_what_is_no_module() -> None:
    with pytest.raises(AssertionError, match="the factory gave str"):
        check_mixer(lambda layer: "attention", dim=DIM)


class PrefixOnly(Running):
    """Knows lengths, so a mask with gaps is refused."""

    causal = False

    def forward(self, x, *, mask=None):
        if mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError("mask: expected True on a prefix")
        return super().forward(x, mask=mask)


def test_takes_the_masks_a_mixer_takes() -> None:
    prefix = torch.arange(12) < torch.tensor([12, 7, 3])[:, None]
    check_mixer(lambda layer: PrefixOnly(), dim=DIM, mask=prefix)
    with pytest.raises(ValueError, match="True on a prefix"):
        check_mixer(lambda layer: PrefixOnly(), dim=DIM)
    with pytest.raises(AssertionError, match="at masked inputs change"):
        check_mixer(lambda layer: PretendsMask(), dim=DIM, mask=prefix)
