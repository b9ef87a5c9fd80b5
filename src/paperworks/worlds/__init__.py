"""Simulators and generated worlds that several papers share."""

from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"Corpus": "text", "ToyMT": "text", "Vocabulary": "text"})
