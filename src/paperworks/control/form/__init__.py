"""Imitation by predicting observations, FORM (Jaegle et al., 2021, arXiv 2107.03851).

Have recordings without actions (motion capture, logs, features of videos) and want a policy that moves like them, or
a score of how much another log moves like them? Two conditional densities of the next observation, one fitted to the
demonstrations and one following the imitator, give a reward by their log-ratio. Use it where observations are moderate
in number and carry noise; do not expect it to lead back from states that the demonstrations never visit: the reward
compares what is done, not where. Nothing here reads the demonstrator's actions.

>>> from paperworks.control import FORM, Demonstrations
>>> from paperworks.worlds import PointOrbit
>>> form = FORM(PointOrbit(8), Demonstrations.from_path("demos.npz"))    # doctest: +SKIP
>>> form.train(6_000)                                                    # doctest: +SKIP
>>> form.divergence()                                # nats a step; 0: moves alike  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.control.form.adversarial import DiscriminatorConfig, GAIfO
    from paperworks.control.form.cloning import BCO, CloningConfig
    from paperworks.control.form.demonstrations import Demonstrations
    from paperworks.control.form.effect_model import EffectModel
    from paperworks.control.form.form import FORM, EffectConfig
    from paperworks.control.form.imitation import LoopConfig
    from paperworks.control.form.mixture import mixture_log_prob
    from paperworks.control.form.reward import form_reward
    from paperworks.control.form.scoring import score_trajectories

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "BCO": "cloning",
        "CloningConfig": "cloning",
        "Demonstrations": "demonstrations",
        "DiscriminatorConfig": "adversarial",
        "EffectConfig": "form",
        "EffectModel": "effect_model",
        "FORM": "form",
        "GAIfO": "adversarial",
        "LoopConfig": "imitation",
        "form_reward": "reward",
        "mixture_log_prob": "mixture",
        "score_trajectories": "scoring",
    },
)
__all__ = [
    "BCO",
    "FORM",
    "CloningConfig",
    "Demonstrations",
    "DiscriminatorConfig",
    "EffectConfig",
    "EffectModel",
    "GAIfO",
    "LoopConfig",
    "form_reward",
    "mixture_log_prob",
    "score_trajectories",
]
