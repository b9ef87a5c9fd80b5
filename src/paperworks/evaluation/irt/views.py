"""What the study shows: the paper's two figures, how sure the ranking is, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.study import Figure, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

NAMES = {
    "rte": "RTE", "snli": "SNLI", "mnli": "MNLI", "cb": "CB", "adversarial-nli": "ANLI", "copa": "COPA", "wsc": "WSC",
    "commonsenseqa": "CSQA", "mctaco": "MC-TACO", "socialiqa": "SocialIQA", "wic": "WiC", "abductive-nli": "AbductNLI",
    "piqa": "PIQA", "winogrande": "Winogrande", "arc-challenge": "ARC-C", "arc-easy": "ARC-E", "arct": "ARCT",
    "mcscript": "MCScript", "boolq": "BoolQ", "cosmosqa": "CosmosQA", "hellaswag": "HellaSwag", "mutual": "MuTual",
    "mutual-plus": "MuTual+", "quail": "QuAIL", "qamr": "QAMR", "newsqa": "NewsQA", "squad_v2": "SQuAD2.0",
    "mrqa-nq": "MRQA-NQ", "quoref": "Quoref",
}  # fmt: skip
FORMATS = {
    "classification": ("rte", "snli", "mnli", "cb", "adversarial-nli"),
    "multiple choice, sentence": (
        "copa", "wsc", "commonsenseqa", "mctaco", "socialiqa", "wic", "abductive-nli", "piqa", "winogrande",
    ),
    "multiple choice, paragraph": (
        "arc-challenge", "arc-easy", "arct", "mcscript", "boolq", "cosmosqa", "hellaswag", "mutual", "mutual-plus",
        "quail",
    ),
    "span selection": ("qamr", "newsqa", "squad_v2", "mrqa-nq", "quoref"),
}  # fmt: skip
COLOURS = dict(zip(FORMATS, ("#4c78a8", "#f58518", "#54a24b", "#b279a2"), strict=True))
HEADROOM = {"quoref", "hellaswag", "mctaco"}
ESTIMATORS = {
    "vi": "the paper's estimator",
    "mml": "weighted marginal maximum likelihood",
    "mml_unweighted": "unweighted marginal maximum likelihood",
    "vi_unweighted": "the paper's estimator without item weights",
    "mml_2pl": "weighted 2PL",
    "mml_1pl": "weighted 1PL",
}


def _fits(frame: pd.DataFrame, estimator: str) -> pd.DataFrame:
    if "estimator" not in frame:
        return frame.iloc[:0]
    return frame[frame["estimator"] == estimator].sort_values("seed")


def _first(frame: pd.DataFrame, *estimators: str) -> pd.Series | None:
    """The first fit by the first of the estimators that has one; on own data the one fit there is."""
    for estimator in estimators:
        if len(rows := _fits(frame, estimator)):
            return rows.iloc[0]
    own = frame[frame["part"] == "own"]
    return own.iloc[0] if len(own) else None


def _quartiles(rows: pd.DataFrame, quantity: str) -> dict[str, float]:
    values = np.mean(np.stack([value[:, 3] for value in rows[quantity]]), axis=0)
    return dict(zip(rows["sets"].iloc[0].tolist(), values.tolist(), strict=True))


def _top_three(rows: pd.DataFrame) -> list[str]:
    quartiles = _quartiles(rows, "leh")
    return sorted(quartiles, key=quartiles.__getitem__, reverse=True)[:3]


def sentences(frame: pd.DataFrame) -> list[str]:
    """What C1 rests on: which estimators and which model families keep the top three."""
    found = {name: rows for name in ESTIMATORS if len(rows := _fits(frame, name))}
    if not found or not set(next(iter(found.values()))["sets"].iloc[0].tolist()) >= HEADROOM:
        return []
    kept = {name: set(_top_three(rows)) == HEADROOM for name, rows in found.items()}
    keep = [ESTIMATORS[name] for name, same in kept.items() if same]
    lose = [
        f"{ESTIMATORS[name]} (its three: {', '.join(NAMES[item] for item in _top_three(found[name]))})"
        for name, same in kept.items()
        if not same
    ]
    said = []
    if lose:
        said.append(
            f"C1 rests on the estimator: Quoref, HellaSwag and MC-TACO come out on top by {'; '.join(keep) or 'none'}; "
            f"not by {'; '.join(lose)}."
        )
    else:
        said.append("C1 does not rest on the estimator: all that were tried keep Quoref, HellaSwag and MC-TACO on top.")
    left_out = frame[frame["part"] == "family"]
    if len(left_out):
        lost = [row["left_out"] for _, row in left_out.iterrows() if set(_top_three(row.to_frame().T)) != HEADROOM]
        words = (
            f"leaving out {', '.join(lost)} changes it" if lost else "leaving out any one of them does not change it"
        )
        said.append(f"Of the {len(left_out)} model families, {words} (weighted marginal maximum likelihood).")
    return said


def sets_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Per set: headroom with its rank and intervals over items and seeds, discrimination, and two other estimators."""
    rows = _fits(frame, "vi")
    if rows.empty:
        return None
    names, items = rows["sets"].iloc[0].tolist(), rows["items"].iloc[0]
    leh, log_a = _quartiles(rows, "leh"), _quartiles(rows, "log_a")
    ranks = (-np.concatenate(list(rows["leh_draws"]))).argsort(1, kind="stable").argsort(1, kind="stable") + 1
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
    seeds = np.stack([value[:, 3] for value in rows["leh"]])
    table = pd.DataFrame(
        {
            "set": [NAMES.get(name, name) for name in names],
            "items": items,
            "headroom (upper quartile)": [f"{leh[name]:.4f}" for name in names],
            "sd over seeds": [f"{value:.4f}" for value in seeds.std(0, ddof=1 if len(seeds) > 1 else 0)],
            "rank, 95 % of draws": [f"{int(a)} to {int(b)}" for a, b in zip(low, high, strict=True)],
            "log a (upper quartile)": [f"{log_a[name]:.3f}" for name in names],
        }
    )
    for estimator in ("mml", "mml_unweighted", "mml_2pl"):
        if len(other := _fits(frame, estimator)):
            values = _quartiles(other, "leh")
            order = sorted(values, key=values.__getitem__, reverse=True)
            table[f"rank, {ESTIMATORS[estimator]}"] = [order.index(name) + 1 for name in names]
    order = np.argsort([-leh[name] for name in names], kind="stable")
    return table.iloc[order].reset_index(drop=True)


