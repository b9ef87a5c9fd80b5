"""What the study shows: how well each detector finds what, what repairs did, and what the result rests on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from paperworks.lab.study import Table

WORDS = {
    "seq_logprob": "Seq-Logprob",
    "seq_logprob_sum": "Seq-Logprob, sum",
    "mc_logprob": "Seq-Logprob under dropout",
    "mc_variance": "variance under dropout",
    "mc_dissimilarity": "MC-DSim",
    "attention_to_eos": "attention to end",
    "ignored_source": "ignored source",
    "top_ngram": "top n-gram",
    "repeated_target": "repeated target",
    "length_ratio": "length ratio",
    "chrf2": "chrF2 (reference)",
    "chrf++": "chrF++ (reference)",
    "comet": "COMET (reference)",
    "comet_qe": "COMET-QE",
    "alti": "ALTI",
    "attention_transport": "attention transport",
    "labse": "LaBSE",
    "laser": "LASER",
    "xnli": "XNLI",
}
# Below so many rows of a category an AUROC is shown with its interval or not at all.
FEW = 60
KINDS = {"corpus": "annotated corpus", "own": "your translations", "toy": "toy language"}


def word(detector: str) -> str:
    return WORDS.get(detector, detector)


def groups(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The kinds of data that were judged, in words, with their trials."""
    found: list[tuple[str, pd.DataFrame]] = []
    for kind, title in KINDS.items():
        rows = frame[frame["kind"] == kind]
        if rows.empty or "auroc_rest" not in rows or not whole(rows, "auroc_rest"):
            continue
        if kind != "toy":
            found.append((title, rows))
            continue
        for training, part in rows.groupby("training", sort=False):
            found.append((f"{title}, {training} training pairs (synthetic)", part))
    return found


def whole(rows: pd.DataFrame, column: str) -> bool:
    return all(isinstance(value, np.ndarray) for value in rows[column])


def names_of(row: pd.Series, column: str) -> list[str]:
    return str(row[column]).split("\x1f")


def _common(rows: pd.DataFrame, column: str) -> list[str]:
    """Names that all trials have (a seed may lack a category), in the first one's order."""
    lists = [names_of(row, column) for _, row in rows.iterrows()]
    return [name for name in lists[0] if all(name in other for other in lists)]


def _mean_cells(rows: pd.DataFrame, array: str) -> tuple[list[str], list[str], np.ndarray]:
    """Categories, detectors, and an array over both averaged over seeds."""
    categories, detectors = _common(rows, "categories"), _common(rows, "detectors")
    cells = []
    for _, row in rows.iterrows():
        own_rows, own_columns = names_of(row, "categories"), names_of(row, "detectors")
        picked = [own_rows.index(name) for name in categories]
        cells.append(row[array][picked][:, [own_columns.index(name) for name in detectors]])
    return categories, detectors, np.mean(np.stack(cells), axis=0)


def _category_table(frame: pd.DataFrame, array: str, cell: Callable[[np.ndarray, float], str]) -> pd.DataFrame | None:
    parts = []
    for title, rows in groups(frame):
        categories, detectors, cells = _mean_cells(rows, array)
        counts = _counts(rows, categories)
        first = cells[0] if cells.ndim == 2 else cells[0, :, 0]
        for place in np.argsort(-np.nan_to_num(first), kind="stable"):
            line: dict[str, Any] = {"data": title, "detector": word(detectors[place])}
            line |= {name: cell(cells[row, place], counts[row]) for row, name in enumerate(categories)}
            parts.append(line)
    return pd.DataFrame(parts).fillna("–") if parts else None


def _counts(rows: pd.DataFrame, categories: list[str]) -> list[float]:
    """Rows of each category, averaged over seeds."""
    names = [names_of(row, "categories") for _, row in rows.iterrows()]
    counts = [
        [row["category_counts"][own.index(name)] for name in categories]
        for own, (_, row) in zip(names, rows.iterrows(), strict=True)
    ]
    return np.mean(np.array(counts, dtype=float), axis=0).tolist()


def _auroc(cell: np.ndarray, count: float) -> str:
    value, low, high = cell
    if count >= FEW:
        return f"{value:.3f}"
    return f"{value:.3f} ({low:.2f}–{high:.2f}, n {count:.0f})" if np.isfinite(low) else f"– (n {count:.0f})"


