"""Attention layers out of somebody's trained model: found in a state dict by the names PyG gives them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paperworks.data.errors import DataError, DataMissing
from paperworks.graphs.gatv2.convs import GATConv, GATv2Conv, GraphAttentionLayer

MARKS = {"att_src": "GAT", "att": "GATv2"}
HOLDERS = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Found:
    """A layer of the model: its name, its kind (GAT or GATv2), and the layer itself with the trained weights."""

    name: str
    kind: str
    layer: GraphAttentionLayer


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a file that `torch.save` wrote, alone or as a part of a checkpoint.

    Raises:
        DataMissing: no such file.
        DataError: it cannot be read without running code, or holds no tensors by name.
    """
    if not path.is_file():
        raise DataMissing(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path}: cannot be read as plain tensors ({reason}); save the state dict: "
            f"torch.save(model.state_dict(), path)"
        ) from None
    for holder in HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: expected a state dict (names and tensors), got {type(content).__name__}")
    return dict(content)


def attention_layers(state: Mapping[str, Tensor], *, source: str, self_loops: bool) -> tuple[list[Found], list[str]]:
    """The attention layers in the order in which they stand, and the names of all other tensors.

    Raises:
        DataError: there is none, or the tensors of one do not fit together.
    """
    prefixes: dict[str, str] = {}
    for name in state:
        prefix, _, last = name.rpartition(".")
        if last in MARKS:
            prefixes.setdefault(prefix, MARKS[last])
    if not prefixes:
        shown = ", ".join(list(state)[:6])
        raise DataError(
            f"{source}: has no layer of PyG's GATConv or GATv2Conv (no name ends in att_src or att): {shown}"
        )
    found, used = [], set()
    for prefix, kind in prefixes.items():
        start = f"{prefix}." if prefix else ""
        part = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        layer, names = _build(part, kind, f"{source}: {prefix or 'the layer'}", self_loops)
        used |= {start + name for name in names}
        found.append(Found(prefix or "layer", kind, layer))
    return found, [name for name in state if name not in used]


def _build(part: dict[str, Tensor], kind: str, where: str, loops: bool) -> tuple[GraphAttentionLayer, set[str]]:
    if "lin_src.weight" in part and "lin_dst.weight" not in part and "lin.weight" not in part:
        # Before version 2.5 PyG called the one matrix of GATConv so.
        part = {name.replace("lin_src.", "lin."): value for name, value in part.items()}
    attention = part["att_src" if kind == "GAT" else "att"]
    if attention.ndim != 3:
        raise DataError(f"{where}: attention vector: expected (1, heads, channels), got {tuple(attention.shape)}")
    _, heads, channels = attention.shape
    main = next((name for name in ("lin.weight", "lin_l.weight", "lin_src.weight") if name in part), None)
    if main is None:
        raise DataError(f"{where}: has an attention vector but no lin.weight or lin_l.weight")
    if "lin_src.weight" in part:
        raise DataError(f"{where}: is a bipartite layer, which needs two kinds of nodes; this job reads one kind")
    bias = part.get("bias")
    options: dict[str, Any] = {
        "heads": heads,
        "concat": bias is None or len(bias) == heads * channels,
        "bias": bias is not None,
        "residual": "res.weight" in part,
        "edge_dim": part["lin_edge.weight"].shape[1] if "lin_edge.weight" in part else None,
        "add_self_loops": loops,
    }
    if kind == "GATv2":
        left, right = part["lin_l.weight"], part.get("lin_r.weight")
        options["share_weights"] = right is None or torch.equal(left, right)
        if right is None:
            part = part | {name.replace("lin_l.", "lin_r."): part[name] for name in part if name.startswith("lin_l.")}
    layer = (GATConv if kind == "GAT" else GATv2Conv)(part[main].shape[1], channels, **options)
    wanted = set(layer.state_dict())
    try:
        layer.load_state_dict({name: part[name] for name in wanted})
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{where}: does not fit PyG's {kind} layer of {heads} heads x {channels}: {error}") from None
    return layer.eval(), wanted & set(part) | {"lin_src.weight"}
