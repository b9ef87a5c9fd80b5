"""The FNet encoder and its pre-training heads, built of `paperworks.nn` blocks with FNet's own initialisation.

    x = drop(W LN(word[id] + position[n] + type[t]) + b)
    L times:  x = LN(x + mix(x));   x = LN(x + drop(W2 gelu(W1 x + b1) + b2))
    pooled = tanh(W x[0] + b)

What is easily lost: the dense layer after the embedding (also where widths are equal), eps 1e-12 in every LayerNorm,
the tanh approximation of GELU, no dropout after the mixing, and biases drawn from normal(0.02) in the first
feed-forward layer, in attention and in the output layers, all others being zero.

Reference: FNet (2021, arXiv 2105.03824); official `f_net/models.py` and `f_net/layers.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn import (
    AttentionMixing,
    BlockOptions,
    MixerEncoder,
    SequenceClassifier,
    TextEmbedding,
    hybrid,
    normal_init,
)
from paperworks.nn.heads import TextModel
from paperworks.nn.pooling import FirstPooling
from paperworks.nn.pretrained import load_weights
from paperworks.sequence.fnet.checkpoint import read_checkpoint
from paperworks.sequence.fnet.layouts import Layout, hybrid_layout
from paperworks.sequence.fnet.mixers import FourierMixing
from paperworks.sequence.fnet.mixing import Padding

_normal_bias_init = partial(normal_init, bias_std=0.02)


@dataclass(frozen=True, kw_only=True)
class FNetConfig:
    """The sizes of an FNet; the defaults are FNet-Base's.

    Args:
        vocab_size: ids; the official SentencePiece vocabulary has 32,000.
        dim, depth, ffn_dim: width of the tokens, number of blocks, width of the feed-forward layers.
        embed_dim: width of the embedding tables; None: `dim`.
        max_length: learned positions, and the length that pre-training pads to.
        types: token types.
        dropout: after the embedding, the feed-forward layers, and on attention weights.
        attention_layers, layout, heads: FNet-Hybrid, see `hybrid_layout`; 0 attention layers is FNet.
        padding: of the Fourier layers, see `fourier_mix`.
    """

    vocab_size: int = 32_000
    dim: int = 768
    depth: int = 12
    ffn_dim: int = 3072
    embed_dim: int | None = None
    max_length: int = 512
    types: int = 4
    dropout: float = 0.1
    attention_layers: int = 0
    layout: Layout = "top"
    heads: int = 12
    padding: Padding = "mix"

    @classmethod
    def base(cls, **changes: Any) -> FNetConfig:
        """FNet-Base: 12 layers of width 768, 83 million parameters with its embeddings and pooler."""
        return replace(cls(), **changes)

    @classmethod
    def large(cls, **changes: Any) -> FNetConfig:
        """FNet-Large: 24 layers of width 1024."""
        return replace(cls(dim=1024, depth=24, ffn_dim=4096, heads=16), **changes)


class FNetOutput(NamedTuple):
    """states (B, N, dim), pooled (B, dim) in (-1, 1), and the mask (B, N) as given or None."""

    states: Tensor
    pooled: Tensor
    mask: Tensor | None


class PreTrainingOutput(NamedTuple):
    """token_logits (B, N or P, vocab_size), next_logits (B, 2)."""

    token_logits: Tensor
    next_logits: Tensor


class FNet(TextModel):
    """The encoder: ids (B, N) to states and the pooled first state.

    Args:
        config: sizes; `FNetConfig.base()`, `FNetConfig.large()` or your own.

    `embedding` and `encoder` are ordinary `paperworks.nn` blocks and serve every head there; `classifier` gives the one
    of the paper. `trained_length` is the length that loaded weights were trained at, None for fresh ones.

    Raises:
        ValueError: sizes that do not fit; in `forward` ids, mask or types of another shape or range, too long an input.

    Differs from `transformers.FNetModel`: a mask is accepted (and, under `padding="exact"`, honoured), bfloat16 works
    on a CPU, hybrids exist, and unfit lengths are pointed out.

    >>> model = FNet(FNetConfig(vocab_size=100, dim=16, depth=2, ffn_dim=32, max_length=8))
    >>> model(torch.zeros(3, 8, dtype=torch.long)).pooled.shape
    torch.Size([3, 16])
    """

    pooler: FirstPooling

    def __init__(self, config: FNetConfig) -> None:
        super().__init__(_embedding(config), _encoder(config))
        self.config = config
        self.pooler = FirstPooling(config.dim)
        self.trained_length: int | None = None

    def forward(
        self, ids: Tensor | Mapping[str, Any], *, mask: Tensor | None = None, types: Tensor | None = None
    ) -> FNetOutput:
        """Encode ids (B, N), or a `transformers.BatchEncoding` as it comes.

        Under `padding="mix"` (the official way) the mask reaches attention layers only, and a warning says so once.
        """
        states, mask = self.encode(ids, mask=mask, types=types)
        self._warn_of_length(states.shape[1], mask)
        pooled, _ = self.pooler(states)
        return FNetOutput(states, pooled, mask)

    def classifier(self, num_classes: int) -> SequenceClassifier:
        """The paper's fine-tuning model: this network, shared and not copied, with a new dense layer on `pooled`."""
        model = SequenceClassifier(self.embedding, self.encoder, num_classes=num_classes, pooling="cls")
        model.pooling = self.pooler
        _normal_bias_init(model.output)
        return model

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, padding: Padding = "mix") -> FNet:
        """Load public weights in the format of `transformers`, in evaluation mode.

        Args:
            name_or_path: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, or a name on the
                Hugging Face hub: `google/fnet-base`, `google/fnet-large`. Pre-training heads in it are left out.
            padding: see `fourier_mix`. The public weights were trained on inputs padded to 512 under "mix".

        Raises:
            ValueError: no such folder or name, a configuration that is not FNet's, keys that are unknown or missing.
        """
        checkpoint = read_checkpoint(name_or_path)
        model = cls(FNetConfig(**checkpoint.sizes, padding=padding))
        load_weights(model, checkpoint.trunk, source=name_or_path)
        model.trained_length = model.config.max_length
        return model.eval()

    def _warn_of_length(self, length: int, mask: Tensor | None) -> None:
        if self.trained_length is None or torch.compiler.is_compiling():
            return
        ragged = self.config.padding == "exact" and mask is not None and not bool(mask.all())
        if length != self.trained_length or ragged:
            what = "lengths of the single examples" if ragged else f"length {length}"
            warnings.warn(
                f"these weights were trained on inputs padded to {self.trained_length} tokens and are run at {what}: a "
                "Fourier layer is another map at every length. Pad to "
                f'{self.trained_length} (padding="max_length" in the tokenizer) or fine-tune at the length you use.',
                stacklevel=3,
            )


