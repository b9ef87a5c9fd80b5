"""Simulators and generated worlds that several papers share."""

from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AbsorbingState": "wrappers",
        "Camera": "rooms",
        "Composite": "sprites",
        "Corpus": "text",
        "Distractors": "distractors",
        "Frame": "rooms",
        "FrameStack": "wrappers",
        "GymnasiumWorld": "gymnasium_bridge",
        "Layer": "sprites",
        "Motion": "motion",
        "Pendulum": "points",
        "PointOrbit": "points",
        "Rooms": "rooms",
        "Scene": "rooms",
        "Step": "protocol",
        "ToyMT": "text",
        "Vocabulary": "text",
        "World": "protocol",
        "add_distractors": "distractors",
        "boxes_of": "sprites",
        "composite": "sprites",
        "cut_out": "sprites",
        "orbit_expert": "points",
        "pendulum_expert": "points",
        "rollout": "protocol",
        "shape_mask": "sprites",
    },
)
