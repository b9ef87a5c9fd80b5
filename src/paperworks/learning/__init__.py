"""Training with few labels, shifting data or rules: methods that change how a model learns, not what it is."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
