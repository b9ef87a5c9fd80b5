"""Make `official.npz`: the official SSL-HSIC code on fixed features, frequencies and phases.

    python make_official.py path/to/kernels.py        (deepmind/ssl_hsic, commit d7ea38d; needs jax and mpmath)

Only its feature function is replaced, by one that takes our frequencies; Haiku is not needed for that.
"""

import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DIM, BATCH, FEATURES, GAMMA, WIDTH = 5, 6, 16, 3.0, 0.8


def official(path):
    stub = types.ModuleType("haiku")
    stub.Module, stub.Params = object, dict
    sys.modules["haiku"] = stub
    code = Path(path).read_text().replace("jnp.DeviceArray", "jnp.ndarray")
    module = types.ModuleType("official")
    exec(compile(code, path, "exec"), module.__dict__)
    return module


def main(path):
    module = official(path)

    def injected(num_features, rng, x, c, amp=None, amp_probs=None):
        frequencies, phases = rng
        return jnp.sqrt(2 / num_features) * jnp.cos(jnp.matmul(x / c, frequencies.T) + phases)

    module.imq_rff_features = injected
    rng = np.random.default_rng(0)
    draws = [
        (jnp.asarray(rng.normal(size=(FEATURES, DIM)), jnp.float32),
         jnp.asarray(rng.uniform(0, 2 * np.pi, size=FEATURES), jnp.float32))
        for _ in range(2)
    ]  # fmt: skip
    kept = {
        f"{name}{i}": np.asarray(part) for i, draw in enumerate(draws) for name, part in zip("wb", draw, strict=True)
    }

    def loss(views):
        listed = list(views)
        xy = module.rff_approximate_hsic_xy(listed, 1.0, FEATURES, draws[0], WIDTH, {})
        xx = module.rff_approximate_hsic_xx(listed, FEATURES, draws[1], draws[0], WIDTH, {})
        return GAMMA * jnp.sqrt(xx) - xy, (xy, xx)

    for count in (2, 4):
        z = rng.normal(size=(count, BATCH, DIM))
        z = jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True), jnp.float32)
        (value, (xy, xx)), slope = jax.value_and_grad(loss, has_aux=True)(z)
        kept |= {f"z{count}": np.asarray(z), f"loss{count}": np.asarray(value), f"xy{count}": np.asarray(xy)}
        kept |= {f"xx{count}": np.asarray(xx), f"slope{count}": np.asarray(slope)}
        positive, negative = module.get_label_weights(BATCH)
        assert abs(float(positive - negative) - 1) < 1e-6
        flat = z.reshape(-1, DIM)
        squared = module.pairwise_distance_square(flat, flat)

        def width_objective(scale, squared=squared):
            slopes = jax.grad(lambda x, y: (y / jnp.sqrt(x + y**2)).sum())(squared, scale)
            return 0.5 * jnp.log(jnp.maximum(1e-14, slopes**2)).mean()

        kept[f"width{count}"], kept[f"width_slope{count}"] = map(
            np.asarray, jax.value_and_grad(width_objective)(jnp.float32(WIDTH))
        )
    np.savez_compressed(Path(__file__).parent / "official.npz", **kept)


if __name__ == "__main__":
    main(sys.argv[1])
