"""A claim: a falsifiable statement over the measured columns, and the verdict that the trials give on it.

A claim is a conjunction of conditions. Each condition measures one quantity with an interval and names two margins:
the claim `holds` where every interval lies above its `at_least`; it `does not hold` where some interval lies below its
`refuted_below` (by default the same number). Anything between is `inconclusive`; fewer than five seeds are
`indicative`; and where what the claim needs is absent it is `not tested`, never `holds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperworks.lab.statistics import Interval, holm, t_interval

State: TypeAlias = Literal["holds", "does not hold", "inconclusive", "indicative", "not tested"]
Measure: TypeAlias = Callable[[pd.DataFrame], "NDArray[np.float64] | Interval"]

ALPHA = 0.05
SEEDS_FOR_A_VERDICT = 5
PER_SEED = ("seeds", "splits")  # units of which a seed gives one value
FIRST_JUDGING_SEED = 10


class NotMeasurable(Exception):
    """Raised by a measure when what it needs is not among the trials; the message says what."""


@dataclass(frozen=True)
class Condition:
    """One measured quantity and the margins that it is held against.

    `measure` maps the table of trials to one value per seed (a t interval follows) or to an `Interval`.
    `rule="interval"`: the interval decides; `"point"`: the estimate itself, for shares of draws that are already
    a statement about uncertainty.
    """

    name: str
    measure: Measure
    at_least: float
    refuted_below: float | None = None
    rule: Literal["interval", "point"] = "interval"

    @property
    def refuting(self) -> float:
        return self.at_least if self.refuted_below is None else self.refuted_below


@dataclass(frozen=True)
class Guard:
    """A check that the instrument works, made before any verdict; it returns what is wrong, or None."""

    name: str
    check: Callable[[pd.DataFrame], str | None]


@dataclass(frozen=True)
class Claim:
    """What is put to the test. Its words stand in the room's `claims.toml` under the same `id`.

    `family`: claims of one family share Holm's correction. `arms`: arms that must have had equal budgets.
    `post_hoc`: formed after seeing data; the card says so. `guards` void the verdict when the instrument fails.
    `shown` are measured and printed beside the verdict but decide nothing (a sceptic's control, for instance).
    """

    id: str
    conditions: tuple[Condition, ...]
    family: str = "paper"
    arms: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    shown: tuple[Condition, ...] = ()
    post_hoc: bool = False


@dataclass(frozen=True)
class Finding:
    """One condition, measured."""

    name: str
    interval: Interval
    at_least: float
    refuting: float
    p_holds: float
    p_refuted: float


@dataclass(frozen=True)
class Verdict:
    """What the trials say about a claim. `p`: two-sided, adjusted by Holm within the claim's family."""

    id: str
    state: State
    reason: str
    findings: tuple[Finding, ...] = ()
    shown: tuple[Finding, ...] = ()
    seeds: int = 0
    p: float = 1.0
    leaning: str = ""
    post_hoc: bool = False


def judge(
    claims: Sequence[Claim], frame: pd.DataFrame, *, budget: pd.DataFrame | None = None, equal: Sequence[str] = ()
) -> list[Verdict]:
    """Judge all claims of a study over its table of trials.

    `frame`: one row per finished trial, with the point's fields, `seed` and the measured columns. `budget`: one row
    per arm; the columns named in `equal` must agree between the arms that a claim compares.
    """
    drafts = [_draft(claim, frame, budget, equal) for claim in claims]
    by_id = {claim.id: claim for claim in claims}
    adjusted: dict[str, float] = {}
    for family in dict.fromkeys(claim.family for claim in claims):
        measured = [draft for draft in drafts if by_id[draft.id].family == family and draft.state != "not tested"]
        raw = [_raw_p(draft.findings) for draft in measured]
        adjusted |= {draft.id: p for draft, p in zip(measured, holm(raw), strict=True)}
    return [_conclude(draft, adjusted.get(draft.id, 1.0)) for draft in drafts]


def _draft(claim: Claim, frame: pd.DataFrame, budget: pd.DataFrame | None, equal: Sequence[str]) -> Verdict:
    """Measure a claim; the state is provisional, decided by `_conclude` unless it is final already."""
    base = Verdict(claim.id, "not tested", "", post_hoc=claim.post_hoc)
    try:
        findings = tuple(_find(condition, frame) for condition in claim.conditions)
    except NotMeasurable as missing:
        return replace(base, reason=str(missing))
    shown = tuple(_find(condition, frame) for condition in claim.shown if _measurable(condition, frame))
    seeds = frame["seed"].nunique()
    base = replace(base, findings=findings, shown=shown, seeds=seeds)
    if uneven := unequal_budget(budget, claim.arms, equal):
        return replace(base, reason=uneven)
    for guard in claim.guards:
        if wrong := guard.check(frame):
            return replace(base, state="inconclusive", reason=f"{guard.name}: {wrong}")
    if frame["seed"].min() < FIRST_JUDGING_SEED:
        return replace(base, state="indicative", reason=f"pilot seeds (below {FIRST_JUDGING_SEED}) never judge")
    # Intervals over many items of fixed data (a bootstrap, exact counts) do not rest on seeds.
    if seeds < SEEDS_FOR_A_VERDICT and any(finding.interval.unit in PER_SEED for finding in findings):
        return replace(base, state="indicative", reason=f"{seeds} seeds; a verdict needs {SEEDS_FOR_A_VERDICT}")
    return replace(base, state="holds")


def _measurable(condition: Condition, frame: pd.DataFrame) -> bool:
    try:
        condition.measure(frame)
    except NotMeasurable:
        return False
    return True


def _find(condition: Condition, frame: pd.DataFrame) -> Finding:
    measured = condition.measure(frame)
    interval = measured if isinstance(measured, Interval) else t_interval(measured)
    if condition.rule == "point":
        p_holds = 0.0 if interval.estimate >= condition.at_least else 1.0
        p_refuted = 0.0 if interval.estimate < condition.refuting else 1.0
    else:
        p_holds = interval.p_at_most(condition.at_least)
        p_refuted = interval.p_at_least(condition.refuting)
    return Finding(condition.name, interval, condition.at_least, condition.refuting, p_holds, p_refuted)


def unequal_budget(budget: pd.DataFrame | None, arms: Sequence[str], equal: Sequence[str]) -> str | None:
    """Which budget column differs between `arms`, in words, or None."""
    if budget is None or not arms:
        return None
    compared = budget.loc[[arm for arm in arms if arm in budget.index]]
    for column in equal:
        if compared[column].nunique() > 1:
            values = ", ".join(f"{arm} {value:g}" for arm, value in compared[column].items())
            return f"unequal budget, no verdict: {column} is {values}"
    return None


def _p_holds(findings: Sequence[Finding]) -> float:
    """All conditions must hold: the largest p-value needs no further correction (intersection-union)."""
    return max(finding.p_holds for finding in findings)


def _p_refuted(findings: Sequence[Finding]) -> float:
    """One failing condition refutes: the smallest p-value, corrected for having picked it (Bonferroni)."""
    return min(1.0, len(findings) * min(finding.p_refuted for finding in findings))


def _raw_p(findings: Sequence[Finding]) -> float:
    return min(1.0, 2 * min(_p_holds(findings), _p_refuted(findings)))


def _conclude(draft: Verdict, adjusted: float) -> Verdict:
    if draft.state == "not tested" or not draft.findings:
        return draft
    outcome: State = "inconclusive"
    if adjusted <= ALPHA:
        outcome = "holds" if _p_holds(draft.findings) <= _p_refuted(draft.findings) else "does not hold"
    reason = draft.reason or _explain(outcome, draft.findings)
    if draft.state == "indicative":
        return replace(draft, p=adjusted, leaning=outcome, reason=reason)
    if draft.state == "inconclusive":
        return replace(draft, p=adjusted)
    return replace(draft, p=adjusted, state=outcome, reason=reason)


def _explain(outcome: State, findings: Sequence[Finding]) -> str:
    if outcome == "holds":
        return "every interval lies beyond its margin"
    if outcome == "does not hold":
        worst = min(findings, key=lambda finding: finding.p_refuted)
        return f"{worst.name}: {worst.interval.estimate:.3g}, below {worst.refuting:.3g}"
    open_ones = [finding.name for finding in findings if 2 * finding.p_holds > ALPHA]
    return f"undecided: {'; '.join(open_ones)}" if open_ones else "undecided after correcting for several claims"


# Measures ------------------------------------------------------------------------------------------------------------


def per_seed(frame: pd.DataFrame, column: str, where: Mapping[str, Any]) -> pd.Series:
    """`column` of the trials that match `where`, averaged over whatever else varies, indexed by seed."""
    chosen = frame
    for name, value in where.items():
        if name not in frame.columns:
            raise NotMeasurable(f"no trial has {name!r}")
        chosen = chosen[chosen[name] == value]
    if column not in chosen.columns or chosen[column].dropna().empty:
        raise NotMeasurable(f"no trial of {_words(where)} measured {column!r}")
    return chosen.dropna(subset=[column]).groupby("seed")[column].mean().sort_index()


def paired(frame: pd.DataFrame, column: str, where: Mapping[str, Any], against: Mapping[str, Any]) -> tuple:
    """The two arms' values at the seeds that both have."""
    left, right = per_seed(frame, column, where), per_seed(frame, column, against)
    common = left.index.intersection(right.index)
    if common.empty:
        raise NotMeasurable(f"{_words(where)} and {_words(against)} have no seed in common")
    return left[common].to_numpy(float), right[common].to_numpy(float)


def difference(column: str, where: Mapping[str, Any], against: Mapping[str, Any]) -> Measure:
    """Paired differences `where - against`, one per seed."""

    def measure(frame: pd.DataFrame) -> NDArray[np.float64]:
        left, right = paired(frame, column, where, against)
        return left - right

    return measure


def ratio(column: str, where: Mapping[str, Any], against: Mapping[str, Any]) -> Measure:
    """Paired ratios `where / against`, one per seed."""

    def measure(frame: pd.DataFrame) -> NDArray[np.float64]:
        left, right = paired(frame, column, where, against)
        return left / right

    return measure


def value(column: str, where: Mapping[str, Any]) -> Measure:
    """The column itself, one value per seed."""
    return lambda frame: per_seed(frame, column, where).to_numpy(float)


def _words(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in where.items()) or "the study"