def own_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """On own data: which groups of items still separate the strongest responders."""
    own = frame[frame["part"] == "own"]
    if own.empty:
        return None
    row = own.iloc[0]
    ranks = (-row["leh_draws"]).argsort(1, kind="stable").argsort(1, kind="stable") + 1
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
    table = pd.DataFrame(
        {
            "group": row["sets"],
            "items": row["items"],
            "headroom (upper quartile)": row["leh"][:, 3].round(4),
            "rank, 95 % of draws": [f"{int(a)} to {int(b)}" for a, b in zip(low, high, strict=True)],
            "log a (upper quartile)": row["log_a"][:, 3].round(3),
        }
    )
    return table.sort_values("headroom (upper quartile)", ascending=False).reset_index(drop=True)


def sceptics_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """What simpler measures of room say: their rank correlation with headroom, and their own top three."""
    from scipy.stats import spearmanr

    rows = _fits(frame, "mml")
    if rows.empty:
        return None
    row = rows.iloc[0]
    names = [NAMES.get(name, name) for name in row["sets"].tolist()]
    measures = (
        "1 - accuracy of the best model", "spread of the top five accuracies", "gap between the top two",
        "point-biserial correlation (upper quartile)",
    )  # fmt: skip
    return pd.DataFrame(
        [
            {
                "measure": measure,
                "Spearman with headroom": f"{spearmanr(values, row['leh'][:, 3])[0]:.2f}",
                "its top three": ", ".join(names[place] for place in np.argsort(-values, kind="stable")[:3]),
            }
            for measure, values in zip(measures, row["sceptics"].T, strict=True)
        ]
    )


def sensitivity_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """How the ranking moves with the prior of log a and with each model family left out."""
    from scipy.stats import spearmanr

    base = _fits(frame, "mml")
    if base.empty:
        return None
    reference = base["leh"].iloc[0][:, 3]
    variants = [(f"spread of log a {name.removeprefix('mml_prior_')} instead of 0.3", _fits(frame, name))
                for name in sorted(set(frame["estimator"].dropna())) if name.startswith("mml_prior_")]  # fmt: skip
    left_out = frame[frame["part"] == "family"]
    variants += [(f"without {row['left_out']}", row.to_frame().T) for _, row in left_out.iterrows()]
    rows = [
        {
            "variant": words,
            "Spearman with the full fit": f"{spearmanr(fit['leh'].iloc[0][:, 3], reference)[0]:.3f}",
            "top three": ", ".join(NAMES.get(name, name) for name in _top_three(fit)),
        }
        for words, fit in variants
    ]
    return pd.DataFrame(rows) if rows else None


