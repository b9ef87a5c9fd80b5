"""Are groups of columns of a table independent? A permutation test of HSIC for each pair of groups.

Numeric columns are standardised and compared by a kernel on vectors, categories by equality; a group with both has the
product of the two kernels. The width of the inverse multiquadric is the one at which it is most sensitive on these
rows (the paper's criterion), that of the Gaussian the median distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from paperworks.data.errors import DataError
from paperworks.lab.statistics import holm
from paperworks.representation.ssl_hsic.estimators import hsic_test
from paperworks.representation.ssl_hsic.kernels import (
    Kernel,
    identity_kernel,
    imq_kernel,
    linear_kernel,
    rbf_kernel,
    squared_distances,
)
from paperworks.representation.ssl_hsic.width import KernelWidth, optimum_exists

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
FEWEST_ROWS = 20
Name = Literal["imq", "rbf", "linear"]


@dataclass(frozen=True)
class Pair:
    """Two groups of columns."""

    x: tuple[str, ...]
    y: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.x)} and {', '.join(self.y)}"


def parse_pair(text: str) -> Pair:
    """`"age,dose:outcome"`.

    Raises:
        ValueError: not two groups of columns with a colon between them.
    """
    sides = [tuple(name.strip() for name in side.split(",") if name.strip()) for side in text.split(":")]
    if len(sides) != 2 or not all(sides):
        raise ValueError(f"pairs: expected columns:columns such as age,dose:outcome, got {text!r}")
    return Pair(*sides)


@dataclass(frozen=True)
class Group:
    """One side of a pair on the rows that are used: its Gram matrix, and the width behind it (NaN: none)."""

    gram: Tensor
    width: float


def dependence_table(
    frame: pd.DataFrame,
    pairs: Sequence[Pair],
    *,
    source: str,
    by: str | None = None,
    kernel: Name = "imq",
    permutations: int = 1000,
    most_rows: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each pair: rows used and dropped, HSIC, its share of the largest possible (CKA), p and Holm's p.

    Args:
        frame: the table; `source` names it in messages.
        by: a column; rows are exchanged only where it has the same value (independence given `by`).
        most_rows: larger tables are sampled down to so many rows (memory grows with their square).

    Raises:
        DataError: a column that is not there, or too few rows without missing values.
    """
    import pandas as pd

    _check_columns(frame, pairs, by, source)
    rows = []
    for number, pair in enumerate(pairs):
        used, dropped = _complete_rows(frame, pair, by, most_rows, seed, source)
        generator = torch.Generator().manual_seed(seed + number)
        x, y = (_group(used, names, kernel) for names in (pair.x, pair.y))
        groups = None if by is None else torch.from_numpy(pd.factorize(used[by])[0])
        index = torch.arange(len(used), dtype=torch.float64)[:, None]
        result = hsic_test(
            index, index, kernel_x=_known(x.gram), kernel_y=_known(y.gram), permutations=permutations, groups=groups,
            generator=generator,
        )  # fmt: skip
        rows.append(
            {
                "x": " ".join(pair.x), "y": " ".join(pair.y), "by": by or "", "rows": len(used), "dropped": dropped,
                "hsic": result.statistic, "cka": _alignment(x.gram, y.gram), "p": result.p_value,
                "x_width": x.width, "y_width": y.width,
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.insert(8, "p_holm", holm(table["p"].tolist()))
    return table


def says(row: Mapping[str, object], permutations: int) -> str:
    """The result in words."""
    p = float(str(row["p_holm"]))
    given = f", given {row['by']}" if row["by"] else ""
    bound = f"p {'<=' if float(str(row['p'])) <= 1 / (1 + permutations) else '='} {p:.3g}"
    verdict = "depend on each other" if p <= LEVEL else "no evidence of dependence"
    return f"{row['x']} and {row['y']}{given}: {verdict} ({bound} over {row['rows']} rows, CKA {row['cka']:.3f})."


def _check_columns(frame: pd.DataFrame, pairs: Sequence[Pair], by: str | None, source: str) -> None:
    asked = [("x", name) for pair in pairs for name in pair.x] + [("y", name) for pair in pairs for name in pair.y]
    for side, name in [*asked, *([("by", by)] if by is not None else [])]:
        if name not in frame.columns:
            raise DataError(
                f"{side}: column {name!r} is not in {source} (columns: {', '.join(map(str, frame.columns))})"
            )


def _complete_rows(
    frame: pd.DataFrame, pair: Pair, by: str | None, most: int, seed: int, source: str
) -> tuple[pd.DataFrame, int]:
    names = list(dict.fromkeys([*pair.x, *pair.y, *([by] if by is not None else [])]))
    used = frame[names].dropna()
    dropped = len(frame) - len(used)
    if len(used) < FEWEST_ROWS:
        raise DataError(
            f"{source}: {pair} have values together in {len(used)} rows ({dropped} dropped for missing values); "
            f"expected at least {FEWEST_ROWS}"
        )
    return (used.sample(most, random_state=seed) if len(used) > most else used), dropped


def _group(frame: pd.DataFrame, names: Sequence[str], kernel: Name) -> Group:
    import pandas as pd

    numeric = [name for name in names if pd.api.types.is_numeric_dtype(frame[name])]
    categories = [name for name in names if name not in numeric]
    gram, width = torch.ones(len(frame), len(frame), dtype=torch.float64), float("nan")
    if numeric:
        values = frame[numeric].to_numpy(dtype=np.float64)
        spread = values.std(axis=0)
        z = torch.from_numpy((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
        of, width = _scaled(kernel, z)
        gram = gram * of(z, z)
    if categories:
        codes = np.stack([pd.factorize(frame[name])[0] for name in categories], axis=1)
        gram = gram * identity_kernel(*[torch.from_numpy(codes.astype(np.float64))] * 2)
    return Group(gram, width)


def _scaled(kernel: Name, z: Tensor) -> tuple[Kernel, float]:
    if kernel == "linear":
        return linear_kernel, float("nan")
    if kernel == "rbf":
        middle = float(squared_distances(z, z).sqrt().quantile(0.5)) if len(z) <= 2000 else 1.0
        width = middle or 1.0
        return lambda x, y: rbf_kernel(x, y, c=width), width
    # Columns with few values may have no optimum; they are standardised, so 1 is their scale.
    width = KernelWidth().solve(z) if optimum_exists(z) else 1.0
    return lambda x, y: imq_kernel(x, y, c=width), width


def _known(gram: Tensor) -> Kernel:
    return lambda x, y: gram


def _alignment(k: Tensor, other: Tensor) -> float:
    """Centred kernel alignment: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), 0 where a side is constant."""
    from paperworks.representation.ssl_hsic.estimators import centred

    k, other = centred(k), centred(other)
    largest = float(k.norm() * other.norm())
    return float((k * other).sum()) / largest if largest > 1e-12 * len(k) else 0.0
