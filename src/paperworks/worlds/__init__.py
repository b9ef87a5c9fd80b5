"""Simulators and generated worlds that several papers share."""

from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Camera": "rooms",
        "Corpus": "text",
        "Frame": "rooms",
        "Pendulum": "points",
        "PointOrbit": "points",
        "Rooms": "rooms",
        "Scene": "rooms",
        "ToyMT": "text",
        "Vocabulary": "text",
    },
)
