"""The rivals: equal size, the same input, and each blind where it must be."""

import pytest
import torch

from paperworks.data import train_tokenizer
from paperworks.sequence.hi_transformer import DocumentTokenizer, HiTransformerConfig
from paperworks.sequence.hi_transformer.arms import ARMS, arm_config, build_arm, first_words

TEXTS = ["It was good. It was bad, really bad. Why? It was good.", "Why? It was."]


def config(**changes) -> HiTransformerConfig:
    sizes = {"vocab_size": 8000, "dim": 64, "heads": 4, "ffn_dim": 256, "max_sentence_length": 33, "max_sentences": 48}
    return HiTransformerConfig(**sizes | changes)


@pytest.fixture(scope="module")
def tokenizer() -> DocumentTokenizer:
    return DocumentTokenizer(train_tokenizer(TEXTS, vocab_size=270), max_sentence_length=33, max_sentences=48)


def test_parameters_are_equal_within_three_percent() -> None:
    models = [build_arm(arm, config(), num_classes=2) for arm in ARMS]
    for chosen in (lambda name: True, lambda name: "embedding" not in name):
        sizes = [sum(p.numel() for name, p in model.named_parameters() if chosen(name)) for model in models]
        assert max(sizes) / min(sizes) < 1.03, dict(zip(ARMS, sizes, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
def test_arms_take_packed_documents(arm, tokenizer) -> None:
    torch.manual_seed(0)
    model = build_arm(arm, config(), num_classes=3).eval()
    logits = model(tokenizer(TEXTS))
    assert logits.shape == (2, 3)
    torch.testing.assert_close(model(tokenizer(TEXTS[1:]))[0], logits[1], atol=1e-5, rtol=1e-5)


def test_first_words(tokenizer) -> None:
    packed = tokenizer(TEXTS)
    bpe = tokenizer._backend
    whole = [
        [token for sentence in text for token in bpe.encode(sentence, add_special_tokens=False).ids]
        for text in (["It was good.", "It was bad, really bad.", "Why?", "It was good."], ["Why?", "It was."])
    ]
    for length in (5, 500):
        ids, mask = first_words(packed, length)
        assert ids.shape == mask.shape == (2, length)
        for document, expected in enumerate(whole):
            assert ids[document][mask[document]].tolist() == expected[:length]


@torch.no_grad()
def test_alone_sees_one_sentence_and_hierarchical_all(tokenizer) -> None:
    from paperworks.sequence.hi_transformer import HiTransformer

    packed = tokenizer(TEXTS[:1])
    changed = tokenizer([TEXTS[0].replace("Why", "Was")])
    for arm, sees in (("alone", False), ("hierarchical", True), ("hi_transformer", True)):
        torch.manual_seed(0)
        model = HiTransformer(arm_config(arm, config())).eval()
        differs = (model(packed).sentences[0] - model(changed).sentences[0]).abs().max() > 1e-5
        assert bool(differs) is sees, arm


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="arm: expected one of hi_transformer, hierarchical, alone, got 'flat'"):
        build_arm("flat", config(), num_classes=2)
    with pytest.raises(ValueError, match=r"config: arms have the blocks of two layers SDS, got 'SDS'"):
        build_arm("alone", config(layers=1), num_classes=2)
