"""The whole contract of a token mixer, as one check."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.nn.block import BlockOptions
from paperworks.nn.contract import PaddingMixedIn, Traits, traits_of
from paperworks.nn.encoder import MixerEncoder
from paperworks.testing.compare import difference, in_evaluation, output_of, probe, repeatable
from paperworks.testing.numerics import assert_bf16_close
from paperworks.testing.properties import assert_causal, assert_mask_respected

Context = Mapping[str, Any]


def check_mixer(
    factory: Callable[[int], nn.Module],
    *,
    dim: int,
    length: int = 12,
    batch: int = 3,
    context: Context | None = None,
    mask: Tensor | None = None,
    tolerance: float = 1e-5,
    bf16_tolerance: float = 2e-2,
) -> None:
    """Check that a mixer is what it says, by the contract in `paperworks.nn.contract`.

    Shape, repeatability and independence of the rows; a finite gradient; declared lengths refused with `ValueError`;
    masks respected, or accepted where `supports_mask` is False; causality where it is declared; steps equal to the
    parallel call, which leave old states alone; `flops`; saving and loading; bfloat16; and all of it again in encoders
    of two layers, with either norm.

    Args:
        factory: `layer_index -> module`, as for `MixerEncoder`.
        dim: width of the tokens.
        length: of the test input; the mixer's own where it takes one length only.
        context: examples of the tensors in `context_names`; all checks are then made without and with them.
        mask: (batch, length) bool, for mixers that take some masks only, such as prefixes; None: several kinds.
        tolerance: relative to the largest output, in float32.
        bf16_tolerance: relative error allowed in bfloat16; see `assert_bf16_close`.

    Raises:
        AssertionError: saying which clause is broken.
    """
    torch.manual_seed(0)
    mixer = factory(0)
    traits = _checked_traits(mixer)
    length = _fitting(length, traits)
    x = torch.randn(batch, length, dim)
    for given in [{}, dict(context)] if context else [{}]:
        run = partial(mixer, **given)
        with in_evaluation(mixer), warnings.catch_warnings():
            warnings.simplefilter("ignore", PaddingMixedIn)
            _check_call(run, x, given, tolerance)
            _check_masks(run, x, mask, traits, tolerance)
            if traits.causal:
                assert_causal(run, x, tolerance=tolerance)
            assert_bf16_close(mixer, x, tolerance=bf16_tolerance, **given)
    _check_lengths(mixer, x, traits)
    _check_streaming(mixer, x, traits, tolerance)
    _check_flops(mixer, length)
    _check_saving(factory, mixer, x, tolerance)
    for norm in ("post", "pre"):
        block = BlockOptions(ffn_dim=2 * dim, norm=norm)
        _check_encoder(MixerEncoder(factory, dim=dim, depth=2, block=block), x, mask, context, tolerance)


def _checked_traits(mixer: nn.Module) -> Traits:
    if not isinstance(mixer, nn.Module):
        raise AssertionError(f"the factory gave {type(mixer).__name__}, not an nn.Module")
    for name in ("causal", "supports_mask"):
        if not isinstance(getattr(mixer, name, False), bool):
            raise AssertionError(f"{name}: expected a bool, got {getattr(mixer, name)!r}")
    for name in ("min_length", "max_length"):
        if not isinstance(getattr(mixer, name, None), int | None):
            raise AssertionError(f"{name}: expected an int or None, got {getattr(mixer, name)!r}")
    return traits_of(mixer)


def _fitting(length: int, traits: Traits) -> int:
    length = length if traits.max_length is None else min(length, traits.max_length)
    return length if traits.min_length is None else max(length, traits.min_length)


def _check_call(run: Callable[..., Tensor], x: Tensor, context: Context, tolerance: float) -> None:
    leaf = x.clone().requires_grad_()
    out = repeatable(lambda: output_of(run(leaf)), tolerance=tolerance)
    if out.shape != x.shape or out.dtype != x.dtype:
        raise AssertionError(f"expected {tuple(x.shape)} {x.dtype}, got {tuple(out.shape)} {out.dtype}")
    (gradient,) = torch.autograd.grad(probe(out), leaf)
    if not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        raise AssertionError("the gradient by the input is zero or not finite")
    # Contexts have a row per example too, so only the plain call can be made row by row.
    if not context and difference(out[:1], run(x[:1])) > tolerance:
        raise AssertionError("the first row of a batch differs from the same row alone: rows are mixed")


def _check_masks(run: Callable[..., Tensor], x: Tensor, mask: Tensor | None, traits: Traits, tolerance: float) -> None:
    if traits.supports_mask:
        assert_mask_respected(run, x, mask, tolerance=tolerance)
        return
    kept = torch.arange(x.shape[1]) < x.shape[1] - 1
    for tried in (kept.expand(x.shape[:2]), torch.zeros(x.shape[:2], dtype=torch.bool)):
        if not bool(output_of(run(x, mask=tried)).isfinite().all()):
            raise AssertionError("mask: not finite, though a mask must be accepted where supports_mask is False")


@torch.no_grad()
def _check_lengths(mixer: nn.Module, x: Tensor, traits: Traits) -> None:
    wrong = {
        "longer than max_length": None if traits.max_length is None else traits.max_length + 1,
        "shorter than min_length": None if traits.min_length is None else traits.min_length - 1,
    }
    for name, length in wrong.items():
        if not length:
            continue
        try:
            mixer(torch.zeros(x.shape[0], length, x.shape[2]))
        except ValueError:
            continue
        except Exception as error:
            kind = type(error).__name__
            raise AssertionError(f"an input {name} must raise ValueError, got {kind}: {error}") from error
        raise AssertionError(f"an input {name} ({length}) is accepted")


@torch.no_grad()
def _check_streaming(mixer: nn.Module, x: Tensor, traits: Traits, tolerance: float) -> None:
    calls = [name for name in ("init_state", "step") if hasattr(mixer, name)]
    if not calls or not traits.causal:
        return
    if len(calls) == 1:
        raise AssertionError(f"has {calls[0]} alone; init_state and step belong together")
    with in_evaluation(mixer):
        _check_steps(mixer, mixer(x), x, tolerance)


def _check_steps(streamer: Any, parallel: Tensor, x: Tensor, tolerance: float) -> None:
    state = streamer.init_state(x.shape[0])
    for position in range(x.shape[1]):
        # A step taken from the same state with another token must not disturb the one that counts.
        streamer.step(x[:, position].flip(0) + 1, state)
        y, state = streamer.step(x[:, position], state)
        gap = difference(parallel[:, position], y)
        if gap > tolerance:
            raise AssertionError(f"step {position} differs from the parallel call by {gap:.2g}")


def _check_flops(mixer: nn.Module, length: int) -> None:
    if not hasattr(mixer, "flops"):
        raise AssertionError("has no flops(length)")
    small, large = mixer.flops(length), mixer.flops(2 * length)  # pyright: ignore[reportCallIssue]
    if not isinstance(small, int) or not isinstance(large, int) or not 0 <= small <= large:
        raise AssertionError(f"flops: expected ints >= 0 that do not shrink with the length, got {small!r}, {large!r}")


@torch.no_grad()
def _check_saving(factory: Callable[[int], nn.Module], mixer: nn.Module, x: Tensor, tolerance: float) -> None:
    other = factory(0)
    other.load_state_dict(mixer.state_dict())
    with in_evaluation(mixer), in_evaluation(other):
        if difference(mixer(x), other(x)) > tolerance:
            raise AssertionError("a copy that loaded the state_dict differs: something that matters is not saved")


def _check_encoder(
    encoder: MixerEncoder, x: Tensor, mask: Tensor | None, context: Context | None, tolerance: float
) -> None:
    loose = 10 * tolerance  # two layers and their norms add rounding
    with in_evaluation(encoder), warnings.catch_warnings():
        warnings.simplefilter("ignore", PaddingMixedIn)
        if context:
            repeatable(lambda: encoder(x, context=context).states, tolerance=loose)
        if encoder.supports_mask:
            assert_mask_respected(encoder, x, mask, tolerance=loose)
        if encoder.causal:
            assert_causal(encoder, x, tolerance=loose)
        if encoder.streams:
            with torch.no_grad():
                _check_steps(encoder, encoder(x).states, x, loose)
