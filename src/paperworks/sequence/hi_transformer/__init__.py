"""Hi-Transformer: long documents read as sentences, as a whole, and as sentences again (Wu et al., ACL 2021).

Each layer runs a Transformer over the words of every sentence, one over the sentence states of the document, and one
over the sentences again, with the document-aware state among their words. Cost grows with the length of sentences
squared and the number of sentences squared, not with the length of the document squared. Use it for texts of hundreds
to thousands of words with decisions on documents, sentences or tokens; for texts of one or two sentences a plain
Transformer is the same thing with less machinery.

>>> import torch
>>> from paperworks.data import train_tokenizer
>>> from paperworks.sequence.hi_transformer import DocumentTokenizer, HiTransformer, HiTransformerConfig
>>> texts = ["The film is long. It is worth it.", "No."]
>>> bpe = train_tokenizer(texts, vocab_size=300)
>>> tokenizer = DocumentTokenizer(bpe, max_sentence_length=64, max_sentences=32)
>>> model = HiTransformer(HiTransformerConfig(vocab_size=bpe.vocab_size, dim=32, heads=4, ffn_dim=64))
>>> model.for_document_classification(2)(tokenizer(texts)).shape
torch.Size([2, 2])
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.sequence.hi_transformer.documents import Cuts, DocumentTokenizer, PackedDocuments
    from paperworks.sequence.hi_transformer.heads import DocumentClassifier, SentenceClassifier, TokenClassifier
    from paperworks.sequence.hi_transformer.layer import HiLayer, HiLayerOutput
    from paperworks.sequence.hi_transformer.layout import parse_layout
    from paperworks.sequence.hi_transformer.model import HiOutput, HiTransformer, HiTransformerConfig

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "Cuts": "documents",
        "DocumentClassifier": "heads",
        "DocumentTokenizer": "documents",
        "HiLayer": "layer",
        "HiLayerOutput": "layer",
        "HiOutput": "model",
        "HiTransformer": "model",
        "HiTransformerConfig": "model",
        "PackedDocuments": "documents",
        "SentenceClassifier": "heads",
        "TokenClassifier": "heads",
        "parse_layout": "layout",
    },
)
__all__ = [
    "Cuts",
    "DocumentClassifier",
    "DocumentTokenizer",
    "HiLayer",
    "HiLayerOutput",
    "HiOutput",
    "HiTransformer",
    "HiTransformerConfig",
    "PackedDocuments",
    "SentenceClassifier",
    "TokenClassifier",
    "parse_layout",
]
