"""What tokens are worth to a model's own output: Shapley values, leave-one-out and gradients, to hold flow against.

A token that is not in a set is replaced by the `baseline` (a [MASK] id, say). All sets go through the model in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from paperworks.evaluation.attention_flow.flow import antithetic_orders, shapley_of_table

ModelFunction: TypeAlias = Callable[[Tensor], Tensor]


class TokenShapley(NamedTuple):
    """Shapley values (n,) of a model's output, their standard error (n,; 0 where exact), and whether exact."""

    phi: Tensor
    stderr: Tensor
    exact: bool


def token_shapley(
    model_fn: ModelFunction,
    inputs: Tensor,
    *,
    baseline: Tensor | int | float,
    players: Tensor | None = None,
    exact_up_to: int = 12,
    n_permutations: int = 256,
    seed: int = 0,
    batch_size: int = 1024,
) -> TokenShapley:
    """Shapley values of the tokens of one text, the payoff being the model's output.

    Args:
        model_fn: inputs (m, n, ...) -> outputs (m,), such as the probability of one class.
        inputs: (n, ...), ids or embeddings.
        baseline: stands in for a token that is left out; a number, or a tensor that fits a token (or all of `inputs`).
        players: (n,) bool, which tokens take part; the others are never replaced and get 0.
        exact_up_to: up to so many players all 2^p sets are tried; beyond, random orders with their reverses.
        n_permutations, seed: of the sampling.
        batch_size: sets per call of the model.

    Raises:
        ValueError: no players, a model function that does not give one number per input, too few orders.
    """
    chosen = _players(inputs, players)
    count = len(chosen)
    if n_permutations < 4:
        raise ValueError(f"n_permutations: expected at least 4, got {n_permutations}")
    phi, stderr = np.zeros(len(inputs)), np.zeros(len(inputs))
    evaluate = _Masked(model_fn, inputs, baseline, chosen, batch_size)
    if count <= exact_up_to:
        sets = (np.arange(1 << count)[:, None] >> np.arange(count)) & 1
        phi[chosen] = shapley_of_table(evaluate(sets.astype(bool)))
        return TokenShapley(torch.from_numpy(phi), torch.from_numpy(stderr), True)
    orders = antithetic_orders(count, n_permutations, seed=seed)
    rank = np.argsort(orders, 1)
    # Row s of an order: its first s players are in.
    sets = rank[:, None, :] < np.arange(count + 1)[None, :, None]
    values = evaluate(sets.reshape(-1, count)).reshape(len(orders), count + 1)
    added = np.take_along_axis(np.diff(values, axis=1), rank, 1).reshape(-1, 2, count).mean(1)
    phi[chosen] = added.mean(0)
    stderr[chosen] = added.std(0, ddof=1) / np.sqrt(len(added))
    return TokenShapley(torch.from_numpy(phi), torch.from_numpy(stderr), False)


def leave_one_out(
    model_fn: ModelFunction,
    inputs: Tensor,
    *,
    baseline: Tensor | int | float,
    players: Tensor | None = None,
    batch_size: int = 1024,
) -> Tensor:
    """How much the model's output falls when one token is replaced: `f(x) - f(x without i)`, (n,).

    Arguments and errors as in `token_shapley`.
    """
    chosen = _players(inputs, players)
    sets = np.concatenate([np.ones((1, len(chosen)), dtype=bool), ~np.eye(len(chosen), dtype=bool)])
    values = _Masked(model_fn, inputs, baseline, chosen, batch_size)(sets)
    result = np.zeros(len(inputs))
    result[chosen] = values[0] - values[1:]
    return torch.from_numpy(result)


def input_gradients(model_fn: ModelFunction, embeddings: Tensor, *, times_input: bool = True) -> Tensor:
    """Gradients of the model's output by its input embeddings, (n,).

    Args:
        model_fn: embeddings (m, n, d) -> outputs (m,).
        embeddings: (n, d).
        times_input: True: the sum of gradient times input (signed); False: the gradient's Euclidean norm, which is what
            Abnar and Zuidema compare attention with.

    Raises:
        ValueError: embeddings of another shape, or an output that does not depend on them.
    """
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings: expected (n, d), got shape {tuple(embeddings.shape)}")
    point = embeddings.detach()[None].clone().requires_grad_()
    with torch.enable_grad():
        output = _outputs(model_fn, point)
        if not output.requires_grad:
            raise ValueError("model_fn: its output does not depend on the embeddings; is it under torch.no_grad()?")
        (gradient,) = torch.autograd.grad(output.sum(), point)
    found = (gradient * point).sum(-1) if times_input else gradient.norm(dim=-1)
    return found[0].detach().double()


class _Masked:
    """The model's output for sets of players, (m, p) bool -> (m,)."""

    def __init__(
        self,
        model_fn: ModelFunction,
        inputs: Tensor,
        baseline: Tensor | int | float,
        players: np.ndarray,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.model_fn, self.inputs, self.batch_size = model_fn, inputs, batch_size
        self.players = torch.from_numpy(players).to(inputs.device)
        stand_in = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device)
        try:
            self.baseline = stand_in.expand_as(inputs)
        except RuntimeError:
            raise ValueError(
                f"baseline: shape {tuple(stand_in.shape)} does not fit tokens of inputs {tuple(inputs.shape)}"
            ) from None

    @torch.no_grad()
    def __call__(self, sets: np.ndarray) -> np.ndarray:
        kept = torch.ones(len(sets), len(self.inputs), dtype=torch.bool, device=self.inputs.device)
        kept[:, self.players] = torch.from_numpy(sets).to(self.inputs.device)
        found = []
        for part in kept.split(self.batch_size):
            wide = part.reshape(*part.shape, *[1] * (self.inputs.ndim - 1))
            found.append(_outputs(self.model_fn, torch.where(wide, self.inputs, self.baseline)).double().cpu())
        return torch.cat(found).numpy()


def _outputs(model_fn: ModelFunction, inputs: Tensor) -> Tensor:
    output = model_fn(inputs)
    if not isinstance(output, Tensor) or output.shape != inputs.shape[:1]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model_fn: expected one number per input, shape ({len(inputs)},), got {got}")
    return output


def _players(inputs: Tensor, players: Tensor | None) -> np.ndarray:
    if inputs.ndim < 1 or not len(inputs):
        raise ValueError(f"inputs: expected (n, ...) tokens of one text, got shape {tuple(inputs.shape)}")
    if players is None:
        return np.arange(len(inputs))
    if players.dtype != torch.bool or players.shape != inputs.shape[:1] or not bool(players.any()):
        raise ValueError(f"players: expected ({len(inputs)},) bool with some True, got {players.dtype} {players.shape}")
    return torch.nonzero(players).flatten().cpu().numpy()
