"""Attention flow and its Shapley value (Ethayarajh and Jurafsky, 2021, arXiv 2105.14652).

How much can flow from an output token down to each input token, if attention weights are the capacities of a graph with
one row of nodes per model layer? `attention_flow` solves it exactly, for all pairs at once; `mode="shapley"` gives the
one maximum flow that is the Shapley value of the flow game. Use it beside other explanations, and look at `degeneracy`
first: in deep models with residual connections flow depends on the first layer alone. Do not take it for an account of
what the model does: the payoff is flow, not the model's output (`token_shapley` is about that).

>>> import torch
>>> from paperworks.evaluation.attention_flow import attention_flow, degeneracy
>>> attentions = torch.randn(6, 4, 10, 10).softmax(-1)  # 6 layers, 4 heads, 10 tokens
>>> attention_flow(attentions, mode="shapley").shape
torch.Size([1, 10, 10])
"""

import sys
from types import ModuleType
from typing import Any

from paperworks._lazy import attach

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "AttentionMaps": "paperworks.nn.attention_maps",
        "Degeneracy": "saturation",
        "FlowBounds": "flow",
        "FlowGame": "game",
        "FlowReport": "report",
        "Game": "game",
        "attention_flow": "flow",
        "attention_graph": "layers",
        "attention_rollout": "layers",
        "attentions_of": "paperworks.nn.attention_maps",
        "degeneracy": "saturation",
        "encoder_decoder_layers": "layers",
        "flow_bounds": "flow",
        "flow_game": "game",
        "input_gradients": "attribution",
        "is_shapley": "game",
        "leave_one_out": "attribution",
        "polytope_excess": "game",
        "raw_attention": "layers",
        "shapley_exact": "game",
        "shapley_sample": "game",
        "token_shapley": "attribution",
    },
)
__all__ = _names  # pyright: ignore[reportUnsupportedDunderAll]


class _Room(ModuleType):
    """`from paperworks.evaluation import attention_flow` gives this module, which the function shares its name with."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from paperworks.evaluation.attention_flow.flow import attention_flow

        return attention_flow(*args, **options)


sys.modules[__name__].__class__ = _Room
