"""The layer against loops over single sentences without any padding, and what it must and must not depend on."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paperworks.nn import MixerLayer
from paperworks.sequence.hi_transformer import HiLayer, parse_layout
from paperworks.sequence.hi_transformer.layer import HiStack, PaddedLayout
from paperworks.sequence.hi_transformer.layout import entering
from paperworks.testing import assert_bf16_close

DIM, HEADS, FFN = 16, 4, 24
# Words of the sentences of three documents, the sentence token among them: of one word, of one sentence, ragged.
DOCUMENTS = [[5, 2, 7], [2], [3, 3, 6, 2]]


def many() -> tuple[Tensor, Tensor]:
    """More lengths of sentences and of documents than there are buckets, so that buckets of both hold padding."""
    torch.manual_seed(1)
    counts, lengths = torch.arange(1, 8), 2 + torch.arange(49) * 5 % 13
    sentences = torch.arange(7) < counts[:, None]
    mask = (torch.arange(14) < lengths.view(7, 7, 1)) & sentences[..., None]
    packing = PaddedLayout(mask, None, mask.shape, cls="end", device=mask.device).packing
    assert any(here.mask is not None for here in packing.sentences)
    assert any(here.mask is not None for here in packing.documents)
    return torch.randn(*mask.shape, DIM), mask


def ragged(gap: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens (3, M, K, D) and mask; with `gap` one sentence in the middle is padding alone."""
    torch.manual_seed(1)
    mask = torch.zeros(3, 5, 8, dtype=torch.bool)
    for document, lengths in enumerate(DOCUMENTS):
        for sentence, length in enumerate(lengths):
            mask[document, sentence + (gap and sentence > 0), :length] = True
    return torch.randn(*mask.shape, DIM), mask


def make(**options) -> HiLayer:
    torch.manual_seed(0)
    layer = HiLayer(DIM, heads=HEADS, ffn_dim=FFN, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer.eval()


def plain_block(layer: MixerLayer) -> nn.TransformerEncoderLayer:
    """PyTorch's own block with the weights of one of ours."""
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, FFN, activation="gelu", batch_first=True, layer_norm_eps=1e-12)
    named = {
        "self_attn.in_proj_weight": layer.mixer.qkv.weight,
        "self_attn.in_proj_bias": layer.mixer.qkv.bias,
        "self_attn.out_proj.weight": layer.mixer.output.weight,
        "self_attn.out_proj.bias": layer.mixer.output.bias,
        "linear1.weight": layer.feed_forward.inner.weight,
        "linear1.bias": layer.feed_forward.inner.bias,
        "linear2.weight": layer.feed_forward.outer.weight,
        "linear2.bias": layer.feed_forward.outer.bias,
        "norm1.weight": layer.mixer_residual.norm.weight,
        "norm1.bias": layer.mixer_residual.norm.bias,
        "norm2.weight": layer.feed_forward_residual.norm.weight,
        "norm2.bias": layer.feed_forward_residual.norm.bias,
    }
    theirs.load_state_dict(named)
    return theirs.eval()