class FNetForPreTraining(nn.Module):
    """FNet with the two heads of its pre-training: masked tokens and next sentence.

    token_logits = E LN(gelu(W x + b)) + c, with E the table of word embeddings;  next_logits = W pooled + b.

    Args:
        config: sizes.

    Raises:
        ValueError: as `FNet`.
    """

    def __init__(self, config: FNetConfig) -> None:
        super().__init__()
        self.fnet = FNet(config)
        width = config.embed_dim or config.dim
        self.token_dense = nn.Linear(config.dim, width)
        self.token_norm = nn.LayerNorm(width, eps=1e-12)
        self.token_bias = nn.Parameter(torch.empty(config.vocab_size))
        self.next_sentence = nn.Linear(config.dim, 2)
        normal_init(self.token_dense)
        _normal_bias_init(self.next_sentence)
        nn.init.normal_(self.token_bias, std=0.02)

    def forward(
        self,
        ids: Tensor | Mapping[str, Any],
        *,
        mask: Tensor | None = None,
        types: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> PreTrainingOutput:
        """Logits of both heads; with `positions` (B, P) int64 the token head looks at those tokens only."""
        output = self.fnet(ids, mask=mask, types=types)
        states = output.states
        if positions is not None:
            if positions.ndim != 2 or positions.shape[0] != states.shape[0]:
                raise ValueError(f"positions: expected ({states.shape[0]}, positions), got {tuple(positions.shape)}")
            states = states.gather(1, positions[..., None].expand(-1, -1, states.shape[2]))
        hidden = self.token_norm(F.gelu(self.token_dense(states), approximate="tanh"))
        table = self.fnet.embedding.word.weight  # pyright: ignore[reportAttributeAccessIssue]
        return PreTrainingOutput(F.linear(hidden, table, self.token_bias), self.next_sentence(output.pooled))  # pyright: ignore[reportArgumentType]

    def loss(self, output: PreTrainingOutput, *, labels: Tensor, next_labels: Tensor) -> Tensor:
        """Mean cross-entropy over the tokens whose label is not -100, plus that over sentence pairs.

        A batch without any masked token counts 0 for the first part.
        """
        tokens = F.cross_entropy(output.token_logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return tokens / (labels != -100).sum().clamp(min=1) + F.cross_entropy(output.next_logits, next_labels)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, padding: Padding = "mix") -> FNetForPreTraining:
        """Load public weights with both heads, as `FNet.from_pretrained` does.

        Raises:
            ValueError: as there, or weights without pre-training heads.
        """
        checkpoint = read_checkpoint(name_or_path)
        if not checkpoint.heads:
            raise ValueError(f"{name_or_path}: holds no pre-training heads; load it with FNet.from_pretrained")
        model = cls(FNetConfig(**checkpoint.sizes, padding=padding))
        trunk = {f"fnet.{name}": tensor for name, tensor in checkpoint.trunk.items()}
        load_weights(model, trunk | checkpoint.heads, source=name_or_path)
        model.fnet.trained_length = model.fnet.config.max_length
        return model.eval()


def _embedding(config: FNetConfig) -> TextEmbedding:
    return TextEmbedding(
        config.vocab_size,
        config.dim,
        embed_dim=config.embed_dim or config.dim,
        max_length=config.max_length,
        types=config.types,
        dropout=config.dropout,
    )


def _encoder(config: FNetConfig) -> MixerEncoder:
    def attention(layer: int) -> nn.Module:
        mixer = AttentionMixing(config.dim, config.heads, dropout=config.dropout)
        _normal_bias_init(mixer)
        return mixer

    def fourier(layer: int) -> nn.Module:
        return FourierMixing(config.dim, padding=config.padding)

    layout = hybrid_layout(config.depth, config.attention_layers, config.layout)
    block = BlockOptions(ffn_dim=config.ffn_dim, dropout=config.dropout, init=_init_feed_forward)
    return MixerEncoder(hybrid(fourier, attention, layout), dim=config.dim, depth=config.depth, block=block)


def _init_feed_forward(feed_forward: nn.Module) -> None:
    normal_init(feed_forward)
    nn.init.normal_(feed_forward.inner.bias, std=0.02)  # pyright: ignore
