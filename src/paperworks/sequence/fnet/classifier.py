"""A trained text classifier as a folder: model, tokenizer, labels; and using it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paperworks._files import write_atomic
from paperworks.data.tokenization import Tokenizer
from paperworks.nn import SequenceClassifier

MODEL, TOKENIZER, CONFIG, LABELS = "model.safetensors", "tokenizer.json", "config.json", "labels.json"


@dataclass(frozen=True)
class TextClassifier:
    """A trained classifier with all that it needs to read texts.

    `arm`: the fields of the study's arm, from which the model can be built again.
    """

    model: SequenceClassifier
    tokenizer: Tokenizer
    classes: tuple[str, ...]
    length: int
    arm: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write `config.json`, `labels.json`, `tokenizer.json` and `model.safetensors`, each atomically."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder / TOKENIZER)
        write_atomic(folder / LABELS, json.dumps(self.classes, ensure_ascii=False, indent=1))
        write_atomic(folder / CONFIG, json.dumps({"length": self.length, "arm": dict(self.arm)}, indent=1))
        write_atomic(
            folder / MODEL, save({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()})
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TextClassifier:
        """Read a folder that `save` (or a run on your own data) wrote.

        Raises:
            ValueError: a file of it is missing.
        """
        from safetensors.torch import load_file

        from paperworks.sequence.fnet.training import Arm, Blueprint, build_model

        folder = Path(folder)
        if missing := [name for name in (MODEL, TOKENIZER, CONFIG, LABELS) if not (folder / name).exists()]:
            raise ValueError(f"{folder}: no trained classifier here; {', '.join(missing)} missing")
        config = json.loads((folder / CONFIG).read_text())
        classes = tuple(json.loads((folder / LABELS).read_text()))
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = build_model(Arm(**config["arm"]), Blueprint(len(classes), tokenizer.vocab_size, config["length"]))
        model.load_state_dict(load_file(folder / MODEL))
        return cls(model.eval(), tokenizer, classes, config["length"], config["arm"])

    @torch.no_grad()
    def probabilities(self, texts: Iterable[str], *, batch: int = 64) -> Tensor:
        """Probability of each class for each text: (texts, classes), float32."""
        texts = list(texts)
        self.model.eval()
        pieces = []
        for start in range(0, len(texts), batch):
            ids, mask = self.tokenizer.encode_batch(texts[start : start + batch], length=self.length)
            logits = self.model(torch.as_tensor(ids), mask=torch.as_tensor(mask))
            pieces.append(logits.float().softmax(-1))
        return torch.cat(pieces) if pieces else torch.zeros(0, len(self.classes))

    def predict(self, texts: Iterable[str]) -> list[str]:
        """The most probable label of each text."""
        return [self.classes[index] for index in self.probabilities(texts).argmax(-1)]


def copy_folder(source: Path, target: Path) -> None:
    """Put a saved classifier in another place, file by file, the model last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER, LABELS, CONFIG, MODEL):
        write_atomic(target / name, (source / name).read_bytes())
