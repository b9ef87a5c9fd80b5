"""Decisions: reinforcement and imitation learning in simulated worlds."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
