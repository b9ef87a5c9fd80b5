import pytest
import torch

from paperworks.nn.contract import traits_of
from paperworks.sequence.aft.mixers import AFTConv1d, AFTConv2d, AFTFull, AFTLocal, AFTSimple
from paperworks.testing import check_mixer

KINDS = {
    "full": lambda causal: AFTFull(16, length=20, rank=8, causal=causal),
    "local": lambda causal: AFTLocal(16, length=20, window=4, rank=8, causal=causal),
    "narrowest": lambda causal: AFTLocal(16, length=20, window=1, causal=causal),
    "simple": lambda causal: AFTSimple(16, hidden_dim=8, causal=causal),
    "conv": lambda causal: AFTConv1d(16, heads=4, window=4 if causal else 5, causal=causal),
    "conv, full keys": lambda causal: AFTConv1d(16, heads=4, window=3, key_channels="full", causal=causal),
}


def stirred(mixer):
    """With weights over positions that are far from their small beginnings."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name in ("row", "column") or name.startswith("filter"):
                parameter.normal_()
    return mixer.eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_contract(kind, causal):
    check_mixer(lambda _: stirred(KINDS[kind](causal)), dim=16)


def test_maps_as_tokens_keep_the_contract():
    check_mixer(lambda _: AFTConv2d(16, heads=4, window=3, grid=(3, 4)), dim=16)


def test_what_they_say_of_themselves():
    assert traits_of(KINDS["full"](True)).max_length == 20
    assert traits_of(KINDS["simple"](True)).max_length is None
    assert traits_of(KINDS["conv"](True)).causal
    with pytest.raises(ValueError, match="length 21 exceeds the 20 it was built for"):
        KINDS["local"](False)(torch.zeros(1, 21, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_equals_the_parallel_call_with_a_state_of_fixed_size(kind):
    mixer = stirred(KINDS[kind](True))
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0)) * 3
    state, outputs, sizes = mixer.init_state(2), [], []
    for t in range(20):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
        sizes.append(state.keys.shape[1])
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x), rtol=1e-5, atol=1e-5)
    kept = {"full": 20, "local": 3, "narrowest": 0, "simple": 0, "conv": 3, "conv, full keys": 2}[kind]
    assert sizes[-1] == kept


def test_streaming_ends_where_the_positions_do_and_needs_causality():
    mixer = AFTFull(8, length=2, causal=True)
    state = mixer.init_state(1)
    for _ in range(2):
        _, state = mixer.step(torch.zeros(1, 8), state)
    with pytest.raises(ValueError, match="2 tokens were read, all that it was built for"):
        mixer.step(torch.zeros(1, 8), state)
    with pytest.raises(ValueError, match="only causal mixers stream"):
        AFTFull(8, length=2).init_state(1)


@pytest.mark.parametrize("causal", [False, True])
def test_a_convolution_begins_as_simple(causal):
    torch.manual_seed(0)
    conv = AFTConv1d(12, heads=3, window=5, key_channels="full", causal=causal)
    simple = AFTSimple(12, causal=causal)
    simple.load_state_dict({name: part for name, part in conv.state_dict().items() if not name.startswith("filter")})
    x = torch.randn(2, 40, 12)
    torch.testing.assert_close(conv(x), simple(x))
    maps = AFTConv2d(12, heads=3, window=3, key_channels="full")
    maps.load_state_dict(conv.state_dict() | {"filter.raw": maps.filter.raw.detach()})
    if not causal:
        torch.testing.assert_close(maps(x.transpose(1, 2).reshape(2, 12, 5, 8)).flatten(2).transpose(1, 2), simple(x))


def test_filters_are_standardised_per_head_over_all_taps():
    filters = AFTConv2d(8, heads=2, window=3).filter
    with torch.no_grad():
        filters.raw.normal_(5, 3)
        filters.gamma.copy_(torch.tensor([1.0, 2.0]))
        filters.beta.copy_(torch.tensor([0.0, -1.0]))
    w = filters().flatten(1)
    torch.testing.assert_close(w.mean(1), torch.tensor([0.0, -1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(w.std(1, unbiased=False), torch.tensor([1.0, 2.0]), atol=1e-4, rtol=0)


def test_initial_weights_over_positions():
    torch.manual_seed(0)
    mixer = AFTLocal(8, length=400, window=32)
    assert mixer.row.shape == (400, 128)
    assert mixer.row.std().item() == pytest.approx(0.01, rel=0.02)
    assert AFTConv1d(8, heads=2, window=3).filter.gamma.abs().max() == 0


def test_resizing_interpolates_both_factors():
    mixer = AFTFull(8, length=3, rank=2)
    with torch.no_grad():
        mixer.row.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]))
    mixer.resize_length(5)
    assert mixer.row[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert mixer(torch.zeros(1, 5, 8)).shape == (1, 5, 8)


def test_padding_changes_no_kept_output():
    for kind in KINDS:
        mixer = stirred(KINDS[kind](False))
        x = torch.randn(1, 11, 16, generator=torch.Generator().manual_seed(2))
        padded = torch.cat([x, torch.full((1, 7, 16), 1e4)], 1)
        mask = torch.arange(18)[None] < 11
        torch.testing.assert_close(mixer(padded, mask=mask)[:, :11], mixer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AFTLocal(8, length=4, window=0), "window: must be >= 1, got 0"),
        (lambda: AFTConv1d(8, heads=2, window=32), "window: must be odd for causal=False, got 32"),
        (lambda: AFTConv1d(8, heads=3, window=3), "heads"),
        (
            lambda: AFTConv2d(8, heads=2, window=3, key_channels="none"),  # pyright: ignore[reportArgumentType]
            "key_channels: expected head or full, got 'none'",
        ),
        (lambda: AFTFull(8, length=0), "length: must be >= 1, got 0"),
        (lambda: AFTConv2d(8, heads=2, window=3)(torch.zeros(2, 7, 4, 4)), r"x: expected \(batch, 8, height, width\)"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_local_and_conv_never_hold_all_pairs():
    from paperworks.testing import peak_bytes

    length, dim = 16_384, 8
    x = torch.randn(1, length, dim)
    pairs = length * length
    for mixer in (
        AFTLocal(dim, length=length, window=32, rank=4, causal=True),
        AFTConv1d(dim, heads=2, window=31),
        AFTSimple(dim, causal=True),
    ):
        used = peak_bytes(lambda mixer=mixer: mixer(x).sum().backward())
        assert used < pairs / 4


def test_what_is_kept_for_the_backward_pass_is_six_tensors_of_the_sequence():
    from paperworks.sequence.aft.functional import aft_conv1d, aft_local

    q, k, v = (torch.randn(1, 512, 256, requires_grad=True) for _ in range(3))
    row, column = (torch.randn(512, 1, requires_grad=True) for _ in range(2))
    for call in (
        lambda: aft_local(q, k, v, band=(row, column), window=4),
        lambda: aft_conv1d(q, k, v, weight=row[:10].view(2, 5)),
    ):
        kept = {}

        def note(x, kept=kept):
            return kept.setdefault(x.data_ptr(), x)

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            call()
        assert sum(x.numel() for x in kept.values()) <= 6.5 * q.numel()  # the weights are the half
