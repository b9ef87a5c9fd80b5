"""The page that `paperworks apply nmt_hallucinations` writes: the most suspect pairs with the reasons, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.lab import page, report

if TYPE_CHECKING:
    from paperworks.language.nmt_hallucinations.checked import Checked

TEMPLATES = Path(__file__).parent / "templates"
WORST = 200


def suspicious_page(found: Checked) -> str:
    """The page as HTML; all texts are escaped."""
    flagged = int(found.flags.to_numpy().any(axis=1).sum())
    return page.render(
        TEMPLATES,
        "suspicious.html",
        title=f"{flagged:,} of {len(found.translations):,} translations are flagged",
        findings=found.findings,
        missing=found.missing,
        pairs=_pairs(found),
        worst=WORST,
        total=len(found.translations),
        detection=report.table(_detection(found)) if found.report is not None else "",
        flagged_by=report.table(_flagged_by(found)),
    )


def _pairs(found: Checked) -> list[dict[str, Any]]:
    """The worst pairs; where a repair replaced the output, with what replaced it."""
    pairs = found.translations
    shown = []
    for row in np.argsort(found.rank, kind="stable")[:WORST].tolist():
        entry: dict[str, Any] = {
            "rank": int(found.rank[row]),
            "id": pairs.ids[row],
            "source": pairs.source[row],
            "output": pairs.output[row],
            "reference": None if pairs.reference is None else pairs.reference[row],
            "reasons": found.reasons(row),
            "labels": [] if pairs.labels is None else [n for n in pairs.categories if pairs.labels[n].iloc[row]],
            "repaired": None,
        }
        if found.repairs is not None and found.repairs.table["changed"].iloc[row]:
            entry["repaired"] = found.repairs.table["after"].iloc[row]
        shown.append(entry)
    return shown


def _detection(found: Checked) -> dict[str, Any]:
    import pandas as pd

    from paperworks.lab.facts import table_facts

    assert found.report is not None
    table = found.report.table
    rows = []
    for (category, detector), part in table[table["negatives"] == "rest"].groupby(["category", "detector"], sort=False):
        value = part.set_index("metric")["value"]
        area = part[part["metric"] == "auroc"].iloc[0]
        rows.append(
            {
                "category": category,
                "rows": int(area["positives"]),
                "detector": detector,
                "AUROC": f"{area['value']:.3f}",
                "95 % interval": f"{area['low']:.3f} to {area['high']:.3f}",
                "false positives at 90 % recall": f"{value['fpr90']:.3f}",
                "precision at 90 % recall": f"{value['p_at_r90']:.3f}",
            }
        )
    return table_facts(pd.DataFrame(rows))


def _flagged_by(found: Checked) -> dict[str, Any]:
    """How many pairs each detector flags, how many of them no other does, and how many it shares with each other."""
    import pandas as pd

    from paperworks.lab.facts import table_facts

    flags = found.flags.to_numpy().astype(int)
    names = [str(name) for name in found.flags.columns]
    shared = flags.T @ flags
    alone = ((flags == 1) & (flags.sum(1, keepdims=True) == 1)).sum(0)
    columns: dict[str, Any] = {"detector": names, "flags": np.diag(shared), "alone": alone}
    columns |= {f"with {name}": shared[:, place] for place, name in enumerate(names)}
    return table_facts(pd.DataFrame(columns))