def _mean_table(frame: pd.DataFrame, part: str, columns: Mapping[str, Mapping[str, str]]) -> pd.DataFrame | None:
    """One row per named row of columns, one line per table of responses; mean over seeds and standard deviation."""
    rows = []
    for table, trials in frame[frame["part"] == part].groupby("table", sort=False):
        for name, fields in columns.items():
            cells = {
                label: f"{trials[column].mean():.4f} ({trials[column].std(ddof=1) if len(trials) > 1 else 0:.4f})"
                for label, column in fields.items()
            }
            rows.append({"table": table, "": name} | cells)
    return pd.DataFrame(rows) if rows else None


def unseen_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """E1: how well each model predicts hidden answers."""
    words = {"accuracy_only": "row + column logistic", "1pl": "1PL", "2pl": "2PL", "3pl": "3PL"}
    fields = {
        label: {"log-likelihood": f"loglik_{name}", "Brier score": f"brier_{name}"} for name, label in words.items()
    }
    return _mean_table(frame, "unseen", fields)


def suspects_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """E2: all seven scores at finding wrong labels."""
    scores = ("expert_logit", "error_rate", "difficulty", "best_third_error", "point_biserial", "outfit", "flatness")
    fields = {name: {"average precision": f"ap_{name}", "AUROC": f"auroc_{name}"} for name in scores}
    return _mean_table(frame, "wrong_labels", fields)


def few_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """E3 and E4: unseen families scored on few items."""
    fields = {
        f"{items} items, scored by {words}": {
            "Kendall's tau": f"tau_{items}_{way}",
            "error of full accuracy": f"error_{items}_{way}",
        }
        for items in ("chosen", "random")
        for way, words in (("theta", "ability"), ("raw", "raw accuracy"))
    }
    return _mean_table(frame, "few", fields)


def _colour(name: str) -> str:
    return next((COLOURS[kind] for kind, names in FORMATS.items() if name in names), "#888888")


def _draw_boxes(frame: pd.DataFrame, quantity: str, label: str) -> Plot | None:
    from matplotlib.figure import Figure as Plot
    from matplotlib.patches import Patch

    row = _first(frame, "vi", "mml")
    if row is None:
        return None
    names, quantiles = row["sets"].tolist(), row[quantity]
    order = np.argsort(quantiles[:, 3], kind="stable")
    boxes = [
        {"label": NAMES.get(names[i], names[i]), "whislo": q[0], "q1": q[1], "med": q[2], "q3": q[3], "whishi": q[4]}
        for i, q in ((i, quantiles[i]) for i in order)
    ]
    plot = Plot(figsize=(7, 1.2 + 0.22 * len(names)), layout="constrained")
    axis = plot.subplots()
    drawn = axis.bxp(boxes, showfliers=False, patch_artist=True, orientation="horizontal", widths=0.7)
    for patch, place in zip(drawn["boxes"], order, strict=True):
        patch.set_facecolor(_colour(names[place]))
    for line in drawn["medians"]:
        line.set_color("black")
    axis.set_xlabel(label)
    axis.tick_params(axis="y", labelsize=8)
    kinds = [kind for kind, members in FORMATS.items() if set(members) & set(names)]
    if kinds:
        axis.legend(handles=[Patch(color=COLOURS[kind], label=kind) for kind in kinds], fontsize=8, loc="lower right")
    return plot


def draw_headroom(frame: pd.DataFrame) -> Plot | None:
    """Headroom by set, coloured by format: the paper's figure 3."""
    return _draw_boxes(frame, "leh", "locally estimated headroom at the best responder")


def draw_discrimination(frame: pd.DataFrame) -> Plot | None:
    """Log-discrimination by set, coloured by format: the paper's figure 4."""
    return _draw_boxes(frame, "log_a", "log discrimination")


def draw_abilities(frame: pd.DataFrame) -> Plot | None:
    """Ability against plain accuracy."""
    from matplotlib.figure import Figure as Plot

    row = _first(frame, "vi", "mml")
    if row is None:
        return None
    plot = Plot(figsize=(4.6, 3.6), layout="constrained")
    axis = plot.subplots()
    axis.errorbar(row["responder_accuracy"], row["theta"], yerr=1.96 * row["theta_sd"], fmt="o", ms=3, lw=0.7)
    axis.set_xlabel("accuracy on all items")
    axis.set_ylabel("ability, with 95 % interval")
    return plot


