"""Tiny translation models with offline tokenizers, the annotated corpus where it is, and a toy translator."""

import pytest
import torch

WORDS = [f"w{number}" for number in range(40)]
SPECIAL = ["<pad>", "</s>", "<unk>", "deu_Latn", "eng_Latn"]


def make_tokenizer(languages: bool):
    """Whitespace words; `</s>` after a text, and with `languages` the language's token before it."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")

    def backend(language):
        vocabulary = {token: place for place, token in enumerate(SPECIAL + WORDS)}
        built = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
        built.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        single = f"{language} $A </s>" if language else "$A </s>"
        pieces = [("</s>", 1), *([(language, vocabulary[language])] if language else [])]
        built.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=pieces)
        return built

    class Languages(transformers.PreTrainedTokenizerFast):
        """Another template for targets, as multilingual tokenizers have it."""

        src_lang, tgt_lang = "deu_Latn", "eng_Latn"

        def _switch_to_target_mode(self):
            self._tokenizer.post_processor = backend(self.tgt_lang).post_processor

        def _switch_to_input_mode(self):
            self._tokenizer.post_processor = backend(self.src_lang).post_processor

    kind = Languages if languages else transformers.PreTrainedTokenizerFast
    return kind(
        tokenizer_object=backend("deu_Latn" if languages else None), pad_token="<pad>", eos_token="</s>",
        unk_token="<unk>", extra_special_tokens=["deu_Latn", "eng_Latn"],
    )  # fmt: skip


def make_model(family, *, seed=0, dropout=0.1, noise=0.3):
    """A tiny random model of a family, with weights far enough from their start for attention to be uneven."""
    transformers = pytest.importorskip("transformers")
    size = len(SPECIAL) + len(WORDS)
    common = {"vocab_size": size, "pad_token_id": 0, "eos_token_id": 1}
    bart = common | {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40,
        "dropout": dropout,
        "attention_dropout": dropout, "activation_dropout": 0.0, "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5,
        "bos_token_id": 1,
    }  # fmt: skip
    configs = {
        "marian": lambda: transformers.MarianConfig(**bart, decoder_start_token_id=0, forced_eos_token_id=None),
        "m2m": lambda: transformers.M2M100Config(**bart, decoder_start_token_id=1),
        "mbart": lambda: transformers.MBartConfig(**bart, decoder_start_token_id=1, forced_eos_token_id=None),
        "bart": lambda: transformers.BartConfig(**bart, decoder_start_token_id=1, forced_eos_token_id=None),
        "t5": lambda: transformers.T5Config(
            **common, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=4, dropout_rate=dropout,
            decoder_start_token_id=0,
        ),
    }  # fmt: skip
    classes = {
        "marian": "MarianMTModel", "m2m": "M2M100ForConditionalGeneration", "mbart": "MBartForConditionalGeneration",
        "bart": "BartForConditionalGeneration", "t5": "T5ForConditionalGeneration",
    }  # fmt: skip
    torch.manual_seed(seed)
    model = getattr(transformers, classes[family])(configs[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model.eval()


FAMILIES = ("marian", "m2m", "mbart", "bart", "t5")


@pytest.fixture(scope="session")
def tiny():
    """family -> (model, tokenizer, languages as options)."""
    made = {}

    def build(family):
        if family not in made:
            languages = family in ("m2m", "mbart")
            options = {"source_language": "deu_Latn", "target_language": "eng_Latn"} if languages else {}
            made[family] = make_model(family), make_tokenizer(languages), options
        return made[family]

    return build


@pytest.fixture(scope="session")
def pairs():
    """Sources and outputs of unequal lengths, one source twice, one output empty."""
    sources = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10", "w1 w2 w3", "w11", "w12 w13 w14 w15"]
    outputs = ["w20 w21", "w22 w23 w24 w25 w26 w27", "w28", "w29 w30 w31", ""]
    return sources, outputs


@pytest.fixture(scope="session")
def corpus(benchmark_data):
    """The annotated corpus."""
    from paperworks.language.nmt_hallucinations.corpus import annotated_corpus

    benchmark_data("mt_hallucinations")
    return annotated_corpus()


@pytest.fixture(scope="session")
def toy():
    """A hastily trained toy translator with its world."""
    from paperworks.language.nmt_hallucinations.toy import train_toy
    from paperworks.worlds.text import ToyMT

    world = ToyMT(30, seed=0)
    return world, train_toy(world, "attached", pairs=500, steps=30, seed=0)
