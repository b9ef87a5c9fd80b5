from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, {"DocumentTokenizer": "documents", "PackedDocuments": "documents", "Cuts": "documents"}
)
