"""Text generation and understanding: audits of models, data and translations, and training objectives."""

from paperworks._lazy import attach_area

__getattr__, __dir__, __all__ = attach_area(__name__)
