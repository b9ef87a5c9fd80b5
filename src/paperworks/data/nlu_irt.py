"""The benchmark `nlu_irt`: 90 transformer checkpoints on 29 NLU test sets, the data of the paper behind `irt`.

Read from one parquet file where the folder `PAPERWORKS_DATA` has it, else from the release's own 29 tables, which can
be fetched: the same table either way.

Reference: Vania et al. 2021, arXiv 2106.00840; released in nyu-mll/nlu-test-sets without a licence, so never shipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paperworks.data.benchmarks import benchmark_file
from paperworks.data.errors import DataMissing
from paperworks.data.responses import Responses
from paperworks.data.tables import read_table

NAME = "nlu_irt"
# Data set (in the release's order) -> format of its questions and year, from the paper's table 1.
TASKS: dict[str, tuple[str, int]] = {
    "abductive-nli": ("MC-sent", 2020),
    "adversarial-nli": ("classification", 2020),
    "arc-challenge": ("MC-par", 2018),
    "arc-easy": ("MC-par", 2018),
    "arct": ("MC-par", 2018),
    "boolq": ("MC-par", 2019),
    "cb": ("classification", 2019),
    "commonsenseqa": ("MC-sent", 2019),
    "copa": ("MC-sent", 2011),
    "cosmosqa": ("MC-par", 2019),
    "hellaswag": ("MC-par", 2019),
    "mcscript": ("MC-par", 2018),
    "mctaco": ("MC-sent", 2019),
    "mnli": ("classification", 2018),
    "mrqa-nq": ("span selection", 2019),
    "mutual-plus": ("MC-par", 2020),
    "mutual": ("MC-par", 2020),
    "newsqa": ("span selection", 2017),
    "piqa": ("MC-sent", 2020),
    "qamr": ("span selection", 2018),
    "quail": ("MC-par", 2020),
    "quoref": ("span selection", 2019),
    "rte": ("classification", 2005),
    "snli": ("classification", 2015),
    "socialiqa": ("MC-sent", 2019),
    "squad_v2": ("span selection", 2018),
    "wic": ("MC-sent", 2019),
    "winogrande": ("MC-sent", 2020),
    "wsc": ("MC-sent", 2012),
}
# In the order of the authors' ability table.
MODELS = (
    "roberta-base-10M-1",
    "roberta-med-small-1M-3",
    "roberta-base-100M-1",
    "roberta-base-100M-2",
    "roberta-base-1B-3",
    "roberta-base",
    "roberta-base-1B-2",
    "roberta-med-small-1M-1",
    "roberta-large",
    "bert-large-cased",
    "roberta-base-100M-3",
    "roberta-base-10M-3",
    "roberta-med-small-1M-2",
    "albert-xxlarge-v2",
    "roberta-base-10M-2",
    "roberta-base-1B-1",
    "bert-base-cased",
    "xlm-roberta-large",
)
CHECKPOINTS = ("best", "1", "25", "50", "10")
RESPONDERS = tuple(f"{model}_{checkpoint}" for model in MODELS for checkpoint in CHECKPOINTS)
_RUN = re.compile(r"(-\d+[BM])-\d+$")  # of a MiniBERTa, after the size of its corpus


@dataclass(frozen=True)
class NluIrt:
    """The responses (groups: 29 data sets, families: ten kinds of model) with the format and year of each set."""

    responses: Responses
    formats: dict[str, str]
    years: dict[str, int]

    def item_formats(self) -> np.ndarray:
        """(M,) format of each item: classification, MC-sent, MC-par or span selection."""
        assert self.responses.groups is not None
        return np.array([self.formats[name] for name in self.responses.groups.tolist()], dtype=np.str_)


def load_nlu_irt() -> NluIrt:
    """Read the benchmark; responders are in the order of the authors' abilities, items in that of their parameters.

    Raises:
        DataMissing: it is not on this machine and cannot be fetched; says where to put it.
        DataCorrupt: a file is not the one it should be.
    """
    try:
        responses = _from_parquet(benchmark_file(NAME, "responses.parquet"))
    except DataMissing:
        responses = _from_tables(tuple(TASKS))
    formats = {name: question for name, (question, _) in TASKS.items()}
    return NluIrt(responses, formats, {name: year for name, (_, year) in TASKS.items()})


def load_nlu_irt_sets(names: tuple[str, ...]) -> Responses:
    """A few of the data sets, from the release's own tables: for a quick look.

    Raises:
        ValueError: no such data set.
        DataMissing, DataCorrupt: as `load_nlu_irt`.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(f"names: expected some of {', '.join(TASKS)}, got {unknown[0]!r}")
    if not names:
        raise ValueError("names: expected at least one data set, got none")
    return _from_tables(names)


def authors_files() -> tuple[Path, Path]:
    """The authors' fitted posterior, for `IRTFit.from_authors`: item parameters (parquet) and abilities (csv).

    Raises:
        DataMissing, DataCorrupt: as `load_nlu_irt`.
    """
    return benchmark_file(NAME, "authors_item_params.parquet"), benchmark_file(NAME, "authors_theta.csv")


def family(responder: str) -> str:
    """The kind of model behind a responder: `roberta-base-10M-3_best` -> `roberta-base-10M`, ten in all.

    Five checkpoints of a model, and three runs of a MiniBERTa, are one family.

    Raises:
        ValueError: the name has no checkpoint at its end.
    """
    model, underscore, _ = responder.rpartition("_")
    if not underscore:
        raise ValueError(f"responder: expected <model>_<checkpoint>, got {responder!r}")
    return _RUN.sub(r"\1", model)


def _from_parquet(path: Path) -> Responses:
    import pandas as pd

    frame = pd.read_parquet(path)
    values = frame[list(RESPONDERS)].to_numpy(dtype=np.uint8).T
    return _table(values, frame["item"].astype(str).tolist(), frame["dataset"].astype(str).tolist())


def _from_tables(names: tuple[str, ...]) -> Responses:
    values, items, groups = [], [], []
    for name in names:
        frame = read_table(benchmark_file(NAME, f"raw/{name}_irt_all_coded.csv"), required=["userid"])
        # Every table has its rows in an order of its own.
        frame = frame.set_index("userid").loc[list(RESPONDERS)]
        values.append(frame.to_numpy(dtype=np.uint8))
        items += [str(item) for item in frame.columns]
        groups += [name] * len(frame.columns)
    return _table(np.concatenate(values, axis=1), items, groups)


def _table(values: np.ndarray, items: list[str], groups: list[str]) -> Responses:
    return Responses(
        np.ascontiguousarray(values),
        None,
        RESPONDERS,
        tuple(items),
        np.array(groups, dtype=np.str_),
        np.array([family(name) for name in RESPONDERS], dtype=np.str_),
    )
