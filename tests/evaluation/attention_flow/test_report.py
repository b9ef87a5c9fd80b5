"""Reports on texts: every kind of model, numbers as computed by hand, and a page that is safe to open."""

import html.parser
import math

import numpy as np
import pytest
import torch
from flow_twins import random_attention
from small_models import make_model, make_tokenizer

from paperworks.evaluation.attention_flow.flow import attention_flow
from paperworks.evaluation.attention_flow.layers import attention_graph, attention_rollout, raw_attention
from paperworks.evaluation.attention_flow.report import FlowReport
from paperworks.nn.attention_maps import attentions_of

TEXT = "the film was very boring but i loved the acting"


class Strict(html.parser.HTMLParser):
    """Collects tags, and fails on a closing tag without its opening one."""

    def __init__(self):
        super().__init__()
        self.open, self.titles = [], []

    def handle_starttag(self, tag, attributes):
        self.titles += [value for name, value in attributes if name == "title"]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_classifier_by_hand():
    model, tokenizer = make_model("BertForSequenceClassification"), make_tokenizer()
    report = FlowReport.from_text(model, tokenizer, TEXT, "positive", methods=("flow", "shapley", "rollout", "raw"))
    batch = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        chance = model(**batch).logits.softmax(-1)[0, 1].item()
        attentions = attentions_of(model, batch).encoder
    assert (report.label, report.output, len(report.tokens)) == ("positive", 0, 12)
    assert report.probability == pytest.approx(chance, abs=1e-6)
    for name, function in [("rollout", attention_rollout), ("raw", raw_attention), ("flow", attention_flow)]:
        np.testing.assert_allclose(report.values[name], function(attentions, sources=[0])[0, 0], atol=1e-6)
    phi = attention_flow(attentions, sources=[0], mode="shapley")[0, 0]
    np.testing.assert_allclose(report.values["shapley"], phi, atol=1e-6)
    assert report.players.tolist() == [False] + [True] * 10 + [False]
    assert str(report.degeneracy) in str(report)


def test_the_models_own_values_are_about_its_probability():
    model, tokenizer = make_model("BertForSequenceClassification"), make_tokenizer()
    methods = ("flow", "model_shapley", "model_loo", "gradient")
    report = FlowReport.from_text(model, tokenizer, "the film was boring", "negative", methods=methods)
    ids = tokenizer("the film was boring", return_tensors="pt").input_ids
    masked = ids.clone()
    masked[0, 1:5] = tokenizer.mask_token_id
    without = ids.clone()
    without[0, 4] = tokenizer.mask_token_id
    with torch.no_grad():
        chance = model(torch.cat([ids, masked, without])).logits.softmax(-1)[:, 0].double()
    assert report.values["model_shapley"].sum() == pytest.approx((chance[0] - chance[1]).item(), abs=1e-6)
    assert report.values["model_loo"][4] == pytest.approx((chance[0] - chance[2]).item(), abs=1e-6)
    assert report.stderr.max() == 0
    assert report.values["gradient"].shape == (6,)
    assert set(report.correlations()) == {"flow", "model_loo", "gradient"}
    longer = FlowReport.from_text(model, tokenizer, TEXT + " it was a great story", methods=("model_shapley",))
    assert longer.stderr.max() > 0
    assert longer.values["model_shapley"][0] == 0


