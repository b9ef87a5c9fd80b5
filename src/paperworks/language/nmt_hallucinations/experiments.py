"""The trials: pairs that are given, human labels of repairs, and a toy translator trained and tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.data.translations import Translations
from paperworks.lab.detection import auroc, fpr_at_tpr, mcnemar, precision_at_recall, resample_weights
from paperworks.lab.study import Progress
from paperworks.language.nmt_hallucinations.adapters import reference_risk
from paperworks.language.nmt_hallucinations.corpus import CATEGORIES, HALLUCINATIONS, MitigationLabels
from paperworks.language.nmt_hallucinations.scorer import HallucinationScorer, threshold
from paperworks.worlds.text import Noise, ToyMT

if TYPE_CHECKING:
    from paperworks.language.nmt_hallucinations.study import Config

MODEL_DETECTORS = ("seq_logprob", "seq_logprob_sum", "attention_to_eos", "ignored_source", "alti")
TOY_DETECTORS = (
    "seq_logprob",
    "seq_logprob_sum",
    "mc_logprob",
    "mc_variance",
    "attention_to_eos",
    "ignored_source",
    "top_ngram",
    "repeated_target",
    "length_ratio",
    "alti",
    "attention_transport",
)
ROC_POINTS = 101


def corpus(pairs: Translations, scores: pd.DataFrame | None, *, seed: int, config: Config) -> dict[str, Any]:
    """The annotated corpus by all detectors that there are scores of."""
    risks = _given_risks(pairs, config)
    if scores is not None:
        risks = {str(name): scores[name].to_numpy(float) for name in scores.columns} | risks
    found = _judge(risks, pairs.any_of(HALLUCINATIONS), seed=seed, draws=config.bootstrap)
    kinds = {name: pairs.any_of(labels) for name, labels in CATEGORIES.items()}
    table = _by_category(risks, kinds, pairs.any_of(HALLUCINATIONS), seed=seed, draws=config.bootstrap)
    return found | table | _densities(risks, kinds, pairs)


def own(pairs: Translations, *, seed: int, config: Config) -> dict[str, Any]:
    """Translations of one's own; every label counts as a hallucination."""
    risks = _given_risks(pairs, config)
    if pairs.labels is None:
        return _agreement(risks)
    wrong = pairs.any_of(pairs.categories)
    kinds = {"any label": wrong} | {name: pairs.any_of([name]) for name in pairs.categories}
    usable = {name: rows for name, rows in kinds.items() if 0 < rows.sum() < len(pairs)}
    if not usable:
        raise ValueError(f"{pairs.name}: all labels are alike; expected rows with and without")
    found = _judge(risks, wrong, seed=seed, draws=config.bootstrap)
    table = _by_category(risks, usable, wrong, seed=seed, draws=config.bootstrap)
    return found | table | _agreement(risks) | _densities(risks, usable, pairs)


def repairs(labels: MitigationLabels, *, draws: int, seed: int) -> dict[str, Any]:
    """People's judgement of outputs before and after reranking: falls, their resamples over sources, McNemar's test."""
    before = labels.hallucinated("default")
    weights = resample_weights(len(before), draws=draws, seed=seed).astype(np.float64)
    found: dict[str, Any] = {"sources": len(before), "hallucinated_default": int(before.sum())}
    for system in ("comet", "alti", "labse"):
        after = labels.hallucinated(system)
        test = mcnemar(before, after)
        found |= {
            f"hallucinated_{system}": int(after.sum()),
            f"correct_{system}": labels.counts(system)["correct"],
            f"fall_{system}": 1 - after.sum() / before.sum(),
            f"fall_draws_{system}": 1 - (weights @ after) / (weights @ before),
            f"gone_{system}": test.only_first,
            f"new_{system}": test.only_second,
            f"mcnemar_{system}": test.p,
            f"flow_{system}": _flow(labels.outcomes["default"], labels.outcomes[system]),
        }
    return found | {"correct_default": labels.counts("default")["correct"]}


