"""Attention detectors on matrices whose answer is known, with padding and language tokens, and on models."""

import numpy as np
import pytest
import torch

from paperworks.language.nmt_hallucinations import attention_to_eos, ignored_source, source_marginals
from paperworks.language.nmt_hallucinations.attention import attention_risks
from paperworks.language.nmt_hallucinations.models import translator

from .conftest import FAMILIES

ALL = torch.ones(1, 4, dtype=torch.bool)


def one(matrix):
    return torch.tensor(matrix, dtype=torch.float32)[None, None]


IDENTITY, UNIFORM = one(np.eye(4)), one(np.full((4, 4), 0.25))
ON_EOS = one(np.tile([0.0, 0, 0, 1], (4, 1)))


@pytest.mark.parametrize(
    ("weights", "to_end", "ignored", "with_end"),
    [(IDENTITY, 0.25, 0.0, 0.0), (UNIFORM, 0.25, 0.0, 0.0), (ON_EOS, 1.0, 1.0, 0.75)],
)
def test_known_matrices(weights, to_end, ignored, with_end):
    assert float(attention_to_eos(weights, ALL, ALL)) == pytest.approx(to_end)
    assert float(ignored_source(weights, ALL, ALL)) == pytest.approx(ignored)
    assert float(ignored_source(weights, ALL, ALL, include_eos=True)) == pytest.approx(with_end)
    assert source_marginals(weights, ALL, ALL)[0].tolist() == pytest.approx(weights[0, 0].mean(0).tolist())


def test_the_threshold_is_on_the_sum_over_the_target():
    weights = one([[0.1, 0.3, 0.6], [0.09, 0.31, 0.6]])
    seen, own = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    assert float(ignored_source(weights, seen, own)) == 0.5
    assert float(ignored_source(weights, seen, own, threshold=0.19)) == 0.0
    assert float(ignored_source(weights, seen, own, threshold=0.62, include_eos=True)) == pytest.approx(2 / 3)


def test_padding_and_language_tokens_are_left_out():
    small = torch.rand(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    own = torch.ones(1, 3, dtype=torch.bool)
    # A language token before source and target, padding after both.
    large = torch.zeros(1, 2, 6, 5)
    large[:, :, 1:4, 1:4] = small
    large[:, :, 0, 0] = 1.0
    large[:, :, 4:] = float("nan")
    seen = torch.tensor([[False, True, True, True, False]])
    counted = torch.tensor([[False, True, True, True, False, False]])
    for detector in (attention_to_eos, ignored_source):
        torch.testing.assert_close(detector(large, seen, counted), detector(small, own, own))
    np.testing.assert_allclose(
        source_marginals(large, seen, counted)[0], source_marginals(small, own, own)[0], rtol=1e-6
    )


def test_layers_and_heads_are_chosen():
    first, last = torch.cat([IDENTITY, ON_EOS], 1), torch.cat([ON_EOS, UNIFORM], 1)
    assert float(attention_to_eos([first, last], ALL, ALL)) == pytest.approx((1 + 0.25) / 2)
    assert float(attention_to_eos([first, last], ALL, ALL, layer=0, heads=0)) == pytest.approx(0.25)
    assert float(attention_to_eos([first, last], ALL, ALL, layer=0, heads=1)) == 1.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"rows must sum to 1 over the source, got 0\.500"):
        attention_to_eos(0.5 * IDENTITY, ALL, ALL)
    with pytest.raises(ValueError, match="source_mask: expected"):
        attention_to_eos(IDENTITY, ALL[:, :3], ALL)
    with pytest.raises(ValueError, match="target_mask: pair 0 has no token"):
        attention_to_eos(IDENTITY, ALL, ~ALL)
    with pytest.raises(ValueError, match='heads: expected "mean" or 0 to 0'):
        ignored_source(IDENTITY, ALL, ALL, heads=1)
    with pytest.raises(ValueError, match="attention: expected"):
        ignored_source(IDENTITY[0], ALL, ALL)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_read_batch_independently(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    face = translator(model, tokenizer, **languages)
    together = attention_risks(face, *pairs)
    for row, (source, output) in enumerate(zip(*pairs, strict=True)):
        alone = attention_risks(face, [source], [output])
        for index in (0, 1, 3):
            assert together[index][row] == pytest.approx(alone[index][0], abs=1e-5)
        np.testing.assert_allclose(together[2][row], alone[2][0], atol=1e-5)
        # Words and the end token; no language tokens.
        assert len(alone[2][0]) == len(source.split()) + 1
        assert alone[3][0] == len(output.split()) + 1


def test_the_models_own_weights_are_what_is_read(tiny):
    model, tokenizer, _ = tiny("marian")
    batch = tokenizer(["w1 w2 w3"], text_target=["w20 w21"], return_tensors="pt")
    decoder = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        cross = model(input_ids=batch["input_ids"], decoder_input_ids=decoder, output_attentions=True).cross_attentions
    model.set_attn_implementation(before)
    found = attention_risks(translator(model, tokenizer), ["w1 w2 w3"], ["w20 w21"], layer=0)
    assert found[0][0] == pytest.approx(float(cross[0][0, :, :, -1].mean()), abs=1e-6)
