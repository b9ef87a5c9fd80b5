"""Fits on disk: arrays in safetensors, names and settings in JSON, and the paper's released posterior."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from paperworks._files import write_atomic
from paperworks.evaluation.irt.fitted import IRTFit
from paperworks.evaluation.irt.priors import Priors

VERSION = 1
ARRAYS = ("params", "sd", "weights", "p_correct", "n", "theta", "theta_sd", "accuracy", "n_answered", "objective")
AUTHORS_ITEMS = ("log_a", "b", "logit_c")


def save(fit: IRTFit, path: str | Path) -> None:
    """Write both files, the arrays first; the JSON names the arrays' checksum, so a torn pair is noticed."""
    from safetensors.numpy import save as pack

    stem = _stem(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    arrays = pack({name: np.ascontiguousarray(getattr(fit, name)) for name in ARRAYS})
    content = {
        "version": VERSION,
        "model": fit.model,
        "method": fit.method,
        "loglik": fit.loglik,
        "iterations": fit.iterations,
        "converged": fit.converged,
        "priors": {name: repr(value) for name, value in asdict(fit.priors).items()},
        "arrays_sha256": hashlib.sha256(arrays).hexdigest(),
        "responders": list(fit.responder_names),
        "families": None if fit.families is None else fit.families.tolist(),
        "items": list(fit.item_names),
        "groups": None if fit.groups is None else fit.groups.tolist(),
    }
    write_atomic(Path(f"{stem}.safetensors"), arrays)
    write_atomic(Path(f"{stem}.json"), json.dumps(content, indent=1).encode())


def load(path: str | Path) -> IRTFit:
    """Read a fit that `save` wrote."""
    from safetensors.numpy import load as unpack

    stem = _stem(path)
    try:
        content = json.loads(Path(f"{stem}.json").read_bytes())
        packed = Path(f"{stem}.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: no such file; a fit is <path>.json and <path>.safetensors") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{stem}.json: not the JSON of a fit ({error})") from None
    if content.get("version") != VERSION:
        raise ValueError(f"{stem}.json: expected a fit of version {VERSION}, got {content.get('version')}")
    if hashlib.sha256(packed).hexdigest() != content["arrays_sha256"]:
        raise ValueError(f"{stem}.safetensors: not the arrays that {stem.name}.json describes; save the fit again")
    arrays: dict[str, Any] = unpack(packed)
    return IRTFit(
        model=content["model"],
        method=content["method"],
        item_names=tuple(content["items"]),
        groups=_labels(content["groups"]),
        responder_names=tuple(content["responders"]),
        families=_labels(content["families"]),
        loglik=content["loglik"],
        iterations=content["iterations"],
        converged=content["converged"],
        priors=Priors(**{name: float(value) for name, value in content["priors"].items()}),
        **arrays,
    )


def from_authors(item_params: str | Path, theta: str | Path) -> IRTFit:
    """The posterior that the paper's authors released, as a VI fit without responses.

    Raises:
        ValueError: a column is missing.
    """
    import pandas as pd

    items, abilities = pd.read_parquet(item_params), pd.read_csv(theta)
    wanted = {"dataset", "item"} | {f"{name}_{part}" for name in AUTHORS_ITEMS for part in ("mu", "logstd")}
    for path, frame, columns in (
        (item_params, items, wanted),
        (theta, abilities, {"userid", "theta_mu", "theta_logstd"}),
    ):
        if missing := columns - set(frame.columns):
            raise ValueError(f"{path}: expected the authors' columns, {', '.join(sorted(missing))} missing")
    count, responders = len(items), len(abilities)
    params, sd = np.full((4, count), -np.inf), np.zeros((4, count))
    for row, name in enumerate(AUTHORS_ITEMS):
        params[row] = items[f"{name}_mu"].to_numpy(np.float64)
        sd[row] = np.exp(items[f"{name}_logstd"].to_numpy(np.float64))
    groups = items["dataset"].astype(str).to_numpy().astype(np.str_)
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return IRTFit(
        "3pl",
        "vi",
        params,
        sd,
        1 / sizes[which],
        np.full(count, np.nan),
        np.full(count, responders),
        tuple(items["item"].astype(str)),
        groups,
        abilities["theta_mu"].to_numpy(np.float64),
        np.exp(abilities["theta_logstd"].to_numpy(np.float64)),
        np.full(responders, np.nan),
        np.full(responders, count),
        tuple(abilities["userid"].astype(str)),
        iterations=500,
    )


def _labels(names: list[str] | None) -> np.ndarray | None:
    return None if names is None else np.array(names, dtype=np.str_)


def _stem(path: str | Path) -> Path:
    text = os.fspath(path)
    path = Path(path)
    if path.is_dir() or text.endswith(("/", os.sep)):
        return path / "fit"
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
