import pytest
import torch

from paperworks.sequence.aft import AFTConfig, AFTImageClassifier, AFTImageConfig, AFTLanguageModel
from paperworks.sequence.aft.language import MIXERS


@pytest.mark.parametrize("mixer", MIXERS)
def test_generation_streams_what_the_parallel_call_says(mixer):
    torch.manual_seed(0)
    model = AFTLanguageModel(AFTConfig(50, 16, 2, 24, mixer, 4, 2)).eval()
    ids = torch.randint(50, (2, 5))
    said = model.generate(ids, max_new_tokens=12, temperature=0).ids
    assert said.shape == (2, 17)
    logits = model(said[:, :-1])
    assert (logits[:, 4:].argmax(-1) == said[:, 5:]).all()


def test_saving_and_loading(tmp_path):
    model = AFTLanguageModel(AFTConfig(50, 16, 2, 24, "conv", 4)).eval()
    model.save(tmp_path / "model")
    again = AFTLanguageModel.load(tmp_path / "model")
    ids = torch.randint(50, (1, 9))
    assert torch.equal(model(ids), again(ids))
    (tmp_path / "model" / "model.pt").unlink()
    with pytest.raises(ValueError, match=r"has no model\.pt"):
        AFTLanguageModel.load(tmp_path / "model")


def test_bad_sizes():
    with pytest.raises(ValueError, match="mixer: expected one of attention, full, local, simple, conv, got 'none'"):
        AFTConfig(50, mixer="none")
    with pytest.raises(ValueError, match="depth: must be >= 1, got 0"):
        AFTConfig(50, depth=0)
    with pytest.raises(ValueError, match="patch: 7 does not divide the image size 32"):
        AFTImageConfig(image_size=32, patch=7)


def test_timm_builds_the_image_models_and_they_learn():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("aft_conv_tiny_32_11", img_size=32, num_classes=4, in_chans=1)
    assert isinstance(model, AFTImageClassifier)
    assert timm.create_model("aft_conv_small_384_11", num_classes=0)(torch.zeros(1, 3, 224, 224)).shape == (1, 384)
    small = AFTImageClassifier(AFTImageConfig(16, 4, 1, 2, 16, 2, 4, 3))
    images = torch.zeros(16, 1, 16, 16)
    labels = torch.arange(16) % 2
    images[labels == 1, :, 5:9, 2:14] = 1
    optimiser = torch.optim.AdamW(small.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(small(images), labels)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    with pytest.raises(ValueError, match=r"images: expected \(batch, 1, 16, 16\)"):
        small(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="pretrained: nobody has published weights"):
        timm.create_model("aft_conv_tiny_32_11", pretrained=True)
