"""The official checkpoint's tree, made here with one block a group, in the names and layouts of Haiku."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paperworks.data.errors import DataCorrupt, DataMissing
from paperworks.representation.ssl_hsic.checkpoint import load_official_checkpoint

pytest.importorskip("timm")

NET = "res_net50"


class OptState:
    """A class of the training code, which must not be needed to read the weights."""

    def __init__(self):
        self.trace = np.ones(3)


class Danger:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def network(seed):
    """(params, state) of a ResNet with bottleneck blocks (1, 1, 1, 1) and heads 2048 - 12 - 6 and 6 - 10 - 6."""
    rng = np.random.default_rng(seed)
    params, state = {}, {}

    def conv(name, size, inputs, outputs):
        weight = rng.normal(size=(size, size, inputs, outputs)) / np.sqrt(size * size * inputs)
        params[name] = {"w": weight.astype(np.float32)}

    def norm(name, channels, shape):
        params[name] = {"scale": (0.5 + rng.random(shape)).astype(np.float32),
                        "offset": rng.normal(size=shape).astype(np.float32)}  # fmt: skip
        for kind, offset in (("mean", 0.0), ("var", 0.5)):
            average = (offset + rng.random(shape)).astype(np.float32)
            hidden = {"hidden": np.full(shape, 9.0, np.float32), "counter": np.int32(5)}
            state[f"{name}/~/{kind}_ema"] = {"average": average, **hidden}

    conv(f"{NET}/~/initial_conv", 7, 3, 64)
    norm(f"{NET}/~/initial_batchnorm", 64, (1, 1, 1, 64))
    inputs = 64
    for group, width in enumerate((64, 128, 256, 512)):
        block = f"{NET}/~/block_group_{group}/~/block_0/~"
        for index, (size, a, b) in enumerate(((1, inputs, width), (3, width, width), (1, width, 4 * width))):
            conv(f"{block}/conv_{index}", size, a, b)
            norm(f"{block}/batchnorm_{index}", b, (1, 1, 1, b))
        conv(f"{block}/shortcut_conv", 1, inputs, 4 * width)
        norm(f"{block}/shortcut_batchnorm", 4 * width, (1, 1, 1, 4 * width))
        inputs = 4 * width
    for head, (a, hidden, out) in (("projector", (2048, 12, 6)), ("predictor", (6, 10, 6))):
        params[f"{head}/linear"] = {"w": rng.normal(size=(a, hidden)).astype(np.float32) / 40,
                                    "b": rng.normal(size=hidden).astype(np.float32)}  # fmt: skip
        norm(f"{head}/batch_norm", hidden, (hidden,))
        params[f"{head}/linear_1"] = {"w": rng.normal(size=(hidden, out)).astype(np.float32)}
    params["classifier"] = {"w": np.zeros((2048, 7), np.float32), "b": np.zeros(7, np.float32)}
    return params, state


@pytest.fixture(scope="module")
def tree():
    (params, state), (target, target_state), (average, _) = (network(seed) for seed in range(3))
    kernel = {"hsic_loss": {"scale": np.float32(0.7).reshape(())}}
    experiment = {"online_params": params, "online_state": state, "target_params": target, "opt_state": OptState(),
                  "target_state": target_state, "kernel_params": kernel}  # fmt: skip
    return {"experiment_state": experiment, "ema_state": {"online_params": average}}


@pytest.fixture(scope="module")
def file(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "checkpoint.npy"
    np.save(path, tree)
    return path


def convolve(x, kernel, stride):
    """(H, W, C) by (kh, kw, C, D) with TensorFlow's SAME padding: in words, floor(missing / 2) pixels come before."""
    size, side = kernel.shape[0], x.shape[0]
    out = -(-side // stride)
    missing = max((out - 1) * stride + size - side, 0)
    padded = np.pad(x, ((missing // 2, missing - missing // 2),) * 2 + ((0, 0),))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))[::stride, ::stride]
    return np.einsum("xycij,ijcd->xyd", windows, kernel)


def pool(x):
    missing = max((-(-x.shape[0] // 2) - 1) * 2 + 3 - x.shape[0], 0)
    padded = np.pad(x, ((missing // 2, missing - missing // 2),) * 2 + ((0, 0),), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2].max((-1, -2))


class Twin:
    """The network in NumPy, from the Haiku tree itself."""

    def __init__(self, params, state):
        self.params, self.state = params, state

    def norm(self, name, x):
        mean, var = (self.state[f"{name}/~/{kind}_ema"]["average"] for kind in ("mean", "var"))
        scale, offset = (self.params[name][part] for part in ("scale", "offset"))
        return ((x - mean) / np.sqrt(var + 1e-5) * scale + offset).reshape(x.shape)

    def embed(self, image):
        x = convolve(image, self.params[f"{NET}/~/initial_conv"]["w"], 2)
        x = pool(np.maximum(self.norm(f"{NET}/~/initial_batchnorm", x), 0))
        for group in range(4):
            block, stride = f"{NET}/~/block_group_{group}/~/block_0/~", 1 if group == 0 else 2
            y = x
            for index in range(3):
                y = convolve(y, self.params[f"{block}/conv_{index}"]["w"], stride if index == 1 else 1)
                y = self.norm(f"{block}/batchnorm_{index}", y)
                y = np.maximum(y, 0) if index < 2 else y
            short = convolve(x, self.params[f"{block}/shortcut_conv"]["w"], stride)
            x = np.maximum(self.norm(f"{block}/shortcut_batchnorm", short) + y, 0)
        return x.mean((0, 1))

    def head(self, name, x):
        first, last = self.params[f"{name}/linear"], self.params[f"{name}/linear_1"]
        return np.maximum(self.norm(f"{name}/batch_norm", x @ first["w"] + first["b"]), 0) @ last["w"]


def test_features_and_heads_are_those_of_the_tree(file, tree):
    """Against NumPy, with an even side, where both ways of padding differ."""
    image = np.random.default_rng(5).random((36, 36, 3)).astype(np.float32)
    given = torch.from_numpy(image.transpose(2, 0, 1))[None]
    state = tree["experiment_state"]
    for weights, params in (("online", state["online_params"]), ("average", tree["ema_state"]["online_params"])):
        twin = Twin(params, state["online_state"])
        with torch.no_grad():
            model = load_official_checkpoint(file, weights=weights)
            features = model.embed(given)
            projected = model.online["projector"](features)
            predicted = model.predictor(projected)
        expected = twin.embed(image)
        np.testing.assert_allclose(features[0], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
        np.testing.assert_allclose(projected[0], twin.head("projector", features[0].numpy()), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(predicted[0], twin.head("predictor", projected[0].numpy()), rtol=1e-3, atol=1e-3)
    assert float(model.width.width) == pytest.approx(0.7)
    target = model.target.module["projector"][0].weight
    np.testing.assert_array_equal(target, state["target_params"]["projector/linear"]["w"].T)


def test_torch_s_own_padding_would_give_other_features(file):
    """That the twin above can tell: the strided layers, padded on both sides."""
    model = load_official_checkpoint(file)
    x = torch.rand(1, 3, 36, 36)
    kernel = model.online["backbone"].conv1.weight
    assert not torch.allclose(model.online["backbone"].conv1(x), F.conv2d(x, kernel, stride=2, padding=3), atol=1e-2)


def test_reading_runs_nothing(tree, tmp_path):
    np.save(tmp_path / "evil.npy", {**tree, "more": Danger(str(tmp_path / "written"))})
    load_official_checkpoint(tmp_path / "evil.npy")
    assert not (tmp_path / "written").exists()


def without(tree, *path):
    tree = pickle.loads(pickle.dumps(tree))
    inner = tree
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return tree


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("ema_state",), "has no ema_state"),
        (("experiment_state", "online_state", f"{NET}/~/initial_batchnorm/~/mean_ema"), r"backbone\.bn1\.running_mean"),
        (("ema_state", "online_params", "predictor/linear", "b"), r"0\.bias is missing"),
        (("ema_state", "online_params", "projector/linear"), "a projector"),
        (("experiment_state", "kernel_params", "hsic_loss"), "kernel_params: expected one scale, got 0"),
    ],
)
def test_what_is_missing_is_named(tree, tmp_path, path, message):
    np.save(tmp_path / "bad.npy", without(tree, *path))
    with pytest.raises(DataCorrupt, match=message):
        load_official_checkpoint(tmp_path / "bad.npy")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataMissing, match="no such file"):
        load_official_checkpoint(tmp_path / "none.npy")
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("no array")
    for name in ("numbers.npy", "text.npy"):
        with pytest.raises(DataCorrupt, match=name):
            load_official_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match="weights: expected average or online"):
        load_official_checkpoint(tmp_path / "numbers.npy", weights="target")
