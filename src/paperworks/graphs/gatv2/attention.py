"""Graph attention as a function of tensors: checks, number formats, and the choice of a backend.

Reference: Brody, Alon and Yahav 2022, "How Attentive are Graph Attention Networks?", arXiv 2105.14491.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from paperworks.graphs.gatv2.graph import CSRGraph

Backend: TypeAlias = Literal["auto", "numba", "triton", "torch"]
INSTALLED = {"torch": True} | {name: importlib.util.find_spec(name) is not None for name in ("numba", "triton")}


@dataclass(frozen=True)
class EdgeTerms:
    """What enters the scores besides the two nodes; each may be absent. Rows follow `graph.edge_index`.

    Attributes:
        attr: (E, D) features, which `lin` (D, H, C) maps into the sum inside the nonlinearity.
        bias: (E, H) added to the scores.
        mask: (E,) bool, True = keep; a dropped edge is as if it were not there.
    """

    attr: Tensor | None = None
    lin: Tensor | None = None
    bias: Tensor | None = None
    mask: Tensor | None = None


def gatv2_attention(
    left: Tensor,
    right: Tensor,
    att: Tensor,
    graph: CSRGraph,
    *,
    edge_bias: Tensor | None = None,
    negative_slope: float = 0.2,
    dropout: float = 0.0,
    training: bool = False,
    edge_attr: Tensor | None = None,
    edge_lin: Tensor | None = None,
    edge_mask: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Dynamic graph attention: the attention vector comes after the nonlinearity.

    $e_{ij} = a^\top \mathrm{LeakyReLU}(l_j + r_i + W_e\,\mathrm{edge}_{ij}) + b_{ij}$,
    $\alpha_{ij} = \mathrm{softmax}_{j \in N(i)} e_{ij}$, $\mathrm{out}_i = \sum_j \mathrm{dropout}(\alpha_{ij})\, l_j$.

    Nothing of the size edges x heads x channels is allocated by the backends numba and triton.

    Args:
        left: (N_src, H, C), what sources send and are judged by.
        right: (N_dst, H, C), the queries.
        att: (H, C).
        graph: edges j -> i between N_src sources and N_dst targets.
        edge_bias: (E, H), added to the scores.
        negative_slope: of LeakyReLU.
        dropout: share of the weights dropped after the softmax, while `training`. The mask is a function of a seed
            (drawn from torch's generator) and the edge's number, the same on every backend.
        edge_attr, edge_lin: (E, D) and (D, H, C), both or none.
        edge_mask: (E,) bool, True = keep.
        backend: auto takes numba on a CPU (torch where numba is missing) and triton on CUDA. torch is plain PyTorch: it
            can be differentiated twice and needs memory for edges x heads x channels.

    Returns:
        (N_dst, H, C) in the type of `left`; half precision is computed in float32. 0 for a target without edges.

    Raises:
        ValueError: shapes that do not fit each other or the graph, a dropout outside of [0, 1), an absent backend.
    """
    terms = EdgeTerms(edge_attr, edge_lin, edge_bias, edge_mask)
    rate = dropout if training else 0.0
    return attend(left, right, att, left, graph, terms, slope=negative_slope, dropout=rate, backend=backend)[0]