def draw_ranks(frame: pd.DataFrame) -> Plot | None:
    """How probable each rank is for each set, over bootstrap draws and seeds."""
    from matplotlib.figure import Figure as Plot

    rows = _fits(frame, "vi")
    if rows.empty:
        return None
    names = rows["sets"].iloc[0].tolist()
    ranks = (-np.concatenate(list(rows["leh_draws"]))).argsort(1, kind="stable").argsort(1, kind="stable")
    shares = np.stack([(ranks == rank).mean(0) for rank in range(len(names))], axis=1)
    order = np.argsort(ranks.mean(0), kind="stable")
    plot = Plot(figsize=(7, 1.5 + 0.2 * len(names)), layout="constrained")
    axis = plot.subplots()
    image = axis.imshow(
        shares[order], cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=(0.5, len(names) + 0.5, len(names), 0)
    )
    axis.set_yticks(np.arange(len(names)) + 0.5, [NAMES.get(str(names[i]), str(names[i])) for i in order], fontsize=8)
    axis.set_xlabel("rank by headroom")
    plot.colorbar(image, label="share of draws")
    return plot


def draw_information(frame: pd.DataFrame) -> Plot | None:
    """Information of whole test sets about an ability; ticks are the responders."""
    from matplotlib.figure import Figure as Plot

    rows = _fits(frame, "mml")
    if rows.empty:
        return None
    row = rows.iloc[0]
    names = row["sets"].tolist()
    plot = Plot(figsize=(6, 3.6), layout="constrained")
    axis = plot.subplots()
    at_best = np.interp(row["theta"].max(), row["information_theta"], np.arange(len(row["information_theta"])))
    strongest = np.argsort(-row["information"][:, round(at_best)], kind="stable")[:8]
    for place in strongest:
        axis.plot(row["information_theta"], row["information"][place], label=NAMES.get(names[place], names[place]))
    axis.plot(row["theta"], np.zeros_like(row["theta"]), "|", color="black", ms=8)
    axis.set_yscale("symlog", linthresh=10)
    axis.set_xlabel("ability")
    axis.set_ylabel("information of the whole set")
    axis.legend(fontsize=7, ncols=2)
    return plot


def draw_recovery(frame: pd.DataFrame) -> Plot | None:
    """Simulated responses: what was put in against what came out."""
    from matplotlib.figure import Figure as Plot

    rows = frame[frame["part"] == "recovery"]
    if rows.empty:
        return None
    row: Any = rows.iloc[0]
    plot = Plot(figsize=(6.4, 3), layout="constrained")
    for axis, name, label in zip(
        plot.subplots(1, 2), ("b", "log_a"), ("difficulty", "log discrimination"), strict=True
    ):
        true, fitted = row[f"true_{name}"], row[f"fitted_{name}"]
        axis.plot(true, fitted, "o", ms=3)
        axis.axline((0, 0), slope=1, color="grey", lw=1)
        axis.set_title(f"{label}, RMSE {row[f'rmse_{name}']:.3f}", fontsize=9)
        axis.set_xlabel("true")
        axis.set_ylabel("fitted")
    return plot


FIGURES = (
    Figure(
        "headroom",
        "Headroom by set (boxes: quartiles, whiskers: 5, 95 %), as in the paper's figure 3.",
        draw_headroom,
    ),
    Figure("discrimination", "Log discrimination by set, as in the paper's figure 4.", draw_discrimination),
    Figure("ranks", "How probable each rank is, over bootstrap draws of items and seeds of the recipe.", draw_ranks),
    Figure("abilities", "Ability against accuracy.", draw_abilities),
    Figure("information", "Test information: the eight sets that tell most about the best.", draw_information),
    Figure("recovery", "Parameters of simulated items, recovered.", draw_recovery),
)
TABLES = (
    Table("sets", "Test sets by headroom.", sets_table),
    Table("own", "Your groups of items by headroom.", own_table),
    Table("sceptics", "Simpler measures of room, beside headroom.", sceptics_table),
    Table("sensitivity", "What the ranking rests on.", sensitivity_table),
    Table("unseen", "E1: answers not seen; mean (standard deviation) over seeds.", unseen_table),
    Table("suspects", "E2: wrong labels put in; seven scores, mean (standard deviation) over seeds.", suspects_table),
    Table("few", "E3, E4: unseen families on few items; mean (standard deviation) over seeds.", few_table),
)
