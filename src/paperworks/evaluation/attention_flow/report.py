"""One text explained: its tokens, what each method gives them, and how far flow means anything there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.evaluation.attention_flow.attribution import input_gradients, leave_one_out, token_shapley
from paperworks.evaluation.attention_flow.explain import Reading, read_text
from paperworks.evaluation.attention_flow.flow import attention_flow, flow_bounds
from paperworks.evaluation.attention_flow.layers import Heads, attention_rollout
from paperworks.evaluation.attention_flow.saturation import Degeneracy, degeneracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method: TypeAlias = Literal["flow", "shapley", "rollout", "raw", "model_shapley", "model_loo", "gradient"]
Vector: TypeAlias = NDArray[np.float64]

FLOW_METHODS: tuple[Method, ...] = ("flow", "shapley", "rollout", "raw")
MODEL_METHODS: tuple[Method, ...] = ("model_shapley", "model_loo", "gradient")
DEFAULT_METHODS: tuple[Method, ...] = (*FLOW_METHODS, "model_shapley")
NAMES = {
    "flow": "attention flow",
    "shapley": "Shapley value of the flow game",
    "rollout": "attention rollout",
    "raw": "attention weights, last layer",
    "model_shapley": "the model's own Shapley values",
    "model_loo": "the model without the token",
    "gradient": "input × gradient",
}
EXACT_TOKENS = 10
BATCH = 64


@dataclass(frozen=True)
class FlowReport:
    """One text with a vector (n,) per method; `print` it, show `to_html()` in a notebook, or `plot()` it.

    Attributes:
        tokens: word pieces; a leading space begins a word.
        values: method -> (n,).
        low, high: between which every maximum flow lies, (n,).
        degeneracy: how much of the flow is decided by the first layer alone.
        output: the position that flow starts from (n or more: in a decoder).
        players: (n,) bool, tokens that are not special; the model's own values are about these.
        label, probability: what is explained; empty and NaN without a model.
        stderr: of sampled values of the model, (n,); zero where exact.
        cut: tokens at the end that did not fit.
    """

    tokens: tuple[str, ...]
    values: Mapping[str, Vector]
    low: Vector
    high: Vector
    degeneracy: Degeneracy
    output: int
    players: NDArray[np.bool_]
    label: str = ""
    probability: float = float("nan")
    stderr: Vector | None = None
    cut: int = 0

    @classmethod
    def from_text(
        cls,
        model: Any,
        tokenizer: Any,
        text: str,
        target: str | int | None = None,
        *,
        methods: Sequence[Method] = DEFAULT_METHODS,
        residual: float = 0.5,
        heads: Heads = "mean",
        max_tokens: int | None = None,
        n_permutations: int = 64,
        seed: int = 0,
    ) -> FlowReport:
        """Explain what a `transformers` model makes of a text.

        Args:
            model: a sequence classifier, a causal or masked language model, or an encoder-decoder with a language head;
                loaded in any way, its attention is made eager for the one call that needs it.
            tokenizer: the model's own.
            text: for a masked language model with its mask token in it, once.
            target: class (name or number) or token to explain; None: what the model predicts.
            methods: see `NAMES`. The model's own Shapley values are exact up to 10 tokens (1,024 forward passes),
                beyond sampled over `n_permutations` orders, each costing one pass per token.
            residual, heads: of the graph.
            max_tokens: cut longer texts there; None: at the model's limit.

        Raises:
            ValueError: as `read_text`; an unknown method.
        """
        check_methods(methods)
        reading = read_text(model, tokenizer, text, target, residual=residual, heads=heads, max_tokens=max_tokens)
        report = cls.from_layers(
            reading.layers,
            reading.output,
            tokens=reading.tokens,
            methods=methods,
            residual=residual,
            players=reading.players,
            seed=seed,
        )
        values, stderr = _model_values(reading, methods, n_permutations, seed)
        return cls(
            **{
                **vars(report),
                "values": {name: (dict(report.values) | values)[name] for name in methods},
                "label": reading.label,
                "probability": reading.probability,
                "stderr": stderr,
                "cut": reading.cut,
            }
        )

    @classmethod
    def from_layers(
        cls,
        layers: Tensor,
        output: int,
        *,
        tokens: Sequence[str] | None = None,
        methods: Sequence[Method] = FLOW_METHODS,
        residual: float = 0.0,
        players: Tensor | None = None,
        seed: int = 0,
    ) -> FlowReport:
        """Explain a graph without a model: layers (L, m, m) with their residual connections in them.

        Args:
            output: the position that flow starts from.
            tokens: names of the first n <= m positions, which are shown; None: numbers for all.
            residual: the share of the residual in the last layer, which "raw" takes out again.

        Raises:
            ValueError: as `attention_flow`.
        """
        size = layers.shape[-1]
        names = tuple(str(position) for position in range(size)) if tokens is None else tuple(tokens)
        if len(names) > size:
            raise ValueError(f"tokens: got {len(names)} for a graph of {size} positions")
        output = range(size)[output]
        graph, shown = layers[None, :, None], slice(0, len(names))
        options: dict[str, Any] = {"residual": 0.0, "sources": [output]}
        low, high = (part[0, 0, shown].numpy() for part in flow_bounds(graph, **options))
        values: dict[str, Vector] = {}
        for method in methods:
            if method == "flow":
                values[method] = high
            elif method == "shapley":
                phi = attention_flow(graph, mode="shapley", seed=seed, **options)
                values[method] = phi[0, 0, shown].numpy()
            elif method == "rollout":
                values[method] = attention_rollout(graph, **options)[0, 0, shown].double().numpy()
            elif method == "raw":
                values[method] = _raw(layers, output, residual)[shown]
        # In an encoder-decoder only the decoder's positions are outputs.
        outputs = list(range(len(names), size)) or None
        trivial = degeneracy(graph, residual=0.0, sources=outputs)
        inside = np.ones(len(names), dtype=bool) if players is None else players.cpu().numpy()
        return cls(names, values, low, high, trivial, output, inside)

    def correlations(self) -> dict[str, float]:
        """Spearman's correlation of every method with the model's own values, over tokens that are not special.

        The yardstick is the model's Shapley values, else leave-one-out; NaN where a method ranks nothing (all equal).
        """
        from scipy.stats import spearmanr

        yardstick = next((name for name in ("model_shapley", "model_loo") if name in self.values), None)
        if yardstick is None or self.players.sum() < 3:
            return {}
        truth = self.values[yardstick][self.players]
        found = {}
        for name, values in self.values.items():
            if name != yardstick:
                own = values[self.players]
                ranks = np.ptp(own) > 0 and np.ptp(truth) > 0
                found[name] = float(spearmanr(own, truth)[0]) if ranks else float("nan")  # pyright: ignore
        return found

    def to_html(self, *, title: str | None = None) -> str:
        """A page of its own, with the tokens coloured by each method; needs no network."""
        from paperworks.evaluation.attention_flow.page import render

        return render([self], title=title or "Attention flow report")

    def _repr_html_(self) -> str:
        from paperworks.evaluation.attention_flow.page import fragment

        return fragment(self)

    def plot(self) -> Figure:
        """The interval of every token over all maximum flows, with the Shapley value and rollout as dots."""
        from paperworks.evaluation.attention_flow.page import draw_intervals

        return draw_intervals(self)

    def __str__(self) -> str:
        lines = [f"{self.label}: {self.probability:.3f}"] if self.label else []
        width = max(len(token) for token in self.tokens)
        lines.append(" " * width + "".join(f"{name:>15}" for name in self.values))
        for place, token in enumerate(self.tokens):
            numbers = "".join(f"{values[place]:15.4f}" for values in self.values.values())
            lines.append(f"{token.strip():<{width}}{numbers}")
        return "\n".join([*lines, str(self.degeneracy)])


def check_methods(methods: Sequence[str]) -> None:
    """Refuse unknown methods."""
    if not methods:
        raise ValueError(f"methods: expected some of {', '.join(get_args(Method))}")
    for method in methods:
        if method not in get_args(Method):
            raise ValueError(f"methods: expected some of {', '.join(get_args(Method))}, got {method!r}")


def _model_values(
    reading: Reading, methods: Sequence[Method], n_permutations: int, seed: int
) -> tuple[dict[str, Vector], Vector | None]:
    values: dict[str, Vector] = {}
    stderr = None
    about = {"baseline": reading.baseline, "players": reading.players, "batch_size": BATCH}
    if "model_shapley" in methods:
        found = token_shapley(
            reading.payoff,
            reading.ids,
            exact_up_to=EXACT_TOKENS,
            n_permutations=n_permutations,
            seed=seed,
            **about,
        )
        values["model_shapley"], stderr = found.phi.numpy(), found.stderr.numpy()
    if "model_loo" in methods:
        values["model_loo"] = leave_one_out(reading.payoff, reading.ids, **about).numpy()
    if "gradient" in methods:
        with torch.no_grad():
            embeddings = reading.embed(reading.ids)
        values["gradient"] = input_gradients(reading.payoff_of_embeddings, embeddings).numpy()
    return values, stderr


def _raw(layers: Tensor, output: int, residual: float) -> Vector:
    """The last layer's weights without the residual connection."""
    row = layers[-1, output].detach().cpu().double().numpy().copy()
    row[output] -= residual
    return row / (1 - residual)
