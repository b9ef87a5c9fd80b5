"""One face for translation models: those of transformers, and the encoder-decoder of `paperworks.nn`.

A detector asks for tokens of a text, states of a source, states of a target given them, and the last layer; how the
library at hand spells that is settled here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from paperworks.nn.contract import Encoded
from paperworks.nn.encoder_decoder import EncoderDecoder

# What a tokenizer answers when it knows no limit.
_NO_LIMIT = 10**6
# A text on which the model is asked what its last layer sees.
_PROBE = "a b"


class Tokens(NamedTuple):
    """One text: ids, and which of them belong to the text or end it (not language tokens)."""

    ids: list[int]
    own: list[bool]


class Translator(Protocol):
    """What the detectors need of a model with its tokenizers."""

    @property
    def model(self) -> Any: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def sources(self, texts: Sequence[str]) -> list[Tokens]: ...
    def targets(self, texts: Sequence[str]) -> list[Tokens]: ...
    def encode(self, ids: Tensor, mask: Tensor) -> Encoded: ...
    def decode(self, memory: Encoded, target: Tensor, mask: Tensor) -> Tensor: ...
    def head(self, states: Tensor) -> Tensor: ...
    def inputs(self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor) -> dict[str, Any]: ...
    def generate(self, ids: Tensor, mask: Tensor, *, num_beams: int, num_return: int) -> list[list[str]]: ...


def translator(
    model: Any, tokenizer: Any, *, source_language: str | None = None, target_language: str | None = None
) -> Translator:
    """The face of a model.

    Args:
        model: a transformers encoder-decoder (Marian, NLLB, M2M-100, mBART, T5, ...) or an `EncoderDecoder`.
        tokenizer: its tokenizer; for an `EncoderDecoder` a pair of vocabularies with `encode` and `decode`.
        source_language, target_language: codes of multilingual models, such as `deu_Latn`.

    Raises:
        ValueError: a model of another kind.
    """
    if isinstance(model, WordTranslator | TransformersTranslator):
        return model
    if isinstance(model, EncoderDecoder):
        source, target = tokenizer if isinstance(tokenizer, tuple) else (tokenizer, tokenizer)
        return WordTranslator(model, source, target)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return TransformersTranslator(model, tokenizer, source_language, target_language)
    raise ValueError(
        f"model: expected a transformers encoder-decoder or paperworks.nn.encoder_decoder.EncoderDecoder, "
        f"got {type(model).__name__}"
    )


class WordTranslator:
    """An `EncoderDecoder` with two vocabularies."""

    def __init__(self, model: EncoderDecoder, source: Any, target: Any) -> None:
        self.model, self.source, self.target = model, source, target
        self.vocabulary, self.pad = model.target.vocab_size, model.pad_id
        self.device = model.head.weight.device

    def sources(self, texts: Sequence[str]) -> list[Tokens]:
        return _tokens([self.source.encode(text) for text in texts], "source", self.model.source.max_length, _PLAIN)

    def targets(self, texts: Sequence[str]) -> list[Tokens]:
        return _tokens([self.target.encode(text) for text in texts], "output", self.model.target.max_length, _PLAIN)

    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        return self.model.encode(ids, mask=mask)

    def decode(self, memory: Encoded, target: Tensor, mask: Tensor) -> Tensor:
        return self.model.decode(memory, target, mask=mask)

    def head(self, states: Tensor) -> Tensor:
        return self.model.head(states)

    def inputs(self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor) -> dict[str, Any]:
        return {"source_ids": source, "target_ids": target, "source_mask": source_mask, "target_mask": target_mask}

    def generate(self, ids: Tensor, mask: Tensor, *, num_beams: int, num_return: int) -> list[list[str]]:
        # An unfinished output gets its end token when it is scored, which must fit too.
        longest = min((self.model.target.max_length or _NO_LIMIT) - 1, 2 * ids.shape[1] + 10)
        found = self.model.generate(
            ids, source_mask=mask, max_new_tokens=longest, num_beams=num_beams, num_return=num_return
        )
        return [
            [self.target.decode(row[kept].tolist()) for row, kept in zip(rows, masks, strict=True)]
            for rows, masks in zip(found.ids, found.mask, strict=True)
        ]


@dataclass(frozen=True)
class _Frame:
    """How many special ids a tokenizer puts before and after a text; the first of those after is the end token."""

    before: int
    after: int

    def own(self, ids: Sequence[int]) -> list[bool]:
        """The text and its end token, without language tokens."""
        text = len(ids) - self.before - self.after
        return [False] * self.before + [True] * (text + min(1, self.after)) + [False] * max(0, self.after - 1)


_PLAIN = _Frame(0, 1)


class TransformersTranslator:
    """A transformers encoder-decoder with its tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, source_language: str | None = None, target_language: str | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.source_language, self.target_language = source_language, target_language
        self.device = next(model.parameters()).device
        self.eos = model.config.eos_token_id
        self.pad = model.config.pad_token_id
        if self.pad is None or self.eos is None:
            raise ValueError("model: its config names no pad_token_id or eos_token_id; set them")
        self.vocabulary = model.get_output_embeddings().weight.shape[0]
        with self._languages():
            self._frames = {"source": self._frame(tokenizer([""])), "output": self._frame(tokenizer(text_target=[""]))}
        known = int(getattr(tokenizer, "model_max_length", _NO_LIMIT) or _NO_LIMIT)
        positions = getattr(model.config, "max_position_embeddings", None)
        limits = [limit for limit in (known, positions) if limit is not None and limit < _NO_LIMIT]
        self.limit = min(limits) if limits else None
        self._scale = self._head_scale()

    def sources(self, texts: Sequence[str]) -> list[Tokens]:
        with self._languages():
            ids = self.tokenizer(list(texts), truncation=False)["input_ids"]
        return _tokens(ids, "source", self.limit, self._frames["source"])

    def targets(self, texts: Sequence[str]) -> list[Tokens]:
        with self._languages():
            ids = self.tokenizer(text_target=list(texts), truncation=False)["input_ids"]
        return _tokens(ids, "output", self.limit, self._frames["output"])

    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        states = self.model.get_encoder()(input_ids=ids, attention_mask=mask.long(), return_dict=True)
        return Encoded(states.last_hidden_state, mask)

    def decode(self, memory: Encoded, target: Tensor, mask: Tensor) -> Tensor:
        assert memory.mask is not None
        found = self.model.get_decoder()(
            input_ids=self._shifted(target),
            encoder_hidden_states=memory.states,
            encoder_attention_mask=memory.mask.long(),
            use_cache=False,
            return_dict=True,
        )
        return found.last_hidden_state

    def head(self, states: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(states * self._scale)
        bias = getattr(self.model, "final_logits_bias", None)
        return logits if bias is None else logits + bias.to(logits.device)

    def inputs(self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor) -> dict[str, Any]:
        return {
            "input_ids": source,
            "attention_mask": source_mask.long(),
            "decoder_input_ids": self._shifted(target),
            "use_cache": False,
        }

    def generate(self, ids: Tensor, mask: Tensor, *, num_beams: int, num_return: int) -> list[list[str]]:
        longest = min(self.limit or _NO_LIMIT, 2 * ids.shape[1] + 20)
        options: dict[str, Any] = {}
        if self.target_language is not None:
            options["forced_bos_token_id"] = self._language_id(self.target_language)
        found = self.model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            num_beams=num_beams,
            num_return_sequences=num_return,
            do_sample=False,
            max_new_tokens=longest - 1,
            **options,
        )
        texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [texts[first : first + num_return] for first in range(0, len(texts), num_return)]

    def _shifted(self, target: Tensor) -> Tensor:
        """What the decoder reads, by the model's own rule where it has one (mBART's begins with the last token)."""
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            return self.model.prepare_decoder_input_ids_from_labels(labels=target)
        begin = target.new_full((len(target), 1), self.model.config.decoder_start_token_id)
        return torch.cat([begin, target[:, :-1]], 1)

    def _frame(self, encoded: Any) -> _Frame:
        ids = list(encoded["input_ids"][0])
        if self.eos not in ids:
            return _Frame(len(ids), 0)
        end = ids.index(self.eos)
        return _Frame(end, len(ids) - end)

    @torch.no_grad()
    def _head_scale(self) -> float:
        """The factor between the decoder's states and what the last layer sees (T5 scales them), read off the model."""
        seen: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        source, target = self.sources([_PROBE])[0], self.targets([_PROBE])[0]
        ids, labels = (torch.tensor([tokens.ids], device=self.device) for tokens in (source, target))
        ones = torch.ones_like(ids, dtype=torch.bool)
        modes = [(part, part.training) for part in self.model.modules()]
        self.model.eval()
        try:
            self.model(**self.inputs(ids, ones, labels, torch.ones_like(labels, dtype=torch.bool)))
            states = self.decode(self.encode(ids, ones), labels, torch.ones_like(labels, dtype=torch.bool))
        finally:
            hook.remove()
            for part, training in modes:
                part.training = training
        scale = float((seen[0] * states).sum() / (states * states).sum())
        if not torch.allclose(seen[0], scale * states, atol=1e-3, rtol=1e-3):
            raise ValueError(f"model: {type(self.model).__name__} changes the decoder's states before its last layer")
        return 1.0 if abs(scale - 1) < 1e-4 else scale

    def _language_id(self, language: str) -> int:
        if hasattr(self.tokenizer, "get_lang_id"):
            return self.tokenizer.get_lang_id(language)
        found = self.tokenizer.convert_tokens_to_ids(language)
        if found is None or found == self.tokenizer.unk_token_id:
            raise ValueError(f"target_language: the tokenizer does not know {language!r}")
        return found

    @contextmanager
    def _languages(self) -> Iterator[None]:
        """The tokenizer's languages for the length of a block."""
        wanted = {"src_lang": self.source_language, "tgt_lang": self.target_language}
        before = {name: getattr(self.tokenizer, name) for name in wanted if hasattr(self.tokenizer, name)}
        for name, language in wanted.items():
            if language is not None:
                if name not in before:
                    role = "source_language" if name == "src_lang" else "target_language"
                    raise ValueError(f"{role}: {type(self.tokenizer).__name__} has no languages; leave it out")
                setattr(self.tokenizer, name, language)
        try:
            yield
        finally:
            for name, language in before.items():
                if wanted[name] is not None and language is not None:
                    setattr(self.tokenizer, name, language)


def _tokens(rows: Sequence[Sequence[int]], what: str, limit: int | None, frame: _Frame) -> list[Tokens]:
    for row, ids in enumerate(rows):
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"{what}: row {row + 1} has {len(ids)} tokens, the model takes {limit}; split the text or leave the "
                "row out"
            )
    return [Tokens(list(ids), frame.own(ids)) for ids in rows]
