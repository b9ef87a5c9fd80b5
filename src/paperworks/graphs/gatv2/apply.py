"""`paperworks apply gatv2 gat.pt --data graph/`: how static is the attention of a trained PyG model on your graph?

Writes staticity.csv (a row per layer and head) and report.html.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from paperworks._files import write_atomic
from paperworks.data.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = ("staticity.csv", "report.html")


def apply(
    model: Annotated[Path, tyro.conf.Positional],
    *,
    data: Path,
    out: Path = Path("gatv2-staticity"),
    activation: Literal["elu", "relu", "none"] = "elu",
    self_loops: bool = True,
    undirected: bool = False,
    pairs: int = 2000,
    seed: int = 0,
) -> str:
    """Measure how far the queries of each attention layer and head agree on which of their common sources is best.

    A GAT layer has agreement 1 whatever it learned: all nodes rank their neighbours alike. If yours does, GATv2 can
    express more at the same cost; whether that helps on your task is what `paperworks run gatv2 --data` tells.

    Args:
        model: a file of torch.save with the state dict of a model whose layers are PyG's GATConv or GATv2Conv.
        data: the graph: a folder with edges.csv and nodes.csv, an .npz, or a PyG Data file.
        out: folder to write to.
        activation: what stands between layers; norms and other layers of the model are not repeated here.
        self_loops: whether the layers add self loops (PyG's default).
        undirected: add the reverse of every edge.
        pairs: pairs of nodes to compare per layer.
        seed: of the choice of pairs.

    Raises:
        ValueError: a file that is not what it should be, or a graph whose features do not fit the model.
    """
    from paperworks.data.graphs import read_graph
    from paperworks.graphs.gatv2.trained import attention_layers, read_state

    model, data, out = Path(model), Path(data), Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder")
    inside = {(out / name).resolve() for name in OUTPUTS}
    if model.resolve() in inside or data.resolve() in inside:
        raise ValueError(f"out: a file that is read would be written in {out}; choose another folder with --out")
    layers, rest = attention_layers(read_state(model), source=str(model), self_loops=self_loops)
    graph = read_graph(data)
    graph = graph.undirected() if undirected else graph
    table, notes = measure(layers, graph, activation=activation, pairs=pairs, seed=seed)
    if rest:
        some = ", ".join(rest[:4]) + (", ..." if len(rest) > 4 else "")
        notes.append(
            f"{len(rest)} tensors belong to other parts of the model and were not used ({some}). Inputs of later "
            f"layers are therefore approximate; that cannot change the result of a GAT layer, static for any input."
        )
    said = findings(table)
    out.mkdir(parents=True, exist_ok=True)
    stream = io.StringIO()
    table.to_csv(stream, index=False, float_format="%.6g", lineterminator="\n")
    write_atomic(out / "staticity.csv", stream.getvalue())
    write_atomic(out / "report.html", page(table, said, notes, title=f"Staticity of {model.name} on {data.name}"))
    return "\n".join([*said, *(f"note: {note}" for note in notes), f"written: {', '.join(OUTPUTS)} in {out}"])


def measure(layers: Any, graph: Any, *, activation: str, pairs: int, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """A row per layer and head, and what has to be said about how it was measured."""
    import pandas as pd
    import torch
    from torch.nn import functional as F

    from paperworks.graphs.gatv2.graph import CSRGraph
    from paperworks.graphs.gatv2.staticity import attention_staticity

    act = {"elu": F.elu, "relu": F.relu, "none": lambda x: x}[activation]
    dense = graph.features if isinstance(graph.features, np.ndarray) else graph.features.toarray()
    x = torch.from_numpy(dense)
    csr = CSRGraph.from_edge_index(torch.from_numpy(graph.edges), num_nodes=graph.num_nodes)
    rows, notes = [], []
    with torch.no_grad():
        for number, found in enumerate(layers):
            layer = found.layer
            if x.shape[1] != layer.in_channels:
                what = "the graph's features are" if number == 0 else "the layer before gives"
                raise DataError(
                    f"{found.name}: expects {layer.in_channels} features, {what} {x.shape[1]}; this job follows models "
                    f"that are a plain chain of attention layers"
                )
            attr = _edge_features(layer, graph, found.name)
            _fit_width(layer, layers[number + 1 :])
            out, (edges, alpha) = layer(x, csr, attr, return_attention_weights=True)
            static = attention_staticity(alpha, edges, max_pairs=pairs, seed=seed)
            rows += [
                {"layer": found.name, "kind": found.kind, "head": head}
                | {name: values[head] for name, values in static.items()}
                for head in range(layer.heads)
            ]
            x = act(out)
    table = pd.DataFrame(rows)
    if (table["pairs"] == 0).any():
        notes.append("no two nodes share two sources in some layer: there is nothing to compare, and no evidence")
    return table, notes


def _edge_features(layer: Any, graph: Any, name: str) -> Any:
    import torch

    if layer.edge_dim is None:
        return None
    if graph.edge_features is None or graph.edge_features.shape[1] != layer.edge_dim:
        has = "none" if graph.edge_features is None else graph.edge_features.shape[1]
        raise DataError(f"{name}: needs {layer.edge_dim} features per edge, the graph has {has}")
    return torch.from_numpy(graph.edge_features)


def _fit_width(layer: Any, later: Any) -> None:
    """Without a bias only the next layer's input tells whether heads are concatenated or averaged."""
    if layer.bias is None and later and later[0].layer.in_channels == layer.out_channels:
        layer.concat = False


def findings(table: pd.DataFrame) -> list[str]:
    """One sentence per layer."""
    said = []
    for (layer, kind), rows in table.groupby(["layer", "kind"], sort=False):
        low, high = rows["agreement"].min(), rows["agreement"].max()
        if not np.isfinite(low):
            said.append(f"{layer} ({kind}): no evidence, no two nodes share two sources")
        elif low == 1:
            said.append(f"{layer} ({kind}): static, all compared nodes agree on their best common source in every head")
        else:
            span = f"{low:.1%}" if low == high else f"{low:.1%} to {high:.1%}"
            said.append(f"{layer} ({kind}): dynamic, {span} of the compared pairs agree on their best common source")
    return said


def page(table: pd.DataFrame, said: list[str], notes: list[str], *, title: str) -> str:
    """The report as one HTML page; names are escaped."""
    from paperworks.lab import page as pages
    from paperworks.lab import report
    from paperworks.lab.facts import table_facts

    caption = "Share of pairs of nodes that agree on their best common source, by layer; a point per head."
    return pages.render(
        Path(__file__).parent / "templates",
        "report.html",
        title=title,
        findings=said,
        notes=notes,
        caption=caption,
        figure=pages.figure("staticity", caption, _draw(table))["svg"],
        table=report.table(table_facts(table)),
    )


def _draw(table: pd.DataFrame) -> Any:
    from matplotlib.figure import Figure

    layers = list(table["layer"].unique())
    figure = Figure(figsize=(1.6 + 0.9 * max(3, len(layers)), 3.2), layout="constrained")
    axis = figure.subplots()
    for place, layer in enumerate(layers):
        rows = table[table["layer"] == layer]
        colour = "#d62728" if rows["kind"].iloc[0] == "GAT" else "#1f77b4"
        axis.plot(np.linspace(-0.2, 0.2, len(rows)) + place, rows["agreement"], "o", color=colour, ms=5)
    names = [str(layer).replace("$", r"\$")[-24:] for layer in layers]
    axis.set_xticks(range(len(layers)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylim(top=1.03)
    axis.axhline(1, color="grey", lw=1, ls="--")
    axis.set_xlim(-0.6, len(layers) - 0.4)
    axis.set_ylabel("pairs that agree")
    return figure
