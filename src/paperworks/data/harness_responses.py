"""Response tables from the logs of evaluation harnesses: lm-evaluation-harness and HELM."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.response_readers import assemble
from paperworks.data.responses import Responses

_SAMPLES = re.compile(r"samples_(?P<task>.+?)(_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+))?\.jsonl")
LM_EVAL_METRICS = ("acc", "exact_match")
HELM_METRICS = ("exact_match", "quasi_exact_match", "prefix_exact_match", "exact_match_indicator")


@dataclass
class _Answers:
    """Answers as they are collected, in parallel lists."""

    responder: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    place: list[str] = field(default_factory=list)

    def add(self, responder: str, group: str, item: str, score: Any, place: str) -> None:
        if not isinstance(score, (bool, int, float)):
            raise DataError(f"{place}: expected a number for the score, got {score!r:.60}")
        self.responder.append(responder)
        self.group.append(group)
        self.item.append(f"{group}/{item}")
        self.score.append(float(score))
        self.place.append(place)

    def table(self, folder: Path, binarize: float | None) -> Responses:
        return assemble(
            str(folder),
            responder=self.responder,
            item=self.item,
            group=self.group,
            numbers=np.array(self.score),
            binarize=binarize,
            places=self.place,
        )


def read_lm_eval(
    folder: str | os.PathLike[str],
    *,
    metric: str | Mapping[str, str] | None = None,
    filter: str | Mapping[str, str] | None = None,
    binarize: float | None = None,
) -> Responses:
    """Read the per-sample logs that lm-evaluation-harness writes with `--log_samples`.

    Responders are the folders that hold `samples_<task>_<date>.jsonl` (the harness makes one per model; files that lie
    in `folder` itself take the model's name from the results file beside them). Groups are tasks, items are
    `<task>/<doc_id>`.

    Args:
        folder: what was `--output_path`.
        metric: which score, for all tasks or by task; default: `acc`, else `exact_match`, else the only one.
        filter: which answer filter (`strict-match`, ...), for all tasks or by task; default: `none`, else the only one.
        binarize: scores of at least this count as right.

    Raises:
        DataMissing: no such folder, or no sample file in it.
        DataError: a broken line; two runs of one task; a document that differs between models; a metric or filter
            that must be chosen.
    """
    root = _folder(folder)
    paths = sorted(path for path in root.rglob("samples_*.jsonl") if _SAMPLES.fullmatch(path.name))
    if not paths:
        raise DataMissing(
            f"{root}: no samples_*.jsonl in it; run the harness with --log_samples, or give its --output_path"
        )
    answers, hashes, runs = _Answers(), {}, {}
    for path in paths:
        name = _SAMPLES.fullmatch(path.name)
        assert name is not None
        task, responder = name["task"], _lm_eval_model(root, path, name["date"])
        if (responder, task) in runs:
            raise DataError(
                f"{path}: a second run of {task} by {responder}, after {runs[responder, task]}; move one away"
            )
        runs[responder, task] = path
        rows = list(_json_lines(path))
        wanted_filter = _choice("filter", filter, task, path, [row.get("filter", "none") for _, row in rows], ("none",))
        wanted = _choice("metric", metric, task, path, _metrics(row for _, row in rows), LM_EVAL_METRICS)
        for line, row in rows:
            if row.get("filter", "none") != wanted_filter:
                continue
            if "doc_id" not in row or wanted not in row:
                raise DataError(f"{path}: line {line}: expected doc_id and {wanted}, got {', '.join(row)[:200]}")
            key, text = (task, row["doc_id"]), row.get("doc_hash")
            if text is not None and hashes.setdefault(key, text) != text:
                raise DataError(
                    f"{path}: line {line}: document {row['doc_id']} of {task} is another text than in the logs before "
                    f"(doc_hash); run all models on the same version of the data"
                )
            answers.add(responder, task, str(row["doc_id"]), row[wanted], f"{path}: line {line}")
    return answers.table(root, binarize)


def read_helm(
    folder: str | os.PathLike[str],
    *,
    metric: str | Mapping[str, str] | None = None,
    trial: int = 0,
    binarize: float | None = None,
) -> Responses:
    """Read `per_instance_stats.json` of HELM runs, one folder per run (`<scenario>:<arguments>,model=<model>`).

    Responders are models, groups are runs less their model, items are `<group>/<instance id>`. Perturbed copies of an
    instance are left out.

    Args:
        folder: a suite (`benchmark_output/runs/<suite>`) or anything above it.
        metric: which score, for all groups or by group; default: `exact_match`, else `quasi_exact_match`, else
            `prefix_exact_match`.
        trial: which training trial, where a run has several.
        binarize: scores of at least this count as right.

    Raises:
        DataMissing: no such folder, or no run in it.
        DataError: a broken file; two runs of one scenario by one model; a metric that must be chosen.
    """
    root = _folder(folder)
    paths = sorted(root.rglob("per_instance_stats.json"))
    if not paths:
        raise DataMissing(f"{root}: no per_instance_stats.json in it; give HELM's benchmark_output/runs/<suite>")
    answers, runs = _Answers(), {}
    for path in paths:
        responder, group = _helm_run(path)
        if (responder, group) in runs:
            raise DataError(
                f"{path}: a second run of {group} by {responder}, after {runs[responder, group]}; move one away"
            )
        runs[responder, group] = path
        instances = [
            (number, entry)
            for number, entry in enumerate(_json(path), start=1)
            if "perturbation" not in entry and entry.get("train_trial_index", 0) == trial
        ]
        scores = [{stat["name"]["name"]: _mean(stat) for stat in _plain_stats(entry)} for _, entry in instances]
        names = [name for row in scores for name in row]
        wanted = _choice("metric", metric, group, path, names, HELM_METRICS, only=False)
        for (number, entry), row in zip(instances, scores, strict=True):
            if wanted not in row:
                raise DataError(f"{path}: entry {number}: no {wanted} for instance {entry['instance_id']!r}")
            answers.add(responder, group, entry["instance_id"], row[wanted], f"{path}: entry {number}")
    return answers.table(root, binarize)


def is_lm_eval(folder: Path) -> bool:
    """Whether a folder holds sample logs of lm-evaluation-harness."""
    return any(_SAMPLES.fullmatch(path.name) for path in folder.rglob("samples_*.jsonl"))


def is_helm(folder: Path) -> bool:
    """Whether a folder holds runs of HELM."""
    return any(folder.rglob("per_instance_stats.json"))


def _folder(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise DataMissing(f"{root}: no such folder (the current folder is {Path.cwd()})")
    return root


def _lm_eval_model(root: Path, path: Path, date: str | None) -> str:
    """The folder below `root`, with `org__name` as `org/name`; in `root` itself, what the results file says."""
    if path.parent != root:
        return path.parent.relative_to(root).as_posix().replace("__", "/")
    results = root / f"results_{date}.json"
    if date is not None and results.exists():
        return str(_json(results).get("model_name") or root.name)
    return root.resolve().name.replace("__", "/")


def _metrics(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the scores in sample logs: newer logs list them, in older ones they are what is a number."""
    names: dict[str, None] = {}
    for row in rows:
        listed = row.get("metrics") or [
            name for name, value in row.items() if isinstance(value, (int, float)) and name != "doc_id"
        ]
        names.update(dict.fromkeys(listed))
    return list(names)


def _helm_run(path: Path) -> tuple[str, str]:
    """Model and scenario of a run, from its folder's name and, where there is one, `run_spec.json`."""
    name = path.parent.name
    match = re.search(r"[,:]?model=([^,]+)", name)
    spec = path.with_name("run_spec.json")
    model = _json(spec).get("adapter_spec", {}).get("model") if spec.exists() else None
    if match is None and model is None:
        raise DataError(f"{path.parent}: cannot tell the model: no model=... in the folder's name and no run_spec.json")
    group = name if match is None else name[: match.start()] + name[match.end() :]
    return str(model or (match and match[1])), group.strip(",:") or "all"


def _plain_stats(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (stat for stat in entry["stats"] if "perturbation" not in stat["name"])


def _mean(stat: Mapping[str, Any]) -> float:
    if "mean" in stat:
        return stat["mean"]
    return stat["sum"] / stat["count"] if stat.get("count") else float("nan")


def _choice(
    argument: str,
    chosen: str | Mapping[str, str] | None,
    task: str,
    path: Path,
    found: Iterable[str],
    preferred: tuple[str, ...],
    *,
    only: bool = True,
) -> str:
    """The metric or filter to use: what was asked for, else the first preferred one, else the only one."""
    names = list(dict.fromkeys(found))
    wanted = chosen.get(task) if isinstance(chosen, Mapping) else chosen
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{path}: no {argument} {wanted!r}; it has {', '.join(names) or 'none'}")
        return wanted
    for name in preferred:
        if name in names:
            return name
    if only and len(names) == 1:
        return names[0]
    listed = ", ".join(map(repr, names[:20])) or "none"
    raise DataError(f"{path}: which {argument} for {task}? it has {listed}; choose one with {argument}=")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not whole JSON ({error}); copy or write it again") from None


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as stream:
        for line, content in enumerate(stream, start=1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {line}: {error.msg}; expected one JSON object a line") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {line}: expected a JSON object, got {type(row).__name__}")
            yield line, row
