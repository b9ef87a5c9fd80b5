"""Is GAT's attention static and GATv2's not, does GATv2 solve DictionaryLookup, and does it bear noise edges better?

Part 1 (static) is exact: random layers on random graphs, and every trained layer of the other parts. Part 2 (lookup)
gives all arms the same steps, batches, rate and initialisation, and no dropout; GATv2 (separate or shared matrices, one
choice made at k = 6) has to beat GAT with 1 head and with 8: a choice at k = 6, where the two are close, could take the
one that is far weaker at larger k. Part 3 (noise) tunes GAT and GATv2 by the same grid; noise edges are fixed per run.
Two runs (initialisations, or splits) stand behind each seed of part 3.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from paperworks.data.errors import DataMissing
from paperworks.graphs.gatv2 import views
from paperworks.graphs.gatv2.measures import (
    always_static,
    area_between,
    baseline_learns,
    lookup_accuracy,
    lookup_at,
    lookup_gain,
    never_static,
    nodes_learn,
    over_dot,
)
from paperworks.lab.claim import Claim, Condition, Guard, value
from paperworks.lab.study import Loaded, Point, Progress, Request, Study

LOOKUP_ARMS = ("gatv2", "gatv2_shared", "gat", "gat_8_heads", "dot")
GRID = ((8, 0.5), (8, 0.6), (1, 0.5), (1, 0.6))
PLANETOID, BLOCKS, ARXIV = ("cora", "citeseer"), "blocks", "ogbn_arxiv"
OWN_ARMS = ("gat", "gatv2", "dot", "gcn", "mlp")
Tuned = tuple[tuple[str, str, bool, int, float], ...]


@cache
def tuned_settings() -> Tuned:
    """(graph, arm, noisy, heads, dropout) as the equal search found them; see `tuning.toml`."""
    content = tomllib.loads((Path(__file__).parent / "tuning.toml").read_text(encoding="utf-8"))
    return tuple(
        (graph, arm, level == "noisy", int(setting["heads"]), float(setting["dropout"]))
        for graph, arms in content.items()
        for arm, levels in arms.items()
        for level, setting in levels.items()
    )


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    sizes: tuple[int, ...] = (4, 6, 8, 10)
    """k of DictionaryLookup; the claim rests on 8 and 10, choices are made at 6, 4 has too few test graphs to judge."""
    lookup_arms: tuple[str, ...] = LOOKUP_ARMS
    """Arms of DictionaryLookup: gatv2, gatv2_shared, gat, gat_8_heads, dot."""
    lookup_width: int = 128
    """Width of embeddings and attention layer, all heads together."""
    lookup_steps: int = 1000
    """Training steps, the same for every arm."""
    lookup_batch: int = 128
    """Graphs per step."""
    lookup_rate: float = 1e-3
    """Adam's learning rate."""
    lookup_clip: float = 1.0
    """Largest gradient norm."""
    lookup_every: int = 50
    """Steps between looks at 500 unseen graphs; nothing depends on them."""
    matched: bool = True
    """Train the largest k once more with widths that give all arms the same number of parameters."""
    graphs: tuple[str, ...] = ("cora", "chameleon_filtered")
    """Graphs of the noise study: cora, citeseer, chameleon_filtered, squirrel_filtered, minesweeper, tolokers, blocks,
    ogbn_arxiv."""
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Noise edges per edge."""
    runs: int = 2
    """Initialisations (or splits) per seed."""
    width: int = 64
    """Width between layers, all heads together."""
    layers: int = 2
    """Attention layers."""
    norm: bool = False
    """Layer norm between layers."""
    residual: bool = False
    """Linear residual in every layer."""
    rate: float = 5e-3
    """Adam's learning rate."""
    decay: float = 5e-4
    """Adam's L2 penalty."""
    epochs: int = 100
    """Full-graph steps; the weights of the best validation epoch count."""
    search: bool = False
    """Try the whole grid of heads and dropout instead of the tuned setting."""
    undirected: bool = False
    """Own data: add the reverse of every edge."""
    tuned: Annotated[Tuned, tyro.conf.Suppress] = field(default_factory=tuned_settings)
    """The tuned settings, part of every trial's key."""


