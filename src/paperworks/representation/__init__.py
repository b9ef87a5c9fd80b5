"""Representations learned without labels: self-supervised training, distillation, pre-training targets."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