def _share(cell: np.ndarray, count: float) -> str:
    return f"{cell:.0%}" if count >= FEW else f"{cell * count:.0f} of {count:.0f}"


def detection_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """AUROC of every detector on every category, against all other rows."""
    return _category_table(frame, "auroc_rest", _auroc)


def clean_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """AUROC against rows without any hallucination."""
    return _category_table(frame, "auroc_clean", _auroc)


def caught_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """What is caught when as many pairs are looked at as there are hallucinations."""
    return _category_table(frame, "caught", _share)


def operating_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """What finding nine in ten hallucinations costs."""
    parts = []
    for title, rows in groups(frame):
        for name in _common(rows, "detectors"):
            if f"auroc_{name}" not in rows:
                continue
            parts.append(
                {
                    "data": title,
                    "detector": word(name),
                    "AUROC": rows[f"auroc_{name}"].mean(),
                    "95 % interval": _interval(rows, name),
                    "false positives at 90 % recall": f"{rows[f'fpr90_{name}'].mean():.3f}",
                    "precision at 90 % recall": f"{rows[f'p90_{name}'].mean():.4f}",
                    "hallucinations": f"{rows['positives'].mean():.0f} of {rows['pairs'].mean():.0f}",
                }
            )
    if not parts:
        return None
    table = pd.DataFrame(parts)
    order = table.groupby("data", sort=False)["AUROC"].rank(ascending=False)
    table = table.assign(order=order, place=table.groupby("data", sort=False).ngroup())
    table = table.sort_values(["place", "order"], kind="stable").drop(columns=["order", "place"]).reset_index(drop=True)
    return table.assign(AUROC=table["AUROC"].map("{:.4f}".format))


def _interval(rows: pd.DataFrame, name: str) -> str:
    column = f"draws_{name}"
    if column in rows and whole(rows, column):
        draws = np.concatenate(list(rows[column]))
        low, high = np.nanquantile(draws, [0.025, 0.975])
        return f"{low:.3f} to {high:.3f}"
    values = rows[f"auroc_{name}"].to_numpy(float)
    if len(values) < 2:
        return "one seed"
    from paperworks.lab.statistics import t_interval

    interval = t_interval(values)
    return f"{interval.low:.3f} to {interval.high:.3f}"


