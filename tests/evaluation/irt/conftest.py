"""The paper's own response table and fitted posterior, where they are on this machine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True)
class Paper:
    responses: object
    authors: object
    folder: Path


@pytest.fixture(scope="session")
def nlu_irt(benchmark_data):
    """The 90 x 82,756 table with the authors' fit (responders in the table's order)."""
    folder = benchmark_data("nlu_irt")
    import pandas as pd

    from paperworks.evaluation.irt import IRTFit, Responses

    frame = pd.read_parquet(folder / "responses.parquet")
    groups = frame["dataset"].astype(str).to_numpy().astype(np.str_)
    answers = frame.drop(columns=["dataset", "item"])
    responses = Responses(
        np.ascontiguousarray(answers.to_numpy().T).astype(np.uint8),
        None,
        tuple(answers.columns),
        tuple(f"{group}/{item}" for group, item in zip(groups, frame["item"].astype(str), strict=True)),
        groups,
    )
    authors = IRTFit.from_authors(folder / "authors_item_params.parquet", folder / "authors_theta.csv")
    return Paper(responses, authors, folder)
