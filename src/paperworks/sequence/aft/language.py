"""Language models of attention free layers: pre-norm Transformer blocks with an AFT mixer in place of attention.

>>> from paperworks.sequence.aft.language import AFTConfig, AFTLanguageModel
>>> model = AFTLanguageModel(AFTConfig(vocabulary=256, dim=64, depth=2, length=128, mixer="local"))
>>> model(__import__("torch").zeros(1, 10, dtype=int)).shape
torch.Size([1, 10, 256])

Reference: Zhai et al. (2021, arXiv 2105.14103), section 4.2; embeddings, positions, feed-forward (4 D, GELU) unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from paperworks._files import write_atomic
from paperworks.nn import AttentionMixing, BlockOptions, CausalLM, MixerEncoder, TextEmbedding
from paperworks.sequence.aft import arms

MIXERS = ("attention", "full", "local", "simple", "conv")


@dataclass(frozen=True)
class AFTConfig:
    """Sizes of a language model.

    Args:
        vocabulary: number of ids.
        dim, depth: width and number of blocks; the feed-forward network is four times as wide.
        length: the longest input.
        mixer: local, full, simple, conv, or attention (the Transformer that they are compared with).
        window: s of local and conv.
        heads: of attention.
        dropout: of embeddings and feed-forward networks; inside the mixers there is none.

    Raises:
        ValueError: an unknown mixer, or a size below 1.
    """

    vocabulary: int
    dim: int = 512
    depth: int = 12
    length: int = 1024
    mixer: str = "local"
    window: int = 32
    heads: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer: expected one of {', '.join(MIXERS)}, got {self.mixer!r}")
        for name in ("vocabulary", "dim", "depth", "length", "window", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")


class AFTLanguageModel(CausalLM):
    """`p(id_{n+1} | id_0..n)`; `generate` streams, with a state that grows with what was read for `full` only.

    Shapes: ids (B, N) -> logits (B, N, vocabulary).

    Raises:
        ValueError: ids outside the vocabulary, or an input longer than `config.length`.
    """

    def __init__(self, config: AFTConfig) -> None:
        block = BlockOptions(
            ffn_dim=4 * config.dim, norm="pre", activation="gelu", norm_eps=1e-5, dropout=config.dropout
        )
        encoder = MixerEncoder(make_mixer(config), dim=config.dim, depth=config.depth, block=block)
        embedding = TextEmbedding(
            config.vocabulary, config.dim, max_length=config.length, norm=False, dropout=config.dropout
        )
        super().__init__(embedding, encoder)
        self.config = config

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.pt`, whole or not at all."""
        import io

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        torch.save(self.state_dict(), stream)
        write_atomic(path / "model.pt", stream.getvalue())
        write_atomic(path / "config.json", json.dumps(asdict(self.config), indent=1).encode())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> AFTLanguageModel:
        """Read what `save` wrote.

        Raises:
            ValueError: no such folder, or one that `save` did not write.
        """
        path = Path(folder)
        for name in ("config.json", "model.pt"):
            if not (path / name).is_file():
                raise ValueError(f"folder: {path} has no {name}; expected what `save` wrote")
        model = cls(AFTConfig(**json.loads((path / "config.json").read_text(encoding="utf-8"))))
        model.load_state_dict(torch.load(path / "model.pt", weights_only=True))
        return model.eval()


def make_mixer(config: AFTConfig) -> Callable[[int], nn.Module]:
    """The causal mixer of each layer."""
    if config.mixer == "attention":
        return lambda layer: AttentionMixing(config.dim, config.heads, causal=True, dropout=0.0)
    options: dict[str, int] = {"window": config.window} if config.mixer in ("local", "conv") else {}
    make = getattr(arms, f"make_aft_{config.mixer}_mixer")
    return make(config.dim, heads=config.heads, length=config.length, causal=True, **options)