def toy(noise: Noise, *, seed: int, config: Config, progress: Progress) -> dict[str, Any]:
    """Train a toy translator, translate, label exactly, detect, and repair; all by the library's own functions."""
    import torch

    from paperworks.language.nmt_hallucinations import toy as build
    from paperworks.language.nmt_hallucinations.sampling import dissimilarity, mc_hypotheses, translate

    torch.set_num_threads(1)
    world = ToyMT(config.words, seed=seed)
    test = build.toy_test(world, scale=config.test_scale, seed=seed)
    face = build.train_toy(
        world,
        noise,
        pairs=config.pairs,
        steps=config.steps,
        target=config.target_f1,
        seed=seed,
        progress=lambda fraction, **fields: progress(0.6 * fraction, **fields),
    )
    beams = translate(face, None, test.source, num_beams=config.beams, num_return=min(2, config.beams))
    held_out = translate(face, None, test.held_out, num_beams=config.beams)
    outputs = [row[0] for row in beams]
    labels = build.label(world, test.source, outputs)
    progress(0.7)
    generator = torch.Generator().manual_seed(seed)
    scorer = HallucinationScorer(
        model=face, tokenizer=(), detectors=TOY_DETECTORS, n=config.draws, num_beams=config.beams, generator=generator
    )
    scorer.fit_reference(Translations(test.held_out, [row[0] for row in held_out]))
    pairs = Translations(test.source, outputs, reference=test.reference)
    risks = {str(name): column.to_numpy(float) for name, column in scorer.score(pairs).items()}
    hypotheses = mc_hypotheses(face, None, test.source, n=config.draws, num_beams=config.beams, generator=generator)
    risks["mc_dissimilarity"] = dissimilarity(hypotheses)
    risks["chrf++"] = reference_risk(outputs, test.reference, metric="chrf++")
    progress(0.9)
    copied = np.array([output in world.noise_targets for output in outputs])
    kinds = {
        "any hallucination": labels.hallucinated,
        "detached": labels.detached,
        "copied noise": copied & labels.hallucinated,
        "other hallucination": labels.hallucinated & ~copied,
    }
    usable = {name: rows for name, rows in kinds.items() if 0 < rows.sum() < len(rows)}
    found = _judge(risks, labels.hallucinated, seed=seed, draws=0)
    in_domain = test.slice == "in_domain"
    found |= {
        "f1_in_domain": build.token_f1(_take(outputs, in_domain), _take(test.reference, in_domain)),
        "exact_in_domain": float(np.mean([outputs[row] == test.reference[row] for row in np.flatnonzero(in_domain)])),
        "detached": int(labels.detached.sum()),
        "copied_noise": int((copied & labels.hallucinated).sum()),
        "by_slice": np.array([labels.hallucinated[test.slice == name].sum() for name in build.SLICES]),
    }
    found |= _repair_toy(world, face, test, beams, held_out, hypotheses, seed=seed, config=config)
    return found | _by_category(risks, usable, labels.hallucinated) | _densities(risks, usable, pairs)


