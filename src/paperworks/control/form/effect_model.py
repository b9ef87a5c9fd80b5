"""Effect models: the law of the next observation given the last, whatever action came between.

    p(x_t | x_{t-1}) = int p(x_t | x_{t-1}, a) pi(a | x_{t-1}) da

is a property of dynamics and policy together, and it can be fitted to observations alone. A multilayer perceptron maps
the normalised previous observation to a mixture of K Gaussians over the normalised difference `x_t - x_{t-1}`.

Notes:
    - Predicting the difference makes "copy" the zero function; absolute prediction memorises what never changes.
    - Dimensions whose difference is constant in the demonstrations are inputs but no part of the likelihood: a point
      mass on both sides of a ratio carries no information and would swallow the model's capacity.
    - Scales have a floor in units of the data, or one deterministic dimension decides the ratio.

Reference: Jaegle et al., Imitation by Predicting Observations, ICML 2021, arXiv 2107.03851. The architecture is ours;
the paper's own could not be checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.control.form.mixture import (
    full_log_prob,
    full_marginal_scale,
    mixture_log_prob,
    mixture_log_prob_per_dim,
    unpack_lower,
)
from paperworks.control.form.statistics import Statistics
from paperworks.nn.seed_mlp import SeedMLP

if TYPE_CHECKING:
    from paperworks.control.form.fitting import History
    from paperworks.data.trajectories import Trajectories

MAX_LOG_SCALE = 2.0


class EffectModel(nn.Module):
    """A conditional density of the next observation given the last ones.

    With `seeds=S` it is S models side by side, each for its own data; arguments and results then carry a leading axis
    S. With one seed that axis may be left out.

    Args:
        obs_dim: d.
        hidden: widths of the hidden layers (elu).
        components: K, Gaussians of the mixture.
        covariance: "diagonal", or "full" where effects are correlated given the last observation (one action that moves
            several observations): a diagonal class then counts the same noise several times.
        frames: observations that the input holds, newest last: `x_prev` is (..., frames * d).
        predict: "delta", the difference; "absolute", the observation itself (all dimensions that vary are predicted).
        noise: standard deviation of the Gaussian noise on the normalised input, in training.
        min_scale: floor of the scales, in standard deviations of what is predicted.
        ensemble: M models on bootstrapped episodes; the density is their mean, lower where they disagree.
        seeds: S.

    Raises:
        ValueError: sizes that are not positive, unknown options.
    """

    def __init__(
        self,
        obs_dim: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        components: int = 4,
        covariance: Literal["diagonal", "full"] = "diagonal",
        frames: int = 1,
        predict: Literal["delta", "absolute"] = "delta",
        noise: float = 0.01,
        min_scale: float = 0.02,
        ensemble: int = 1,
        seeds: int = 1,
    ) -> None:
        super().__init__()
        self._kept: Tensor
        self._shift: Tensor
        self._scale: Tensor
        self._log_jacobian: Tensor
        self._mean: Tensor
        self._std: Tensor
        sizes = {
            "obs_dim": obs_dim,
            "components": components,
            "frames": frames,
            "ensemble": ensemble,
            "seeds": seeds,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance: expected 'diagonal' or 'full', got {covariance!r}")
        if predict not in ("delta", "absolute"):
            raise ValueError(f"predict: expected 'delta' or 'absolute', got {predict!r}")
        if noise < 0 or not 0 < min_scale < 1:
            raise ValueError(f"noise, min_scale: expected noise >= 0 and 0 < min_scale < 1, got {noise}, {min_scale}")
        self.obs_dim, self.hidden, self.components = obs_dim, tuple(hidden), components
        self.covariance: Literal["diagonal", "full"] = covariance
        self.predict: Literal["delta", "absolute"] = predict
        self.frames = frames
        self.noise, self.min_scale, self.ensemble, self.seeds = noise, min_scale, ensemble, seeds
        self.statistics: Statistics | None = None
        self.network: SeedMLP | None = None

    def set_statistics(self, statistics: Statistics) -> None:
        """Take the normalisation and build the network, whose outputs are the dimensions that move.

        Raises:
            ValueError: for another dimension or number of seeds.
        """
        if (statistics.seeds, statistics.dim) != (self.seeds, self.obs_dim):
            raise ValueError(
                f"statistics: expected {self.seeds} seeds of dimension {self.obs_dim}, got {statistics.seeds} of "
                f"{statistics.dim}"
            )
        self.statistics = statistics
        delta = self.predict == "delta"
        kept_dims = statistics.moving if delta else statistics.varying
        shift, scale = (statistics.delta_mean, statistics.delta_std) if delta else (statistics.mean, statistics.std)
        constants = {
            "_kept": kept_dims,
            "_shift": self._by_member(shift[:, kept_dims]),
            "_scale": self._by_member(scale[:, kept_dims]),
            "_log_jacobian": self._by_member(scale[:, kept_dims]).log().sum(-1),
            "_mean": self._by_member(statistics.mean).repeat(1, 1, self.frames),
            "_std": self._by_member(statistics.safe_std).repeat(1, 1, self.frames),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        kept = len(kept_dims)
        self._all_kept = kept == self.obs_dim
        lower = kept * (kept - 1) // 2 if self.covariance == "full" else 0
        outputs = self.components * (1 + 2 * kept + lower)
        sizes = (self.frames * self.obs_dim, *self.hidden, outputs)
        self.network = SeedMLP(self.seeds * self.ensemble, sizes, activation=F.elu, last_scale=0.1)
        with torch.no_grad():
            # All components alike would receive one gradient and stay alike.
            self.network.biases[-1].add_(0.5 * torch.randn_like(self.network.biases[-1]))

    def _by_member(self, value: Tensor) -> Tensor:
        """(seeds, n) -> (seeds * ensemble, 1, n)."""
        return value.repeat_interleave(self.ensemble, 0).unsqueeze(1)

    def fit(
        self,
        trajectories: Trajectories | Sequence[Trajectories],
        *,
        valid_fraction: float = 0.1,
        epochs: int = 60,
        lr: float = 3e-3,
        batch: int = 256,
        weight_decay: float = 1e-4,
        fixed: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> History:
        """Maximum likelihood on recorded episodes, keeping the epoch with the best held-out likelihood.

        Args:
            trajectories: the episodes, one set a seed. Statistics are taken from them unless they are set already.
            valid_fraction: share of the *episodes* held out; 0 keeps the last epoch.
            epochs: passes over the transitions.
            lr: AdamW's rate at the start; it falls linearly to 0.
            batch: transitions a step and member.
            weight_decay: AdamW's.
            fixed: see `Statistics`.
            generator: of the batches, the bootstrap and the input noise.

        Returns:
            History: train and held-out log-likelihoods by epoch.

        Raises:
            ValueError: another dimension; too few episodes to hold one out.
        """
        from paperworks.control.form.fitting import fit_effect_model

        sets = [trajectories] if not isinstance(trajectories, Sequence) else list(trajectories)
        return fit_effect_model(
            self,
            sets,
            valid_fraction=valid_fraction,
            epochs=epochs,
            lr=lr,
            batch=batch,
            weight_decay=weight_decay,
            fixed=fixed,
            generator=generator,
        )

    def log_prob(self, x_prev: Tensor, x: Tensor) -> Tensor:
        """Log-density of the next observation, in nats per unit volume of the dimensions that count.

        Args:
            x_prev: (B, frames * d), or (seeds, B, frames * d).
            x: (B, d), or (seeds, B, d).

        Returns:
            (B,), or (seeds, B).

        Raises:
            ValueError: other shapes; no statistics yet.
        """
        previous, following, single = self._batched(x_prev, x)
        members = self.member_log_prob(self._spread(previous), self._spread(following))
        total = self._mean_density(members)
        return total[0] if single else total

    def log_prob_per_dim(self, x_prev: Tensor, x: Tensor) -> Tensor:
        """Log-densities of the dimensions' marginals, (B, d) or (seeds, B, d); 0 for those outside the likelihood."""
        previous, following, single = self._batched(x_prev, x)
        previous, following = self._spread(previous), self._spread(following)
        logits, mean, log_scale, lower = self._heads(previous)
        if lower is not None:
            log_scale = full_marginal_scale(log_scale, lower)
        parts = mixture_log_prob_per_dim(self._target(previous, following), logits, mean, log_scale)
        parts = self._mean_density(parts - self._scale.log())
        result = parts.new_zeros(*parts.shape[:-1], self.obs_dim)
        result[..., self._kept] = parts
        return result[0] if single else result

    def only(self, seed: int) -> EffectModel:
        """The model of one seed by itself (a copy)."""
        known = self._known()
        one = EffectModel(
            self.obs_dim,
            hidden=self.hidden,
            components=self.components,
            covariance=self.covariance,
            frames=self.frames,
            predict=self.predict,
            noise=self.noise,
            min_scale=self.min_scale,
            ensemble=self.ensemble,
        )
        chosen = slice(seed, seed + 1)
        one.set_statistics(known.map(lambda part: part[chosen]))
        assert self.network is not None
        assert one.network is not None
        members = slice(seed * self.ensemble, (seed + 1) * self.ensemble)
        with torch.no_grad():
            for mine, theirs in zip(one.network.parameters(), self.network.parameters(), strict=True):
                mine.copy_(theirs[members])
        return one.train(self.training)

    def log_jacobian(self) -> Tensor:
        """Log-volume of the unit in which dimensions are normalised, (seeds, 1): added to a log-density, it gives the
        log-density in those units."""
        return self._log_jacobian[:: self.ensemble]

    def member_log_prob(self, x_prev: Tensor, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Log-densities of the single members, (seeds * ensemble, B), each on its own rows; noisy in training."""
        logits, mean, log_scale, lower = self._heads(x_prev, generator)
        target = self._target(x_prev, x)
        if lower is None:
            return mixture_log_prob(target, logits, mean, log_scale) - self._log_jacobian
        return full_log_prob(target, logits, mean, log_scale, lower) - self._log_jacobian

    @torch.no_grad()
    def sample(self, x_prev: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw next observations, shaped like `x` in `log_prob`; constant differences are continued."""
        previous, _, single = self._batched(x_prev, None)
        spread = self._spread(previous)
        logits, mean, log_scale, lower = self._heads(spread)
        choice = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(*logits.shape[:2], 1)
        pick = choice.unsqueeze(-1).expand(*choice.shape, mean.shape[-1])
        mean, log_scale = mean.gather(2, pick).squeeze(2), log_scale.gather(2, pick).squeeze(2)
        drawn = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device) * log_scale.exp()
        if lower is not None:
            chosen = lower.gather(2, choice.unsqueeze(-1).expand(*choice.shape, lower.shape[-1])).squeeze(2)
            unit = torch.eye(drawn.shape[-1], dtype=drawn.dtype) + unpack_lower(chosen, drawn.shape[-1])
            drawn = torch.linalg.solve_triangular(unit, drawn.unsqueeze(-1), upper=False, unitriangular=True).squeeze(
                -1
            )
        moved = (mean + drawn) * self._scale + self._shift
        moved = self._one_member(moved, generator)
        return self._placed(previous, moved)[0] if single else self._placed(previous, moved)

    def _placed(self, previous: Tensor, moved: Tensor) -> Tensor:
        statistics = self._known()
        last = previous[..., -self.obs_dim :]
        if self.predict == "delta":
            result = last + statistics.delta_mean.unsqueeze(1)
            result[..., self._kept] = last[..., self._kept] + moved
            return result
        result = statistics.mean.unsqueeze(1).expand_as(last).clone()
        result[..., self._kept] = moved
        return result

    def _one_member(self, moved: Tensor, generator: torch.Generator | None) -> Tensor:
        _, batch, dim = moved.shape
        by_member = moved.view(self.seeds, self.ensemble, batch, dim)
        member = torch.randint(self.ensemble, (self.seeds, 1, batch, 1), generator=generator)
        return by_member.gather(1, member.expand(-1, -1, -1, dim)).squeeze(1)

    def _heads(
        self, previous: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Logits (S M, B, K), mean and log-scale (S M, B, K, kept), lower triangles or None."""
        assert self.network is not None
        z = (previous - self._mean) / self._std
        if self.training and self.noise:
            z = z + self.noise * torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        rows, batch, _ = z.shape
        kept, mixtures = len(self._kept), self.components
        sizes = [mixtures, mixtures * kept, mixtures * kept]
        output = self.network(z)
        logits, mean, raw = output[..., : sum(sizes)].split(sizes, -1)
        lowest = math.log(self.min_scale)
        # A hard clamp has no gradient beyond its ends and would leave a scale that hit one there.
        log_scale = lowest + (MAX_LOG_SCALE - lowest) * torch.sigmoid(raw)
        shape = (rows, batch, mixtures, kept)
        lower = output[..., sum(sizes) :].reshape(rows, batch, mixtures, -1) if self.covariance == "full" else None
        return logits, mean.reshape(shape), log_scale.reshape(shape), lower

    def _target(self, previous: Tensor, following: Tensor) -> Tensor:
        moved = following - previous[..., -self.obs_dim :] if self.predict == "delta" else following
        kept = moved if self._all_kept else moved[..., self._kept]
        return (kept - self._shift) / self._scale

    def _mean_density(self, members: Tensor) -> Tensor:
        """Log of the members' mean density: (S M, ...) -> (S, ...)."""
        if self.ensemble == 1:
            return members
        by_member = members.view(self.seeds, self.ensemble, *members.shape[1:])
        return torch.logsumexp(by_member, 1) - math.log(self.ensemble)

    def _spread(self, x: Tensor) -> Tensor:
        return x if self.ensemble == 1 else x.repeat_interleave(self.ensemble, 0)

    def _known(self) -> Statistics:
        if self.statistics is None:
            raise ValueError("effect model: no statistics yet; call fit(), or set_statistics() first")
        return self.statistics

    def _batched(self, x_prev: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor, bool]:
        self._known()
        single = x_prev.ndim == 2 and self.seeds == 1
        previous = x_prev.unsqueeze(0) if single else x_prev
        width = self.frames * self.obs_dim
        if previous.ndim != 3 or previous.shape[0] != self.seeds or previous.shape[2] != width:
            lead = "" if self.seeds == 1 else f"{self.seeds}, "
            raise ValueError(f"x_prev: expected ({lead}B, {width}), got {tuple(x_prev.shape)}")
        if x is None:
            return previous, previous, single
        following = x.unsqueeze(0) if single else x
        if following.shape != (*previous.shape[:2], self.obs_dim):
            raise ValueError(f"x: expected {(*x_prev.shape[:-1], self.obs_dim)}, got {tuple(x.shape)}")
        return previous, following, single