def by_loops(
    blocks: Iterator[tuple[str, nn.Module]], sentences: list[Tensor], positions: Tensor, place: int
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """One document, a list of (n, D) without padding, through blocks one sentence at a time."""
    states = torch.stack([sentence[place] for sentence in sentences])
    aware, before = None, "S"
    for kind, block in blocks:
        if kind == "D":
            entered = states + positions if before == "S" else states
            states = aware = block(entered[None])[0]
        else:
            entered = [sentence.clone() for sentence in sentences]
            for sentence, state in zip(entered, states, strict=True):
                sentence[place] = state
            sentences = [block(sentence[None])[0] for sentence in entered]
            states = torch.stack([sentence[place] for sentence in sentences])
        before = kind
    return sentences, states, aware


@torch.no_grad()
@pytest.mark.parametrize("batch", ["few", "gap", "many"])
@pytest.mark.parametrize("cls", ["end", "start"])
@pytest.mark.parametrize("options", [{}, {"sentence_depth": 2, "document_depth": 2}, {"interactive": False}])
def test_layer_equals_loops_without_padding(options, cls, batch) -> None:
    layer = make(cls=cls, **options)
    x, mask = many() if batch == "many" else ragged(batch == "gap")
    positions = torch.randn(mask.shape[1], DIM)
    out = layer(x, mask=mask, positions=positions)
    place = -1 if cls == "end" else 0
    for document in range(len(x)):
        kept = mask[document].any(-1)
        sentences = [x[document, index][mask[document, index]] for index in kept.nonzero()[:, 0].tolist()]
        blocks = zip(layer.stack.kinds, map(plain_block, layer.stack.blocks), strict=True)
        tokens, states, aware = by_loops(blocks, sentences, positions[kept], place)
        torch.testing.assert_close(out.sentences[document][kept], states, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.document_aware[document][kept], aware, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.tokens[document][mask[document]], torch.cat(tokens), atol=1e-5, rtol=1e-5)
    assert not out.tokens[~mask].any()
    assert not out.sentences[~mask.any(-1)].any()


@torch.no_grad()
@pytest.mark.parametrize("cls", ["end", "start"])
def test_packed_equals_padded(cls) -> None:
    layer, (x, mask) = make(cls=cls), many()
    positions = torch.randn(7, DIM)
    padded = layer(x, mask=mask, positions=positions)
    layout = PaddedLayout(mask, None, mask.shape, cls=cls, device=x.device)
    assert len(layout.packing.sentences) > 2
    packed = layer(layout.enter(x), packing=layout.packing, positions=positions)
    torch.testing.assert_close(layout.leave_tokens(packed.tokens), padded.tokens)
    torch.testing.assert_close(packed.sentences, padded.sentences[mask.any(-1)])
    torch.testing.assert_close(packed.document_aware, padded.document_aware[mask.any(-1)])


@torch.no_grad()
@pytest.mark.parametrize("poison", [float("nan"), 1e4])
def test_padding_never_matters(poison) -> None:
    layer, (x, mask) = make(), many()
    batch, sentences, words = mask.shape
    expected = layer(x, mask=mask)
    wider = torch.full((batch, sentences + 2, words + 3, DIM), poison)
    kept = torch.zeros(wider.shape[:3], dtype=torch.bool)
    wider[:, :sentences, :words] = torch.where(mask[..., None], x, poison)
    kept[:, :sentences, :words] = mask
    out = layer(wider, mask=kept)
    torch.testing.assert_close(out.tokens[:, :sentences, :words], expected.tokens)
    torch.testing.assert_close(out.sentences[:, :sentences], expected.sentences)
    torch.testing.assert_close(out.document_aware[:, :sentences], expected.document_aware)
    assert bool(out.tokens.isfinite().all())


@torch.no_grad()
def test_sentence_mask_leaves_sentences_out() -> None:
    layer, (x, mask) = make(), ragged()
    keep = mask.any(-1)
    keep[2, 1] = False
    out = layer(x, mask=mask, sentence_mask=keep)
    torch.testing.assert_close(out.sentences, layer(x, mask=mask & keep[..., None]).sentences)
    assert not out.tokens[2, 1].any()


def test_gradient_reaches_other_sentences_only_when_interactive() -> None:
    for interactive in (True, False):
        layer, (x, mask) = make(interactive=interactive), ragged()
        x.requires_grad_()
        out = layer(x, mask=mask)
        weights = torch.randn(DIM, generator=torch.Generator().manual_seed(0))
        # A word of the first sentence, not its sentence token.
        (gradient,) = torch.autograd.grad((out.tokens[0, 0, 1] * weights).sum(), x)
        reached = gradient.abs().amax(-1) > 1e-7
        assert bool(reached[0, 0, :5].all())
        assert bool(reached[0][mask[0]].all()) is interactive
        assert bool(reached[0, 1:].any()) is interactive
        assert not reached[1:].any()
        assert not gradient[~mask].any()


@torch.no_grad()
def test_permuting_sentences_and_positions_permutes_outputs() -> None:
    layer = make()
    torch.manual_seed(3)
    x, positions = torch.randn(1, 4, 6, DIM), torch.randn(4, DIM)
    order = torch.tensor([2, 0, 3, 1])
    before = layer(x, positions=positions)
    after = layer(x[:, order], positions=positions[order])
    torch.testing.assert_close(after.tokens, before.tokens[:, order])
    torch.testing.assert_close(after.sentences, before.sentences[:, order])
    assert (layer(x[:, order], positions=positions).sentences - before.sentences[:, order]).abs().max() > 1e-2


@torch.no_grad()
def test_one_sentence_is_a_document_of_one_state() -> None:
    layer = make()
    x = torch.randn(1, 1, 6, DIM)
    first, document, _ = map(plain_block, layer.stack.blocks)
    expected = document(first(x[0])[:, -1:])
    torch.testing.assert_close(layer(x).document_aware, expected, atol=1e-5, rtol=1e-5)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    layer = HiLayer(4, heads=2, ffn_dim=4, dropout=0.0).double()
    mask = torch.tensor([[[1, 1, 1], [1, 1, 0]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    positions = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        out = layer(x, mask=mask, positions=positions)
        return out.tokens, out.sentences

    assert torch.autograd.gradcheck(run, (x, positions))


def test_bfloat16() -> None:
    x, mask = ragged()
    assert_bf16_close(make(), x, mask=mask)


def test_as_many_graphs_as_buckets() -> None:
    from torch._dynamo.testing import CompileCounter

    from paperworks.sequence.hi_transformer.packing import pack

    torch._dynamo.reset()
    layer, counter = make(), CompileCounter()
    block = layer.stack.blocks[0]
    compiled = torch.compile(block, backend=counter, fullgraph=True, dynamic=False)
    for seed in range(3):
        lengths = np.random.default_rng(seed).permutation([3, 3, 4, 6, 8, 8])
        mask = np.arange(8) < lengths[:, None]
        sentences = np.arange(6)
        packing = pack(mask, np.zeros(6, dtype=np.int64), sentences, batch=1, widths=[4, 8])
        assert len(packing.sentences) == 2
        for here in packing.sentences:
            x = torch.randn(len(here.rows), here.width, DIM)
            torch.testing.assert_close(compiled(x, mask=here.mask), block(x, mask=here.mask))
    assert counter.frame_count == 2


# --- layouts


def test_layouts() -> None:
    assert parse_layout("SDS") == (("S", "D", "S"),)
    assert parse_layout("S|SD|D") == (("S",), ("S", "D"), ("D",))
    assert entering("S|SDD|DS|SD") == (False, False, True, False, True, False, False, True)
    for layout in ("", "D", "DS", "S||D", "SXD", "S|", "sds"):
        with pytest.raises(ValueError, match="layout: "):
            parse_layout(layout)
    with pytest.raises(ValueError, match="layout: expected a string, got list"):
        parse_layout(["S"])  # pyright: ignore


@torch.no_grad()
def test_layout_of_consecutive_document_blocks_equals_the_loops() -> None:
    from paperworks.nn import AttentionMixing, BlockOptions

    torch.manual_seed(0)

    def attention(index: int) -> nn.Module:
        return AttentionMixing(DIM, HEADS)

    block = BlockOptions(ffn_dim=FFN, activation="gelu")
    stack = HiStack("SD|DDSS|D", dim=DIM, block=block, sentence_mixer=attention, document_mixer=attention).eval()
    x, mask = ragged()
    layout = PaddedLayout(mask, None, mask.shape, cls="end", device=x.device)
    added = [torch.randn(layout.packing.doc_index.shape[0], DIM) for _ in range(3)]
    assert stack.entrances == 3
    states = stack(layout.enter(x), layout.packing, added)
    blocks = [plain_block(layer) for layer in stack.blocks]
    sentences = [x[0, index][mask[0, index]] for index in range(3)]
    for at in (0, 4, 5):
        if at == 4:
            entered = blocks[1](torch.stack([s[-1] for s in sentences])[None] + added[0][:3])
            r = blocks[3](blocks[2](entered + added[1][:3]))[0]
            sentences = [torch.cat([s[:-1], r[i : i + 1]]) for i, s in enumerate(sentences)]
        sentences = [blocks[at](s[None])[0] for s in sentences]
    last = blocks[6](torch.stack([s[-1] for s in sentences])[None] + added[2][:3])[0]
    torch.testing.assert_close(states.sentences[:3], last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"tokens": torch.zeros(2, 3, DIM)}, r"tokens: expected \(batch, sentences, words, 16\), got \(2, 3, 16\)"),
        (
            {"mask": torch.ones(3, 5, dtype=torch.bool)},
            r"mask: expected \(batch, sentences, words\) bool = \(3, 5, 8\)",
        ),
        ({"mask": torch.ones(3, 5, 8)}, r"mask: expected .* got \(3, 5, 8\) float32"),
        ({"sentence_mask": torch.ones(3, 5, dtype=torch.bool)}, "sentence_mask: keeps sentence 3 of document 0"),
        ({"mask": torch.zeros(3, 5, 8, dtype=torch.bool)}, "mask: document 0 has no word"),
        ({"positions": torch.zeros(3, DIM)}, r"positions: expected \(at least 4, 16\), got \(3, 16\)"),
        ({"packing": 1}, "packing: given beside padded tokens"),
        ({"tokens": [torch.zeros(1, 2, DIM)], "mask": None}, "packing: packed tokens need a packing"),
    ],
)
def test_bad_input(call, message) -> None:
    x, mask = ragged()
    options = {"tokens": x, "mask": mask} | call
    with pytest.raises(ValueError, match=message):
        make()(options.pop("tokens"), **options)


def test_bad_construction() -> None:
    from paperworks.nn import AttentionMixing, BlockOptions
    from paperworks.sequence.fnet import FourierMixing

    with pytest.raises(ValueError, match="document_depth: must be at least 1, got 0"):
        HiLayer(DIM, heads=HEADS, ffn_dim=FFN, document_depth=0)
    with pytest.raises(ValueError, match="sentence_mixer: FourierMixing does not honour masks"):
        HiStack(
            "SD",
            dim=DIM,
            block=BlockOptions(ffn_dim=FFN),
            sentence_mixer=lambda index: FourierMixing(DIM),
            document_mixer=lambda index: AttentionMixing(DIM, HEADS),
        )
    layer, (x, mask) = make(), ragged()
    layout = PaddedLayout(mask, None, mask.shape, cls="end", device=x.device)
    with pytest.raises(ValueError, match="tokens: the packing's buckets have shapes"):
        layer(layout.enter(x)[:-1], packing=layout.packing)
