"""The official JAX checkpoint (`checkpoint.npy`) as an `SSLHSIC` model around timm's ResNet. Opening one runs no code.

The file is a pickled dictionary of Haiku trees. What is read, with ours on the right:

    ema_state.online_params, or experiment_state.online_params     weights of the online network
    experiment_state.online_state                                  its batch norms' statistics
    experiment_state.target_params, target_state                   the target
    experiment_state.kernel_params  */scale                        width.width

    <net>/~/initial_conv, initial_batchnorm                        backbone.conv1, bn1
    <net>/~/block_group_g/~/block_b/~/conv_i, batchnorm_i          backbone.layer(g+1).b.conv(i+1), bn(i+1)
    <net>/~/block_group_g/~/block_b/~/shortcut_conv, _batchnorm    backbone.layer(g+1).b.downsample.0, .1
    projector/linear, batch_norm, linear_1                         projector.0, 1, 3 (predictor likewise)
    w (kh, kw, in, out); scale, offset; mean_ema, var_ema average  weight (out, in, kh, kw); weight, bias; running_*

Notes:
    - TensorFlow's padding "SAME" puts the odd pixel at the end, torch's at both sides: the strided convolutions and the
      pooling are replaced by ones that pad as there, or every feature would be off by half a pixel.
    - Heads end without a bias there: ours is 0. The classifier that watched the training is left out.
    - Images: RGB in [0, 1], less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).

No weights are public; the file is what the official training code saves.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperworks.data.errors import DataCorrupt, DataMissing
from paperworks.representation.ssl_hsic.model import SSLHSIC

Tree: TypeAlias = Mapping[str, Mapping[str, np.ndarray]]

_BLOCK = re.compile(r"block_group_(\d+)/~/block_(\d+)/~/(conv|batchnorm|shortcut_conv|shortcut_batchnorm)(?:_(\d))?$")
_HEAD = re.compile(r"^(projector|predictor)/(?:~/)?(linear|batch_norm|linear_1)$")
_HEAD_PLACES = {"linear": 0, "batch_norm": 1, "linear_1": 3}
_STATE = re.compile(r"/~/(mean|var)_ema$")
_NUMPY = {("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numpy", "ndarray"), ("numpy", "dtype")}
_NUMPY |= {("numeric", "_frombuffer")}


def load_official_checkpoint(
    path: str | os.PathLike[str], *, weights: Literal["average", "online"] = "average"
) -> SSLHSIC:
    """The trained model, in evaluation mode; its backbone is a timm ResNet with bottleneck blocks.

    Args:
        path: `checkpoint.npy` as the official training saved it.
        weights: "average": the moving average of the online weights, which the paper evaluates; "online": themselves.
            Statistics of batch norm are the online network's either way, as in the official evaluation.

    Raises:
        DataMissing: no such file.
        DataCorrupt: no such checkpoint, or one of another network; names what is missing or not understood.
        ImportError: timm is not installed.
        ValueError: an unknown choice of weights.
    """
    if weights not in ("average", "online"):
        raise ValueError(f"weights: expected average or online, got {weights!r}")
    content = _read(Path(path))
    state = _part(content, "experiment_state", path)
    online = _part(_part(content, "ema_state", path) if weights == "average" else state, "online_params", path)
    named = _renamed(online, _part(state, "online_state", path))
    model = _empty_model(named)
    _fill(model.online, named, path)
    heads: Any = model
    _fill(heads.predictor, _below(named, "predictor."), path)
    target = _renamed(_part(state, "target_params", path), _part(state, "target_state", path))
    _fill(heads.target.module, target, path)
    kernel: Any = [group["scale"] for group in _part(state, "kernel_params", path).values() if "scale" in group]
    if len(kernel) != 1:
        raise DataCorrupt(f"{path}: kernel_params: expected one scale, got {len(kernel)}")
    model.width.width.fill_(float(kernel[0]))
    return model.eval()


def _renamed(params: Tree, state: Tree) -> dict[str, Tensor]:
    """Our names and layouts."""
    named = {}
    for module, tensors in params.items():
        place = _place(module)
        if place is None:
            continue
        for name, value in tensors.items():
            ours = {"w": "weight", "scale": "weight", "b": "bias", "offset": "bias"}.get(name, name)
            named[f"{place}.{ours}"] = _tensor(value, kernel=name == "w")
    for module, tensors in state.items():
        found = _STATE.search(module)
        place = _place(module[: found.start()]) if found else None
        if found and place is not None:
            named[f"{place}.running_{found.group(1)}"] = _tensor(tensors["average"], kernel=False)
    return named


def _place(module: str) -> str | None:
    """Where a Haiku module's tensors belong; None: not part of what is evaluated."""
    if head := _HEAD.match(module):
        return f"{head.group(1)}.{_HEAD_PLACES[head.group(2)]}"
    if module.endswith("/initial_conv"):
        return "backbone.conv1"
    if module.endswith("/initial_batchnorm"):
        return "backbone.bn1"
    if block := _BLOCK.search(module):
        group, number, kind, index = block.groups()
        if kind.startswith("shortcut"):
            part = f"downsample.{0 if kind == 'shortcut_conv' else 1}"
        else:
            part = f"{'conv' if kind == 'conv' else 'bn'}{int(index or 0) + 1}"
        return f"backbone.layer{int(group) + 1}.{number}.{part}"
    return None


