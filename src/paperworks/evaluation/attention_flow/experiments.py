"""What the study's trials measure: explanations against what tokens are worth to a model, axioms, depth, and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.evaluation.attention_flow import tasks
from paperworks.evaluation.attention_flow.attribution import input_gradients
from paperworks.evaluation.attention_flow.flow import (
    attention_flow,
    flow_bounds,
    shapley_of_table,
)
from paperworks.evaluation.attention_flow.game import flow_game, is_shapley, polytope_excess
from paperworks.evaluation.attention_flow.layers import attention_graph, attention_rollout, raw_attention
from paperworks.evaluation.attention_flow.report import DEFAULT_METHODS, FlowReport
from paperworks.evaluation.attention_flow.saturation import degeneracy_of
from paperworks.nn.attention_maps import attentions_of

ARMS = ("raw", "raw_mean", "rollout", "flow", "shapley", "flow_loo", "model_loo", "gradient", "random")
RANDOM_SIZE, RANDOM_DEPTH, RANDOM_TEMPERATURE = 8, 12, 2.0
RANDOM_DEPTHS = (2, 3, 6, 12)
AXIOM_TOKENS = 12  # beyond, the table of all sets gets long
Array = NDArray[np.float64]
Values = dict[str, Any]


def run_task(
    name: str, training: tasks.Training, *, sentences: int, seed: int, progress: Callable[..., None] | None
) -> Values:
    """Train a reader, explain `sentences` sequences by every arm, and hold each against the model's own values."""
    task = tasks.TASKS[name]
    model = tasks.train_reader(task, training, seed=seed, progress=progress)
    found: Values = {
        "accuracy": tasks.accuracy(model, task.draw(2000, np.random.default_rng([seed, 2]))),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    batch = task.draw(sentences, np.random.default_rng([seed, 3]))
    with torch.no_grad():
        attentions = torch.stack(attentions_of(model, batch.ids).encoder, 1).double()
    tables = model_tables(model, batch)
    started = time.perf_counter()
    values = flow_arms(attentions, source=tasks.LENGTH - 1)
    found["flow_seconds"] = (time.perf_counter() - started) / sentences
    values |= model_arms(model, batch, tables, seed)
    truth = shapley_of_table(tables)
    values["model_shapley"] = truth
    for arm, given in values.items():
        found[f"spearman_{arm}"] = float(rank_correlation(given, truth).mean())
        found[f"auc_{arm}"] = float(auc_of_cause(given, batch.cause.numpy()).mean())
        found[f"top1_{arm}"] = float(cause_on_top(given, batch.cause.numpy()).mean())
        found[f"deletion_{arm}"] = float(deletion_area(given, tables).mean())
    found |= graph_facts(attentions, source=tasks.LENGTH - 1) | depth_facts(attentions)
    return found | _example(task, batch, values)


def run_random(graphs: int, *, layers: Sequence[int] = RANDOM_DEPTHS, size: int = RANDOM_SIZE, seed: int) -> Values:
    """Axioms and depth on random attention: softmax of normal logits times the temperature."""
    facts: list[Values] = []
    rng = np.random.default_rng([seed, 4])
    deepest = max(layers)
    attentions = random_attentions(rng, graphs, deepest, size)
    for number in range(graphs):
        depth = layers[number % len(layers)]
        facts.append(graph_facts(attentions[number : number + 1, :depth], source=size - 1))
    together = {name: np.concatenate([fact[name] for fact in facts]) for name in facts[0]}
    together["layers"] = np.array([layers[number % len(layers)] for number in range(graphs)])
    return together | depth_facts(attentions)


def random_attentions(rng: np.random.Generator, batch: int, layers: int, size: int) -> Tensor:
    """(B, L, 1, n, n), rows summing to 1."""
    logits = RANDOM_TEMPERATURE * rng.normal(size=(batch, layers, 1, size, size))
    return torch.from_numpy(logits).softmax(-1)


def run_own(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int, permutations: int, seed: int
) -> Values:
    """The same on texts and a model of one's own; rank correlations and deletion curves, no known cause."""
    columns: dict[str, list[float]] = {}
    methods = (*DEFAULT_METHODS, "model_loo", "gradient")
    for text in texts:
        report = FlowReport.from_text(
            model, tokenizer, text, methods=methods, max_tokens=max_tokens, n_permutations=permutations, seed=seed
        )
        for name, value in _own_facts(report, model, tokenizer, text, max_tokens, seed).items():
            columns.setdefault(name, []).append(value)
    arrays = {"efficiency", "loo_sum", "raw_distance", "rollout_distance"}
    return {name: np.array(values) if name in arrays else float(np.mean(values)) for name, values in columns.items()}


def _own_facts(
    report: FlowReport, model: Any, tokenizer: Any, text: str, max_tokens: int, seed: int
) -> dict[str, float]:
    from paperworks.evaluation.attention_flow.explain import read_text

    reading = read_text(model, tokenizer, text, max_tokens=max_tokens)
    players = np.flatnonzero(report.players)
    values = {name: vector[players] for name, vector in report.values.items()}
    values["random"] = np.random.default_rng([seed, len(text)]).random(len(players))
    truth = values["model_shapley"]
    found = {}
    for arm, given in values.items():
        found[f"spearman_{arm}"] = float(rank_correlation(given[None], truth[None])[0])
        order = players[np.argsort(-given, kind="stable")]
        found[f"deletion_{arm}"] = _deletion(reading.payoff, reading.ids, order, reading.baseline)
    phi = report.values["shapley"]
    return found | {
        "efficiency": abs(float(phi.sum()) - 1.0),
        "loo_sum": float(report.low.sum()),
        "raw_distance": float(np.abs(report.values["raw"] - phi).sum() / 2),
        "rollout_distance": float(np.abs(report.values["rollout"] - phi).sum() / 2),
        "trivial_share": float(report.degeneracy.trivial_share.mean()),
        "variation": float(report.degeneracy.variation.mean()),
        "tokens": float(len(report.tokens)),
    }


@torch.no_grad()
def _deletion(payoff: Callable[[Tensor], Tensor], ids: Tensor, order: NDArray[Any], baseline: int) -> float:
    rows = ids.repeat(len(order) + 1, 1)
    for step, place in enumerate(order.tolist()):
        rows[step + 1 :, place] = baseline
    return float(payoff(rows).double().mean())


# Explanations --------------------------------------------------------------------------------------------------------


def flow_arms(attentions: Tensor, *, source: int) -> dict[str, Array]:
    """What needs the attention (B, L, H, n, n) alone: arm -> (B, n)."""
    options: dict[str, Any] = {"sources": [source]}
    low, high = flow_bounds(attentions, **options)
    graph = attention_graph(attentions, residual=0.0).layers
    found = {
        "raw": raw_attention(attentions, **options)[:, 0],
        "raw_mean": graph[:, :, source].mean(1),
        "rollout": attention_rollout(attentions, **options)[:, 0],
        "flow": high[:, 0],
        "shapley": attention_flow(attentions, mode="shapley", **options)[:, 0],
        "flow_loo": low[:, 0],
    }
    return {name: values.numpy() for name, values in found.items()}


@torch.no_grad()
def model_tables(model: tasks.Reader, batch: tasks.Batch) -> Array:
    """The probability of the right class for every set of tokens that is left, (B, 2^n), bit b for token b."""
    size = batch.ids.shape[1]
    kept = torch.from_numpy((np.arange(1 << size)[:, None] >> np.arange(size)) & 1).bool()
    rows = []
    for ids, label in zip(batch.ids, batch.labels.tolist(), strict=True):
        chances = model(torch.where(kept[..., None], ids, tasks.MASK)).softmax(-1)
        rows.append(chances[:, label].double())
    return torch.stack(rows).numpy()


def model_arms(model: tasks.Reader, batch: tasks.Batch, tables: Array, seed: int) -> dict[str, Array]:
    """What needs the model, and chance: arm -> (B, n)."""
    size = batch.ids.shape[1]
    whole = (1 << size) - 1
    loo = np.stack([tables[:, whole] - tables[:, whole ^ (1 << place)] for place in range(size)], 1)
    gradients = []
    for ids, label in zip(batch.ids, batch.labels.tolist(), strict=True):

        def payoff(embeddings: Tensor, label: int = label) -> Tensor:
            return model.read(embeddings).softmax(-1)[:, label]

        gradients.append(input_gradients(payoff, model.embed(ids[None])[0]).numpy())
    chance = np.random.default_rng([seed, 5]).random(loo.shape)
    return {"model_loo": loo, "gradient": np.stack(gradients), "random": chance}


# Measures ------------------------------------------------------------------------------------------------------------


def rank_correlation(values: Array, truth: Array) -> Array:
    """Spearman's correlation row by row, (B,); 0 where a row ranks nothing."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.round(given, 12), axis=1) for given in (values, truth)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    return np.where(norm > 0, (centred[0] * centred[1]).sum(1) / np.where(norm > 0, norm, 1.0), 0.0)


def auc_of_cause(values: Array, cause: NDArray[np.int64]) -> Array:
    """Share of the other tokens that get less than the cause; ties count half. (B,)."""
    own = values[np.arange(len(values)), cause][:, None]
    below, equal = (values < own - 1e-12).sum(1), (np.abs(values - own) <= 1e-12).sum(1) - 1
    return (below + 0.5 * equal) / (values.shape[1] - 1)


def cause_on_top(values: Array, cause: NDArray[np.int64]) -> Array:
    """1 where the cause gets the most, 1/k where k tokens share the top. (B,)."""
    top = values >= values.max(1, keepdims=True) - 1e-12
    return top[np.arange(len(values)), cause] / top.sum(1)


def deletion_area(values: Array, tables: Array) -> Array:
    """Mean probability of the right class while tokens are masked, the highest first: lower is better. (B,)."""
    order = np.argsort(-values, axis=1, kind="stable")
    left = np.full(len(values), tables.shape[1] - 1)
    total = tables[:, -1].copy()
    for step in range(values.shape[1]):
        left = left & ~(1 << order[:, step])
        total += tables[np.arange(len(values)), left]
    return total / (values.shape[1] + 1)


def graph_facts(attentions: Tensor, *, source: int) -> dict[str, Array]:
    """Per text: how far the computed value is from the axioms, and how far other explanations are from it."""
    values = flow_arms(attentions, source=source)
    rows = []
    for text in range(len(attentions)):
        game = flow_game(attentions[text], source)
        phi, low, high = (values[name][text] for name in ("shapley", "flow_loo", "flow"))
        axioms = is_shapley(phi, game)
        outside = max(float((low - phi).max()), float((phi - high).max()), polytope_excess(phi, game), 0.0)
        rows.append(
            {
                "residual": max(axioms.efficiency, axioms.symmetry, axioms.null_player, outside),
                "loo_sum": float(low.sum()),
                "raw_distance": float(np.abs(values["raw"][text] - phi).sum() / 2),
                "rollout_distance": float(np.abs(values["rollout"][text] - phi).sum() / 2),
                "raw_excess": polytope_excess(values["raw"][text], game),
                "rollout_excess": polytope_excess(values["rollout"][text], game),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def depth_facts(attentions: Tensor) -> dict[str, Array]:
    """Share of trivial flows and variation over outputs by depth, (2, L): with residual connections, and without."""
    shares, variations = [], []
    for residual in (0.5, 0.0):
        graph = attention_graph(attentions, residual=residual)
        flows = attention_flow(attentions, residual=residual, source_layer="all")
        found = [degeneracy_of(flows[:, layer], graph.layers[:, 0], graph.mask) for layer in range(flows.shape[1])]
        shares.append([float(each.trivial_share.mean()) for each in found])
        variations.append([float(each.variation.mean()) for each in found])
    return {"depth_trivial": np.array(shares), "depth_variation": np.array(variations)}


def run_speed(sizes: Sequence[int], *, seed: int) -> Values:
    """Seconds for all pairs of the top of a 12-layer graph, and for rollout, by number of tokens; the best of three."""
    rng = np.random.default_rng([seed, 6])
    functions = (attention_flow, attention_rollout)
    for function in functions:
        function(random_attentions(rng, 1, 3, 4))
    seconds = []
    for size in sizes:
        attentions = random_attentions(rng, 1, RANDOM_DEPTH, size)
        seconds.append([min(_seconds(function, attentions) for _ in range(3)) for function in functions])
    return {"sizes": np.array(sizes), "solve_seconds": np.array(seconds)}


def _seconds(function: Callable[[Tensor], Tensor], attentions: Tensor) -> float:
    started = time.perf_counter()
    function(attentions)
    return time.perf_counter() - started


def _example(task: tasks.Task, batch: tasks.Batch, values: Mapping[str, Array]) -> Values:
    """The first sequence, for the figures."""
    return {
        "example_tokens": "\x1f".join(task.words(batch.ids[0])),
        "example_cause": int(batch.cause[0]),
        "example_arms": "\x1f".join(values),
        "example_values": np.stack([given[0] for given in values.values()]),
    }
