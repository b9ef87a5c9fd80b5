"""A fitted item response model and what it can tell about items, groups of items and responders."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.curves import (
    LOG_A,
    LOWER,
    UPPER,
    B,
    Model,
    fisher_information,
    item_curve,
    leh_score,
)
from paperworks.evaluation.irt.priors import Priors

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["mml", "vi", "map"]
Z95 = 1.959964


@dataclass(frozen=True, eq=False)
class IRTFit:
    """Item curves and abilities with their uncertainty; made by `fit_irt`, `load` or `from_authors`.

    Args:
        params, sd: (4, M) estimates and standard errors (VI: posterior means and standard deviations) of log a, b, and
            the log-odds `lower` (in the 3PL: logit c) and `upper` of the asymptotes; -inf where the model has none.
        weights: (M,) v_i of the fit. p_correct, n: (M,) share of right answers and number of answers of each item.
        theta, theta_sd, accuracy, n_answered: (R,).
        loglik: marginal log-likelihood sum_r log int prod_i P_i^v_i dN(theta) at the point estimates, for every method.
        objective: the method's own objective by iteration (VI: every hundredth step and the last).
    """

    model: Model
    method: Method
    params: np.ndarray
    sd: np.ndarray
    weights: np.ndarray
    p_correct: np.ndarray
    n: np.ndarray
    item_names: tuple[str, ...]
    groups: np.ndarray | None
    theta: np.ndarray
    theta_sd: np.ndarray
    accuracy: np.ndarray
    n_answered: np.ndarray
    responder_names: tuple[str, ...]
    families: np.ndarray | None = None
    loglik: float = float("nan")
    objective: np.ndarray = field(default_factory=lambda: np.zeros(0))
    iterations: int = 0
    converged: bool = True
    priors: Priors = field(default_factory=Priors)
    responses: Responses | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        size = f"{len(self.responder_names)} responders, {len(self.item_names)} items"
        return f"IRTFit({self.model}, {self.method}, {size}, loglik={self.loglik:.4g})"

    @cached_property
    def point(self) -> np.ndarray:
        """(4, M) table of the point estimates' curves: for VI log a is that of the lognormal's mean, mu + s^2 / 2."""
        point = self.params.copy()
        if self.method == "vi":
            point[LOG_A] += self.sd[LOG_A] ** 2 / 2
        return point

    @property
    def log_a(self) -> np.ndarray:
        return self.point[LOG_A]

    @property
    def a(self) -> np.ndarray:
        """Discriminations, (M,)."""
        return np.exp(self.log_a)

    @property
    def b(self) -> np.ndarray:
        """Difficulties, (M,)."""
        return self.point[B]

    @property
    def c(self) -> np.ndarray:
        """Lower asymptotes, (M,)."""
        return _asymptotes(self.params[LOWER], self.params[UPPER])[0]

    @property
    def d(self) -> np.ndarray:
        """Upper asymptotes, (M,)."""
        return _asymptotes(self.params[LOWER], self.params[UPPER])[1]

    @property
    def best(self) -> str:
        """The responder of highest ability."""
        return self.responder_names[int(self.theta.argmax())]

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row an item: group, item, a, b, c, d, standard errors, 95 % limits, p_correct, n, weight.

        Limits are marginal, on the scale on which the parameter is normal (log a, b, log-odds of c and d).
        """
        import pandas as pd

        c, d, sd = self.c, self.d, self.sd
        columns: dict[str, Any] = {
            "group": "all" if self.groups is None else self.groups,
            "item": list(self.item_names),
            "a": self.a,
            "b": self.b,
            "c": c,
            "d": d,
            "se_a": self.a * (np.sqrt(np.expm1(sd[LOG_A] ** 2)) if self.method == "vi" else sd[LOG_A]),
            "se_b": sd[B],
            "se_c": c * (1 - c) * sd[LOWER],
            "se_d": (1 - d) * d * sd[UPPER],
        }
        for sign, end in ((-1, "low"), (1, "high")):
            moved = self.params + sign * Z95 * sd
            columns[f"a_{end}"], columns[f"b_{end}"] = np.exp(moved[LOG_A]), moved[B]
            columns[f"c_{end}"] = _asymptotes(moved[LOWER], self.params[UPPER])[0]
            # More slips are a lower d.
            columns[f"d_{end}"] = _asymptotes(self.params[LOWER], self.params[UPPER] - sign * Z95 * sd[UPPER])[1]
        columns |= {"p_correct": self.p_correct, "n": self.n, "weight": self.weights}
        return pd.DataFrame(columns)

    @cached_property
    def responders(self) -> pd.DataFrame:
        """One row a responder: responder, theta, sd, accuracy, n (answers)."""
        import pandas as pd

        return pd.DataFrame(
            {
                "responder": list(self.responder_names),
                "theta": self.theta,
                "sd": self.theta_sd,
                "accuracy": self.accuracy,
                "n": self.n_answered,
            }
        )

    def ability(self, at: str | float = "best") -> float:
        """The ability that `at` means: "best", a responder's name, or a number.

        Raises:
            ValueError: no such responder.
        """
        if not isinstance(at, str):
            return float(at)
        if at == "best":
            return float(self.theta.max())
        if at not in self.responder_names:
            raise ValueError(f'at: expected "best", an ability or a responder such as {self.best!r}, got {at!r}')
        return float(self.theta[self.responder_names.index(at)])

    def leh(self, at: str | float = "best") -> np.ndarray:
        """Locally estimated headroom of each item, (M,): the slope of its curve at the ability `at`."""
        return leh_score(np.asarray(self.ability(at)), self.a, self.b, self.c, self.d)

    def information(self, theta: float | np.ndarray) -> np.ndarray:
        """Fisher information of each item about the ability theta: (M,), or (T, M) for T abilities."""
        theta = np.asarray(theta, dtype=np.float64)
        return fisher_information(theta[..., None], self.a, self.b, self.c, self.d)

    def test_information(self, group: str | None = None, *, theta: np.ndarray | None = None) -> pd.DataFrame:
        """Information of all items (of a group) together at each ability: columns theta, information.

        Raises:
            ValueError: no such group.
        """
        import pandas as pd

        theta = np.linspace(-4, 4, 81) if theta is None else np.atleast_1d(np.asarray(theta, dtype=np.float64))
        chosen = np.ones(len(self.item_names), dtype=bool)
        if group is not None:
            names = [] if self.groups is None else sorted(set(self.groups.tolist()))
            if group not in names:
                raise ValueError(f"group: expected one of {', '.join(names) or '(the fit has none)'}, got {group!r}")
            chosen = self.groups == group
        a, b, c, d = (values[chosen] for values in (self.a, self.b, self.c, self.d))
        total = [float(fisher_information(np.asarray(t), a, b, c, d).sum()) for t in theta]
        return pd.DataFrame({"theta": theta, "information": total})

    def summary(self, by: str | np.ndarray = "group", *, at: str | float = "best") -> pd.DataFrame:
        """One row a group, by falling headroom.

        Columns: group, items, leh_q75, rank, leh_mean, log_a_q75, log_a, b, c, p_correct, information.

        `by`: "group", or (M,) labels of one's own such as question formats. `information`: of all its items at `at`.

        Raises:
            ValueError: labels that are not one per item.
        """
        import pandas as pd

        if isinstance(by, str):
            if by != "group":
                raise ValueError(f'by: expected "group" or one label per item, got {by!r}')
            labels = np.full(len(self.item_names), "all") if self.groups is None else self.groups
        else:
            labels = np.asarray(by)
            if labels.shape != (len(self.item_names),):
                raise ValueError(f"by: expected {len(self.item_names)} labels, got shape {labels.shape}")
        frame = pd.DataFrame(
            {
                "leh": self.leh(at),
                "log_a": self.log_a,
                "b": self.b,
                "c": self.c,
                "p_correct": self.p_correct,
                "information": self.information(self.ability(at)),
            }
        ).groupby(labels)
        result = pd.DataFrame(
            {
                "items": frame.size(),
                "leh_q75": frame["leh"].quantile(0.75),
                "leh_mean": frame["leh"].mean(),
                "log_a_q75": frame["log_a"].quantile(0.75),
                "log_a": frame["log_a"].mean(),
                "b": frame["b"].mean(),
                "c": frame["c"].mean(),
                "p_correct": frame["p_correct"].mean(),
                "information": frame["information"].sum(),
            }
        ).sort_values("leh_q75", ascending=False, kind="stable")
        result.insert(2, "rank", np.arange(1, len(result) + 1))
        return result.rename_axis("group").reset_index()

    def predict(self, theta: np.ndarray | None = None) -> np.ndarray:
        """Chance of a right answer, (R, M), of the fit's responders or of other abilities (T,)."""
        theta = self.theta if theta is None else np.atleast_1d(np.asarray(theta, dtype=np.float64))
        return item_curve(theta[:, None], self.a, self.b, self.c, self.d)

    def item_fit(self) -> pd.DataFrame:
        """Infit, outfit, point-biserial and flags of each item: see `diagnostics.item_fit`."""
        from paperworks.evaluation.irt.diagnostics import item_fit

        return item_fit(self)

    def save(self, path: str | Path) -> None:
        """Write `<path>.safetensors` and `<path>.json` (in a folder: `fit.*`); the responses are not kept."""
        from paperworks.evaluation.irt.stored import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> IRTFit:
        """Read what `save` wrote.

        Raises:
            ValueError: a file is missing, of another version, or the two do not belong together.
        """
        from paperworks.evaluation.irt.stored import load

        return load(path)

    @classmethod
    def from_authors(cls, item_params: str | Path, theta: str | Path) -> IRTFit:
        """The paper's released posterior: its item table (parquet) and abilities (csv)."""
        from paperworks.evaluation.irt.stored import from_authors

        return from_authors(item_params, theta)


def _asymptotes(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.exp(lower), np.exp(upper)
    total = 1 + low + high
    return low / total, 1 - high / total
