import numpy as np
import pytest
import torch

from paperworks.evaluation.irt import fused
from paperworks.evaluation.irt.curves import FREE, LOG_A, LOWER, UPPER, B
from paperworks.evaluation.irt.joint import gradient, total_loglik, weighted_loglik
from paperworks.evaluation.irt.table import Table

pytest.importorskip("numba")


def setting(model, missing, responders=37, items=2500):
    """More items than a block holds, and responders that do not fill whole vectors."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    values = (rng.random((responders, items)) < 0.6).astype(np.uint8)
    observed = rng.random(values.shape) < 0.8 if missing else None
    table = Table.of(values, observed, rng.uniform(0.1, 1, items), merge=False)
    params = torch.full((4, items), -torch.inf)
    params[LOG_A] = 0
    for row in FREE[model]:
        params[row] = torch.randn(items, generator=generator) * {LOG_A: 0.5}.get(row, 1.0) - 2 * (row >= LOWER)
    return table, params, torch.randn(responders, generator=generator)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("model", FREE)
def test_compiled_sums_equal_the_plain_ones_in_double_precision(model, missing):
    table, params, theta = setting(model, missing)
    rows = FREE[model]
    assert fused.usable(theta)
    assert not fused.usable(theta.double())
    items, abilities = gradient(table, params, theta, rows)
    exact_items, exact_abilities = gradient(table, params.double(), theta.double(), rows)
    torch.testing.assert_close(items.double(), exact_items, rtol=2e-5, atol=5e-5)
    torch.testing.assert_close(abilities.double(), exact_abilities, rtol=2e-5, atol=2e-3)
    exact = weighted_loglik(table, params.double(), theta.double(), rows).sum()
    assert float(total_loglik(table, params, theta, rows)) == pytest.approx(float(exact), rel=1e-6)


def test_cells_far_from_an_item_s_difficulty():
    """Beyond single precision's exponentials: scores reach 0 and 1 exactly as they should, nothing is NaN."""
    values = np.array([[1, 0, 1, 0]], dtype=np.uint8)
    params = torch.full((4, 4), -torch.inf)
    params[LOG_A], params[B] = np.log(50.0), torch.tensor([-4.0, -4.0, 4.0, 4.0])
    table = Table.of(values, None, None, merge=False)
    items, abilities = gradient(table, params, torch.zeros(1), FREE["2pl"])
    torch.testing.assert_close(items[B], torch.tensor([0.0, 50.0, -50.0, 0.0]))
    torch.testing.assert_close(abilities, torch.tensor([0.0]))
    params[LOWER], params[UPPER] = -1.0, -3.0
    assert torch.isfinite(gradient(table, params, torch.zeros(1), FREE["4pl"])[0]).all()


def test_the_number_of_threads_changes_nothing():
    table, params, theta = setting("3pl", False, items=5000)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(gradient(table, params, theta, FREE["3pl"]))
    finally:
        torch.set_num_threads(threads)
    for items, abilities in results[1:]:
        assert torch.equal(items, results[0][0])
        assert torch.equal(abilities, results[0][1])


def test_without_numba_the_plain_sums_serve(monkeypatch):
    table, params, theta = setting("3pl", True)
    with_numba = gradient(table, params, theta, FREE["3pl"])
    monkeypatch.setattr(fused, "has_numba", lambda: False)
    monkeypatch.setattr(fused, "_kernels", None)
    without = gradient(table, params, theta, FREE["3pl"])
    torch.testing.assert_close(without[0], with_numba[0], rtol=2e-5, atol=1e-4)