@pytest.mark.parametrize(
    ("kind", "text", "position"),
    [
        ("GPT2LMHeadModel", TEXT, 11),
        ("GPT2ForSequenceClassification", TEXT, 11),
        ("BertForMaskedLM", "the film was [MASK]", 4),
        ("T5ForConditionalGeneration", TEXT, 12),
    ],
)
def test_every_kind_of_model(kind, text, position):
    model, tokenizer = make_model(kind), make_tokenizer()
    report = FlowReport.from_text(model, tokenizer, text, methods=("flow", "shapley", "rollout", "raw", "model_loo"))
    assert report.output == position
    assert 0 < report.probability <= 1
    assert report.label
    batch = dict(tokenizer(text, return_tensors="pt"))
    if kind.startswith("T5"):
        batch["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        logits = model(**batch).logits[0]
    logits = logits if logits.ndim == 1 else logits[4 if "Masked" in kind else -1]
    assert report.probability == pytest.approx(logits.softmax(-1).max().item(), abs=1e-6)
    if kind.startswith("T5"):
        # What the encoder does not get, the decoder's own start token does.
        assert 0 < report.values["rollout"].sum() < 1
        assert report.values["raw"].sum() == pytest.approx(1.0, abs=1e-5)
    else:
        assert report.values["rollout"].sum() == pytest.approx(1.0, abs=1e-5)
    assert (report.low <= report.values["shapley"] + 1e-6).all()
    assert (report.values["shapley"] <= report.high + 1e-6).all()


def test_the_page_is_whole_and_escapes_its_tokens():
    layers = attention_graph(random_attention(0, 3, 4)).layers[0]
    report = FlowReport.from_layers(layers, -1, tokens=[" <script>alert(1)</script>", " a&b", ' "quoted"', " $x$"])
    page = report.to_html(title="Angles <b>")
    parser = Strict()
    parser.feed(page)
    assert not parser.open
    assert "<script>alert" not in page
    assert any(title.startswith("<script>alert(1)</script>: ") for title in parser.titles)
    assert "column sums of the first layer" in page
    assert "http-equiv" not in page
    assert page.count("<link") == 0
    assert "af-strip" in report._repr_html_()
    assert len(report.plot().axes) == 1


def test_colours_follow_the_numbers():
    layers = attention_graph(random_attention(1, 3, 5)).layers[0]
    report = FlowReport.from_layers(layers, 0, methods=("rollout",))
    from paperworks.evaluation.attention_flow.page import _strip

    strengths = [float(token["strength"]) for token in _strip(report, "rollout")["tokens"]]
    np.testing.assert_allclose(strengths, report.values["rollout"] / report.values["rollout"].max(), atol=1e-3)


def test_long_texts_are_cut_and_said_to_be():
    model, tokenizer = make_model("BertForSequenceClassification"), make_tokenizer()
    report = FlowReport.from_text(model, tokenizer, TEXT, methods=("flow",), max_tokens=8)
    assert (len(report.tokens), report.cut) == (8, 4)
    assert report.tokens[-1].strip() == "[SEP]"
    assert "last 4 tokens did not fit" in report.to_html()


def test_unknown_words_are_words_of_the_text():
    model, tokenizer = make_model("BertForSequenceClassification"), make_tokenizer()
    report = FlowReport.from_text(model, tokenizer, "the zebra was great", methods=("model_loo",))
    assert report.players.tolist() == [False, True, True, True, True, False]
    assert report.values["model_loo"][1] != 0


def test_bad_requests_are_named():
    model, tokenizer = make_model("BertForSequenceClassification"), make_tokenizer()
    for text, options, words in [
        ("", {}, "text: is empty"),
        (TEXT, {"methods": ("lime",)}, "methods: expected some of flow, .*, got 'lime'"),
        (TEXT, {"methods": ()}, "methods: expected some of"),
        (TEXT, {"target": "sad"}, "target: the model has the labels negative, positive, got 'sad'"),
        (TEXT, {"target": 2}, "target: expected a number from 0 to 1, got 2"),
        (TEXT, {"max_tokens": 2}, "max_tokens: expected at least 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            FlowReport.from_text(model, tokenizer, text, **options)
    with pytest.raises(ValueError, match="needs \\[MASK\\] in it once, got it 0 times"):
        FlowReport.from_text(make_model("BertForMaskedLM"), tokenizer, TEXT)
    transformers = pytest.importorskip("transformers")
    bare = transformers.BertModel(make_model("BertForMaskedLM").config)
    with pytest.raises(ValueError, match="BertModel gives no logits"):
        FlowReport.from_text(bare, tokenizer, TEXT)
    with pytest.raises(ValueError, match="tokens: got 3 for a graph of 2"):
        FlowReport.from_layers(torch.eye(2).expand(2, 2, 2), 0, tokens=["a", "b", "c"])


def test_a_vision_transformer():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=2
    )
    with torch.no_grad():
        attentions = attentions_of(model, torch.randn(2, 3, 32, 32)).encoder
    flows = attention_flow(attentions, sources=[0], mode="shapley")
    assert flows.shape == (2, 1, 17)
    torch.testing.assert_close(flows.sum(-1), torch.ones(2, 1).double(), atol=1e-6, rtol=0)


def test_without_a_model_there_is_nothing_to_correlate_with():
    report = FlowReport.from_layers(attention_graph(random_attention(2, 2, 4)).layers[0], 0)
    assert report.correlations() == {}
    assert math.isnan(report.probability)
