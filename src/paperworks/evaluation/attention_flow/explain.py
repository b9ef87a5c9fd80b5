"""Texts and models of `transformers`: what the model says, where flow starts, and what its tokens are worth to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paperworks.evaluation.attention_flow.layers import Heads, attention_graph, encoder_decoder_layers
from paperworks.nn.attention_maps import attentions_of
from paperworks.nn.modes import evaluating


@dataclass(frozen=True)
class Reading:
    """One text as a model reads it.

    Attributes:
        tokens: what is shown, one word piece per input position.
        ids: (n,), the model's input.
        players: (n,) bool, the tokens that are not special.
        layers: (L, m, m), the attention graph (residual included); m > n where a decoder's tokens follow.
        output: the position in the graph that the prediction is read from.
        label: what the model predicts, or the target asked for.
        probability: of that label.
        payoff: ids (m, n) -> that probability (m,).
        baseline: the id that stands in for a token left out.
        embed: the model's table of input embeddings, and `payoff_of_embeddings` the payoff from there.
        cut: how many tokens at the end did not fit.
    """

    tokens: tuple[str, ...]
    ids: Tensor
    players: Tensor
    layers: Tensor
    output: int
    label: str
    probability: float
    payoff: Callable[[Tensor], Tensor]
    baseline: int
    embed: Callable[[Tensor], Tensor]
    payoff_of_embeddings: Callable[[Tensor], Tensor]
    cut: int = 0


def load_model(name: str) -> tuple[Any, Any]:
    """A model of `transformers` with its tokenizer, of the kind its config names, in evaluation mode.

    Args:
        name: a folder with the model's files, or a name on the hub.

    Raises:
        ValueError: no model there, or one without a head to explain.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kind = (getattr(config, "architectures", None) or [""])[0]
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        loader = getattr(transformers, kind or "AutoModel", transformers.AutoModel)
        model = loader.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"model: cannot load {name!r}: {reason}; expected a folder with config.json, weights and tokenizer files"
        ) from error
    return model.eval(), tokenizer


def read_text(
    model: Any,
    tokenizer: Any,
    text: str,
    target: str | int | None = None,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    max_tokens: int | None = None,
) -> Reading:
    """Run a `transformers` model on a text.

    Args:
        model: a sequence classifier, a causal or masked language model, or an encoder-decoder with a language head.
        tokenizer: the model's own.
        text: for a masked language model with the mask token in it, once.
        target: the class (name or number), or for language models the token, to be explained; None: the model's own
            choice.
        residual, heads: the graph; see `attention_graph`.
        max_tokens: longer texts are cut there, and `cut` says by how much; None: at the model's own limit.

    Raises:
        ValueError: an empty text, a target that is not there, a model without attention or logits.
    """
    encoded, cut = _encode(tokenizer, text, max_tokens)
    # What the tokenizer added itself; an unknown word has a special id too, but is a word of the text.
    special = encoded.pop("special_tokens_mask")[0]
    encoded = {name: value.to(model.device) for name, value in encoded.items()}
    ids = encoded["input_ids"][0]
    head = _Head(model, tokenizer, encoded)
    with torch.no_grad():
        logits = head.logits(ids[None])[0]
    chosen = head.index_of(target) if target is not None else int(logits.argmax())
    if not 0 <= chosen < len(logits):
        raise ValueError(f"target: expected a number from 0 to {len(logits) - 1}, got {chosen}")

    def payoff(batch: Tensor) -> Tensor:
        return head.logits(batch).float().softmax(-1)[:, chosen]

    def payoff_of_embeddings(batch: Tensor) -> Tensor:
        return head.logits(None, embeddings=batch).float().softmax(-1)[:, chosen]

    layers, output = _graph(model, head, ids, residual, heads)
    players = special == 0
    if head.masked is not None:
        players[head.masked] = False
    if not bool(players.any()):
        raise ValueError(f"text: has no token of its own: {text!r}")
    return Reading(
        tokens=_words(tokenizer, ids),
        ids=ids,
        players=players,
        layers=layers,
        output=output,
        label=head.name_of(chosen),
        probability=float(logits.float().softmax(-1)[chosen]),
        payoff=payoff,
        baseline=_stand_in(tokenizer),
        embed=model.get_input_embeddings(),
        payoff_of_embeddings=payoff_of_embeddings,
        cut=cut,
    )


def _encode(tokenizer: Any, text: str, max_tokens: int | None) -> tuple[Any, int]:
    """The text as the tokenizer reads it, and how many of its tokens did not fit."""
    if not text.strip():
        raise ValueError("text: is empty")
    if max_tokens is not None and max_tokens < 4:
        raise ValueError(f"max_tokens: expected at least 4, got {max_tokens}")
    limit = min(tokenizer.model_max_length, max_tokens or tokenizer.model_max_length)
    whole = len(tokenizer(text)["input_ids"])
    encoded = tokenizer(
        text,
        return_tensors="pt",
        return_special_tokens_mask=True,
        truncation=whole > limit,
        max_length=limit if whole > limit else None,
    )
    count = encoded["input_ids"].shape[1]
    if not count:
        raise ValueError(f"text: the tokenizer finds no token in {text!r}")
    return encoded, whole - count


