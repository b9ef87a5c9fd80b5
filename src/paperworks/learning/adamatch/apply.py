"""`paperworks apply adamatch target/ --source source/`: labels for images that have none, from images of other looks.

Writes predictions.csv (file, label, confidence), model.pt and report.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from paperworks._files import write_atomic
from paperworks.data.errors import DataError

if TYPE_CHECKING:
    from paperworks.learning.adamatch.adapt import Classifier
    from paperworks.learning.adamatch.domains import Domain

OUTPUTS = ("predictions.csv", "model.pt", "report.html")
# Total variation between laws above which alignment is doubtful, and view agreement below which labels are.
DIVERGED, SHAKY, FEW = 0.15, 0.6, 0.1


def apply(
    target: Annotated[Path, tyro.conf.Positional],
    *,
    source: Path,
    target_labelled: Path | None = None,
    out: Path = Path("adapted"),
    backbone: str = "cnn5",
    image_size: int = 32,
    steps: int = 700,
    mirror: bool = True,
    seed: int = 0,
) -> str:
    """Train on labelled source and unlabelled target images, and label the target.

    Args:
        target: a folder of images (sub-folders, if any, are read as classes but not learned from), or an .npz.
        source: a folder with class sub-folders, or an .npz with images and labels; the same classes as the target.
        target_labelled: some labelled target images, where there are any.
        out: folder to write to.
        backbone: cnn5, or a model of timm with batch norm, such as resnet18.
        image_size: side to which images are resized.
        steps: optimiser steps.
        mirror: whether a mirrored image keeps its class; not so for digits and letters (--no-mirror).
        seed: of weights, batches and views.

    Raises:
        ValueError: files that are not what they should be, or an output that would overwrite an input.
    """
    from paperworks.data.outputs import check_output_folder, write_frame
    from paperworks.learning.adamatch.adapt import fit_adapt
    from paperworks.learning.adamatch.domains import read_domain
    from paperworks.learning.adamatch.training import Training

    given = [Path(path) for path in (target, source, target_labelled) if path is not None]
    out = check_output_folder(out, inputs=given, writes=OUTPUTS)
    for folder in given:
        if folder.is_dir() and out.resolve() == folder.resolve():
            raise DataError(f"out: {out} is read; choose another folder with --out")
    images = read_domain(target, image_size=image_size)
    classifier = fit_adapt(
        source, images, target_labelled, backbone=backbone, image_size=image_size, steps=steps, seed=seed,
        training=Training(mirror=mirror),
    )  # fmt: skip
    table = classifier.predict(images)
    facts = measure(classifier, images, mirror=mirror, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    write_frame(out / "predictions.csv", table)
    classifier.save(out / "model.pt")
    said, warned = findings(facts)
    write_atomic(
        out / "report.html", page(classifier, table, facts, said, warned, title=f"Labels for {Path(target).name}")
    )
    return "\n".join([*said, *(f"warning: {text}" for text in warned), f"written: {', '.join(OUTPUTS)} in {out}"])


def measure(classifier: Classifier, images: Domain, *, mirror: bool, seed: int) -> dict[str, Any]:
    """What tells whether labels can be trusted: mask rate, agreement between views, and class frequencies."""
    import torch

    from paperworks.data.augment import RandAugment, WeakStrong
    from paperworks.learning.adamatch.domains import as_channels, renumbered

    pixels = as_channels(images, classifier.channels).images
    views = WeakStrong(classifier.image_size, weak="shift_mirror" if mirror else "shift", strong=RandAugment())
    weak, strong = views(pixels, generator=torch.Generator().manual_seed(seed))
    plain, changed = (classifier.probabilities(view).argmax(1) for view in (weak, strong))
    predicted = classifier.probabilities(pixels).argmax(1)
    law = np.bincount(predicted.numpy(), minlength=len(classifier.classes)) / len(predicted)
    facts: dict[str, Any] = {
        "images": len(predicted),
        "mask_rate": classifier.mask_rate,
        "agreement": float((plain == changed).float().mean()),
        "law": law,
        "source_law": classifier.source_law,
        "divergence": float(np.abs(law - classifier.source_law).sum() / 2),
    }
    if images.labels is not None:
        truth = renumbered(images, classifier.classes).known()
        facts["accuracy"] = float((predicted == truth).float().mean())
    return facts


def findings(facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Sentences, and warnings."""
    said = [
        f"{facts['images']:,} images labelled; at the end {facts['mask_rate']:.0%} of the pseudo-labels were sure "
        "enough to learn from",
        f"weak and strong views of an image get the same label in {facts['agreement']:.0%} of the cases",
    ]
    if "accuracy" in facts:
        said.append(f"the target has labels, which training did not see: {facts['accuracy']:.1%} are met")
    warned = []
    if facts["mask_rate"] < FEW:
        warned.append("hardly any pseudo-label counted: the target taught next to nothing; train for more --steps")
    if facts["agreement"] < SHAKY:
        warned.append("labels change with the view: there is no evidence that they are right")
    if facts["divergence"] > DIVERGED:
        warned.append(
            f"predicted class frequencies differ from the source's by {facts['divergence']:.0%}: the method assumes "
            "they are alike in both, and pulls predictions towards the source's"
        )
    return said, warned


def page(
    classifier: Classifier, table: Any, facts: dict[str, Any], said: list[str], warned: list[str], *, title: str
) -> str:
    """The report as one HTML page; names are escaped."""
    import pandas as pd

    from paperworks.lab import page as pages
    from paperworks.lab import report
    from paperworks.lab.facts import table_facts

    caption = "Class frequencies: predicted for the target, and the network's average on weak source images."
    by_class = table.groupby("label")["confidence"]
    rows = pd.DataFrame(
        {
            "class": classifier.classes,
            "images": [int((table["label"] == name).sum()) for name in classifier.classes],
            "mean confidence": [
                f"{by_class.get_group(name).mean():.3f}" if name in by_class.groups else ""
                for name in classifier.classes
            ],
        }
    )
    return pages.render(
        Path(__file__).parent / "templates",
        "report.html",
        title=title,
        findings=said,
        warnings=warned,
        caption=caption,
        figure=pages.figure("law", caption, _draw(classifier.classes, facts))["svg"],
        table=report.table(table_facts(rows)),
    )


def _draw(classes: tuple[str, ...], facts: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(12, 2 + 0.5 * len(classes)), 3.0), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(classes))
    axis.bar(place - 0.2, facts["source_law"], 0.4, label="source", color="#7f7f7f")
    axis.bar(place + 0.2, facts["law"], 0.4, label="target, predicted", color="#1f77b4")
    axis.set_xticks(place, [name.replace("$", r"\$")[:20] for name in classes], rotation=45, ha="right", fontsize=8)
    axis.set_ylabel("share")
    axis.legend(frameon=False, fontsize=8)
    return figure
