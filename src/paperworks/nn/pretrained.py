"""Public checkpoints in the format of `transformers`: a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_pretrained(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `config.json` says, and all tensors under their own names, on the CPU.

    Raises:
        ValueError: no such folder or name, or a file of it is missing.
    """
    config, weights = _locate(name_or_path)
    return json.loads(config.read_text(encoding="utf-8")), _load(weights)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str | os.PathLike[str]) -> None:
    """Load all of a model's tensors.

    Raises:
        ValueError: tensors are missing or of another shape than config.json says.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{source}: the weights do not fit config.json. {error}") from error


def _locate(name_or_path: str | os.PathLike[str]) -> tuple[Path, Path]:
    folder = Path(name_or_path)
    if not folder.is_dir():
        return _fetch(str(name_or_path))
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder}: config.json missing; save with model.save_pretrained(folder)")
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / "config.json", folder / name
    raise ValueError(f"{folder}: expected {' or '.join(WEIGHTS)}, found neither")


def _fetch(name: str) -> tuple[Path, Path]:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ValueError(f"{name}: no such folder, and fetching needs `pip install huggingface_hub`") from error
    try:
        config = hf_hub_download(name, "config.json")
        try:
            weights = hf_hub_download(name, WEIGHTS[0])
        except EntryNotFoundError:
            weights = hf_hub_download(name, WEIGHTS[1])
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no such folder, and the Hugging Face hub did not give it ({error})") from error
    return Path(config), Path(weights)


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