def _tensor(value: Any, *, kernel: bool) -> Tensor:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise DataCorrupt(f"checkpoint: expected arrays of floats, got {type(value).__name__}")
    array = np.asarray(value, np.float32)
    if kernel:
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    elif array.ndim > 1:
        array = array.reshape(-1)  # scales and statistics are kept as (1, 1, 1, channels)
    return torch.from_numpy(np.array(array, order="C"))


def _empty_model(named: Mapping[str, Tensor]) -> SSLHSIC:
    """A model of the checkpoint's depth and widths."""
    try:
        from timm.models.resnet import Bottleneck, ResNet
    except ImportError as error:
        raise ImportError("load_official_checkpoint needs timm: pip install 'paperworks[representation]'") from error
    blocks = {found.groups() for name in named if (found := re.match(r"backbone\.layer(\d+)\.(\d+)\.", name))}
    layers = [sum(group == str(number) for group, _ in blocks) for number in range(1, 5)]
    if 0 in layers or "projector.0.weight" not in named:
        raise DataCorrupt(f"checkpoint: expected a ResNet of four groups and a projector, got blocks {layers}")
    block: Any = Bottleneck  # timm's annotations ask for an instance
    backbone = _with_same_padding(ResNet(block, tuple(layers), num_classes=0))
    heads = [tuple(len(named[f"{head}.{place}.weight"]) for place in (0, 3)) for head in ("projector", "predictor")]
    return SSLHSIC(backbone, feature_dim=named["projector.0.weight"].shape[1], projector=heads[0], predictor=heads[1])


def _fill(module: nn.Module, named: Mapping[str, Tensor], path: Any) -> None:
    expected = module.state_dict()
    given = {name: value for name, value in named.items() if name in expected}
    for name, value in expected.items():
        # Haiku's last linear layers have no bias, and nobody counts batches there.
        if name not in given and name.endswith(("num_batches_tracked", "3.bias")):
            given[name] = torch.zeros_like(value)
    problems = [name for name, value in expected.items() if name not in given or given[name].shape != value.shape]
    if problems:
        raise DataCorrupt(f"{path}: {problems[0]} is missing or has another shape ({len(problems)} such tensors)")
    module.load_state_dict(given)


def _below(named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


# Padding --------------------------------------------------------------------------------------------------------------


class _Same(nn.Module):
    """Pads as TensorFlow's "SAME" does, then calls a convolution or pooling that pads nothing."""

    def __init__(self, inner: nn.Module, kernel: int, stride: int, fill: float):
        super().__init__()
        self.inner, self.kernel, self.stride, self.fill = inner, kernel, stride, fill

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for size in (x.shape[3], x.shape[2]):
            missing = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return self.inner(F.pad(x, sides, value=self.fill))


class _SameConv(nn.Conv2d):
    """A convolution under its own name in the state dict, padded as `_Same`."""

    def forward(self, input: Tensor) -> Tensor:
        return _Same(super().forward, self.kernel_size[0], self.stride[0], 0.0)(input)  # pyright: ignore[reportArgumentType]


def _with_same_padding(backbone: nn.Module) -> nn.Module:
    for module in list(backbone.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.Conv2d) and part.stride[0] > 1 and part.kernel_size[0] > 1:
                same = _SameConv(part.in_channels, part.out_channels, part.kernel_size, part.stride, bias=False)  # pyright: ignore[reportArgumentType]
                setattr(module, name, same)
            elif isinstance(part, nn.MaxPool2d):
                setattr(module, name, _Same(nn.MaxPool2d(3, 2), 3, 2, float("-inf")))
    return backbone


# Reading --------------------------------------------------------------------------------------------------------------


class _Inert:
    """Stands for objects of classes that we neither need nor trust, such as the optimiser's state."""

    def __new__(cls, *arguments: Any, **options: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module.rsplit(".", 1)[-1], name) in _NUMPY and module.split(".")[0] == "numpy":
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) in (("builtins", "dict"), ("collections", "OrderedDict")):
            return dict
        # Haiku's read-only dictionaries are pickled as their class and a dictionary.
        return dict if name in ("FlatMapping", "FlatMap", "frozendict") else _Inert


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataMissing(f"{path}: no such file; expected the official training's checkpoint.npy")
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            _, _, kind = header(stream)
            content = _Unpickler(stream).load() if kind.hasobject else None
    except (ValueError, pickle.UnpicklingError, EOFError, AttributeError, TypeError, IndexError, KeyError) as error:
        raise DataCorrupt(f"{path}: cannot be read as a checkpoint.npy ({type(error).__name__}: {error})") from error
    found = content.item() if isinstance(content, np.ndarray) and content.size == 1 else None
    if not isinstance(found, Mapping):
        raise DataCorrupt(f"{path}: expected one dictionary of trees, got an array of {kind}")
    return found


def _part(tree: Mapping[str, Any], name: str, path: Any) -> Mapping[str, Any]:
    if not isinstance(found := tree.get(name), Mapping):
        raise DataCorrupt(
            f"{path}: has no {name} (of a Haiku checkpoint), but {', '.join(map(str, tree)) or 'nothing'}"
        )
    return found
