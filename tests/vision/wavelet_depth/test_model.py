"""From pictures to metres: padding, the range of depth, encoders, weights in a file."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paperworks.vision import DepthDecoder, WaveletDepthModel, disp_to_depth
from paperworks.vision.wavelet_depth.checkpoint import Blueprint, load_model, save_model
from paperworks.vision.wavelet_depth.encoder import CompactEncoder, normalise
from paperworks.vision.wavelet_depth.model import pad_to_stride
from paperworks.vision.wavelet_depth.training import to_disparity

SMALL = Blueprint(widths=(4, 4, 6, 8, 12), min_depth=0.4, max_depth=12.0, size=(64, 96))


def model(seed=0, blueprint=SMALL):
    torch.manual_seed(seed)
    return blueprint.build().eval()


def test_disparity_covers_the_range_of_inverse_depth():
    disp = torch.tensor([0.0, 0.5, 1.0])
    depth = disp_to_depth(disp, 0.5, 10.0)
    torch.testing.assert_close(depth, torch.tensor([10.0, 2 / (2 + 0.1), 0.5]))
    torch.testing.assert_close(to_disparity(depth, 0.5, 10.0), disp)
    assert disp_to_depth(torch.tensor(1.0)) == pytest.approx(0.1)


@pytest.mark.parametrize("size", [(64, 96), (70, 100), (33, 200), (5, 9), (2, 3)])
def test_any_size_is_the_padded_picture_cropped(size):
    own, images = model(), torch.rand(2, 3, *size)
    depth = own.predict(images)
    assert depth.shape == (2, 1, *size)
    assert 0.4 <= depth.min() <= depth.max() <= 12.0
    expected = own.to_depth(own(pad_to_stride(images)).maps[0])[..., : size[0], : size[1]]
    assert torch.equal(depth, expected)


def test_padding_mirrors_without_repeating_the_edge():
    images = torch.rand(1, 3, 60, 70)
    assert torch.equal(pad_to_stride(images), F.pad(images, (0, 26, 0, 4), mode="reflect"))
    row = pad_to_stride(torch.tensor([[[[1.0, 2.0, 3.0]] * 64]]))[0, 0, 0, :10]
    assert row.tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1, 2]


def test_prediction_is_in_evaluation_mode_and_leaves_the_mode_alone():
    torch.manual_seed(0)

    class Dropping(CompactEncoder):
        def forward(self, images):
            return [F.dropout(f, 0.5, self.training) for f in super().forward(images)]

    own = WaveletDepthModel(Dropping((8, 8, 8, 8, 8)))
    own.train()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(own.predict(images), own.predict(images))
    assert own.training
    assert not own.predict(images).requires_grad


def test_threshold_reaches_the_decoder():
    own, images = model(), torch.rand(1, 3, 64, 96)
    own.decoder.break_even, own.decoder.overhead = 10.0, 0.0
    dense, sparse = own.inspect(images), own.inspect(images, 0.3)
    assert sparse[1].macs < dense[1].macs
    assert not torch.equal(dense[0], sparse[0])
    assert torch.equal(own.predict(images, 0.3), sparse[0])
    torch.testing.assert_close(own.predict(images, 0.0), dense[0])


def test_depth_target_is_in_metres_and_brought_to_full_size():
    torch.manual_seed(0)
    own = WaveletDepthModel("compact", target="depth", min_depth=0.5, max_depth=10.0).eval()
    images = torch.rand(1, 3, 64, 96)
    depth = own.predict(images)
    half = own(images).maps[0]
    assert half.shape[2:] == (32, 48)
    full = F.interpolate(half, size=(64, 96), mode="bilinear")
    assert torch.equal(depth, full.clamp(0.5, 10.0))


def test_pictures_are_normalised_by_imagenet():
    grey = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(1, 3, 2, 2)
    torch.testing.assert_close(normalise(grey), torch.zeros(1, 3, 2, 2))
    torch.testing.assert_close(normalise(grey + 0.229)[0, 0, 0, 0], torch.tensor(1.0))


@pytest.mark.parametrize(("name", "channels"), [("resnet18", (64, 64, 128, 256, 512))])
def test_timm_backbones(name, channels):
    pytest.importorskip("timm")
    own = WaveletDepthModel(name).eval()
    assert own.decoder.num_ch_enc == channels
    assert own.predict(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_unfit_encoders_and_pictures_are_refused():
    timm = pytest.importorskip("timm")
    assert timm.is_model("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="encoder: timm knows no model 'resnet_18'"):
        WaveletDepthModel("resnet_18")
    with pytest.raises(
        ValueError, match=r"features: expected 5 maps with strides 2, 4, 8, 16, 32, got strides \[4, 8, 16, 32\]"
    ):
        WaveletDepthModel("convnext_atto")
    with pytest.raises(ValueError, match="needs `channels`"):
        WaveletDepthModel(nn.Identity())
    with pytest.raises(ValueError, match="pretrained: there are no weights"):
        WaveletDepthModel("compact", pretrained=True)
    with pytest.raises(ValueError, match="channels: expected 5 multiples of 8"):
        CompactEncoder((16, 24))
    with pytest.raises(ValueError, match="min_depth, max_depth: expected 0 < min < max"):
        WaveletDepthModel("compact", min_depth=3.0, max_depth=2.0)
    own = model()
    with pytest.raises(ValueError, match=r"images: expected \(B, 3, H, W\), got \(3, 64, 64\)"):
        own(torch.rand(3, 64, 64))
    with pytest.raises(ValueError, match="sides must be divisible by 32"):
        own(torch.rand(1, 3, 64, 70))
    with pytest.raises(ValueError, match="at least 2 x 2"):
        own.predict(torch.rand(1, 3, 1, 64))
    dense = WaveletDepthModel("compact", decoder=DepthDecoder((16, 24, 32, 64, 96)))
    with pytest.raises(ValueError, match="threshold: this model's decoder has no wavelet coefficients"):
        dense.predict(torch.rand(1, 3, 64, 64), 0.1)


@pytest.mark.parametrize("kind", ["wavelet", "dense"])
def test_models_come_back_from_a_file(tmp_path, kind):
    blueprint = Blueprint(decoder=kind, widths=SMALL.widths, min_depth=0.3, max_depth=7.0, size=(64, 64))
    own = model(blueprint=blueprint)
    save_model(tmp_path / "deep" / "m.pt", own, blueprint)
    again, read = load_model(tmp_path / "deep" / "m.pt")
    assert read == blueprint
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.predict(images), own.predict(images))


def test_files_without_a_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_model(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(ValueError, match=r"weights: .*text\.pt cannot be read as a model"):
        load_model(tmp_path / "text.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no model of"):
        load_model(tmp_path / "other.pt")
    torch.save({"a": np.zeros(2), "b": print}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"code\.pt cannot be read as a model"):
        load_model(tmp_path / "code.pt")
