"""Every assertion accepts a right module and rejects wrong ones, each wrong in one way."""

import pytest
import torch
from torch import Tensor, nn

from paperworks.testing import (
    assert_causal,
    assert_equivariant,
    assert_mask_respected,
    assert_permutation_equivariant,
)

X = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))


def running_sum(x: Tensor) -> Tensor:
    return x.cumsum(1)


# --- causality


@pytest.mark.parametrize(
    "module",
    [running_sum, lambda x: x, lambda x: (running_sum(x), None), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))],
    ids=["sum", "identity", "tuple", "dropout"],
)
def test_causal_accepts(module) -> None:
    assert_causal(module, X)


@pytest.mark.parametrize(
    "module",
    [
        lambda x: x.flip(1).cumsum(1).flip(1),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: torch.cat([x[:, 1:], x[:, -1:]], 1),
        lambda x: running_sum(x) + 1e-3 * x.amax(1, keepdim=True),
        lambda x: torch.cat([x[:, :1] + x[:, -1:], x[:, 1:]], 1),
        lambda x: x.roll(1, 1),
        lambda x: x * float(x[:, -1].sum() > 0) if x[:, -1].sum() != X[:, -1].sum() else x,
    ],
    ids=["backwards", "mean", "next", "faint", "last to first", "wraps", "branch"],
)
def test_causal_rejects(module) -> None:
    with pytest.raises(AssertionError, match="not causal"):
        assert_causal(module, X)


def test_causal_sees_the_only_leak_of_a_long_sequence() -> None:
    x = torch.randn(1, 100, 2, generator=torch.Generator().manual_seed(0))
    for place in (0, 37, 98):

        def leak(y: Tensor, place: int = place) -> Tensor:
            out = y.clone()
            out[:, place] += y[:, -1]
            return out

        with pytest.raises(AssertionError, match="not causal"):
            assert_causal(leak, x)


def test_causal_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(AssertionError, match="two calls on one input differ"):
        assert_causal(torch.rand_like, X)
    with pytest.raises(AssertionError, match="expected an output per position"):
        assert_causal(lambda x: x[:, :2], X)
    with pytest.raises(AssertionError, match="NaN or infinity for ordinary input"):
        assert_causal(lambda x: x / 0, X)
    with pytest.raises(AssertionError, match="expected a tensor or a tuple"):
        assert_causal(lambda x: {"out": x}, X)
    with pytest.raises(ValueError, match="at least 2 positions"):
        assert_causal(running_sum, X[:, :1])


# --- masks


def clean(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask[..., None], 0)


def masked_average(x: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(1).clamp(min=1)[:, None, None]
    return x.nan_to_num(0) * 0 + clean(x, mask).sum(1, keepdim=True) / count


def hard_maximum(x: Tensor, mask: Tensor) -> Tensor:
    """Right for every kept position, but -inf where a row is empty."""
    return clean(x, mask) + x.masked_fill(~mask[..., None], -torch.inf).amax(1, keepdim=True)


def multiplied(x: Tensor, mask: Tensor) -> Tensor:
    """The usual mistake: 0 * NaN is NaN."""
    return clean(x, mask) + (x * mask[..., None]).sum(1, keepdim=True)


def weighed(x: Tensor, mask: Tensor) -> Tensor:
    """The other usual mistake: a weight of zero on a value of NaN."""
    weights = torch.zeros(mask.shape).masked_fill(~mask, -1e9).softmax(-1)
    return clean(x, mask) + weights[:, None] @ x


def softmax_of_nothing(x: Tensor, mask: Tensor) -> Tensor:
    weights = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf).softmax(-1)
    return clean(x, mask) + weights[:, None] @ clean(x, mask)


def infinite_at_padding(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask[..., None], torch.inf)


def spoilt_by_an_empty_row(x: Tensor, mask: Tensor) -> Tensor:
    return clean(x, mask) * (2 if bool(mask.any(1).all()) else 1)


