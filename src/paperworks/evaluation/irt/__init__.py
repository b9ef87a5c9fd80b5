"""Item response theory for judging test sets and models (Vania et al., 2021, arXiv 2106.00840).

From a table of right and wrong answers, every item gets a difficulty `b`, a discrimination `a` and a guessing rate `c`,
every responder (model, person) an ability `theta`: `P = c + (1 - c) sigmoid(a (theta - b))`. Use it to see which test
sets still separate strong models, to find items whose label is probably wrong, and to score new models on few items; do
not use it where every responder answered other items and nothing links them.

>>> from paperworks.evaluation import fit_irt, simulate_responses
>>> responses, truth = simulate_responses(200, 30, model="2pl", seed=0)
>>> fit = fit_irt(responses, model="2pl")
>>> sorted(fit.items.columns)[:3]
['a', 'b', 'c']
"""

from paperworks._lazy import attach

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "IRTFit": "fit",
        "Priors": "priors",
        "Responses": "paperworks.data.responses",
        "compare_groups": "diagnostics",
        "eap": "fit",
        "fisher_information": "curves",
        "fit_irt": "fit",
        "item_curve": "curves",
        "item_fit": "diagnostics",
        "leh_score": "curves",
        "score_responders": "fit",
        "select_items": "diagnostics",
        "simulate_responses": "simulate",
        "sklearn_responses": "paperworks.data.sklearn_responses",
        "suspect_items": "diagnostics",
    },
)
__all__ = _names  # pyright: ignore[reportUnsupportedDunderAll]
