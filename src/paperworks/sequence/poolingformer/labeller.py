"""A trained labeller of sentences as a folder: model, tokenizer, labels; and using it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from paperworks._files import write_atomic
from paperworks.data.sentence_labels import Document
from paperworks.data.tokenization import Tokenizer
from paperworks.nn import TokenTagger
from paperworks.sequence.poolingformer.texts import IGNORED, encode_documents
from paperworks.sequence.poolingformer.variants import Sizes, build_tagger

MODEL, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
FILES = (TOKENIZER, CONFIG, MODEL)


@dataclass(frozen=True)
class SentenceLabeller:
    """A trained arm of the study with all that it needs to read documents."""

    model: TokenTagger
    tokenizer: Tokenizer
    classes: tuple[str, ...]
    arm: str
    sizes: Sizes
    sentence_tokens: int

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `config.json` and `model.safetensors`, each atomically."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder / TOKENIZER)
        config = {"classes": self.classes, "arm": self.arm, "sentence_tokens": self.sentence_tokens}
        write_atomic(folder / CONFIG, json.dumps(config | {"sizes": asdict(self.sizes)}, ensure_ascii=False, indent=1))
        write_atomic(folder / MODEL, save({name: x.contiguous() for name, x in self.model.state_dict().items()}))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> SentenceLabeller:
        """Read a folder that `save` (or a run on your own data) wrote.

        Raises:
            ValueError: a file of it is missing.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if missing := [name for name in FILES if not (folder / name).exists()]:
            raise ValueError(f"folder: expected a trained labeller in {folder}, {', '.join(missing)} missing")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        sizes, classes = Sizes(**config["sizes"]), tuple(config["classes"])
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = build_tagger(config["arm"], sizes, vocabulary=tokenizer.vocab_size, classes=len(classes))
        model.load_state_dict(load_file(folder / MODEL))
        return cls(model.eval(), tokenizer, classes, config["arm"], sizes, config["sentence_tokens"])

    @torch.no_grad()
    def predict(self, sentences: Sequence[str]) -> list[str]:
        """The label of each sentence of one document, of any length.

        Raises:
            ValueError: no sentences, or one text instead of several.
        """
        if isinstance(sentences, str) or not sentences:
            raise ValueError(f"sentences: expected a list of at least one text, got {sentences!r:.60}")
        document = Document(tuple(sentences), (self.classes[0],) * len(sentences))
        length = len(sentences) * (self.sentence_tokens + 1)
        options = {"length": length, "sentence_tokens": self.sentence_tokens}
        encoded = encode_documents([document], self.tokenizer, self.classes, **options)
        self.model.eval()
        answers = self.model(encoded.ids, mask=encoded.mask).argmax(-1)
        return [self.classes[index] for index in answers[encoded.targets != IGNORED].tolist()]
