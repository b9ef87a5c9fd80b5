"""Learning on graphs: attention, message passing, and what they can and cannot express."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
