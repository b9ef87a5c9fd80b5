"""Parts of reinforcement learning, for many seeds at once: replay, policies, critics, pure losses. Knows no paper.

Everything carries a leading axis of seeds; losses come back one a seed, to be summed. What an agent is, in which order
it acts and learns, is the caller's.
"""

from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "ObservationNormalizer": "normalizer",
        "TanhGaussian": "policies",
        "Transitions": "replay",
        "TwinQ": "critics",
        "awac_loss": "losses",
        "gae": "losses",
        "gaussian_kl": "mpo",
        "mpo_losses": "mpo",
        "mpo_temperature_dual": "mpo",
        "mpo_weights": "mpo",
        "ppo_losses": "losses",
        "sac_losses": "losses",
    },
)
