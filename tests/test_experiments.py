import numpy as np
import pytest

from dwclib.errors import ConfigError
from dwclib.experiments import mean_interval


def test_the_interval_is_students():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * np.sqrt(2.5 / 5)  # t quantile for 4 degrees of freedom, from a printed table
    assert found.mean == 3
    assert found.low == pytest.approx(3 - half, abs=1e-5)
    assert found.high == pytest.approx(3 + half, abs=1e-5)
    assert str(found) == "3.0 [1.0, 5.0]"


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [
        found.low <= 10 <= found.high
        for found in (mean_interval(rng.normal(10, 2, size=5), confidence=0.8) for _ in range(2000))
    ]
    assert 0.77 < np.mean(inside) < 0.83


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_run_has_no_interval(values):
    with pytest.raises(ConfigError, match="two seeds"):
        mean_interval(values)