def repairs_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Outcomes before and after repair."""
    parts: list[dict[str, Any]] = []
    human = frame[frame["kind"] == "repairs"]
    if len(human):
        row = human.iloc[0]
        for system, name in (("comet", "COMET-QE"), ("alti", "ALTI"), ("labse", "LaBSE")):
            parts.append(
                {
                    "data": f"human labels, {int(row['sources'])} sources",
                    "outputs": f"reranked by {name}",
                    "hallucinated": f"{row['hallucinated_default']:.0f} → {row[f'hallucinated_{system}']:.0f}",
                    "gone": f"{row[f'fall_{system}']:.0%}",
                    "correct": f"{row['correct_default']:.0f} → {row[f'correct_{system}']:.0f}",
                    "McNemar": _mcnemar(row, system),
                }
            )
    toy = frame[frame["kind"] == "toy"]
    if len(toy) and "rate_before" in toy:
        for training, rows in toy.groupby("training", sort=False):
            mean = rows[[name for name in rows if name.startswith("rate_")]].mean()
            words = {
                "after": "DeHallucinator (original allowed)",
                "chosen": "best of the draws by Seq-Logprob",
                "random": "control: random draw",
                "second": "control: beam search's second",
                "oracle": "best draw there is",
            }
            parts += [
                {
                    "data": f"toy, {training} training pairs, {rows['suspect'].mean():.0f} suspect outputs",
                    "outputs": label,
                    "hallucinated": f"{mean['rate_before']:.1%} → {mean[f'rate_{name}']:.1%}",
                    "gone": f"{1 - mean[f'rate_{name}'] / mean['rate_before']:.0%}",
                    "correct": "–",
                    "McNemar": f"largest p over seeds = {rows['mcnemar'].max():.1g}" if name == "after" else "–",
                }
                for name, label in words.items()
            ]
    return pd.DataFrame(parts) if parts else None


def _mcnemar(row: pd.Series, system: str) -> str:
    return f"{row[f'gone_{system}']:.0f} gone, {row[f'new_{system}']:.0f} new, p = {row[f'mcnemar_{system}']:.1g}"


def toy_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """The toy translators."""
    toy = frame[frame["kind"] == "toy"]
    if toy.empty:
        return None
    from paperworks.language.nmt_hallucinations.toy import SLICES

    lines = []
    for training, rows in toy.groupby("training", sort=False):
        slices = np.mean(np.stack(list(rows["by_slice"])), axis=0)
        lines.append(
            {
                "training pairs": training,
                "token F1 in domain": f"{rows['f1_in_domain'].mean():.3f}",
                "exactly right in domain": f"{rows['exact_in_domain'].mean():.0%}",
                "hallucinated": f"{rows['positives'].mean():.0f} of {rows['pairs'].mean():.0f}",
                "detached": f"{rows['detached'].mean():.0f}",
                "copied noise targets": f"{rows['copied_noise'].mean():.0f}",
            }
            | {
                f"hallucinated, {name.replace('_', ' ')}": f"{value:.0f}"
                for name, value in zip(SLICES, slices, strict=True)
            }
        )
    return pd.DataFrame(lines)


def agreement_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """On own translations: how far detectors agree, and from which risk on a pair belongs to the riskiest 5 %."""
    own = frame[frame["kind"] == "own"]
    if own.empty or "agreement" not in own:
        return None
    row = own.iloc[0]
    names = names_of(row, "agreeing")
    cells = {
        word(name): [f"{value:.2f}" if np.isfinite(value) else "–" for value in column]
        for name, column in zip(names, row["agreement"].T, strict=True)
    }
    head = {
        "detector": [word(name) for name in names],
        "95 % quantile": [f"{value:.4g}" for value in row["quantile95"]],
    }
    return pd.DataFrame(head | cells)


def sentences(frame: pd.DataFrame) -> list[str]:
    """What the results rest on."""
    said = []
    if len(frame[frame["kind"] == "corpus"]):
        said.append(
            "The annotated corpus was selected by detectors: its share of hallucinations and every precision on it do "
            "not transfer to ordinary output, and the AUROC of a detector that selected is biased."
        )
    for title, rows in groups(frame):
        if not title.startswith("toy"):
            continue
        categories, detectors, cells = _mean_cells(rows, "auroc_rest")
        if "copied noise" not in categories:
            continue
        copies = _counts(rows, categories)[categories.index("copied noise")]
        if copies < FEW:
            said.append(
                f"Memorised hallucinations ({title}): {copies:.0f} outputs a seed copy a noise target, too few (needs "
                f"{FEW}) to say which detector sees them."
            )
            continue
        of = {name: cells[categories.index("copied noise"), place, 0] for place, name in enumerate(detectors)}
        other = cells[categories.index("other hallucination"), detectors.index("seq_logprob"), 0]
        blind = of["seq_logprob"] < 0.5
        said.append(
            f"Memorised hallucinations ({title}; {copies:.0f} outputs a seed that copy a noise target): Seq-Logprob "
            f"has an AUROC of {of['seq_logprob']:.2f} on them and {other:.2f} on other hallucinations; repeated target "
            f"has {of['repeated_target']:.2f}, ALTI {of['alti']:.2f}. "
            + ("Sequence probability does not see what the model has learned by heart." if blind else "")
        )
    if len(frame[frame["kind"] == "toy"]):
        said.append(
            "The toy language is synthetic. Its labels count words against the one right translation; chrF++ is shown "
            "there as an oracle only, being close to the label itself, and COMET does not exist for it, so C2 and "
            "C3 are not judged on it."
        )
    return said


TABLES = (
    Table("detection", "AUROC by category, each against all other pairs (mean over seeds).", detection_table),
    Table("operating", "Any hallucination: AUROC, and what finding nine in ten costs.", operating_table),
    Table("clean", "AUROC by category against pairs without any hallucination.", clean_table),
    Table(
        "caught",
        "What each detector catches: shares of each category among its riskiest pairs, as many as hallucinations.",
        caught_table,
    ),
    Table("repairs", "Repairs: hallucinations before and after.", repairs_table),
    Table("toy", "The toy translators (mean over seeds).", toy_table),
    Table("agreement", "Your translations: rank correlation between detectors.", agreement_table),
)