class StraightThrough(torch.autograd.Function):
    """Forward masks, backward forgets to."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor) -> Tensor:
        return masked_average(x, mask)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].sum(1, keepdim=True).expand_as(grads[0]), None


class EndlessGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor) -> Tensor:
        return clean(x, mask)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] / 0, None


def test_mask_accepts() -> None:
    assert_mask_respected(lambda x, mask: masked_average(x, mask), X)
    assert_mask_respected(lambda x, mask: clean(x, mask), X)
    assert_mask_respected(lambda x, mask: (clean(x, mask), mask), X)
    assert_mask_respected(clean, X, torch.arange(8) < torch.tensor([8, 3, 5])[:, None])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda x, mask: x - x.mean(1, keepdim=True), "other numbers at masked inputs change"),
        (lambda x, mask: clean(x, ~mask).sum(1, keepdim=True) + x, "other numbers at masked inputs change"),
        (lambda x, mask: clean(x, mask) + 1e-3 * x.mean(1, keepdim=True), "at masked inputs change"),
        (
            lambda x, mask: clean(x, mask) + (x.abs() > 999).any(1, keepdim=True) * 1.0,
            "huge numbers at masked inputs change",
        ),
        (multiplied, "NaN at masked inputs change"),
        (weighed, "NaN at masked inputs change"),
        (softmax_of_nothing, "a row that is all False gives NaN"),
        (hard_maximum, "a row that is all False gives NaN or infinity"),
        (infinite_at_padding, "NaN or infinity for ordinary input"),
        (
            lambda x, mask: clean(x, mask).masked_fill((x.abs() > 999) & ~mask[..., None], torch.inf),
            "outputs at masked positions are not finite for huge numbers",
        ),
        (spoilt_by_an_empty_row, "a row that is all False changes other rows"),
        (lambda x, mask: StraightThrough.apply(x, mask), "have a gradient at masked inputs"),
        (lambda x, mask: EndlessGradient.apply(x, mask), "the gradient of kept outputs is not finite"),
        (lambda x, mask: x.sum(1), "expected an output per position"),
    ],
)
def test_mask_rejects(module, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_mask_respected(module, X)


def test_mask_checks_the_mask_it_is_given() -> None:
    def right_for_prefixes_only(x: Tensor, mask: Tensor) -> Tensor:
        length = mask.sum(1)[:, None, None]
        seen = torch.arange(x.shape[1])[None, :, None] < length
        return clean(x, mask) + x.masked_fill(~seen, 0).sum(1, keepdim=True)

    prefix = torch.arange(8) < torch.tensor([8, 3, 5])[:, None]
    assert_mask_respected(right_for_prefixes_only, X, prefix)
    with pytest.raises(AssertionError):
        assert_mask_respected(right_for_prefixes_only, X, prefix.flip(1))
    with pytest.raises(AssertionError):
        assert_mask_respected(right_for_prefixes_only, X)
    with pytest.raises(ValueError, match="needs both True and False"):
        assert_mask_respected(clean, X, torch.ones(3, 8, dtype=torch.bool))


# --- symmetries


def test_permutations() -> None:
    assert_permutation_equivariant(lambda x: x - x.mean(1, keepdim=True), X)
    wrong = [
        running_sum,
        lambda x: x * torch.arange(8.0)[:, None],
        lambda x: x.flip(1),
        lambda x: x.roll(1, 1),
        lambda x: x + x[:, :1],
        lambda x: x.sort(1).values,
    ]
    for module in wrong:
        with pytest.raises(AssertionError, match="not equivariant"):
            assert_permutation_equivariant(module, X)


def test_reversal_alone_is_not_enough() -> None:
    """A kernel that sees the two neighbours alike survives the reversal and must fail all the same."""
    with pytest.raises(AssertionError, match="group element"):
        assert_permutation_equivariant(lambda x: x + x.roll(1, 1) + x.roll(-1, 1), X)


def test_any_group() -> None:
    def turn(angle: float):
        cosine, sine = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
        matrix = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
        return lambda v: v @ matrix.T

    rotations = [(turn(angle), turn(angle)) for angle in (0.3, 1.0, 2.5)]
    invariant = [(turn(angle), lambda out: out) for angle in (0.3, 1.0)]
    v = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert_equivariant(lambda x: x * x.norm(dim=-1, keepdim=True), v, rotations)
    assert_equivariant(lambda x: x.norm(dim=-1), v, invariant)
    for module, group in ((torch.relu, rotations), (lambda x: x + 1, rotations), (lambda x: x[:, 0], invariant)):
        with pytest.raises(AssertionError, match="not equivariant: group element 0 differs"):
            assert_equivariant(module, v, group)
    with pytest.raises(AssertionError, match="group element 1"):
        assert_equivariant(torch.relu, v, [(lambda x: x, lambda x: x), (lambda x: -x, lambda x: -x)])
    with pytest.raises(ValueError, match="group: is empty"):
        assert_equivariant(torch.relu, v, [])


def test_modes_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    model[0].eval()
    before = [part.training for part in model.modules()]
    assert_causal(model, X)
    with pytest.raises(AssertionError):
        assert_causal(nn.Sequential(model, nn.Flatten(1)), X)
    assert [part.training for part in model.modules()] == before
