"""Make `official.npz`: three steps of the official AdaMatch and FixMatch+ with a small network.

    python make_official.py path/to/adamatch        (google-research/adamatch, commit 7a0b40c; needs objax and six)

The official classes run as they are. Around them stand stubs for what a step does not use (TensorFlow, flags, several
devices), the network is a small one, and lam is drawn here.
"""

import sys
import types
from pathlib import Path

import jax
import numpy as np

if not hasattr(jax.sharding, "PmapSharding"):
    # objax 1.8.0 names this class, which newer JAX has no more.
    jax.sharding.PmapSharding = type("PmapSharding", (), {})
import objax

CLASSES, N, RATIO, SIDE, STEPS = 3, 4, 3, 7, 3
# Parts of the training at which the steps are made; the official step counts images, here 2^20 in all.
PROGRESS = (0.1, 0.2, 0.3)
OPTIONS = {"lr": 0.03, "lr_decay": 0.25, "wd": 0.001, "wu": 1, "confidence": 0.9, "use_cr": True}


class Small(objax.nn.Sequential):
    """conv 3 x 3 of stride 2, batch norm, leaky ReLU, mean, linear."""

    def __init__(self, colors, nclass, **_):
        super().__init__(
            [
                objax.nn.Conv2D(colors, 4, 3, strides=2, use_bias=False, padding=0),
                objax.nn.BatchNorm2D(4, momentum=0.9, eps=1e-6),
                lambda x: objax.functional.leaky_relu(x, 0.1),
                lambda x: x.mean((2, 3)),
                objax.nn.Linear(4, nclass),
            ]
        )

    def __call__(self, x, training, domain=None):
        return super().__call__(x, training=training)


class Base(objax.Module):
    def __init__(self, nclass, params):
        self.nclass, self.params = nclass, objax.util.EasyDict(params)


def stub(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


def official(root, file, schedules):
    """The module in `file`, among stubs."""
    flags = types.SimpleNamespace(arch="small", train_mimg=1)
    stub("absl", app=None, flags=None)
    stub("absl.flags", FLAGS=flags)
    for package in ("domain_adaptation", "domain_adaptation.lib", "shared", "shared.zoo"):
        stub(package)
    stub("domain_adaptation.lib.data", MixData=None, CTAData=None)
    stub("domain_adaptation.lib.train", TrainableDAModule=Base)
    stub("shared.data")
    stub("shared.data.fsl", DATASETS=None)
    stub("shared.train", **schedules)
    stub("shared.util", setup_tf=None, MyParallel=lambda function, **_: function)
    stub("shared.zoo.models", network=None, ARCHS=())
    return execute(root / "domain_adaptation" / file)


def execute(path):
    module = types.ModuleType(path.stem)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def schedules_of(root):
    stub("tqdm", tqdm=None)
    stub("tqdm.std", trange=None)
    stub("objax.jaxboard", SummaryWriter=None, Summary=object)
    stub("shared")
    stub("shared.data", core=None)
    module = execute(root / "shared" / "train.py")
    return {name: getattr(module, name) for name in ("ScheduleCos", "ScheduleCosPhases")}


def main(root):
    root = Path(root)
    rng = np.random.default_rng(0)
    source = rng.random((STEPS, N, 2, 3, SIDE, SIDE)).astype(np.float32)
    target = (0.4 + rng.random((STEPS, N * RATIO, 2, 3, SIDE, SIDE))).astype(np.float32)
    labels = rng.integers(CLASSES, size=(STEPS, N))
    lam = rng.random((STEPS, 2 * N, CLASSES)).astype(np.float32)
    kept = {"source": source, "target": target, "labels": labels, "lam": lam}
    schedules = schedules_of(root)
    objax.functional.parallel.pmean = lambda x: x
    for name, file in (("AdaMatch", "adamatch.py"), ("FixMatchDA", "fixmatch_da.py")):
        objax.random.DEFAULT_GENERATOR.seed(0)
        method = getattr(official(root, file, schedules), name)(CLASSES, Small, **OPTIONS)
        network = method.model
        # Sure enough that some pseudo-labels pass FixMatch's threshold and others do not.
        network[4].w.assign(8.0 * network[4].w.value)
        kept |= {f"{name}_before_{key}": value for key, value in state(network).items()}
        losses = []
        for step in range(STEPS):
            objax.random.uniform = lambda shape, step=step: jax.numpy.asarray(lam[step])
            labelled = source[step], np.eye(CLASSES, dtype=np.float32)[labels[step]]
            values, _ = method.train_op(np.float32(PROGRESS[step] * (1 << 20)), *labelled, target[step])
            losses.append([float(values[key]) for key in KEYS])
        kept[f"{name}_monitors"] = np.array(losses)
        kept |= {f"{name}_after_{key}": value for key, value in state(network).items()}
        averages = ("p_labeled", "p_unlabeled") if name == "AdaMatch" else ("p_data", "p_model")
        kept[f"{name}_source_mean"] = np.asarray(getattr(method.stats, averages[0]).avg.value)
        kept[f"{name}_target_mean"] = np.asarray(getattr(method.stats, averages[1]).buffer.value.mean(0))
    np.savez_compressed(Path(__file__).parent / "official.npz", **kept)


KEYS = ("losses/xe", "losses/xeu", "losses/wd", "monitors/confidence_ratio", "monitors/mask", "monitors/lr")


def state(network):
    """The small network's arrays, in torch's layouts."""
    convolution, norm, linear = network[0], network[1], network[4]
    found = {
        "0.weight": convolution.w.value.transpose(3, 2, 0, 1), "1.weight": norm.gamma.value, "1.bias": norm.beta.value,
        "1.running_mean": norm.running_mean.value, "1.running_var": norm.running_var.value,
        "5.weight": linear.w.value.T, "5.bias": linear.b.value,
    }  # fmt: skip
    return {key: np.asarray(item).reshape(-1) if key[0] == "1" else np.asarray(item) for key, item in found.items()}


if __name__ == "__main__":
    main(sys.argv[1])
