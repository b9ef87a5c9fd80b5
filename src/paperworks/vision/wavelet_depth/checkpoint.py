"""Trained models as one file: weights and what is needed to build the model again. Opening one runs no code."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from paperworks._files import write_atomic
from paperworks.vision.wavelet_depth.decoder import DepthDecoder, Target, WaveletDepthDecoder
from paperworks.vision.wavelet_depth.encoder import make_encoder
from paperworks.vision.wavelet_depth.model import WaveletDepthModel

FORMAT = "paperworks wavelet_depth 1"


@dataclass(frozen=True)
class Blueprint:
    """What a model is made of: an encoder's name, the decoder's kind and widths, the range of depth in metres, and the
    height and width of the pictures it was trained on."""

    encoder: str = "compact"
    decoder: str = "wavelet"
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    finest: int = 0
    target: Target = "disparity"
    min_depth: float = 0.1
    max_depth: float = 100.0
    size: tuple[int, int] = (192, 640)

    def build(self) -> WaveletDepthModel:
        """A model with fresh weights.

        Raises:
            ValueError: an unknown decoder.
        """
        encoder = make_encoder(self.encoder)
        channels: Any = encoder.channels
        if self.decoder == "wavelet":
            decoder = WaveletDepthDecoder(channels, num_ch_dec=self.widths, target=self.target)
        elif self.decoder == "dense":
            decoder = DepthDecoder(channels, num_ch_dec=self.widths, finest=self.finest)
        else:
            raise ValueError(f"decoder: expected 'wavelet' or 'dense', got {self.decoder!r}")
        return WaveletDepthModel(
            encoder, target=self.target, min_depth=self.min_depth, max_depth=self.max_depth, decoder=decoder
        )


def save_model(path: str | os.PathLike[str], model: WaveletDepthModel, blueprint: Blueprint) -> None:
    """Write the model's weights and its blueprint, whole or not at all."""
    content = {"format": FORMAT, "blueprint": asdict(blueprint), "state": model.state_dict()}
    stream = io.BytesIO()
    torch.save(content, stream)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())


def load_model(path: str | os.PathLike[str]) -> tuple[WaveletDepthModel, Blueprint]:
    """The model of a file that `save_model` wrote, in evaluation mode.

    Raises:
        ValueError: no such file, or none of that kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights: {path} does not exist; `paperworks run wavelet_depth --data FOLDER` writes best.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"weights: {path} cannot be read as a model ({type(error).__name__})") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"weights: {path} is no model of `paperworks run wavelet_depth`; expected its best.pt")
    blueprint = Blueprint(**content["blueprint"])
    model = blueprint.build()
    model.load_state_dict(content["state"])
    return model.eval(), blueprint
