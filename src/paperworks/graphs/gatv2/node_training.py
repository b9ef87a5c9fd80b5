"""Training node classifiers on one graph: the attentions, GCN, and a network that sees no edges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.data.graphs import TEST, TRAIN, VAL, GraphData
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.graphs.gatv2.network import GraphAttentionNet
from paperworks.graphs.gatv2.noise import add_edge_noise
from paperworks.graphs.gatv2.sparse_input import SparseFeatures, drop, project
from paperworks.graphs.gatv2.staticity import attention_staticity
from paperworks.train import Budget, EarlyStopping, Evaluation, Recipe, fit, make_fabric

ATTENTIONS = ("gat", "gatv2", "dot")
ARMS = (*ATTENTIONS, "gcn", "mlp")
BY_AREA = ("tolokers", "minesweeper")  # judged by the area under the ROC curve, as their authors do
STATIC_PAIRS = 1000


@dataclass(frozen=True)
class Setting:
    """What the search varies."""

    heads: int
    dropout: float


@dataclass(frozen=True)
class Training:
    """What all arms share."""

    width: int
    layers: int
    norm: bool
    residual: bool
    rate: float
    decay: float
    epochs: int


class PlainNet(nn.Module):
    """The network of the other arms without attention: neighbours are averaged by degree (gcn) or not seen (mlp)."""

    def __init__(self, sizes: Sequence[int], dropout: float):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = dropout

    def forward(self, x: Tensor | SparseFeatures, spread: Tensor | None) -> Tensor:
        for layer, linear in enumerate(self.linears):
            out = project(drop(x, self.dropout, self.training), linear)  # pyright: ignore[reportArgumentType]
            out = out if spread is None else spread @ out
            x = out if layer + 1 == len(self.linears) else F.elu(out)
        return x  # pyright: ignore[reportReturnType]


def train_nodes(
    arm: str, settings: Sequence[Setting], training: Training, data: GraphData, *, ratio: float, run: int, progress: Any
) -> dict[str, Any]:
    """Train one arm with each setting, keep the one best on validation, test it once.

    The noise edges depend on the run alone: they are the same for every arm and setting, in training and in test.
    """
    edges = add_edge_noise(torch.from_numpy(data.edges), ratio, num_nodes=data.num_nodes, seed=run)
    graph = CSRGraph.from_edge_index(edges, num_nodes=data.num_nodes, add_self_loops=True)
    x = as_input(data.features)
    results = [_train(arm, setting, training, data, x, graph, run, progress) for setting in settings]
    best, model = max(results, key=lambda result: result[0]["val_score"])
    static = _agreement(model, x, graph) if isinstance(model, GraphAttentionNet) else {}
    return (
        best
        | static
        | {"tuning_trials": len(settings), "train_seconds": sum(found["train_seconds"] for found, _ in results)}
    )


def _train(
    arm: str, setting: Setting, training: Training, data: GraphData, x: Tensor | SparseFeatures, graph: CSRGraph,
    run: int, progress: Any,
) -> tuple[dict[str, Any], nn.Module]:  # fmt: skip
    torch.manual_seed(run)
    labels = torch.from_numpy(data.labels)
    model, structure = build(arm, setting, training, data, graph)
    parts = {
        name: torch.from_numpy(data.nodes(run, part)) for name, part in (("train", TRAIN), ("val", VAL), ("test", TEST))
    }
    score = partial(score_of, name=data.name)

    def loss(net: nn.Module, nodes: Tensor) -> Tensor:
        return F.cross_entropy(net(x, structure)[nodes], labels[nodes])

    def validate(net: nn.Module) -> dict[str, float]:
        logits = net(x, structure)
        # The loss breaks ties: on few validation nodes many epochs have the same score.
        close = float(F.cross_entropy(logits[parts["val"]], labels[parts["val"]]))
        return {"val": score(logits[parts["val"]], labels[parts["val"]]) - 1e-4 * min(close, 100.0)}

    start = time.perf_counter()
    result = fit(
        model,
        loss,
        [parts["train"]],
        recipe=Recipe(partial(_adam, training=training)),
        budget=Budget(steps=training.epochs),
        seed=run,
        evaluation=Evaluation(validate, every=1, stopping=EarlyStopping("val", "max")),
        progress=progress,
        fabric=make_fabric(devices=1),
    )
    model.eval()
    with torch.no_grad():
        logits = model(x, structure)
    found = {
        "score": score(logits[parts["test"]], labels[parts["test"]]),
        "val_score": score(logits[parts["val"]], labels[parts["val"]]),
        "train_score": score(logits[parts["train"]], labels[parts["train"]]),
        "majority": _majority(labels, parts),
        "best_epoch": result.best_step or result.steps,
        "heads": setting.heads,
        "dropout": setting.dropout,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": training.epochs,
        "examples": training.epochs * len(parts["train"]),
        "train_seconds": time.perf_counter() - start,
        "predictions": logits.argmax(1).numpy().astype(np.int32),
    }
    return found, model


def build(arm: str, setting: Setting, training: Training, data: GraphData, graph: CSRGraph) -> tuple[nn.Module, Any]:
    """The arm's model, and what it is told of the graph.

    Raises:
        ValueError: no such arm.
    """
    inputs, classes = data.features.shape[1], len(data.classes)
    if arm in ATTENTIONS:
        norm = "layer" if training.norm else None
        model = GraphAttentionNet(
            inputs, training.width, classes, layers=training.layers, heads=setting.heads, conv=arm, norm=norm,
            residual=training.residual, dropout=setting.dropout,
        )  # pyright: ignore[reportArgumentType]  # fmt: skip
        return model, graph
    if arm not in ARMS:
        raise ValueError(f"arm: expected one of {', '.join(ARMS)}, got {arm!r}")
    sizes = [inputs, *[training.width] * (training.layers - 1), classes]
    return PlainNet(sizes, setting.dropout), normalised_adjacency(graph) if arm == "gcn" else None


def normalised_adjacency(graph: CSRGraph) -> Tensor:
    """D^-1/2 A D^-1/2 of a graph with loops, sparse CSR (targets, sources)."""
    source, target = graph.edge_index
    weight = graph.degree().float().rsqrt()
    values = weight[source] * weight[target]
    matrix = torch.sparse_coo_tensor(
        torch.stack([target, source]), values, (graph.num_dst, graph.num_src), check_invariants=True
    )
    return matrix.coalesce().to_sparse_csr()


def as_input(features: Any) -> Tensor | SparseFeatures:
    """Features as the layers take them."""
    return torch.from_numpy(features) if isinstance(features, np.ndarray) else SparseFeatures(features)


def score_of(logits: Tensor, labels: Tensor, *, name: str) -> float:
    """Accuracy, or the area under the ROC curve for the graphs that are judged by it."""
    if name in BY_AREA:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(labels.numpy(), (logits[:, 1] - logits[:, 0]).numpy()))
    return float((logits.argmax(1) == labels).float().mean())


def _majority(labels: Tensor, parts: dict[str, Tensor]) -> float:
    most = labels[parts["train"]].mode().values
    return float((labels[parts["test"]] == most).float().mean())


def _agreement(model: GraphAttentionNet, x: Tensor | SparseFeatures, graph: CSRGraph) -> dict[str, Any]:
    """How static each layer's attention is after training, (layers,) means and the extremes over layers and heads."""
    found = [
        attention_staticity(alpha, edges, max_pairs=STATIC_PAIRS)["agreement"]
        for edges, alpha in model.attention(x, graph)
    ]
    return {
        "agreement_layers": np.array([layer.mean() for layer in found]),
        "agreement_min": float(min(layer.min() for layer in found)),
        "agreement_max": float(max(layer.max() for layer in found)),
    }


def _adam(model: nn.Module, *, training: Training) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=training.rate, weight_decay=training.decay)