class _Head:
    """The logits (m, classes) of one prediction, whatever kind of model it is."""

    causal = False  # known once the attention has been seen

    def __init__(self, model: Any, tokenizer: Any, encoded: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        # Token types are those of the text, whatever replaces its tokens.
        self.extra = {name: value for name, value in encoded.items() if name == "token_type_ids"}
        self.classifies = "ForSequenceClassification" in type(model).__name__
        self.decodes = bool(getattr(model.config, "is_encoder_decoder", False))
        self.masked = _mask_position(tokenizer, encoded) if "MaskedLM" in type(model).__name__ else None

    @property
    def position(self) -> int:
        """Where among the inputs the prediction is read: the mask, the first token, or the last of a causal model."""
        if self.masked is not None:
            return self.masked
        return -1 if self.causal else 0

    def logits(self, ids: Tensor | None, *, embeddings: Tensor | None = None) -> Tensor:
        """(m, classes) from ids (m, n) or embeddings (m, n, d)."""
        given: Any = ids if embeddings is None else embeddings
        # Without a padding id, classifiers that read the last token take one text at a time.
        if self.classifies and len(given) > 1 and getattr(self.model.config, "pad_token_id", None) is None:
            return torch.cat([self._run(row, embeddings is not None) for row in given.split(1)])
        return self._run(given, embeddings is not None)

    def _run(self, given: Tensor, embedded: bool) -> Tensor:
        rows = len(given)
        named: dict[str, Any] = {"inputs_embeds" if embedded else "input_ids": given}
        named["attention_mask"] = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        named |= {name: value.expand(rows, -1) for name, value in self.extra.items()}
        if self.decodes and not self.classifies:
            named["decoder_input_ids"] = self.start().expand(rows, 1)
        with evaluating(self.model):
            logits = getattr(self.model(**named), "logits", None)
        if not isinstance(logits, Tensor):
            kind = type(self.model).__name__
            raise ValueError(f"model: {kind} gives no logits; expected a classifier or a language model")
        if logits.ndim == 2:
            return logits
        return logits[:, self.masked if self.masked is not None else -1]

    def start(self) -> Tensor:
        """The decoder's first token."""
        start = self.model.config.decoder_start_token_id
        if start is None:
            start = self.model.config.bos_token_id
        if start is None:
            raise ValueError("model: its config names neither decoder_start_token_id nor bos_token_id")
        return torch.tensor([[start]], device=self.model.device)

    def index_of(self, target: str | int) -> int:
        if isinstance(target, int) or (self.classifies and target.isdigit()):
            return int(target)
        if self.classifies:
            names = {str(name): int(index) for name, index in self.model.config.label2id.items()}
            if target not in names:
                raise ValueError(f"target: the model has the labels {', '.join(names)}, got {target!r}")
            return names[target]
        pieces = self.tokenizer(target, add_special_tokens=False)["input_ids"]
        if len(pieces) != 1:
            raise ValueError(f"target: expected one token of the model's vocabulary, {target!r} is {len(pieces)}")
        return int(pieces[0])

    def name_of(self, index: int) -> str:
        if self.classifies:
            return str(self.model.config.id2label.get(index, index))
        return self.tokenizer.decode([index]).strip()


def _graph(model: Any, head: _Head, ids: Tensor, residual: float, heads: Heads) -> tuple[Tensor, int]:
    """The layers of the graph with their residual connections, and the node that the prediction is read from."""
    batch: dict[str, Any] = {"input_ids": ids[None], **head.extra}
    if head.decodes and not head.classifies:
        batch["decoder_input_ids"] = head.start()
    with torch.no_grad():
        maps = attentions_of(model, batch)
    if head.decodes:
        layers = encoder_decoder_layers(maps, residual=residual, heads=heads)[0]
        return layers.cpu(), layers.shape[-1] - 1
    head.causal = bool(maps.decoder)
    graph = attention_graph(maps.decoder or maps.encoder, residual=residual, heads=heads)
    return graph.layers[0].cpu(), head.position % len(ids)


def _mask_position(tokenizer: Any, encoded: Any) -> int:
    places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if len(places) != 1:
        mask = tokenizer.mask_token
        raise ValueError(f"text: a masked language model needs {mask} in it once, got it {len(places)} times")
    return places[0]


def _stand_in(tokenizer: Any) -> int:
    """The id for a token that is left out: mask, else unknown, end, padding."""
    for name in ("mask_token_id", "unk_token_id", "eos_token_id", "pad_token_id"):
        if (found := getattr(tokenizer, name, None)) is not None:
            return int(found)
    raise ValueError("tokenizer: has neither mask, unknown, end nor padding token to put in the place of a token")


def _words(tokenizer: Any, ids: Tensor) -> tuple[str, ...]:
    """Word pieces for people: a leading space where a word begins."""
    pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
    if any(piece.startswith(("Ġ", "▁")) for piece in pieces):
        return tuple(piece.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "⏎") for piece in pieces)
    return tuple(piece[2:] if piece.startswith("##") else f" {piece}" for piece in pieces)
