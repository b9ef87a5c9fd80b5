"""Images and video: dense prediction, detection, reconstruction, and the blocks that they need."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
