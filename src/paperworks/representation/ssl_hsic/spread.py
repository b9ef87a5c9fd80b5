"""How far the estimate of the loss terms by random features strays from the exact one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from paperworks.representation.ssl_hsic.features import FourierFeatures
from paperworks.representation.ssl_hsic.loss import ssl_hsic_loss

IMAGES, DIM, DRAWS = 32, 32, 60


def estimator_spread(features: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Bias and standard deviation of hsic_zz and hsic_zy, (3, F) each, over draws for each number of features.

    Rows: two independent draws, sines and cosines (ours); two draws, cosines with phases (the paper's); one draw for
    both factors, which is biased. Two noisy views of 32 images in 32 dimensions.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(1, IMAGES, DIM, generator=generator)
    z = F.normalize(centre + 0.3 * torch.randn(2, IMAGES, DIM, generator=generator), dim=-1)
    exact = ssl_hsic_loss(z, estimator="exact")
    found = np.zeros((2, 2, 3, len(features)))  # (bias, spread) of (zz, zy)
    for column, count in enumerate(features):
        ours = FourierFeatures(DIM, count)
        plain = FourierFeatures(DIM, count, form="phase", stratified=False, orthogonal=False)
        for row, (kind, same) in enumerate(((ours, False), (plain, False), (ours, True))):
            terms = []
            for _ in range(draws):
                first = kind.draw(generator=generator)
                pair = (first, first if same else kind.draw(generator=generator))
                term = ssl_hsic_loss(z, estimator="features", draws=pair, validate=False)
                terms.append((float(term.hsic_zz - exact.hsic_zz), float(term.hsic_zy - exact.hsic_zy)))
            found[:, :, row, column] = np.mean(terms, axis=0), np.std(terms, axis=0)
    return {
        "spread_features": np.array(features, float), "spread_bias": found[0, 0], "spread_zz": found[1, 0],
        "spread_zy": found[1, 1], "spread_exact": np.array([float(exact.hsic_zz), float(exact.hsic_zy)]),
    }  # fmt: skip
