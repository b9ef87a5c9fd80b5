"""A slow decoder in NumPy, written from the paper's equations, on a state dict with the authors' names."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def conv(x, weight, bias, mode):
    """(C, H, W) -> (O, H, W)."""
    edge = weight.shape[-1] // 2
    if edge:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode=mode)
    windows = sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    return np.einsum("chwyx,ocyx->ohw", windows, weight) + bias[:, None, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def up2(x):
    return x.repeat(2, axis=-2).repeat(2, axis=-1)


def idwt(ll, detail):
    lh, hl, hh = detail
    out = np.empty((2 * ll.shape[0], 2 * ll.shape[1]))
    out[::2, ::2], out[::2, 1::2] = (ll + lh + hl + hh) / 2, (ll + lh - hl - hh) / 2
    out[1::2, ::2], out[1::2, 1::2] = (ll - lh + hl - hh) / 2, (ll - lh - hl + hh) / 2
    return out


def disparity_decoder(state, features, *, masks=None):
    """Disparities and coefficients, coarse to fine; `masks[k]`: where level k keeps its coefficients."""
    number = iter(range(100))

    def block(x, name="conv.conv"):
        n = next(number)
        return conv(x, state[f"decoder.{n}.{name}.weight"], state[f"decoder.{n}.{name}.bias"], "reflect")

    def head(x):
        n = next(number)
        hidden = conv(x, state[f"decoder.{n}.0.conv.weight"], state[f"decoder.{n}.0.conv.bias"], "reflect")
        hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
        return sigmoid(conv(hidden, state[f"decoder.{n}.2.conv.weight"], state[f"decoder.{n}.2.conv.bias"], "reflect"))

    x, ll, maps, details = features[4], None, [], []
    for i in (4, 3, 2, 1):
        x = elu(block(x))
        x = elu(block(np.concatenate((up2(x), features[i - 1]))))
        if i == 4:
            ll = 2**4 * head(x)[0]
        detail = 2 ** (i - 1) * (head(x) - head(x))
        if masks is not None:
            detail = detail * masks[4 - i]
        ll = idwt(ll, detail)
        maps.append(np.clip(ll / 2 ** (i - 1), 0, 1))
        details.append(detail)
    return maps, details


def official_state(enc, dec, rng):
    """Random parameters under the authors' names."""
    state, number = {}, 0

    def add(name, out, inputs, size):
        state[f"decoder.{number}.{name}.weight"] = rng.normal(
            0, 1.2 / np.sqrt(inputs * size**2), (out, inputs, size, size)
        )
        state[f"decoder.{number}.{name}.bias"] = rng.normal(0, 0.2, out)

    before = enc[4]
    for i in (4, 3, 2, 1):
        add("conv.conv", dec[i], before, 3)
        number += 1
        add("conv.conv", dec[i], dec[i] + enc[i - 1], 3)
        number += 1
        if i == 4:
            add("0.conv", dec[i] // 4, dec[i], 1)
            add("2.conv", 1, dec[i] // 4, 3)
            number += 1
        for _ in range(2):
            add("0.conv", dec[i], dec[i], 1)
            add("2.conv", 3, dec[i], 3)
            number += 1
        before = dec[i]
    return state