def attend(
    left: Tensor,
    right: Tensor,
    att: Tensor,
    value: Tensor,
    graph: CSRGraph,
    terms: EdgeTerms = EdgeTerms(),
    *,
    slope: float = 0.2,
    dropout: float = 0.0,
    dot: bool = False,
    weights: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """The general form behind all three layers: keys `left` (N_src, H, W), values (N_src, H, C), any of `terms`.

    `dot`: scores are att . (left * right) instead. Returns (N_dst, H, C) and, with `weights`, alpha (E, H) before
    dropout.
    """
    _check(left, right, att, value, graph, terms)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
    heads, width = att.shape
    kind = torch.float64 if left.dtype == torch.float64 else torch.float32

    def flat(tensor: Tensor, columns: int) -> Tensor:
        return tensor.to(kind).reshape(tensor.shape[0], columns)

    def absent(*shape: int, dtype: torch.dtype = kind) -> Tensor:
        return left.new_empty(shape, dtype=dtype)

    tensors = (
        flat(left, heads * width),
        flat(right, heads * width),
        att.to(kind),
        flat(value, heads * value.shape[2]),
        absent(0, 0) if terms.attr is None else terms.attr.to(kind),
        absent(0, heads * width) if terms.lin is None else flat(terms.lin, heads * width),
        terms.bias.to(kind) if terms.bias is not None else absent(0, heads),
        terms.mask if terms.mask is not None else absent(0, dtype=torch.bool),
        torch.randint(2**62, ()) if dropout else torch.zeros((), dtype=torch.int64),
    )
    chosen = choose_backend(backend, left.device)
    if chosen == "triton":
        # Importing the module is what gives the operators their CUDA kernels.
        import paperworks.graphs.gatv2.triton_kernels  # noqa: F401

        if terms.attr is not None and backend == "triton":
            raise ValueError("backend: triton takes no edge_attr; use auto or torch")
    if chosen == "torch" or (chosen == "triton" and terms.attr is not None):
        from paperworks.graphs.gatv2.plain import plain_attention

        out, alpha = plain_attention(*tensors, graph, slope, dropout, dot)
    else:
        from paperworks.graphs.gatv2.ops import graph_attention

        keep = weights or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        out, lse, scores = graph_attention(*tensors, graph.rows, graph.columns, slope, dropout, dot, keep)
        alpha = _normalised(scores, lse, graph) if weights else None
    alpha = alpha.to(value.dtype) if weights and alpha is not None else None
    return out.view(len(out), heads, value.shape[2]).to(value.dtype), alpha


def choose_backend(backend: Backend, device: torch.device) -> Literal["numba", "triton", "torch"]:
    """The backend that will run, checked to be there.

    Raises:
        ValueError: it is not installed, or not for this device.
    """
    fitting: dict[str, Literal["numba", "triton"]] = {"cpu": "numba", "cuda": "triton"}
    natural = fitting.get(device.type) or "torch"
    if backend == "auto":
        return natural if INSTALLED[natural] else "torch"
    if backend not in INSTALLED:
        raise ValueError(f"backend: expected auto, numba, triton or torch, got {backend!r}")
    if backend != "torch" and backend != natural:
        raise ValueError(f"backend: {backend} does not run on {device.type}; use auto")
    if not INSTALLED[backend]:
        extra = "pip install 'paperworks[graphs]'" if backend == "numba" else "pip install triton"
        raise ValueError(f"backend: {backend} is not installed; {extra}")
    return backend


def _normalised(scores: Tensor, lse: Tensor, graph: CSRGraph) -> Tensor:
    """The softmax of the scores (in the order of rows) over in-edges, (E, H), differentiable; 0 for dropped edges."""
    scores = torch.empty_like(scores).index_copy(0, graph.rows[4].long(), scores)
    target = graph.edge_index[1]
    mass = torch.exp(scores - lse.detach()[target])
    total = torch.zeros_like(lse).index_add(0, target, mass)
    return mass / total.clamp(min=torch.finfo(mass.dtype).tiny)[target]


def _check(left: Tensor, right: Tensor, att: Tensor, value: Tensor, graph: CSRGraph, terms: EdgeTerms) -> None:
    for name, tensor in (("left", left), ("right", right), ("value", value)):
        if tensor.ndim != 3 or not tensor.is_floating_point():
            raise ValueError(f"{name}: expected a floating tensor (nodes, heads, channels), got {_words(tensor)}")
    heads, width = left.shape[1:]
    for name, tensor, shape in (
        ("att", att, (heads, width)),
        ("left", left, (graph.num_src, heads, width)),
        ("right", right, (graph.num_dst, heads, width)),
        ("value", value, (graph.num_src, heads, value.shape[2])),
        ("edge_bias", terms.bias, (graph.num_edges, heads)),
        ("edge_mask", terms.mask, (graph.num_edges,)),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {_words(tensor)}")
    if terms.mask is not None and terms.mask.dtype != torch.bool:
        raise ValueError(f"edge_mask: expected bool, True = keep, got {terms.mask.dtype}")
    if (terms.attr is None) != (terms.lin is None):
        raise ValueError("edge_attr, edge_lin: give both or neither")
    if terms.attr is not None and terms.lin is not None:
        if terms.attr.ndim != 2 or terms.attr.shape[0] != graph.num_edges:
            raise ValueError(f"edge_attr: expected ({graph.num_edges}, features), got {_words(terms.attr)}")
        if tuple(terms.lin.shape) != (terms.attr.shape[1], heads, width):
            raise ValueError(f"edge_lin: expected {(terms.attr.shape[1], heads, width)}, got {_words(terms.lin)}")


def _words(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
