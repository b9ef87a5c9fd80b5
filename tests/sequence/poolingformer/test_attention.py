"""The two-level mixer: contract, levels, and what the second one reads."""

import pytest
import torch

from paperworks.nn import AttentionMixing, LocalAttentionMixing
from paperworks.nn.attention import join_heads, split_heads
from paperworks.sequence.poolingformer.attention import PoolingformerAttention
from paperworks.sequence.poolingformer.pooling import pooling_attention
from paperworks.testing import check_mixer


def stirred(mixer):
    """With weights that are not at their small beginnings."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(0, 0.4)
    return mixer.eval()


def build(**changes):
    options = {"window": 3, "pooled_window": 9} | changes
    return stirred(PoolingformerAttention(16, 2, **options))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pool", ["mean", "max", "ldconv"])
def test_keeps_the_contract(pool, causal):
    # Rounding changes which of two close numbers is the largest.
    bf16 = 5e-2 if pool == "max" else 2e-2
    check_mixer(lambda _: build(pool=pool, causal=causal, rotary=True), dim=16, length=75, bf16_tolerance=bf16)


def test_keeps_the_contract_with_global_tokens():
    everywhere = torch.zeros(3, 75, dtype=torch.bool)
    everywhere[:, 2] = True
    check_mixer(lambda _: build(), dim=16, length=75, context={"global_mask": everywhere})


def test_levels_follow_the_equations():
    mixer, x = build(), torch.randn(2, 70, 16)
    y = mixer.level1(x)
    q, k, v = (split_heads(part, 2) for part in mixer.level2.qkv(y).chunk(3, -1))
    z = pooling_attention(q, k, v, window=9, pool_size=5, stride=4, pool=tuple(mixer.level2.pool_weight))
    torch.testing.assert_close(mixer(x), mixer.output(y + join_heads(z)), atol=1e-5, rtol=1e-5)


def test_one_level_is_the_windowed_mixer_and_in_the_limit_attention():
    for window, twin in ((4, LocalAttentionMixing(16, 2, window=4)), (1000, AttentionMixing(16, 2, dropout=0.0))):
        mixer, x = build(window=window, pooled_window=None), torch.randn(2, 70, 16)
        twin.qkv.load_state_dict(mixer.level1.qkv.state_dict())
        twin.output.load_state_dict(mixer.output.state_dict())
        mask = torch.rand(2, 70) < 0.8
        torch.testing.assert_close(mixer(x, mask=mask)[mask], twin(x, mask=mask)[mask], atol=1e-5, rtol=1e-5)


def test_cells_of_one_token_and_a_wide_window_are_attention_twice():
    mixer, x = (
        build(window=100, pooled_window=100, pool_size=1, stride=1, pool="mean", rotary=True),
        torch.randn(1, 70, 16),
    )
    twin = AttentionMixing(16, 2, dropout=0.0, rotary=True)
    twin.output.load_state_dict({"weight": torch.eye(16), "bias": torch.zeros(16)})
    levels = []
    for level, given in ((mixer.level1, x), (mixer.level2, mixer.level1(x))):
        twin.qkv.load_state_dict(level.qkv.state_dict())
        levels.append(twin(given))
    torch.testing.assert_close(mixer(x), mixer.output(levels[0] + levels[1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rotary", [False, True])
def test_a_shift_by_whole_strides_shifts_interior_outputs(rotary):
    mixer, x = build(rotary=rotary), torch.randn(1, 200, 16)
    torch.testing.assert_close(mixer(x)[:, 40:150], mixer(x.roll(8, 1))[:, 48:158], atol=1e-4, rtol=1e-4)


def test_begins_with_mean_pooling():
    torch.manual_seed(0)
    dynamic = PoolingformerAttention(16, 2, window=3, pooled_window=9)
    mean = PoolingformerAttention(16, 2, window=3, pooled_window=9, pool="mean")
    mean.load_state_dict({name: x for name, x in dynamic.state_dict().items() if "pool_weight" not in name})
    x = torch.randn(2, 70, 16)
    torch.testing.assert_close(dynamic(x), mean(x))
    dynamic(x).square().sum().backward()
    assert dynamic.level2.pool_weight.grad.abs().max() > 0


def test_work_is_counted():
    mixer = PoolingformerAttention(64, 4)
    assert mixer.flops(8192) <= 2 * mixer.flops(4096)
    alone = PoolingformerAttention(64, 4, pooled_window=None)
    assert mixer.flops(4096) > alone.flops(4096)


def test_compiles_with_the_kernel_left_as_it_is():
    x = torch.randn(1, 70, 16)
    mixer = build()
    torch.testing.assert_close(torch.compile(mixer, backend="eager")(x), mixer(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PoolingformerAttention(8, 2, pooled_window=64), "pooled_window: must be >= window, got 64 < 128"),
        (lambda: PoolingformerAttention(8, 2, window=-1), "window: must be >= 0, got -1"),
        (lambda: PoolingformerAttention(8, 2, stride=8), r"stride: must be in 1..pool_size, got 8 > 5 \(gaps lose"),
        (lambda: PoolingformerAttention(8, 3), "heads: must divide dim 8, got 3"),
        (lambda: PoolingformerAttention(8, 2, pool="sum"), "pool: expected one of mean, max, ldconv, got 'sum'"),
        (lambda: PoolingformerAttention(6, 2, rotary=True), "rotary: needs an even width per head"),
        (lambda: PoolingformerAttention(8, 2)(torch.zeros(1, 3, 7)), r"x: expected \(batch, length, 8\)"),
        (lambda: PoolingformerAttention(8, 2)(torch.zeros(1, 3, 8), mask=torch.ones(1, 3)), r"mask: expected"),
    ],
)
def test_bad_input_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
