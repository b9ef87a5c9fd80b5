"""What the study's trials measure: fits of a benchmark, unseen answers, wrong labels, and small subsets of items."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.diagnostics import Suspicion, group_draws, item_fit, select_items, suspect_items
from paperworks.evaluation.irt.fit import fit_irt, score_responders
from paperworks.evaluation.irt.fitted import IRTFit
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.simulate import simulate_responses

BOX = (0.05, 0.25, 0.50, 0.75, 0.95)
STRONGEST_FAMILIES = ("albert-xxlarge-v2", "roberta-large", "xlm-roberta-large", "roberta-base")
Scalars = dict[str, Any]


def quiet_fit(responses: Responses, **options: Any) -> IRTFit:
    """`fit_irt` without its advice to people: hopeless responders at the edge are expected here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="abilities at the edge")
        return fit_irt(responses, **options)


def describe_sets(fit: IRTFit, *, draws: int, seed: int) -> Scalars:
    """Per set: quantiles of headroom and log-discrimination, their sums, and bootstrap draws of the upper quartile."""
    groups = np.asarray(fit.groups)
    names = np.array(list(dict.fromkeys(groups.tolist())))
    members = [groups == name for name in names]
    leh, log_a = fit.leh(), fit.log_a
    result: Scalars = {
        "sets": names,
        "items": np.array([part.sum() for part in members]),
        "leh": np.array([np.quantile(leh[part], BOX) for part in members]),
        "log_a": np.array([np.quantile(log_a[part], BOX) for part in members]),
        "log_a_mean": np.array([log_a[part].mean() for part in members]),
        "theta": fit.theta,
        "theta_sd": fit.theta_sd,
        "responder_accuracy": fit.accuracy,
        "best": fit.best,
        "iterations": fit.iterations,
    }
    if draws:
        result["leh_draws"] = group_draws(fit, bootstrap=draws, seed=seed).values.astype(np.float32)
    return result


def fit_benchmark(responses: Responses, estimator: str, *, steps: int, draws: int, seed: int) -> Scalars:
    """Fit the benchmark by one estimator and describe its sets.

    `estimator`: "vi" (the paper's recipe), "vi_trimmed" (without items that all or none answer right),
    "vi_without_strongest" (the four strongest families left out; headroom at the best that remains), "vi_unweighted",
    "mml", "mml_unweighted", "mml_2pl", "mml_1pl", or "mml_prior_S" with the prior's S for the spread of log a.
    """
    options: dict[str, Any] = {"model": "3pl", "method": "mml"}
    if estimator.startswith("vi"):
        options = {"model": "3pl", "method": "vi", "steps": steps, "seed": seed}
    if estimator.endswith("unweighted"):
        options["weights"] = None
    if estimator in ("mml_2pl", "mml_1pl"):
        options["model"] = estimator.removeprefix("mml_")
    if estimator.startswith("mml_prior_"):
        options["priors"] = Priors(a_log_std=float(estimator.removeprefix("mml_prior_")))
    if estimator == "vi_trimmed":
        responses = trimmed(responses)
    if estimator == "vi_without_strongest":
        responses = without_families(responses, STRONGEST_FAMILIES)
    fit = quiet_fit(responses, **options)
    result = describe_sets(fit, draws=draws, seed=seed)
    if estimator == "vi":
        # C4's second half compares headroom at the ability of BERT-large, which both fits have.
        result["leh_at_bert"] = _leh_q75(fit, "bert-large-cased_best")
    if estimator == "vi_without_strongest":
        result["leh_at_bert"] = _leh_q75(fit, "bert-large-cased_best")
    if estimator == "mml":
        result |= _sceptics(fit, responses) | _information(fit)
    return result


def _leh_q75(fit: IRTFit, at: str) -> NDArray[np.float64]:
    if at not in fit.responder_names:
        return np.zeros(0)
    leh, groups = fit.leh(at), np.asarray(fit.groups)
    return np.array([np.quantile(leh[groups == name], 0.75) for name in dict.fromkeys(groups.tolist())])


