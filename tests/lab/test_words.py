import numpy as np
import pytest
from scipy import stats

from paperworks.lab.words import mean_and_half_width


def test_mean_and_half_width():
    values = [0.5, 0.7, 0.9]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert mean_and_half_width(values) == f"0.700 ± {half:.3f}"
    assert mean_and_half_width(np.array([12.345]), "{:.1f}") == "12.3"
    with pytest.raises(ValueError, match="value"):
        mean_and_half_width([])
