"""`paperworks apply nmt_hallucinations pairs.tsv --out checked/`: which translations should be looked at, and why.

Writes scores.csv (every pair, a risk a detector, rank, flags), suspicious.html (the worst 200 with reasons), with
labels detection.csv, and with `--repair` repaired.tsv.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from paperworks._files import write_atomic
from paperworks.data.outputs import check_output_folder, write_frame
from paperworks.data.tables import parse_columns
from paperworks.data.translations import RISK, Translations
from paperworks.language.nmt_hallucinations.checked import Checked, check

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = ("scores.csv", "suspicious.html", "detection.csv", "repaired.tsv")


def apply(
    pairs: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    source: Path | None = None,
    output: Path | None = None,
    reference: Path | None = None,
    columns: str | None = None,
    categories: tuple[str, ...] = (),
    out: Path = Path("checked"),
    model: str | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    detectors: tuple[str, ...] = (),
    held_out: Path | None = None,
    flag_fraction: float = 0.05,
    repair: bool = False,
    n: int = 10,
    num_beams: int = 5,
    batch_tokens: int = 8192,
    bootstrap: int = 1000,
    seed: int = 0,
) -> str:
    """Rank translations by how suspect they are, say why, and repair them on request.

    Without a model the detectors that need only the texts run: repetitions, outputs of several sources, odd lengths.
    With one (the system itself, or a surrogate for the language pair) also how probable it finds each output and where
    its decoder looks.

    Args:
        pairs: one csv, tsv, jsonl or parquet table (- for standard input) with columns source, output, and maybe
            reference, id, labels (0 and 1), risk_NAME (scores of others, larger = riskier).
        source: instead of a table: a text file with one source a line.
        output: a text file whose lines are the translations.
        reference: a text file of right translations.
        columns: names in the table, such as source=de,output=en.
        categories: label columns; default: every further column of zeros and ones.
        out: folder to write to.
        model: a translation model of the hub or a folder, such as hf:Helsinki-NLP/opus-mt-de-en.
        source_language: code of multilingual models, such as deu_Latn.
        target_language: code of multilingual models, such as eng_Latn.
        detectors: which detectors; default: all that are cheap.
        held_out: a table of translations known to be usual, for the thresholds (and attention_transport); default: the
            quantile of the pairs themselves.
        flag_fraction: share of usual translations that a detector may flag.
        repair: overwrite what seq_logprob flags by the model's best of n draws under dropout.
        n: draws of a repair, and of detectors that sample.
        num_beams: beams of every search.
        batch_tokens: most tokens of a batch.
        bootstrap: resamples behind the intervals of the detection report.
        seed: of all draws.

    Raises:
        ValueError: unfit input, contradicting options, or an output that would overwrite an input.
    """
    translations = _read(pairs, source, output, reference, columns, categories)
    usual = (
        None if held_out is None else Translations.read(held_out, columns=parse_columns(columns) if columns else None)
    )
    inputs = [*pairs, *(str(path) for path in (source, output, reference, held_out) if path is not None)]
    check_output_folder(out, inputs=inputs, writes=OUTPUTS)
    loaded: tuple[Any, Any] = (None, None)
    if model is not None:
        from paperworks.language.nmt_hallucinations.experiments import load_model

        loaded = load_model(model)
    elif repair:
        raise ValueError("repair: needs --model, the system that is to translate again")
    found = check(
        translations,
        model=loaded[0],
        tokenizer=loaded[1],
        languages=(source_language, target_language),
        detectors=detectors or None,
        held_out=usual,
        flag_fraction=flag_fraction,
        repair=repair,
        n=n,
        num_beams=num_beams,
        batch_tokens=batch_tokens,
        bootstrap=bootstrap,
        seed=seed,
    )
    write(found, Path(out))
    return "\n".join(_said(found, Path(out)))


def write(found: Checked, out: Path) -> list[Path]:
    """Write all files into a folder; each appears whole or not at all."""
    from paperworks.language.nmt_hallucinations.page import suspicious_page

    out.mkdir(parents=True, exist_ok=True)
    written = [out / "scores.csv", out / "suspicious.html"]
    write_frame(written[0], scores_table(found))
    write_atomic(written[1], suspicious_page(found).encode("utf-8", errors="replace"))
    if found.report is not None:
        written.append(out / "detection.csv")
        write_frame(written[-1], found.report.table)
    if found.repairs is not None:
        written.append(out / "repaired.tsv")
        table = found.repairs.table
        table.insert(0, "id", list(found.translations.ids))
        write_frame(written[-1], table, separator="\t")
    return written


def scores_table(found: Checked) -> pd.DataFrame:
    """Every pair in the order of the input: texts, risks, rank, whether flagged and by what."""
    import pandas as pd

    pairs = found.translations
    texts = {"id": list(pairs.ids), "source": list(pairs.source), "output": list(pairs.output)}
    if pairs.reference is not None:
        texts["reference"] = list(pairs.reference)
    risks = {f"{RISK}{name}": found.scores[name].to_numpy() for name in found.scores.columns}
    labels = {} if pairs.labels is None else {name: pairs.labels[name].astype(int) for name in pairs.categories}
    judged = {
        "rank": found.rank,
        "suspicion": found.suspicion,
        "flagged": found.flags.to_numpy().any(axis=1).astype(int),
        "flagged_by": [" ".join(found.flags.columns[row]) for row in found.flags.to_numpy()],
    }
    return pd.DataFrame(texts | labels | risks | judged)


def _read(
    pairs: tuple[str, ...],
    source: Path | None,
    output: Path | None,
    reference: Path | None,
    columns: str | None,
    categories: tuple[str, ...],
) -> Translations:
    if bool(pairs) == (source is not None or output is not None):
        raise ValueError("pairs: give one table, or --source and --output, two line-aligned text files")
    if len(pairs) == 0:
        if source is None or output is None:
            raise ValueError("source, output: give both of the two line-aligned text files")
        return Translations.read_lines(source, output, reference=reference)
    table, *others = pairs
    if others:
        raise ValueError(f"pairs: expected one table, got {len(pairs)}; two text files go with --source and --output")
    if reference is not None:
        raise ValueError("reference: goes with --source and --output; in a table it is a column")
    mapping = parse_columns(columns) if columns else None
    return Translations.read(table, columns=mapping, categories=categories or None)


def _said(found: Checked, out: Path) -> list[str]:
    flagged = int(found.flags.to_numpy().any(axis=1).sum())
    lines = [f"{len(found.translations):,} pairs by {', '.join(found.scores.columns)}", *found.findings]
    lines.append(f"flagged: {flagged:,} pairs; the most suspect: {_worst(found)}")
    if found.missing:
        lines.append(found.missing)
    written = [name for name in OUTPUTS if (out / name).exists()]
    return [*lines, f"written: {', '.join(written)} in {out}", f"page: {out / 'suspicious.html'}"]


def _worst(found: Checked) -> str:
    row = int(np.argmin(found.rank))
    return f"{found.translations.ids[row]} ({'; '.join(found.reasons(row)) or 'no detector flags it'})"
