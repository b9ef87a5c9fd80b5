"""`paperworks apply attention_flow texts.csv --model ./my-classifier --out out/`: explain texts, token by token.

Writes tokens.csv (a row per token), summary.csv (a row per text) and report.html. Without a model, saved attention
weights do: `--attentions a.npz`, one array (L, H, n, n) per text.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from paperworks._files import write_atomic
from paperworks.data.errors import DataError, DataMissing
from paperworks.evaluation.attention_flow.layers import attention_graph
from paperworks.evaluation.attention_flow.report import (
    DEFAULT_METHODS,
    FLOW_METHODS,
    NAMES,
    FlowReport,
    check_methods,
)

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = ("tokens.csv", "summary.csv", "report.html")
SHOWN = 50


def apply(
    texts: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    model: str | None = None,
    attentions: Path | None = None,
    out: Path = Path("attention-flow"),
    column: str = "text",
    target: str | None = None,
    methods: str = "",
    max_tokens: int = 64,
    permutations: int = 32,
    output: int | None = None,
    residual: float = 0.5,
    seed: int = 0,
) -> str:
    """Show which tokens count, by attention flow and by what they are worth to the model itself.

    Says for every text how much of flow is decided by the first layer alone, so that flow can be distrusted where it
    means nothing.

    Args:
        texts: csv, tsv, jsonl or parquet (- for standard input) with a column of texts.
        model: folder (or hub name) of a transformers classifier or language model with its tokenizer.
        attentions: an npz of attention weights in place of texts and model, one array (L, H, n, n) or (L, n, n) per
            text; an array NAME.tokens beside NAME gives its tokens.
        out: folder to write to.
        column: column with the texts.
        target: explain this label (or, for language models, this token), or the label that stands in a column of this
            name; default: what the model predicts.
        methods: some of flow, shapley, rollout, raw, model_shapley, model_loo, gradient; default: the first five
            (without a model: the first four).
        max_tokens: longer texts are cut there; summary.csv says by how much.
        permutations: orders behind the model's Shapley values beyond 10 tokens; each costs a pass per token.
        output: position that flow starts from, for --attentions; default: the last for causal weights, else the first.
        residual: share of the residual connection.
        seed: of the sampling.

    Raises:
        ValueError: unfit input, contradicting options, or an output that would overwrite an input.
    """
    if (model is None) == (attentions is None):
        raise ValueError("model: give either texts and --model FOLDER, or --attentions file.npz")
    if (texts is None) != (model is None):
        raise ValueError("texts: --model needs a table of texts, and --attentions takes none")
    if permutations < 4:
        raise ValueError(f"permutations: expected at least 4, got {permutations}")
    out = Path(out)
    _keep_inputs(out, [source for source in (texts, attentions) if source is not None])
    chosen = _methods(methods, with_model=model is not None)
    names: list[str]
    if model is not None and texts is not None:
        options = {"max_tokens": max_tokens, "n_permutations": permutations, "residual": residual, "seed": seed}
        names, reports = _of_texts(texts, model, column, target, chosen, options)
    else:
        names, reports = _of_weights(Path(attentions or ""), chosen, output, residual, seed)
    tokens, summary = token_table(names, reports), summary_table(names, reports)
    said = findings(reports)
    out.mkdir(parents=True, exist_ok=True)
    _write_frame(out / "tokens.csv", tokens)
    _write_frame(out / "summary.csv", summary)
    write_atomic(out / "report.html", _page(names, reports, said, str(texts or attentions), model))
    return "\n".join([*said, f"written: {', '.join(OUTPUTS)} in {out}", f"report: {out / 'report.html'}"])


def token_table(names: Sequence[str], reports: Sequence[FlowReport]) -> pd.DataFrame:
    """One row per token: row, position, token, a column per method, and low, high of all maximum flows."""
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "row": name,
                "position": np.arange(len(report.tokens)),
                "token": [token.strip() for token in report.tokens],
                **report.values,
                **({} if report.stderr is None else {"model_shapley_stderr": report.stderr}),
                "low": report.low,
                "high": report.high,
            }
        )
        for name, report in zip(names, reports, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def summary_table(names: Sequence[str], reports: Sequence[FlowReport]) -> pd.DataFrame:
    """One row per text: what was explained, how degenerate its flow is, and every method's rank correlation."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "row": name,
                "prediction": report.label,
                "probability": report.probability,
                "tokens": len(report.tokens),
                "cut_tokens": report.cut,
                "degeneracy_share": float(report.degeneracy.trivial_share.mean()),
                "variation_over_outputs": float(report.degeneracy.variation.mean()),
                **{f"correlation_{method}": value for method, value in report.correlations().items()},
            }
            for name, report in zip(names, reports, strict=True)
        ]
    )


