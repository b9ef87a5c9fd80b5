import numpy as np
import pandas as pd
import pytest

from paperworks.lab.claim import Claim, Condition, Guard, NotMeasurable, difference, judge, ratio, value
from paperworks.lab.statistics import bootstrap, clopper_pearson


def table(gap, seeds=5, first=10, noise=0.01, arms=("a", "b")):
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(first, first + seeds):
        base = rng.normal(0.6, 0.1)
        scores = {arm: base + rng.normal(0, noise) + gap * (arm == "b") for arm in arms}
        rows += [{"arm": arm, "seed": seed, "accuracy": score} for arm, score in scores.items()]
    return pd.DataFrame(rows)


B_OVER_A = difference("accuracy", {"arm": "b"}, {"arm": "a"})


def claim(at_least=0.05, **options):
    return Claim("better", (Condition("b - a", B_OVER_A, at_least),), **options)


def state(gap, **options):
    return judge([claim()], table(gap, **options))[0].state


def test_the_verdict_follows_the_interval():
    assert state(0.2) == "holds"
    assert state(-0.2) == "does not hold"
    assert state(0.05) == "inconclusive"
    assert state(0.2, noise=0.5) == "inconclusive"


def test_pairing_removes_what_the_seeds_share():
    verdict = judge([claim()], table(0.1))[0]
    assert verdict.findings[0].interval.high - verdict.findings[0].interval.low < 0.06
    assert verdict.state == "holds"


def test_few_seeds_and_pilot_seeds_only_indicate():
    few = judge([claim()], table(0.2, seeds=3))[0]
    pilot = judge([claim()], table(0.2, first=0))[0]
    assert (few.state, few.leaning) == ("indicative", "holds")
    assert (pilot.state, pilot.leaning) == ("indicative", "holds")
    assert "pilot" in pilot.reason


def test_intervals_over_items_do_not_count_seeds():
    """A bootstrap over fixed pairs says as much from one seed; beside a condition by seeds the claim waits."""
    items = np.random.default_rng(0).normal(0.3, 0.2, size=100)
    over_items = Condition("gap", lambda frame: bootstrap(items, unit="pairs"), 0.05)
    one_seed = table(0.2, seeds=1)
    assert judge([Claim("items", (over_items,))], one_seed)[0].state == "holds"
    both = Claim("both", (over_items, Condition("b - a", B_OVER_A, 0.05)))
    assert judge([both], table(0.2, seeds=3))[0].state == "indicative"


def test_a_missing_arm_is_not_tested():
    verdict = judge([claim()], table(0.2, arms=("a",)))[0]
    assert verdict.state == "not tested"
    assert "arm=b" in verdict.reason


def test_every_condition_must_hold_and_one_failing_refutes():
    both = Claim("both", (Condition("b - a", B_OVER_A, 0.05), Condition("a", value("accuracy", {"arm": "a"}), 0.99)))
    assert judge([both], table(0.2))[0].state == "does not hold"


def test_a_wider_refutation_margin_leaves_room_for_inconclusive():
    lenient = Claim("ratio", (Condition("b / a", ratio("accuracy", {"arm": "b"}, {"arm": "a"}), 1.6, 1.1),))
    assert judge([lenient], table(0.2))[0].state == "inconclusive"


def test_a_failing_guard_voids_the_verdict():
    guard = Guard("baseline learns", lambda frame: "accuracy below 0.9")
    verdict = judge([claim(guards=(guard,))], table(0.2))[0]
    assert verdict.state == "inconclusive"
    assert "baseline learns: accuracy below 0.9" in verdict.reason


def test_arms_with_unequal_budgets_get_no_verdict():
    budget = pd.DataFrame({"steps": [100, 200], "seconds": [1, 2]}, index=["a", "b"])
    judged = judge([claim(arms=("a", "b"))], table(0.2), budget=budget, equal=("steps",))[0]
    assert judged.state == "not tested"
    assert "steps is a 100, b 200" in judged.reason
    assert judge([claim(arms=("a", "b"))], table(0.2), budget=budget, equal=())[0].state == "holds"


def test_holm_makes_many_claims_harder_than_one():
    frame = table(0.075, noise=0.008)
    alone = judge([claim()], frame)[0]
    assert alone.p < 0.05
    weak = [Claim(str(number), (Condition("b - a", B_OVER_A, 0.07),)) for number in range(5)]
    among = judge([claim(), *weak], frame)
    assert among[0].p > alone.p
    apart = [Claim(str(number), (Condition("b - a", B_OVER_A, 0.07),), family="ours") for number in range(5)]
    assert judge([claim(), *apart], frame)[0].p == alone.p


def test_a_share_of_draws_is_judged_by_its_value():
    def share(count):
        return Claim("share", (Condition("top 3", lambda frame: clopper_pearson(count, 100), 0.9, 0.5, rule="point"),))

    states = [judge([share(count)], table(0.2))[0].state for count in (95, 70, 30)]
    assert states == ["holds", "inconclusive", "does not hold"]


def test_shown_quantities_decide_nothing():
    control = Condition("a - b", difference("accuracy", {"arm": "a"}, {"arm": "b"}), 0.05)
    verdict = judge([claim(shown=(control,))], table(0.2))[0]
    assert verdict.state == "holds"
    assert verdict.shown[0].interval.estimate < 0


def test_measures_say_what_is_missing():
    with pytest.raises(NotMeasurable, match="no trial has 'mixer'"):
        value("accuracy", {"mixer": "x"})(table(0.1))
    with pytest.raises(NotMeasurable, match="measured 'loss'"):
        value("loss", {"arm": "a"})(table(0.1))
