"""The annotated corpus of German-English translations, other people's scores of it, and the human labels of repairs.

The corpus was *selected* by detectors from a larger pool: its share of hallucinations (9.5 %) and every precision on it
are not those of ordinary output, and the AUROC of a detector that took part in the selection is biased.

Notes:

1. The file at the head of the authors' repository does not parse (a row without quotes) and differs in 16 texts; this
   is the copy in facebookresearch/stopes.
2. Flags overlap: 45 rows are repetitions and strongly unsupported, 11 repetitions and fully unsupported.
3. Published scores (`detection_metrics.tsv`, in hallucination_detection_data.zip of the same release) are risks as they
   stand: larger = riskier.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paperworks.data.benchmarks import benchmark_file
from paperworks.data.errors import DataCorrupt, DataError, DataMissing
from paperworks.data.translations import Translations

if TYPE_CHECKING:
    import pandas as pd

NAME = "mt_hallucinations"
ROWS, SOURCES = 3415, 201
LABELS = ("repetitions", "named-entities", "omission", "strong-unsupport", "full-unsupport")
HALLUCINATIONS = ("repetitions", "strong-unsupport", "full-unsupport")
CATEGORIES = {
    "any hallucination": HALLUCINATIONS,
    "detached": ("strong-unsupport", "full-unsupport"),
    "fully detached": ("full-unsupport",),
    "strongly detached": ("strong-unsupport",),
    "oscillatory": ("repetitions",),
}
# Columns of the published scores -> our detectors.
PUBLISHED = {
    "mt_log_loss_avg": "seq_logprob",
    "mt_log_loss_sum": "seq_logprob_sum",
    "comet_qa_neg": "comet_qe",
    "comet_ref_neg": "comet",
    "alti_t_avg_sc": "alti",
    "laser_sim": "laser",
    "labse_sim": "labse",
    "nli_bf_joeddav/xlm-roberta-large-xnli": "xnli",
}
ARCHIVE, MEMBER = "hallucination_detection_data.zip", "detection_metrics.tsv"
SYSTEMS = ("default", "alti", "labse", "comet")
# From better to worse; ties of a majority go to the worse.
OUTCOMES = ("correct", "error", "hallucination")
_OUTCOME = {"OK": 0, "OTHER": 1, "UNDER": 1, "PART_H": 2, "FULL_H": 2}


@dataclass(frozen=True, eq=False)
class MitigationLabels:
    """What people said of the default output and of those chosen from ten by each reranker.

    `outcomes`: system -> (201,) 0 correct, 1 other error, 2 hallucination, by majority of three annotators.
    """

    outcomes: dict[str, np.ndarray]

    def hallucinated(self, system: str) -> np.ndarray:
        return self.outcomes[system] == 2

    def counts(self, system: str) -> dict[str, int]:
        """How many sources have each outcome."""
        return {name: int((self.outcomes[system] == place).sum()) for place, name in enumerate(OUTCOMES)}


def annotated_corpus() -> Translations:
    """The 3,415 pairs with references and labels.

    Raises:
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    frame = _table("guerreiro2022_deen.csv.gz", "raw/guerreiro2022_corpus_w_annotations.csv", ",")
    if len(frame) != ROWS:
        raise DataCorrupt(f"{NAME}: {len(frame):,} rows, expected {ROWS:,}")
    return Translations(
        frame["src"].tolist(),
        frame["mt"].tolist(),
        reference=frame["ref"].tolist(),
        labels=frame[list(LABELS)],
        name="annotated corpus, German-English",
    )


def published_scores(path: Path | None = None) -> pd.DataFrame | None:
    """Scores of the corpus that others published, a row per pair, named as our detectors; None: not on this machine.

    Args:
        path: the tsv or its zip archive; None: the archive or the tsv beside the corpus, in the folder named by
            PAPERWORKS_DATA.

    Raises:
        DataError: a file that is given is not there, has another number of rows or none of the columns.
    """
    import pandas as pd

    found = Path(path) if path is not None else _beside_corpus()
    if found is None:
        return None
    if not found.is_file():
        raise DataMissing(f"{found}: no such file; expected {MEMBER} or {ARCHIVE}")
    content = found.read_bytes() if found.suffix != ".zip" else _member(found)
    frame = pd.read_csv(io.BytesIO(content), sep="\t")
    columns = {name: PUBLISHED[name] for name in frame.columns if name in PUBLISHED}
    if len(frame) != ROWS or not columns:
        raise DataError(
            f"{found}: {len(frame)} rows with {len(columns)} known scores, expected {ROWS} rows with some of "
            f"{', '.join(PUBLISHED)}"
        )
    scores = frame[list(columns)].rename(columns=columns).astype(np.float64)
    if scores.isna().any().any():
        raise DataError(f"{found}: the score {scores.columns[scores.isna().any()][0]!r} has empty cells")
    return scores


def mitigation_labels() -> MitigationLabels:
    """Human labels of 201 sources, by majority; a tie goes to the worse outcome.

    Raises:
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    frame = _table("mitigation_human_labels.tsv.gz", "raw/annotate_hallucination_mitigation_v7_stacked.tsv", "\t")
    if frame["orig_id"].nunique() != SOURCES or len(frame) != 3 * SOURCES:
        raise DataCorrupt(f"{NAME}: {len(frame)} rows, expected 3 x {SOURCES}")
    votes = {system: [_label(row, system) for row in frame.to_dict("records")] for system in SYSTEMS}
    groups = frame.groupby("orig_id", sort=True).indices
    return MitigationLabels(
        {
            system: np.array([_majority([of[row] for row in rows]) for rows in groups.values()])
            for system, of in votes.items()
        }
    )


def _label(row: dict, system: str) -> int:
    text = row[f"mt_{system}"]
    matching = [place for place in range(4) if row[f"mt{place}"] == text]
    if len(matching) != 1:
        raise DataCorrupt(f"{NAME}: source {row['orig_id']}: {len(matching)} candidates equal the output of {system}")
    return _OUTCOME[row[f"label{matching[0]}"]]


def _majority(votes: Sequence[int]) -> int:
    counts = np.bincount(votes, minlength=len(OUTCOMES))
    return int(np.flatnonzero(counts == counts.max())[-1])


def _table(packed: str, raw: str, separator: str) -> pd.DataFrame:
    import pandas as pd

    try:
        content = gzip.decompress(benchmark_file(NAME, packed).read_bytes())
    except DataMissing:
        content = benchmark_file(NAME, raw).read_bytes()
    # Every empty or odd word is text here; only the candidates of a source may really be missing.
    return pd.read_csv(io.BytesIO(content), sep=separator, keep_default_na=False)


def _beside_corpus() -> Path | None:
    try:
        folder = benchmark_file(NAME, "guerreiro2022_deen.csv.gz").parent
    except DataMissing:
        return None
    return next((path for path in (folder / ARCHIVE, folder / MEMBER) if path.is_file()), None)


def _member(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if Path(name).name == MEMBER]
        if len(names) != 1:
            raise DataError(f"{path}: holds {len(names)} files {MEMBER}, expected one")
        return archive.read(names[0])