def _repair_toy(
    world: ToyMT,
    face: Any,
    test: Any,
    beams: list[list[str]],
    held_out: list[list[str]],
    hypotheses: list[list[str]],
    *,
    seed: int,
    config: Config,
) -> dict[str, Any]:
    """DeHallucinator on all test outputs, from the draws that there are, and its controls on the suspect ones."""
    from paperworks.language.nmt_hallucinations import toy as build
    from paperworks.language.nmt_hallucinations.dehallucinator import Dehallucinator
    from paperworks.language.nmt_hallucinations.logprob import seq_logprob

    usual = seq_logprob(face, None, list(test.held_out), [row[0] for row in held_out])
    repairing = Dehallucinator(
        face,
        None,
        threshold=threshold(usual, flag_fraction=config.flag_fraction),
        n=config.draws,
        num_beams=config.beams,
    )
    outputs = [row[0] for row in beams]
    repaired = repairing.fix(list(test.source), outputs, hypotheses=hypotheses)
    suspect = repaired.table["flagged"].to_numpy(bool)
    if not suspect.any():
        raise ValueError("flag_fraction: no output is suspect; raise it")
    sources = _take(test.source, suspect)
    before = build.label(world, test.source, outputs).hallucinated
    after = build.label(world, test.source, repaired.outputs).hallucinated
    rng = np.random.default_rng(seed)
    drawn = [repaired.hypotheses[int(row)] for row in np.flatnonzero(suspect)]
    # The scorer's choice among the draws alone, so that the random choice is from the same candidates.
    scores = repairing.scorer([s for s in sources for _ in range(config.draws)], [h for row in drawn for h in row])
    best = np.asarray(scores).reshape(len(drawn), -1).argmax(1)
    chosen = [row[place] for row, place in zip(drawn, best, strict=True)]
    random = [row[rng.integers(len(row))] for row in drawn]
    second = [row[-1] for row in _take(beams, suspect)]
    oracle = [
        min(world.unsupported(s, h) for h in row) >= build.HALLUCINATED for s, row in zip(sources, drawn, strict=True)
    ]
    test_of = mcnemar(before[suspect], after[suspect])
    return {
        "suspect": int(suspect.sum()),
        "rate_before": float(before[suspect].mean()),
        "rate_after": float(after[suspect].mean()),
        "rate_all_before": float(before.mean()),
        "rate_all_after": float(after.mean()),
        "rate_chosen": float(build.label(world, sources, chosen).hallucinated.mean()),
        "rate_random": float(build.label(world, sources, random).hallucinated.mean()),
        "rate_second": float(build.label(world, sources, second).hallucinated.mean()),
        "rate_oracle": float(np.mean(oracle)),
        "mcnemar": test_of.p,
        "flow": _flow(before[suspect].astype(int) * 2, after[suspect].astype(int) * 2),
    }


def _given_risks(pairs: Translations, config: Config) -> dict[str, np.ndarray]:
    """All detectors that pairs allow: from their texts, their references, scores that came with them, a surrogate."""
    names = ["top_ngram", "repeated_target", "length_ratio"]
    if pairs.reference is not None:
        names += ["chrf2", "chrf++"]
    model = tokenizer = None
    if config.surrogate:
        model, tokenizer = load_model(config.surrogate)
        names += MODEL_DETECTORS
    frame = HallucinationScorer(model=model, tokenizer=tokenizer, detectors=names).score(pairs)
    risks = {str(name): column.to_numpy(float) for name, column in frame.items()}
    if pairs.risks is not None:
        risks |= {str(name): pairs.risks[name].to_numpy(float) for name in pairs.risks.columns}
    return risks


def load_model(name: str) -> tuple[Any, Any]:
    """A translation model and its tokenizer from the hub or a folder; a leading `hf:` is allowed.

    Raises:
        ValueError: transformers is missing, or there is no such model.
    """
    try:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    except ImportError as error:
        raise ValueError("a model needs transformers; install it with: pip install 'paperworks[language]'") from error
    name = name.removeprefix("hf:")
    try:
        return AutoModelForSeq2SeqLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"model: {name!r} could not be loaded: {str(error).splitlines()[0]}") from error


def _judge(risks: dict[str, np.ndarray], wrong: np.ndarray, *, seed: int, draws: int) -> dict[str, Any]:
    """AUROC, FPR at 90 % recall, precision at 90 % recall of every detector, and resamples of the AUROC."""
    found: dict[str, Any] = {"pairs": len(wrong), "positives": int(wrong.sum())}
    if not 0 < wrong.sum() < len(wrong):
        return found
    weights = resample_weights(len(wrong), draws=draws, seed=seed) if draws else None
    for name, risk in risks.items():
        found |= {
            f"auroc_{name}": auroc(risk, wrong),
            f"fpr90_{name}": fpr_at_tpr(risk, wrong),
            f"p90_{name}": precision_at_recall(risk, wrong),
            f"roc_{name}": _roc(risk, wrong),
        }
        if weights is not None:
            drawn = auroc(risk, wrong, weights=weights)
            found[f"draws_{name}"] = drawn
    return found