def trimmed(responses: Responses) -> Responses:
    """Without the items that every responder, or none, answers right."""
    share = responses.p_correct()
    return responses.select(items=(share > 0) & (share < 1))


def without_families(responses: Responses, families: tuple[str, ...]) -> Responses:
    """Without the responders of these families."""
    return responses.select(responders=~np.isin(np.asarray(responses.families), families))


def _sceptics(fit: IRTFit, responses: Responses) -> Scalars:
    """What one would use without item response theory, per set: each larger where a set has more room."""
    groups = np.asarray(responses.groups)
    names = list(dict.fromkeys(groups.tolist()))
    biserial = item_fit(fit)["point_biserial"].to_numpy()
    rows = []
    for name in names:
        accuracies = np.sort(responses.values[:, groups == name].mean(1))[::-1]
        rows.append(
            (
                1 - accuracies[0],
                np.ptp(accuracies[:5]),
                accuracies[0] - accuracies[1],
                np.nanquantile(biserial[groups == name], 0.75),
            )
        )
    return {"sceptics": np.array(rows)}


def _information(fit: IRTFit) -> Scalars:
    theta = np.linspace(-3, 3, 41)
    names = dict.fromkeys(np.asarray(fit.groups).tolist())
    curves = [fit.test_information(name, theta=theta)["information"].to_numpy() for name in names]
    return {"information_theta": theta, "information": np.array(curves)}


def predict_unseen(responses: Responses, *, share: float, seed: int) -> Scalars:
    """Log-likelihood and Brier score on hidden cells: accuracy-only logistic against the 1PL, 2PL and 3PL."""
    rng = np.random.default_rng(seed)
    seen = np.ones(responses.shape, dtype=bool) if responses.observed is None else responses.observed
    hidden = seen & (rng.random(responses.shape) < share)
    kept = Responses(
        np.where(hidden, 0, responses.values).astype(np.uint8),
        seen & ~hidden,
        responses.responders,
        responses.items,
        responses.groups,
        responses.families,
    )
    truth = responses.values[hidden]
    chances = {"accuracy_only": row_column_logistic(kept)[hidden]}
    for model in ("1pl", "2pl", "3pl"):
        chances[model] = quiet_fit(kept, model=model, weights=None).predict()[hidden]
    result: Scalars = {}
    for name, chance in chances.items():
        chance = np.clip(chance, 1e-6, 1 - 1e-6)
        result[f"loglik_{name}"] = float(np.mean(np.where(truth, np.log(chance), np.log1p(-chance))))
        result[f"brier_{name}"] = float(np.mean((truth - chance) ** 2))
    return result


def row_column_logistic(responses: Responses) -> NDArray[np.float64]:
    """Chance of a right answer, (R, M), from two numbers: the logits of the responder's and of the item's accuracy.

    A logistic regression on both; counts are smoothed by half an answer each way.
    """
    from sklearn.linear_model import LogisticRegression

    seen = np.ones(responses.shape, dtype=bool) if responses.observed is None else responses.observed
    right = responses.values.astype(np.float64) * seen
    rows = _logit((right.sum(1) + 0.5) / (seen.sum(1) + 1))
    columns = _logit((right.sum(0) + 0.5) / (seen.sum(0) + 1))
    features = np.stack(np.broadcast_arrays(rows[:, None], columns[None]), axis=-1)
    model = LogisticRegression(C=1e4).fit(features[seen], responses.values[seen])
    return model.predict_proba(features.reshape(-1, 2))[:, 1].reshape(responses.shape)


