"""Depth from photographs: the files it writes, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.data.depth import read_depth
from paperworks.vision.wavelet_depth.apply import apply
from paperworks.vision.wavelet_depth.checkpoint import Blueprint, load_model, save_model

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    blueprint = Blueprint(widths=(4, 4, 6, 8, 12), min_depth=0.4, max_depth=12.0, size=(64, 96))
    save_model(path, blueprint.build(), blueprint)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a <b>.png", (64, 96)), ("c.jpg", (100, 130))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_depth_at_the_photograph_s_own_size(photos, weights, tmp_path):
    said = apply(photos, weights=weights, out=tmp_path / "out", threshold=0.0)
    assert "2 photographs" in said
    metres = np.load(tmp_path / "out" / "c.npy")
    assert metres.shape == (100, 130)
    assert metres.dtype == np.float32
    assert np.abs(read_depth(tmp_path / "out" / "c.png") - metres).max() <= 0.00051
    # At the training height a photograph of that size is not resized at all.
    model, _ = load_model(weights)
    picture = np.asarray(Image.open(photos / "a <b>.png")).transpose(2, 0, 1)
    expected = model.predict(torch.from_numpy(picture.copy())[None] / 255)[0, 0]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a <b>.npy"), expected.numpy(), rtol=1e-4)


def test_table_and_page_tell_what_was_executed(photos, weights, tmp_path):
    apply(photos, weights=weights, out=tmp_path / "out", threshold=0.2, height=96)
    table = pd.read_csv(tmp_path / "out" / "sparsity.csv")
    assert table["file"].tolist() == ["a <b>.png", "c.jpg"]
    assert (table["mmac"] <= table["mmac_dense"]).all()
    assert (table["share_level_0"] <= table["share_level_1"]).all()
    assert (table["share_level_3"] == 1).all()
    assert ((table["nearest_m"] >= 0.4) & (table["farthest_m"] <= 12.0)).all()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "a &lt;b&gt;.png" in page
    assert "<b>.png" not in page
    assert "patent" in page


def test_dense_models_apply_too(photos, tmp_path):
    blueprint = Blueprint(decoder="dense", widths=(4, 4, 6, 8, 12), min_depth=0.4, max_depth=100.0, size=(64, 64))
    model = blueprint.build()
    for output in model.decoder.outputs:
        torch.nn.init.zeros_(output.weight)
        torch.nn.init.constant_(output.bias, -30.0)
    save_model(tmp_path / "dense.pt", model, blueprint)
    said = apply(photos, weights=tmp_path / "dense.pt", out=tmp_path / "out")
    assert "c.jpg: 100.0% lies beyond 65.535 m and is 0 in the PNG" in said
    assert np.load(tmp_path / "out" / "c.npy").min() > 99
    assert not read_depth(tmp_path / "out" / "c.png").any()
    assert "mmac" not in pd.read_csv(tmp_path / "out" / "sparsity.csv").columns


def test_nothing_is_written_where_something_is_wrong(photos, weights, tmp_path):
    out = tmp_path / "out"
    (photos / "z.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"z\.jpg: cannot be read as a picture"):
        apply(photos, weights=weights, out=out)
    (photos / "z.jpg").unlink()
    for options, words in (
        ({"weights": None}, "weights: depth needs a trained model .* `paperworks run wavelet_depth --data FOLDER`"),
        ({"weights": tmp_path / "absent.pt"}, r"weights: .*absent\.pt does not exist"),
        ({"threshold": 1.0}, r"threshold: expected a value in \[0, 1\), got 1"),
        ({"height": 8}, "height: expected at least 32 rows, got 8"),
        ({"out": photos}, "out: depth maps would lie among the photographs"),
        ({"out": photos / "c.jpg"}, "out: .* is a file"),
    ):
        with pytest.raises(ValueError, match=words):
            apply(photos, **({"weights": weights, "out": out} | options))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / "c.png")
    with pytest.raises(ValueError, match=r"c\.png: has the same name as c\.jpg"):
        apply(photos, weights=weights, out=out)
    assert not out.exists()
    with pytest.raises(ValueError, match="no such file or folder"):
        apply(tmp_path / "nowhere", weights=weights, out=out)
