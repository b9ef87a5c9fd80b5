"""Token mixers and encoders for sequences: attention, and what the papers of this area put in its place."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