def _logit(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(share) - np.log1p(-share)


def find_wrong_labels(responses: Responses, *, share: float, draws: int, seed: int) -> Scalars:
    """Average precision and AUROC of every suspicion score at finding labels that were made wrong, mean of `draws`."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    found: dict[str, list[float]] = {}
    for draw in range(draws):
        table, wrong = spoil(responses, share=share, rng=np.random.default_rng([seed, draw]))
        fit = quiet_fit(table, model="2pl", weights=None)
        suspects = suspect_items(fit).set_index("item").loc[list(table.items)]
        for score in get_args(Suspicion):
            values = np.nan_to_num(suspects[score].to_numpy(float), nan=-1e9, posinf=1e9, neginf=-1e9)
            found.setdefault(f"ap_{score}", []).append(float(average_precision_score(wrong, values)))
            found.setdefault(f"auroc_{score}", []).append(float(roc_auc_score(wrong, values)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def spoil(responses: Responses, *, share: float, rng: np.random.Generator) -> tuple[Responses, NDArray[np.bool_]]:
    """The table with a share of its labels made wrong, and which items those are.

    Where the answers themselves are known the label is replaced by another class of its set; otherwise right and wrong
    change places, which is what a wrong label does to a question with two choices.
    """
    count = max(1, round(share * len(responses.items)))
    chosen = rng.choice(len(responses.items), size=count, replace=False)
    wrong = np.zeros(len(responses.items), dtype=bool)
    wrong[chosen] = True
    if not hasattr(responses, "predictions"):
        values = responses.values ^ wrong.astype(np.uint8)
        if responses.observed is not None:
            values = values * responses.observed.astype(np.uint8)
        table = Responses(
            values, responses.observed, responses.responders, responses.items, responses.groups, responses.families
        )
        return table, wrong
    table: Any = responses
    labels = table.labels.astype(np.int64)
    classes = np.array([table.classes(group) for group in np.asarray(table.groups)[chosen]])
    labels[chosen] = (labels[chosen] + rng.integers(1, classes)) % classes
    return table.marked_with(labels), wrong


def score_on_few(
    responses: Responses, *, unseen_families: int, count: int, draws: int, seed: int, model: str
) -> Scalars:
    """Rank and score unseen families on `count` items: the most informative against random ones, mean of `draws`.

    Returns:
        For each way of choosing items and of scoring: Kendall's tau with the accuracy on all items (`tau_...`) and the
        mean absolute error of the estimate of that accuracy (`error_...`).
    """
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        for name, value in _one_subset(responses, unseen_families, count, [seed, draw], model).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _one_subset(
    responses: Responses, unseen_families: int, count: int, seed: list[int], model: str
) -> Mapping[str, float]:
    rng = np.random.default_rng(seed)
    families = np.asarray(responses.families)
    left_out = rng.choice(np.unique(families), size=unseen_families, replace=False)
    unseen = responses.select(responders=np.isin(families, left_out))
    fit = quiet_fit(responses.select(responders=~np.isin(families, left_out)), model=model, weights=None)
    truth = unseen.accuracy()
    spread = np.quantile(fit.theta, np.linspace(0.05, 0.95, 15))
    subsets = {
        "chosen": list(select_items(fit, count, at=spread)),
        "random": [responses.items[index] for index in rng.choice(len(responses.items), size=count, replace=False)],
    }
    result = {}
    for name, items in subsets.items():
        scored = score_responders(fit, unseen.select(items=items))
        for way, estimate in (("theta", scored["predicted_accuracy"]), ("raw", scored["accuracy"])):
            result[f"tau_{name}_{way}"] = _tau(estimate.to_numpy(), truth)
            result[f"error_{name}_{way}"] = float(np.mean(np.abs(estimate.to_numpy() - truth)))
    return result


def _tau(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Kendall's tau; 0 where all estimates are equal, which ranks nothing."""
    from scipy.stats import kendalltau

    result: Any = kendalltau(estimate, truth)
    return float(np.nan_to_num(result.statistic))


def recover(*, seed: int) -> Scalars:
    """Parameters drawn and recovered: 2PL, 2,000 responders, 100 items."""
    responses, truth = simulate_responses(2000, 100, model="2pl", seed=seed)
    fit = quiet_fit(responses, model="2pl", weights=None)
    return {
        "true_b": truth.b,
        "fitted_b": fit.b,
        "true_log_a": np.log(truth.a),
        "fitted_log_a": fit.log_a,
        "rmse_b": float(np.sqrt(np.mean((fit.b - truth.b) ** 2))),
        "rmse_log_a": float(np.sqrt(np.mean((fit.log_a - np.log(truth.a)) ** 2))),
    }
