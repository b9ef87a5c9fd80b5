"""Transformers models of a few thousand weights, with a tokenizer of thirty words."""

import pytest
import torch

SENTENCE = (
    "the a film movie was is great terrible boring wonderful plot acting and but very not good bad it i loved hated "
    "this story slow funny"
)
WORDS = SENTENCE.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer():
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=40,
    )


def make_model(kind, **options):
    """`Bert...`, `GPT2...` or `T5...`, with weights large enough to matter."""
    transformers = pytest.importorskip("transformers")
    size = len(WORDS) + len(SPECIAL)
    if kind.startswith("Bert"):
        config = transformers.BertConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=options.pop("layers", 2), num_attention_heads=2,
            intermediate_size=32, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
        )  # fmt: skip
    elif kind.startswith("GPT2"):
        config = transformers.GPT2Config(
            vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=2, eos_token_id=3
        )
    else:
        config = transformers.T5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()