SCALES = {
    "smoke": Config(
        sizes=(4,), lookup_arms=("gatv2", "gat", "dot"), lookup_width=32, lookup_steps=120, lookup_batch=32,
        matched=False, graphs=(BLOCKS,), ratios=(0.0, 0.5), runs=1, width=16, epochs=10,
    ),
    "demo": Config(
        sizes=(6, 8), lookup_steps=400, matched=False, graphs=("chameleon_filtered",), ratios=(0.0, 0.5), runs=1,
    ),
    "search": Config(sizes=(), matched=False, ratios=(0.0, 0.5), search=True),
    "laptop": Config(),
    "paper": Config(
        graphs=("cora", "citeseer", "chameleon_filtered", "minesweeper", ARXIV), ratios=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        width=256, layers=3, norm=True, residual=True, rate=1e-2, decay=0.0, epochs=1500,
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The graphs; those that are not on this machine are left out, and the report says so."""
    if request.path is not None:
        return _load_own(config, request)
    found, notes = {}, []
    for name in config.graphs:
        try:
            found[name] = _load_graph(name)
        except DataMissing as missing:
            notes.append(f"left out: {missing}")
    if notes and BLOCKS not in found:
        found[BLOCKS] = _load_graph(BLOCKS)
        notes.append("a stochastic block model stands in; it is shown and decides nothing")
    return _loaded(found, [_describe(graph) for graph in found.values()] + notes)


def _load_graph(name: str) -> Any:
    from paperworks.data import graph_benchmarks as benchmarks

    if name in PLANETOID:
        return benchmarks.planetoid(name)
    if name in benchmarks.HETEROPHILOUS:
        return benchmarks.heterophilous(name)
    if name == BLOCKS:
        return benchmarks.block_graph(seed=0)
    if name == ARXIV:
        return benchmarks.ogbn_arxiv()
    known = (*PLANETOID, *benchmarks.HETEROPHILOUS, BLOCKS, ARXIV)
    raise ValueError(f"graphs: expected some of {', '.join(known)}, got {name!r}")


def _load_own(config: Config, request: Request) -> Loaded:
    from paperworks.data.graphs import read_graph

    if request.columns:
        raise ValueError("columns: a graph's files have fixed names; see `paperworks.data.graphs.read_graph`")
    graph = read_graph(request.path or "")
    graph = graph.undirected() if config.undirected else graph
    return _loaded({"own": graph}, [_describe(graph), *_warnings(graph)])


def _warnings(graph: Any) -> list[str]:
    codes = graph.edges[0] * graph.num_nodes + graph.edges[1]
    back = np.isin(graph.edges[1] * graph.num_nodes + graph.edges[0], codes)
    said = [] if back.all() else [f"{(~back).mean():.0%} of the edges have no reverse; --undirected adds them"]
    if graph.edge_features is not None:
        said.append("edge features are not used by this study; GATv2Conv(edge_dim=...) takes them")
    return said


def _describe(graph: Any) -> str:
    notes = "".join(f"; {note}" for note in graph.notes)
    return f"{graph!r}, sha256 {graph.fingerprint[:8]}{notes}"


def _loaded(graphs: Mapping[str, Any], notes: Sequence[str]) -> Loaded:
    together = "".join(f"{name}:{graph.fingerprint}" for name, graph in sorted(graphs.items()))
    return Loaded(dict(graphs), hashlib.sha256(together.encode()).hexdigest(), tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Random layers, every arm at every k, and GAT and GATv2 on every graph at every noise."""
    random: list[dict[str, Any]] = [{"part": "static", "arm": arm} for arm in ("gat", "gatv2", "dot")]
    if "own" in data:
        noisy = [{"part": "noise", "graph": "own", "arm": a, "ratio": r} for a in OWN_ARMS[:3] for r in config.ratios]
        plain = [{"part": "noise", "graph": "own", "arm": arm, "ratio": 0.0} for arm in OWN_ARMS[3:]]
        return [*random, *noisy, *plain]
    grid = list(random)
    grid += [{"part": "lookup", "k": k, "arm": arm} for k in config.sizes for arm in config.lookup_arms]
    if config.matched and config.sizes:
        grid += [{"part": "matched", "k": max(config.sizes), "arm": arm} for arm in config.lookup_arms]
    for graph in data:
        for arm in ("gat", "gatv2"):
            for ratio in config.ratios:
                point = {"part": "noise", "graph": graph, "arm": arm, "ratio": ratio}
                settings = GRID if config.search else (tuned_setting(config, graph, arm, ratio),)
                grid += [point | {"heads": heads, "dropout": dropout} for heads, dropout in settings]
    return grid


def tuned_setting(config: Config, graph: str, arm: str, ratio: float) -> tuple[int, float]:
    """(heads, dropout) found at this noise (without, or with 0.5); the first of the grid for graphs not searched."""
    found = {(g, a, noisy): (heads, dropout) for g, a, noisy, heads, dropout in config.tuned}
    return found.get((graph, arm, ratio > 0), GRID[0])


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Look at a random layer, train on DictionaryLookup, or train on a graph."""
    if point["part"] == "static":
        from paperworks.graphs.gatv2.random_layers import staticity_of_random_layers

        return staticity_of_random_layers(point["arm"], seed=seed)
    if point["part"] in ("lookup", "matched"):
        return _train_lookup(point, seed, config, progress)
    return _train_nodes(point, seed, config, data[point["graph"]], progress)


def _train_lookup(point: Point, seed: int, config: Config, progress: Progress) -> dict[str, Any]:
    from paperworks.graphs.gatv2 import lookup_training as training
    from paperworks.graphs.gatv2.lookup import dictionary_lookup

    width, arm = config.lookup_width, point["arm"]
    if arm not in training.ARMS:
        raise ValueError(f"lookup_arms: expected some of {', '.join(training.ARMS)}, got {arm!r}")
    if point["part"] == "matched":
        width = training.matched_width(point["k"], width, arm)
    lesson = training.Lesson(
        arm, width, config.lookup_steps, config.lookup_batch, config.lookup_rate, config.lookup_clip,
        config.lookup_every,
    )  # fmt: skip
    task = dictionary_lookup(point["k"], seed=seed)
    return training.train_lookup(lesson, task, seed=seed, progress=progress) | {"width": width}


def _train_nodes(point: Point, seed: int, config: Config, graph: Any, progress: Progress) -> dict[str, Any]:
    """All runs of a seed; numbers are their means, `scores` keeps each."""
    from paperworks.graphs.gatv2 import node_training as nodes

    own = point["graph"] == "own"
    settings = [nodes.Setting(*pair) for pair in (GRID if own else [(point["heads"], point["dropout"])])]
    training = nodes.Training(
        config.width, config.layers, config.norm, config.residual, config.rate, config.decay, config.epochs
    )
    found = [
        nodes.train_nodes(
            point["arm"], settings, training, graph, ratio=point["ratio"], run=seed * config.runs + run,
            progress=progress,
        )
        for run in range(config.runs)
    ]  # fmt: skip
    numbers = {name for result in found for name, item in result.items() if np.isscalar(item)}
    means = {
        name: float(np.mean([result[name] for result in found])) for name in sorted(numbers - {"heads", "dropout"})
    }
    extremes = {}
    if "agreement_layers" in found[0]:
        extremes = {
            "agreement_min": min(result["agreement_min"] for result in found),
            "agreement_max": max(result["agreement_max"] for result in found),
            "agreement_layers": np.mean([result["agreement_layers"] for result in found], axis=0),
        }
    if own:
        means["chosen_heads"], means["chosen_dropout"] = found[0]["heads"], found[0]["dropout"]
    elif not config.search:
        means["tuning_trials"] = float(len(GRID))
    return means | extremes | {
        "scores": np.array([result["score"] for result in found]),
        "test_size": int((graph.splits == 2).sum(1)[0]),
        "train_size": int((graph.splits == 0).sum(1)[0]),
        "splits": len(graph.splits),
        "predictions": found[0]["predictions"],
    }  # fmt: skip


# Claims --------------------------------------------------------------------------------------------------------------


CLAIMS = (
    Claim(
        "static",
        (
            Condition("seeds in which every GAT layer is static", always_static, 1.0, rule="point"),
            Condition("seeds in which no GATv2 layer is static", never_static, 1.0, rule="point"),
        ),
        # Exact statements, not estimates: they take no part in the correction for several tests.
        family="exact",
    ),
    Claim(
        "dictionary_lookup",
        (
            *(
                Condition(f"accuracy GATv2 - GAT with {heads}, k = {k}", lookup_gain(k, baseline), 0.10)
                for k in (8, 10)
                for baseline, heads in (("gat", "1 head"), ("gat_8_heads", "8 heads"))
            ),
            Condition("mean accuracy of GATv2, k = 8", lookup_accuracy(8), 0.99, -np.inf, rule="point"),
            Condition("mean accuracy of GATv2, k = 10", lookup_accuracy(10), 0.99, -np.inf, rule="point"),
        ),
        arms=tuple(f"lookup: {arm}" for arm in LOOKUP_ARMS),
        guards=(Guard("the baseline learns", baseline_learns),),
        shown=(
            Condition("accuracy GATv2 - dot product, k = 10 (GATv2, or any dynamic attention?)", over_dot(10), 0.0),
            *(
                Condition(f"training accuracy, {name}, k = 10", value("train_accuracy", lookup_at(10, arm)), 1.0)
                for arm, name in (("gat_8_heads", "GAT with 8 heads"), ("gat", "GAT with 1 head"))
            ),
        ),
    ),
    Claim(
        "noise",
        (
            Condition("area between accuracy curves, GATv2 - GAT, Cora", area_between("cora"), 0.0),
            Condition("area between accuracy curves, GATv2 - GAT, Chameleon", area_between("chameleon_filtered"), 0.0),
        ),
        arms=("noise: gat", "noise: gatv2"),
        guards=(Guard("both arms learn", nodes_learn),),
        shown=tuple(
            Condition(f"the same on {graph}", area_between(graph), 0.0)
            for graph in ("citeseer", "minesweeper", "ogbn_arxiv", BLOCKS, "own")
        ),
    ),
)  # fmt: skip


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, steps, examples, tuning trials, seconds of CPU."""
    rows = frame[frame["part"].isin(["lookup", "noise"])].copy()
    rows["what"] = rows["part"] + ": " + rows["arm"]
    if "tuning_trials" not in rows:
        rows["tuning_trials"] = 0.0
    # DictionaryLookup is not tuned: one setting for every arm.
    rows["tuning_trials"] = rows["tuning_trials"].fillna(0.0)
    return rows.groupby("what", sort=False)[["parameters", "steps", "examples", "tuning_trials", "cpu_seconds"]].mean()


def _sentences(frame: pd.DataFrame) -> list[str]:
    said = [
        "Staticity is a statement about one layer and the sources that two queries share: in a deep GAT lower layers "
        "mix what a query knows into its keys, and the network as a whole can be dynamic."
    ]
    if (frame["part"] == "lookup").any():
        said.append(
            "DictionaryLookup here has no dropout in evaluation, no self loops for any arm, separate and shared "
            "matrices for GATv2, and 8 heads for GAT as well. Matrices of all arms start from PyTorch's own "
            "distribution (the official code's is Glorot's), chosen because dot-product attention did not solve k = 10 "
            "from Glorot's in 400 steps. Dot-product attention is dynamic too: where it does as "
            "well, the task tests dynamic attention, not GATv2 alone."
        )
    return [*said, *views.said_of_graphs(frame)]


STUDY = Study(
    slug="gatv2",
    scales=SCALES,
    seeds={"smoke": 2, "demo": 3, "search": 1, "laptop": 5, "paper": 10},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=_sentences,
    budget=budget,
    equal=("steps", "examples", "tuning_trials"),
    finish=views.write_own_files,
)
