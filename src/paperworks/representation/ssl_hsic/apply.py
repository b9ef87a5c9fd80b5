"""`paperworks apply ssl_hsic table.csv --x age,dose --y outcome`: are columns independent, whatever their relation?

Writes dependence.csv and report.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from paperworks._files import write_atomic
from paperworks.data.errors import DataError, DataMissing
from paperworks.data.outputs import check_output_folder, write_frame
from paperworks.representation.ssl_hsic.dependence import Name, Pair, dependence_table, parse_pair, says

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
OUTPUTS = ("dependence.csv", "report.html")
SHOWN = 12


def apply(
    table: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    x: str = "",
    y: str = "",
    pairs: tuple[str, ...] = (),
    by: str | None = None,
    kernel: Name = "imq",
    permutations: int = 1000,
    rows: int = 2000,
    seed: int = 0,
    out: Path = Path("dependence"),
) -> str:
    """Test groups of columns for independence by HSIC and permutations, with Holm's correction over all pairs.

    Finds any relation, not only linear ones; says how strong it is (CKA, 0 to 1) and how sure that it is there.

    Args:
        table: a csv, tsv, parquet or jsonl file (- for standard input), or two .npy files of paired rows.
        x: columns of one side, with commas between them.
        y: columns of the other side.
        pairs: several questions at once, each as columns:columns, such as age,dose:outcome.
        by: exchange rows only within the values of this column: are x and y independent given it?
        kernel: imq (the paper's), rbf, or linear (linear relations only).
        permutations: of the rows, behind each p-value.
        rows: larger tables are sampled down to this many rows.
        seed: of the permutations and the sample.
        out: folder to write to.

    Raises:
        ValueError: contradicting options. DataError: a table or column that does not fit.
    """
    folder = check_output_folder(out, inputs=table, writes=OUTPUTS)
    if len(table) == 2 and (x or y or pairs):
        raise ValueError("x, y, pairs: two .npy files are the two sides themselves; leave these out")
    if len(table) == 1 and (bool(x) != bool(y) or not (x or pairs)):
        raise ValueError("x, y: expected both --x and --y, or --pairs columns:columns")
    frame, source, asked = _read(table)
    asked += [*([parse_pair(f"{x}:{y}")] if x else []), *map(parse_pair, pairs)]
    result = dependence_table(
        frame, asked, source=source, by=by, kernel=kernel, permutations=permutations, most_rows=rows, seed=seed
    )
    lines = [says(row, permutations) for row in result.to_dict("records")]
    folder.mkdir(parents=True, exist_ok=True)
    write_frame(folder / "dependence.csv", result)
    page = _page(frame, asked, result, lines, source, {"kernel": kernel, "permutations": permutations, "seed": seed})
    write_atomic(folder / "report.html", page.encode("utf-8", errors="replace"))
    return "\n".join([*lines, f"written: {', '.join(OUTPUTS)} in {folder}"])


def _read(table: tuple[str, ...]) -> tuple[pd.DataFrame, str, list[Pair]]:
    """The table, its name in messages, and the question that two arrays ask by themselves."""
    from paperworks.data.tables import read_table

    if len(table) == 1 and not table[0].endswith(".npy"):
        return read_table(table[0]), table[0], []
    if len(table) != 2 or not all(name.endswith(".npy") for name in table):
        raise ValueError(f"table: expected one table or two .npy files, got {', '.join(table) or 'nothing'}")
    frame = _from_arrays(*table)
    sides = [tuple(name for name in frame.columns if name.startswith(side)) for side in "xy"]
    return frame, f"{table[0]} and {table[1]}", [Pair(sides[0], sides[1])]


def _from_arrays(*files: str) -> pd.DataFrame:
    """Both arrays side by side, with columns x, x_1, ... and y, y_1, ...."""
    import numpy as np
    import pandas as pd

    arrays = []
    for file in files:
        if not Path(file).exists():
            raise DataMissing(f"{file}: no such file")
        try:
            array = np.load(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{file}: not an array of numbers ({error})") from None
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.number):
            raise DataError(f"{file}: expected numbers (n,) or (n, d), got {array.dtype} {array.shape}")
        arrays.append(array.reshape(len(array), -1).astype(np.float64))
    if len(arrays[0]) != len(arrays[1]):
        raise DataError(f"{files[1]}: has {len(arrays[1])} rows, {files[0]} has {len(arrays[0])}; rows must be pairs")
    columns = {
        f"{side}{'' if column == 0 else f'_{column}'}": array[:, column]
        for side, array in zip("xy", arrays, strict=True)
        for column in range(array.shape[1])
    }
    return pd.DataFrame(columns)


def _page(
    frame: pd.DataFrame, pairs: list[Pair], result: pd.DataFrame, lines: list[str], source: str, facts: dict[str, Any]
) -> str:
    from paperworks.lab import page, report
    from paperworks.lab.facts import table_facts

    figures = [
        page.figure(f"pair-{number}", f"{pair}, rows as they are.", drawn)
        for number, pair in enumerate(pairs[:SHOWN])
        if (drawn := _scatter(frame, pair)) is not None
    ]
    return page.render(
        TEMPLATES,
        "report.html",
        title=f"Independence of columns: {source}",
        findings=lines,
        table=report.table(table_facts(result)),
        figures=figures,
        facts=facts,
    )


def _scatter(frame: pd.DataFrame, pair: Pair) -> Figure | None:
    """Where both sides are one column, of which at least one is numeric."""
    import pandas as pd
    from matplotlib.figure import Figure

    names = [*pair.x, *pair.y]
    if len(names) > 2:
        return None
    both = frame[names].dropna()
    numeric = [pd.api.types.is_numeric_dtype(both[name]) for name in both.columns]
    if not any(numeric):
        return None
    plot = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = plot.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    values = [
        both[name] if is_number else both[name].astype(str).str.slice(0, 20).replace(r"\$", r"\\$", regex=True)
        for name, is_number in zip(both.columns, numeric, strict=True)
    ]
    axes.plot(*(value.to_numpy() for value in values), "o", ms=3, alpha=0.4, color="#2a6fbb", rasterized=True)
    axes.set_xlabel(names[0].replace("$", r"\$"))
    axes.set_ylabel(names[1].replace("$", r"\$"))
    return plot
