"""`paperworks apply form logs.npz --demos demos.npz --out scores/`: how expert-like is a log, from observations alone?

Writes steps.csv (every transition's log-ratio, in all and by dimension), episodes.csv (mean, standard error, rank) and
report.html with the heat map. No environment, no reinforcement learning; actions in the files are not read.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from paperworks._files import write_atomic
from paperworks.data.outputs import check_output_folder

FEW = 8
HIDDEN = (64, 64)
OUTPUTS = ("steps.csv", "episodes.csv", "report.html")


def apply(
    logs: Annotated[Path, tyro.conf.Positional],
    *,
    demos: Path,
    out: Path = Path("form-scores"),
    folds: int = 5,
    components: int = 4,
    ensemble: int = 3,
    epochs: int = 60,
    seed: int = 0,
) -> str:
    """Score logged episodes against demonstrations.

    Args:
        logs: episodes to score: npz, npy, hdf5, csv or parquet with an episode column, or a Minari folder.
        demos: the demonstrator's episodes, the same observations in the same order.
        out: folder to write to.
        folds: parts of either side; each is scored by models that have not seen it.
        components: Gaussians of the models' mixtures.
        ensemble: models on bootstrapped episodes, whose densities are averaged.
        epochs: passes of the fits; the best held-out one is kept.
        seed: of folds, initialisation and batches.

    Raises:
        ValueError: unfit files, different dimensions, an output that would overwrite an input.
    """
    from paperworks.control.form.demonstrations import Demonstrations
    from paperworks.control.form.scoring import fewest_fitted, moving_constants, score_both, score_episodes
    from paperworks.data.errors import DataError

    check_output_folder(out, inputs=(logs, demos), writes=OUTPUTS)
    shown, logged = Demonstrations.from_path(demos), Demonstrations.from_path(logs)
    if set(shown.columns) == set(logged.columns) and shown.columns != logged.columns:
        raise DataError(f"logs: columns come in another order than in {demos}: {', '.join(logged.columns[:6])}, ...")
    steps, reference = score_both(
        shown,
        logged,
        folds=folds,
        hidden=HIDDEN,
        components=components,
        ensemble=ensemble,
        epochs=epochs,
        seed=seed,
    )
    episodes = score_episodes(steps)
    warnings = [
        f"dimension {name} never changes in the demonstrations but does in the log; no score sees it"
        for name in moving_constants(shown, logged)
    ]
    learnt = fewest_fitted(len(shown), len(logged), folds)
    if learnt < FEW:
        warnings.append(f"a side's models learn from {learnt} episodes; below {FEW} scores are rough")
    repeated = {episode.tobytes() for episode in shown.observations} & {e.tobytes() for e in logged.observations}
    if repeated:
        warnings.append(f"{len(repeated)} episodes are in both files; the demonstrations' model has seen them")
    said = findings(steps, reference, episodes)
    steps = steps.drop(columns="fold")
    from paperworks.control.form.report_page import report_page

    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "steps.csv", _csv(steps))
    write_atomic(out / "episodes.csv", _csv(episodes))
    page = report_page(
        steps, episodes, said, warnings, names=(str(logs), str(demos)), reference=_mean_of_episodes(reference)
    )
    write_atomic(out / "report.html", page)
    written = f"written: {', '.join(OUTPUTS)} in {out}"
    return "\n".join([*said, *(f"warning: {text}" for text in warnings), written])


def findings(steps: pd.DataFrame, reference: pd.DataFrame, episodes: pd.DataFrame) -> list[str]:
    """What the scores say, in words; `steps` and `reference` are the log's and the demonstrations' (`score_both`)."""
    from paperworks.control.form.scoring import compare

    estimate, low, high = compare(steps, reference)
    bounds = f"{estimate:.3g} nats a step (95 % interval {low:.3g} to {high:.3g})"
    if high < 0:
        first = f"The log moves unlike the demonstrations: against unseen demonstrations it scores {bounds}."
    else:
        first = f"No evidence that the log moves unlike the demonstrations: against unseen ones it scores {bounds}."
    best, worst = episodes.iloc[0], episodes.iloc[-1]
    ranks = f"Most like them: episode {best['episode']} ({best['mean']:.3g}); least: {worst['episode']} "
    ranks += f"({worst['mean']:.3g}); unseen demonstrations have {_mean_of_episodes(reference):.3g}."
    columns = [name for name in steps.columns if str(name).startswith("ratio_")]
    below = steps[columns].mean() - reference[columns].mean()
    lowest = str(below.idxmin()).removeprefix("ratio_")
    blame = f"By its marginals dimension {lowest} differs most ({below.min():.3g} nats a step)."
    return [first, ranks, blame]


def _mean_of_episodes(steps: pd.DataFrame) -> float:
    return float(steps.groupby("episode")["log_ratio"].mean().mean())


def _csv(frame: pd.DataFrame) -> bytes:
    stream = io.StringIO()
    frame.to_csv(stream, index=False, float_format="%.7g", lineterminator="\n")
    return stream.getvalue().encode("utf-8", errors="replace")
