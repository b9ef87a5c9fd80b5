"""Own images: from two folders to predictions, a model file and a page."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.data.errors import DataError
from paperworks.learning import Classifier, fit_adapt
from paperworks.learning.adamatch.apply import findings

_spec = importlib.util.spec_from_file_location("adamatch_domains", Path(__file__).with_name("test_domains.py"))
assert _spec is not None
assert _spec.loader is not None
_domains = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_domains)
write_images = _domains.write_images
NAMES = ("hund & <b>katze", "maus", "vogel")


@pytest.fixture
def folders(tmp_path):
    write_images(tmp_path / "source", NAMES, count=4)
    write_images(tmp_path / "target", NAMES, count=3, seed=1, colour=True)
    return tmp_path


def test_one_command_writes_predictions_model_and_page(folders, command):
    before = {path: path.read_bytes() for path in folders.rglob("*.png")}
    answer = command(
        "apply", "adamatch", "target", "--source", "source", "--target-labelled", "target", "--out", "out",
        "--image-size", "8", "--steps", "3", "--no-mirror", check=0,
    )  # fmt: skip
    table = pd.read_csv(folders / "out" / "predictions.csv")
    assert list(table.columns) == ["file", "label", "confidence"]
    assert len(table) == 9
    assert set(table["label"]) <= set(NAMES)
    assert table["confidence"].between(1 / 3 - 1e-6, 1).all()
    page = (folders / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>katze" not in page
    assert "&lt;b&gt;katze" in page
    assert "are met" in answer.stdout
    assert before == {path: path.read_bytes() for path in before}
    again = Classifier.load(folders / "out" / "model.pt").predict(folders / "target")
    assert again["label"].tolist() == table["label"].tolist()


def test_a_flat_target_needs_no_labels(folders):
    classifier = fit_adapt(folders / "source", folders / "target" / "maus", image_size=8, steps=2, seed=0)
    assert classifier.channels == 3
    assert classifier.predict(folders / "source")["file"][0] == f"{NAMES[0]}/bild 0.png"
    assert classifier.source_law.sum() == pytest.approx(1, abs=1e-5)


def test_labels_of_the_target_are_not_looked_at(folders):
    whole = fit_adapt(folders / "source", folders / "target", image_size=8, steps=2, seed=0)
    from paperworks.learning.adamatch.domains import read_domain

    target = read_domain(folders / "target", image_size=8)
    mixed = type(target)(target.images, target.known().flip(0), target.classes, target.name, target.names)
    other = fit_adapt(folders / "source", mixed, image_size=8, steps=2, seed=0)
    for ours, theirs in zip(whole.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_labelled_target_images_are_renumbered(tmp_path):
    """Numbers sort otherwise in an .npz than names of folders do."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.array([9, 10, 9, 10]))
    write_images(tmp_path / "source", ("10", "9"))
    classifier = fit_adapt(
        tmp_path / "source", tmp_path / "source", tmp_path / "few.npz", image_size=8, steps=1, seed=0
    )
    assert classifier.classes == ("10", "9")


def test_timm_backbones_and_unknown_ones(folders):
    pytest.importorskip("timm")
    classifier = fit_adapt(folders / "source", folders / "source", backbone="resnet10t", image_size=32, steps=1, seed=0)
    assert classifier.backbone == "resnet10t"
    with pytest.raises(ValueError, match="backbone: expected cnn5"):
        fit_adapt(folders / "source", folders / "source", backbone="resnet_of_mine", image_size=32, steps=1)


def test_warnings_where_there_is_no_evidence():
    facts = {"images": 10, "mask_rate": 0.01, "agreement": 0.3, "divergence": 0.4}
    said, warned = findings(facts)
    assert len(warned) == 3
    assert any("no evidence" in text for text in warned)
    assert not any("met" in text for text in said)
    assert findings(facts | {"mask_rate": 0.9, "agreement": 0.9, "divergence": 0.05})[1] == []


def test_what_cannot_be_done_is_refused(folders, command):
    inside = command("apply", "adamatch", "target", "--source", "source", "--out", "target")
    assert inside.returncode == 2
    assert "choose another folder" in inside.stderr
    assert not list((folders / "target").glob("*.csv"))
    absent = command("apply", "adamatch", "target", "--source", "sauce")
    assert absent.returncode == 2
    assert "sauce" in absent.stderr
    write_images(folders / "other", ("hund",), count=3)
    with pytest.raises(DataError, match="its classes differ"):
        fit_adapt(folders / "source", folders / "other", image_size=8, steps=1)
    (folders / "no.pt").write_text("no model")
    with pytest.raises(DataError, match="cannot be read as a saved classifier"):
        Classifier.load(folders / "no.pt")