def _by_category(
    risks: dict[str, np.ndarray], kinds: dict[str, np.ndarray], wrong: np.ndarray, *, seed: int = 0, draws: int = 0
) -> dict[str, Any]:
    """AUROC (categories, detectors) against all the rest, and against rows without any hallucination; names, counts.

    With `draws` the ends of 95 % intervals stand beside them, by resampling rows.
    """
    weights = resample_weights(len(wrong), draws=draws, seed=seed) if draws else None
    found = {name: np.full((len(kinds), len(risks), 3), np.nan) for name in ("rest", "clean")}
    for place, rows in enumerate(kinds.values()):
        for column, risk in enumerate(risks.values()):
            for name, kept in (("rest", np.ones_like(wrong)), ("clean", rows | ~wrong)):
                if 0 < rows[kept].sum() < kept.sum():
                    found[name][place, column] = _estimate_and_ends(risk[kept], rows[kept], weights, kept)
    return {
        "categories": "\x1f".join(kinds),
        "detectors": "\x1f".join(risks),
        "category_counts": np.array([rows.sum() for rows in kinds.values()]),
        "auroc_rest": found["rest"],
        "auroc_clean": found["clean"],
        "caught": _caught(risks, kinds, wrong),
    }


def _estimate_and_ends(risk: np.ndarray, rows: np.ndarray, weights: Any, kept: np.ndarray) -> tuple[float, Any, Any]:
    if weights is None:
        return auroc(risk, rows), np.nan, np.nan
    low, high = np.nanquantile(auroc(risk, rows, weights=weights[:, kept]), [0.025, 0.975])
    return auroc(risk, rows), low, high


def _caught(risks: dict[str, np.ndarray], kinds: dict[str, np.ndarray], wrong: np.ndarray) -> np.ndarray:
    """(categories, detectors) the share of a category among the pairs that a detector holds for the riskiest.

    As many are taken as there are hallucinations; where risks tie at the border, the expected share is given.
    """
    count = int(wrong.sum())
    table = np.zeros((len(kinds), len(risks)))
    for column, risk in enumerate(risks.values()):
        border = np.sort(risk)[-count]
        above, tied = risk > border, risk == border
        chance = (count - above.sum()) / max(1, tied.sum())
        table[:, column] = [(above[rows].sum() + chance * tied[rows].sum()) / rows.sum() for rows in kinds.values()]
    return table


def _densities(risks: dict[str, np.ndarray], kinds: dict[str, np.ndarray], pairs: Translations) -> dict[str, Any]:
    """What the figures of score densities and of risk against length need: Seq-Logprob, or else the best there is."""
    shown = "seq_logprob" if "seq_logprob" in risks else next(iter(risks))
    member = np.stack(list(kinds.values()))
    lengths = np.array([len(source.split()) for source in pairs.source])
    return {"shown": shown, "shown_risk": risks[shown], "shown_member": member, "source_length": lengths}


def _agreement(risks: dict[str, np.ndarray]) -> dict[str, Any]:
    """Spearman's correlation between detectors (those that vary), and each one's 95 % quantile."""
    ranks = np.stack([pd.Series(risk).rank().to_numpy() for risk in risks.values()])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.corrcoef(ranks)
    quantiles = np.array([np.quantile(risk, 0.95) for risk in risks.values()])
    return {"agreement": np.atleast_2d(correlation), "quantile95": quantiles, "agreeing": "\x1f".join(risks)}


def _roc(risk: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """True-positive rates at 101 even false-positive rates."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(wrong, risk)
    return np.interp(np.linspace(0, 1, ROC_POINTS), fpr, tpr)


def _flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(3, 3) how many rows went from each outcome to each: correct, error, hallucination."""
    table = np.zeros((3, 3), dtype=int)
    np.add.at(table, (before, after), 1)
    return table


def _take(values: Sequence[Any], mask: np.ndarray) -> list[Any]:
    return [value for value, chosen in zip(values, mask, strict=True) if chosen]
