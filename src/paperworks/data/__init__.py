"""Where data come from: embedded (no network), benchmark (by checksum), own (csv, jsonl, parquet, folders, hub)."""

import sys
from types import ModuleType

from paperworks._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DataCorrupt": "errors",
        "DataError": "errors",
        "DataMissing": "errors",
        "DepthPairs": "depth",
        "GraphData": "graphs",
        "RandAugment": "augment.policies",
        "Responses": "responses",
        "TextClassification": "text",
        "Tokenizer": "tokenization",
        "Translations": "translations",
        "Trajectories": "trajectories",
        "TwoViews": "augment.two_views",
        "ViewRecipe": "augment.two_views",
        "WeakStrong": "augment.weak_strong",
        "ag_news": "text_benchmarks",
        "benchmark_file": "benchmarks",
        "benchmark_folder": "benchmarks",
        "benchmark_members": "benchmarks",
        "csabstruct": "sentence_labels",
        "glyphs": "glyphs",
        "heterophilous": "graph_benchmarks",
        "list_benchmarks": "benchmarks",
        "load_nlu_irt": "nlu_irt",
        "parse_columns": "tables",
        "planetoid": "graph_benchmarks",
        "read_depth": "depth",
        "read_depth_pairs": "depth",
        "read_exr": "float_images",
        "read_graph": "graphs",
        "read_image": "depth",
        "read_pfm": "float_images",
        "read_sentence_labels": "sentence_labels",
        "read_table": "tables",
        "read_text_classification": "text",
        "rgbd_samples": "depth",
        "sklearn_responses": "sklearn_responses",
        "split_sentences": "sentences",
        "sst2": "text_benchmarks",
        "stdlib_text": "stdlib_text",
        "subjectivity": "text_benchmarks",
        "switching_text": "sentence_labels",
        "topic_text": "topic_text",
        "train_tokenizer": "tokenization",
        "verify_benchmark": "benchmarks",
        "write_depth": "depth",
        "write_exr": "float_images",
        "write_pfm": "float_images",
    },
)


class _Package(ModuleType):
    """Some functions are called like their module; importing the module must not put it in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
