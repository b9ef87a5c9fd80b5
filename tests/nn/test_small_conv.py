"""The head and the small backbone: layer by layer as described, cuttable, and strict at their doors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperworks.nn.mlp_head import MLPHead
from paperworks.nn.small_conv import ResidualBlock, SmallConvNet


def strides(model: nn.Module) -> list[tuple[int, int]]:
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    return [(conv.stride[0], conv.out_channels) for conv in found]


def test_plain_network_is_conv_norm_relu_per_stage():
    model = SmallConvNet(1, (16, 32, 64, 64), stride_first=1)
    assert strides(model) == [(1, 16), (2, 32), (2, 64), (2, 64)]
    images = torch.rand(5, 1, 24, 24)
    x = images
    for block in model.blocks:
        conv, norm, _ = block
        x = F.conv2d(x, conv.weight, None, conv.stride, 1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        x = ((x - mean) / (variance + norm.eps).sqrt()).clamp(min=0)
    assert x.shape == (5, 64, 3, 3)
    torch.testing.assert_close(model(images), x.mean((2, 3)), rtol=1e-4, atol=1e-4)
    assert model.num_features == 64


def test_first_stride_and_blocks():
    assert strides(SmallConvNet(3, (8, 16), blocks=2)) == [(2, 8), (1, 8), (2, 16), (1, 16)]


def test_residual_network_has_eight_cuts():
    """Stem, six blocks, pool; running the parts one after the other is the network."""
    model = SmallConvNet(1, (16, 32, 64), blocks=2, residual=True).eval()
    assert strides(model.stem) == [(2, 16)]
    assert [strides(block)[0][0] for block in model.blocks] == [1, 1, 2, 1, 2, 1]
    x = images = torch.rand(2, 1, 20, 20)
    for part in (model.stem, *model.blocks, model.pool):
        x = part(x)
    assert torch.equal(x, model(images))
    assert x.shape == (2, 64)


def test_residual_block_adds_its_shortcut():
    block = ResidualBlock(8, 8, 1).eval()
    x = torch.randn(2, 8, 6, 6)
    nn.init.zeros_(block.second[1].weight)  # f becomes 0
    torch.testing.assert_close(block(x), x.relu())


def test_stochastic_depth_leaves_out_images_and_keeps_the_mean():
    block = ResidualBlock(4, 4, 1, norm="group", drop_path=0.25)
    x = torch.rand(1, 4, 5, 5).expand(4000, -1, -1, -1)
    whole = block.eval()(x[:1])
    change = (block.second(block.first(x[:1]))).detach()
    torch.manual_seed(0)
    dropped = block.train()(x)
    left_out = (dropped == x).all((1, 2, 3)) if (change != 0).any() else None
    assert left_out is not None
    assert left_out.float().mean() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(dropped[~left_out][0], (x[0] + change[0] / 0.75).relu())
    assert not torch.equal(whole[0], x[0])


def test_drop_path_rises_over_the_depth():
    model = SmallConvNet(1, (8, 8, 8), blocks=2, residual=True, drop_path=0.2)
    assert [block.drop_path for block in model.blocks] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])


def test_group_norm_does_not_mix_images():
    images = torch.rand(4, 3, 16, 16)
    for residual in (False, True):
        model = SmallConvNet(3, (4, 16), norm="group", residual=residual)
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-5, atol=1e-6)
        mixing = SmallConvNet(3, (4, 16), residual=residual)
        assert not torch.allclose(mixing(images)[1:2], mixing(images[1:2]), atol=1e-3)


def test_head_is_linear_norm_relu_linear_with_biases():
    head = MLPHead((6, 16, 4))
    x = torch.randn(10, 6)
    first, norm, _, last = head
    hidden = F.linear(x, first.weight, first.bias)
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(head(x), F.linear(hidden.relu(), last.weight, last.bias), rtol=1e-5, atol=1e-5)
    assert [tuple(p.shape) for p in head.parameters()] == [(16, 6), (16,), (16,), (16,), (4, 16), (4,)]


def test_head_variants():
    deep = MLPHead((6, 16, 12, 4), norm="layer")
    kinds = [type(layer).__name__ for layer in deep]
    assert kinds == ["Linear", "LayerNorm", "ReLU", "Linear", "LayerNorm", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in MLPHead((6, 4), norm=None)] == ["Linear"]
    last = MLPHead((6, 8, 4), last_norm=True)(torch.randn(50, 6))
    torch.testing.assert_close(last.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(last.var(0, unbiased=False), torch.ones(4), rtol=0, atol=1e-3)


def test_views_pass_batch_norm_apart():
    """Two calls are not one call with both views: that would be another function."""
    head, (a, b) = MLPHead((6, 16, 4)), (torch.randn(10, 6), torch.randn(10, 6) + 2)
    assert not torch.allclose(torch.cat([head(a), head(b)]), head(torch.cat([a, b])), atol=1e-2)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: SmallConvNet(0), "channels"),
    (lambda: SmallConvNet(1, ()), "widths"),
    (lambda: SmallConvNet(1, stride_first=3), "stride_first"),
    (lambda: SmallConvNet(1, norm="layer"), "norm"),  # pyright: ignore
    (lambda: SmallConvNet(1, (12,), norm="group"), None),
    (lambda: SmallConvNet(1, (20,), norm="group"), None),
    (lambda: SmallConvNet(1, (19,), norm="group"), "group norm"),
    (lambda: SmallConvNet(1, drop_path=0.1), "residual=True only"),
    (lambda: SmallConvNet(1)(torch.rand(2, 3, 8, 8)), r"expected \(batch, 1, height, width\)"),
    (lambda: MLPHead((4,)), "dims"),
    (lambda: MLPHead((4, 0)), "dims"),
    (lambda: MLPHead((4, 4), norm="group"), "norm"),  # pyright: ignore
    (lambda: MLPHead((4, 4), norm=None, last_norm=True), "last_norm"),
    (lambda: MLPHead((4, 8, 4))(torch.rand(2, 5)), r"expected \(batch, 4\)"),
])  # fmt: skip
def test_bad_input_is_named(make, match):
    if match is None:
        make()
        return
    with pytest.raises(ValueError, match=match):
        make()
