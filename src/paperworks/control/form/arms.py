"""The arms of the study: equal learner, data, steps and updates; what differs is where the reward comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from paperworks.control.form.adversarial import DiscriminatorConfig, GAIfO
from paperworks.control.form.cloning import BCO, CloningConfig
from paperworks.control.form.form import FORM, EffectConfig
from paperworks.control.form.imitation import Collector, LoopConfig
from paperworks.control.form.references import BC, ActionGAIL, TrueReward
from paperworks.data.trajectories import Trajectories
from paperworks.worlds.protocol import World

RIVALS = ("form", "gaifo", "bco")
ABLATIONS = ("form_no_imitator", "form_absolute", "form_ensemble", "form_short_window")
REFERENCES = ("true_reward", "bc_actions", "gail_actions")
TRUE_REWARD_SCALE = 0.1

# Six settings an arm, the same number for all; a setting is a row of its arm's grid.
GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "form": tuple({"noise": noise, "scale": scale} for noise in (0.01, 0.1) for scale in (0.02, 0.05, 0.2)),
    "gaifo": tuple(
        {"penalty": penalty, "reward": reward} for penalty in (0.0, 1.0, 10.0) for reward in ("softplus", "logit")
    ),
    "bco": tuple({"lr": lr, "share": share} for lr in (3e-4, 1e-3, 3e-3) for share in (0.5, 1.0)),
}
FAMILY = {"gail_actions": "gaifo", "bc_actions": "bco"} | dict.fromkeys(("form", *ABLATIONS), "form")


def family(arm: str) -> str | None:
    """The grid that an arm takes its setting from; None for the true reward, which has nothing to tune."""
    return FAMILY.get(arm, arm if arm in GRIDS else None)


def words(arm: str, setting: int) -> str:
    """A setting for people."""
    name = family(arm)
    return "–" if name is None else ", ".join(f"{key} {value}" for key, value in GRIDS[name][setting].items())


def build(
    arm: str,
    setting: int,
    env: World,
    demonstrations: Sequence[Trajectories],
    *,
    actions: Sequence[Tensor] | None,
    loop: LoopConfig,
    hidden: tuple[int, ...],
    epochs: int,
    steps: int,
    ensemble: int,
    learner: str,
    absorbing: bool,
    seed: int,
) -> Collector:
    """An arm, ready to train.

    Raises:
        ValueError: no such arm; a reference that needs actions where there are none.
    """
    common: dict[str, Any] = {
        "loop": loop,
        "seeds": len(demonstrations),
        "seed": seed,
        "learner": learner,
        "absorbing": absorbing,
    }
    chosen = GRIDS[family(arm) or "form"][setting]
    if arm == "true_reward":
        return TrueReward(env, demonstrations, scale=TRUE_REWARD_SCALE, **common)
    if arm in ("bc_actions", "gail_actions") and actions is None:
        raise ValueError(f"{arm}: needs the demonstrator's actions, which demonstrations of one's own do not have")
    if arm == "gaifo":
        return GAIfO(env, demonstrations, discriminator=DiscriminatorConfig(hidden=hidden, **chosen), **common)
    if arm == "gail_actions":
        config = DiscriminatorConfig(hidden=hidden, **chosen)
        return ActionGAIL(env, demonstrations, actions=actions or (), discriminator=config, **common)
    if arm in ("bco", "bc_actions"):
        window = round(chosen["share"] * steps * env.n / len(demonstrations))
        cloning = CloningConfig(hidden=hidden, lr=chosen["lr"], window=window)
        if arm == "bco":
            return BCO(env, demonstrations, cloning=cloning, **common)
        return BC(env, demonstrations, actions=actions or (), cloning=cloning, **common)
    if arm != "form" and arm not in ABLATIONS:
        raise ValueError(f"arms: expected some of {', '.join((*RIVALS, *ABLATIONS, *REFERENCES))}, got {arm!r}")
    effect = EffectConfig(hidden=hidden, epochs=epochs, **chosen)
    variants: dict[str, dict[str, Any]] = {
        "form_no_imitator": {"imitator_term": False},
        "form_absolute": {"predict": "absolute"},
        "form_ensemble": {"ensemble": ensemble},
    }
    if arm == "form_short_window":
        common["loop"] = replace(loop, window=loop.window // 4)
    return FORM(env, demonstrations, effect=replace(effect, **variants.get(arm, {})), **common)
