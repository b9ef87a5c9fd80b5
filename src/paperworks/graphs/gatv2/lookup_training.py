"""Training one arm on DictionaryLookup: equal steps, batches and rate for all, no dropout anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.graphs.gatv2.dense import DenseGATv2
from paperworks.graphs.gatv2.lookup import DictionaryLookup
from paperworks.graphs.gatv2.staticity import attention_staticity
from paperworks.lab.study import Progress
from paperworks.train import Budget, EpochBatches, Evaluation, Recipe, fit, make_fabric

# arm -> attention, heads, shared matrix
ARMS: dict[str, tuple[str, int, bool]] = {
    "gatv2": ("gatv2", 1, False),
    "gatv2_shared": ("gatv2", 1, True),
    "gat": ("gat", 1, False),
    "gat_8_heads": ("gat", 8, False),
    "dot": ("dot", 1, False),
}
WATCHED = 500  # unseen graphs on which progress is followed
TRAIN_SHOWN = 2000
CHUNK = 1024


@dataclass(frozen=True)
class Lesson:
    """How an arm is trained."""

    arm: str
    width: int
    steps: int
    batch: int
    rate: float
    clip: float
    every: int


class LookupNet(nn.Module):
    """Embeddings of key and value, summed; ReLU; one attention layer from key nodes to query nodes; a linear output."""

    def __init__(self, k: int, width: int, arm: str):
        super().__init__()
        conv, heads, shared = ARMS[arm]
        self.k = k
        self.keys, self.values = nn.Embedding(k + 1, width), nn.Embedding(k + 1, width)
        self.conv = DenseGATv2(width, heads, bias=False, share_weights=shared, conv=conv)  # pyright: ignore[reportArgumentType]
        self.out = nn.Linear(width, k, bias=False)
        # One initialisation for all matrices of all arms, PyTorch's own, chosen on the arm that no claim is about: the
        # dot product solves k = 10 from it in 50 steps, from Glorot's (nearly twice as wide) not in 400.
        for part in self.conv.children():
            part.reset_parameters()  # pyright: ignore[reportCallIssue]

    def sides(self, permutations: Tensor) -> tuple[Tensor, Tensor]:
        """(query nodes, key nodes), each (B, k, width)."""
        order = torch.arange(self.k, device=permutations.device)
        queries = F.relu(self.keys(order) + self.values.weight[self.k])
        return queries.expand(len(permutations), -1, -1), F.relu(self.keys(order) + self.values(permutations))

    def forward(self, permutations: Tensor) -> Tensor:
        """Logits (B, k queries, k values) for permutations (B, k)."""
        return self.out(self.conv(self.sides(permutations)))


def parameters_of(k: int, width: int, arm: str) -> int:
    """Number of parameters of an arm's model."""
    return sum(parameter.numel() for parameter in LookupNet(k, width, arm).parameters())


def matched_width(k: int, width: int, arm: str, *, like: str = "gatv2_shared") -> int:
    """The width at which an arm has about as many parameters as `like` has at `width`."""
    goal, heads = parameters_of(k, width, like), ARMS[arm][1]
    return min(range(heads, 2 * width, heads), key=lambda size: abs(parameters_of(k, size, arm) - goal))


def train_lookup(lesson: Lesson, task: DictionaryLookup, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Train on the task's training graphs and test on unseen ones.

    Returns:
        `accuracy` and `train_accuracy` over query nodes, `steps_to_99` (NaN: never), agreement of the trained attention
        (smallest and largest over heads), sizes, `curve` (step, accuracy) and `attention` (k, k), of one unseen graph
        and head.
    """
    torch.manual_seed(seed)
    model = LookupNet(task.k, lesson.width, lesson.arm)
    order = torch.randperm(len(task.test), generator=torch.Generator().manual_seed(seed))
    watched = task.test[order[:WATCHED]]
    result = fit(
        model,
        lambda net, batch: F.cross_entropy(net(batch["graphs"]).flatten(0, 1), batch["graphs"].flatten()),
        EpochBatches({"graphs": task.train}, size=min(lesson.batch, len(task.train)), seed=seed),
        recipe=Recipe(partial(_adam, rate=lesson.rate), clip=lesson.clip),
        budget=Budget(steps=lesson.steps),
        seed=seed,
        evaluation=Evaluation(lambda net: {"accuracy": _accuracy(net, watched)}, every=lesson.every),
        progress=progress,
        fabric=make_fabric(devices=1),
    )
    curve = torch.tensor([(step, values["accuracy"]) for step, values in result.evaluations])
    reached = curve[curve[:, 1] >= 0.99, 0]
    alpha = attention_of(model, watched[:20])
    static = staticity_of(alpha)
    return {
        "accuracy": _accuracy(model, task.test),
        "train_accuracy": _accuracy(model, task.train[:TRAIN_SHOWN]),
        "steps_to_99": float(reached[0]) if len(reached) else float("nan"),
        "agreement_min": float(static.min()),
        "agreement_max": float(static.max()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": result.steps,
        "examples": result.steps * lesson.batch,
        "train_seconds": result.seconds,
        "train_graphs": len(task.train),
        "test_graphs": len(task.test),
        "curve": curve.numpy(),
        "attention": alpha[0, :, :, 0].numpy(),
    }


@torch.no_grad()
def attention_of(model: LookupNet, permutations: Tensor) -> Tensor:
    """Attention (B, k queries, k keys, heads)."""
    _, alpha = model.conv(model.sides(permutations), return_attention_weights=True)
    return alpha


def staticity_of(alpha: Tensor) -> Any:
    """Agreement (heads,) of queries of the same graph, over a batch of dense attentions (B, k, k, heads)."""
    graphs, queries, keys, heads = alpha.shape
    place = torch.cartesian_prod(torch.arange(graphs), torch.arange(queries), torch.arange(keys))
    edges = torch.stack([place[:, 0] * keys + place[:, 2], place[:, 0] * queries + place[:, 1]])
    return attention_staticity(alpha.reshape(-1, heads), edges)["agreement"]


def _adam(model: nn.Module, *, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=rate)


@torch.no_grad()
def _accuracy(model: nn.Module, permutations: Tensor) -> float:
    right = sum(int((model(part).argmax(-1) == part).sum()) for part in permutations.split(CHUNK))
    return right / permutations.numel()
