"""`paperworks apply irt answers.csv --out fit/`: fit a response model to tables of right and wrong answers.

Writes items.csv, responders.csv, groups.csv, summary.csv, fit.safetensors with fit.json, and report.html. With
`--score` new responders are scored against the frozen items of a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from paperworks._files import write_atomic
from paperworks.data.errors import DataError
from paperworks.data.outputs import write_frame
from paperworks.data.responses import GroupRule, Orientation, Responses
from paperworks.evaluation.irt.analysis import Analysis, analyse, findings

if TYPE_CHECKING:
    import pandas as pd

    from paperworks.evaluation.irt.fitted import IRTFit

MANY_RESPONDERS = 200  # from here on guessing rates are more than their prior
OUTPUTS = (
    "items.csv",
    "responders.csv",
    "groups.csv",
    "summary.csv",
    "fit.safetensors",
    "fit.json",
    "report.html",
)


def apply(
    answers: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    out: Path = Path("irt-fit"),
    model: Literal["auto", "1pl", "2pl", "3pl", "4pl"] = "auto",
    method: Literal["mml", "vi", "map"] = "mml",
    weights: Literal["auto", "per_group", "none"] = "auto",
    responder: str | None = None,
    orientation: Orientation = "auto",
    group: GroupRule | Literal["none"] = "auto",
    group_column: str | None = None,
    family_column: str | None = None,
    long: str | None = None,
    binarize: float | None = None,
    metric: str | None = None,
    filter: str | None = None,
    score: tuple[str, ...] = (),
    fit: Path | None = None,
    bootstrap: int = 1000,
    refits: int = 20,
    seed: int = 0,
) -> str:
    """Fit item response curves to tables of right and wrong answers, or score new responders against a fit.

    Says which items probably have a wrong label, which groups of items (test sets) still separate strong models, and
    how able each model is, with intervals.

    Args:
        answers: csv, tsv, parquet or jsonl tables (- for standard input), or the log folder of lm-evaluation-harness or
            HELM.
        out: folder to write to.
        model: item curves; auto is 2pl under 200 responders, else 3pl.
        method: mml (seconds), vi (the paper's recipe), map (tables large in both directions).
        weights: how items count for abilities: each group one vote (per_group, the paper's) or each item one (none).
            auto is per_group from 20 groups on: with fewer an ability would rest on a handful of mean items.
        responder: column that names the responder; default: userid, responder, model, id, else the first.
        orientation: whether responders are the rows or the columns.
        group: test sets by file (stem), by item name less its running number (prefix), or none.
        group_column: column with the test set of each item (items in rows, or a long table).
        family_column: column with the family of each responder; intervals then resample whole families.
        long: the table has one row per answer; names of its columns, such as responder,item,correct.
        binarize: scores of at least this count as right.
        metric: which score of the harness's logs.
        filter: which answer filter of lm-evaluation-harness's logs.
        score: tables of new responders, to be scored against the items of --fit (or of the answers given).
        fit: folder of an earlier fit, for --score.
        bootstrap: draws behind the groups' intervals.
        refits: refits on resampled families, where families are known.
        seed: of the bootstrap.

    Raises:
        ValueError: unfit input, contradicting options, or an output that would overwrite an input.
    """
    if not answers and not score:
        raise ValueError("answers: expected at least one table, or --score new.csv --fit folder")
    if bool(answers) == (fit is not None):
        raise ValueError("fit: give either tables to fit, or --fit with the folder of an earlier fit and --score")
    out, fit = Path(out), None if fit is None else Path(fit)
    _keep_inputs(out, [*answers, *score], fit)
    reading = {
        "responder": responder,
        "orientation": orientation,
        "group_column": group_column,
        "family_column": family_column,
        "long": long,
        "binarize": binarize,
        "metric": metric,
        "filter": filter,
    }
    if fit is not None:
        return _score_only(score, fit, out, reading)
    table = read_answers(answers, group=None if group == "none" else group, **reading)
    chosen = model if model != "auto" else ("2pl" if len(table) < MANY_RESPONDERS else "3pl")
    weighting = None if weights == "none" else weights
    found = analyse(
        table, model=chosen, method=method, weights=weighting, bootstrap=bootstrap, refits=refits, seed=seed
    )
    # Read before anything is written: an unfit table of new responders leaves no half result behind.
    new = _scored(found.fit, score, reading) if score else None
    write(found, out)
    lines = _said(found, out)
    if new is not None:
        write_frame(out / "scored.csv", new)
        lines.append(f"written: {out / 'scored.csv'} ({len(new)} new responders)")
    return "\n".join(lines)


def read_answers(
    paths: Sequence[str],
    *,
    group: GroupRule | None = "auto",
    group_column: str | None = None,
    long: str | None = None,
    responder: str | None = None,
    orientation: Orientation = "auto",
    family_column: str | None = None,
    binarize: float | None = None,
    metric: str | None = None,
    filter: str | None = None,
) -> Responses:
    """A table of responses from whatever the paths are: wide or long tables, or a harness's logs.

    Raises:
        ValueError: see `Responses`.
    """
    folders = [path for path in paths if path != "-" and Path(path).is_dir()]
    if folders:
        tables = [_read_folder(Path(path), metric=metric, filter=filter, binarize=binarize) for path in folders]
        if len(folders) < len(paths):
            raise ValueError("answers: expected either folders of logs or tables, got both")
        return tables[0].join(*tables[1:])
    if long is not None:
        columns = [name.strip() for name in long.split(",")]
        if len(columns) != 3 or not all(columns):
            raise ValueError(f"long: expected three columns such as responder,item,correct, got {long!r}")
        who, what, right = columns
        tables = [
            Responses.from_long(
                path,
                responder=who,
                item=what,
                correct=right,
                group=group_column,
                family=family_column,
                binarize=binarize,
            )
            for path in paths
        ]
        return tables[0].join(*tables[1:])
    return Responses.read_csv(
        paths,
        responder=responder,
        group=group,
        group_column=group_column,
        family_column=family_column,
        orientation=orientation,
        binarize=binarize,
    )


def write(found: Analysis, out: Path) -> None:
    """Write all files of an analysis into a folder; each appears whole or not at all."""
    from paperworks.evaluation.irt.report_page import report_page

    out.mkdir(parents=True, exist_ok=True)
    for name in ("items", "responders", "groups", "summary"):
        write_frame(out / f"{name}.csv", getattr(found, name))
    found.fit.save(out / "fit")
    write_atomic(out / "report.html", report_page(found).encode("utf-8", errors="replace"))


def _read_folder(folder: Path, *, metric: str | None, filter: str | None, binarize: float | None) -> Responses:
    from paperworks.data.harness_responses import is_helm, is_lm_eval

    if is_lm_eval(folder):
        return Responses.from_lm_eval(folder, metric=metric, filter=filter, binarize=binarize)
    if is_helm(folder):
        return Responses.from_helm(folder, metric=metric, binarize=binarize)
    raise DataError(
        f"{folder}: is a folder without samples_*.jsonl (lm-evaluation-harness, --log_samples) and without "
        f"per_instance_stats.json (HELM); give the tables themselves, such as {folder}/*.csv"
    )


def _score_only(score: tuple[str, ...], fit: Path, out: Path, reading: dict) -> str:
    from paperworks.evaluation.irt.fitted import IRTFit

    new = _scored(IRTFit.load(fit), score, reading)
    out.mkdir(parents=True, exist_ok=True)
    write_frame(out / "responders.csv", new)
    best = new.sort_values("theta", ascending=False).head(5).to_dict("records")
    lines = [f"{row['responder']}: theta {row['theta']:.2f} (sd {row['sd']:.2f})" for row in best]
    return "\n".join([*lines, f"written: {out / 'responders.csv'} ({len(new)} responders)"])


def _scored(fit: IRTFit, score: tuple[str, ...], reading: dict) -> pd.DataFrame:
    from paperworks.evaluation.irt.abilities import score_responders

    new = read_answers(score, **reading)
    known = set(fit.item_names)
    unknown = [item for item in new.items if item not in known]
    if unknown and len(score) == 1 and score[0] != "-":
        # Items that two files called alike were fitted as file/item; one file alone does not know of the other.
        qualified = [f"{Path(score[0]).stem}/{item}" for item in new.items]
        if all(item in known for item in qualified):
            new, unknown = new.renamed(qualified), []
    if unknown:
        some = ", ".join(map(repr, unknown[:3]))
        raise DataError(
            f"score: {len(unknown)} of {len(new.items)} items are not in the fit ({some}); its items are called "
            f"{fit.item_names[0]!r}, ...; take the others out of the table"
        )
    return score_responders(fit, new)


def _keep_inputs(out: Path, inputs: Sequence[str], fit: Path | None) -> None:
    """Refuse to write over what is read."""
    written = {(out / name).resolve() for name in (*OUTPUTS, "scored.csv")}
    for path in inputs:
        if path != "-" and Path(path).resolve() in written:
            raise ValueError(f"out: {path} is read and would be written; choose another folder with --out")
    if fit is not None and (fit if fit.is_dir() else fit.parent).resolve() == out.resolve():
        raise ValueError(f"out: scores would replace the fit's own responders.csv in {out}; choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder")


def _said(found: Analysis, out: Path) -> list[str]:
    fit = found.fit
    size = f"{len(found.responders)} responders, {len(found.items)} items"
    return [
        f"{fit.model} by {fit.method}: {size}, log-likelihood {fit.loglik:.1f}",
        *findings(found),
        *(f"warning: {text}" for text in found.warnings),
        f"written: {', '.join(OUTPUTS)} in {out}",
        f"report: {out / 'report.html'}",
    ]