def findings(reports: Sequence[FlowReport]) -> list[str]:
    """What was found in words, also that flow says nothing."""
    shares = np.array([float(report.degeneracy.trivial_share.mean()) for report in reports])
    spread = float(np.mean([float(report.degeneracy.variation.mean()) for report in reports]))
    many = "1 text" if len(reports) == 1 else f"{len(reports)} texts"
    said = [
        f"Degeneracy in {many}: {shares.mean():.0%} of flows are column sums of the first layer; between outputs a "
        f"flow differs by {spread:.3f}."
    ]
    if shares.mean() >= 0.9:
        said.append(
            "So flow is no evidence about these predictions: it hardly depends on the output that it starts from."
        )
    if cut := sum(report.cut > 0 for report in reports):
        said.append(f"{cut} of {len(reports)} texts were cut (--max-tokens); summary.csv says by how many tokens.")
    correlations: dict[str, list[float]] = {}
    for report in reports:
        for method, value in report.correlations().items():
            if not np.isnan(value):
                correlations.setdefault(method, []).append(value)
    if correlations:
        ranked = sorted(correlations, key=lambda method: -float(np.mean(correlations[method])))
        words = ", ".join(f"{NAMES[method]} {np.mean(correlations[method]):.2f}" for method in ranked)
        said.append(f"Mean rank correlation with what the tokens are worth to the model: {words}.")
    return said


def _methods(text: str, *, with_model: bool) -> tuple[Any, ...]:
    if not text.strip():
        return DEFAULT_METHODS if with_model else FLOW_METHODS
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    check_methods(chosen)
    if not with_model and (unfit := [method for method in chosen if method not in FLOW_METHODS]):
        raise ValueError(f"methods: {unfit[0]} needs --model; attention weights alone give {', '.join(FLOW_METHODS)}")
    return chosen


def _of_texts(
    source: str, model: str, column: str, target: str | None, methods: tuple[Any, ...], options: dict[str, Any]
) -> tuple[list[str], list[FlowReport]]:
    from paperworks.data.tables import read_table, row_name
    from paperworks.evaluation.attention_flow.explain import load_model

    columns = {} if column == "text" else {"text": column}
    frame = read_table(source, columns=columns, required=("text",), text=("text",))
    per_row = target is not None and target in frame.columns
    loaded, tokenizer = load_model(model)
    names, reports = [], []
    for row, text in enumerate(frame["text"].tolist()):
        where = row_name(frame, row)
        wanted = str(frame[target].iloc[row]) if per_row else target
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{source}: {where}: {column!r} is empty; fill or drop the row")
        try:
            report = FlowReport.from_text(loaded, tokenizer, text, wanted, methods=methods, **options)
        except ValueError as error:
            raise DataError(f"{source}: {where}: {error}") from error
        names.append(where)
        reports.append(report)
    return names, reports


def _of_weights(
    path: Path, methods: tuple[Any, ...], output: int | None, residual: float, seed: int
) -> tuple[list[str], list[FlowReport]]:
    names, reports = [], []
    for name, weights, tokens in _arrays(path):
        try:
            layers = attention_graph(weights, residual=residual).layers[0]
            causal = bool(layers.triu(1).amax() <= 1e-6)
            start = output if output is not None else (-1 if causal else 0)
            if not -layers.shape[-1] <= start < layers.shape[-1]:
                raise ValueError(f"output: expected a position from 0 to {layers.shape[-1] - 1}, got {start}")
            report = FlowReport.from_layers(layers, start, tokens=tokens, methods=methods, residual=residual, seed=seed)
        except ValueError as error:
            raise DataError(f"{path}: array {name!r}: {error}") from error
        names.append(name)
        reports.append(report)
    return names, reports


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray, list[str] | None]]:
    """Name, weights and tokens of every text of an npz."""
    if not path.exists():
        raise DataMissing(f"{path}: no such file; expected an npz with one array (L, H, n, n) per text")
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {name: content[name] for name in content.files}
    except (ValueError, OSError, AttributeError) as error:
        raise DataError(f"{path}: not an npz of plain arrays ({error}); write it with numpy.savez") from error
    names = [name for name in arrays if not name.endswith(".tokens")]
    if not names:
        raise DataError(f"{path}: holds no array of attention weights")
    for name in names:
        weights = arrays[name]
        if weights.ndim not in (3, 4) or not np.issubdtype(weights.dtype, np.floating):
            raise DataError(
                f"{path}: array {name!r}: expected floating-point (L, H, n, n) or (L, n, n), got {weights.dtype} "
                f"{weights.shape}"
            )
        tokens = [f" {token}" for token in arrays[f"{name}.tokens"].tolist()] if f"{name}.tokens" in arrays else None
        if tokens is not None and len(tokens) != weights.shape[-1]:
            raise DataError(f"{path}: {name}.tokens has {len(tokens)} tokens, {name} has {weights.shape[-1]}")
        yield name, weights, tokens


def _page(
    names: Sequence[str], reports: Sequence[FlowReport], said: Sequence[str], source: str, model: str | None
) -> bytes:
    from paperworks.evaluation.attention_flow.page import render

    facts = {"Input": source, **({} if model is None else {"Model": model})}
    if len(reports) > SHOWN:
        said = [*said, f"The first {SHOWN} of {len(reports)} texts are shown; tokens.csv has all."]
    page = render(reports[:SHOWN], title="What tokens count for", headings=names[:SHOWN], findings=said, facts=facts)
    return page.encode("utf-8", errors="replace")


def _keep_inputs(out: Path, inputs: Sequence[str | Path]) -> None:
    """Refuse to write over what is read."""
    written = {(out / name).resolve() for name in OUTPUTS}
    for path in inputs:
        if str(path) != "-" and Path(path).resolve() in written:
            raise ValueError(f"out: {path} is read and would be written; choose another folder with --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder")


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    stream = io.StringIO()
    frame.to_csv(stream, index=False, float_format="%.8g", lineterminator="\n")
    write_atomic(path, stream.getvalue().encode("utf-8", errors="replace"))
