"""What a few runs allow us to say: intervals, corrected comparisons, verdicts, power (notebook 11)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from dwclib.errors import ConfigError

MARGIN = 1.0  # of a unit, such as a point of Recall@10: less is no effect worth the name
LEVEL = 0.05  # of a p-value
Key = TypeVar("Key")


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as "12.3 [11.8, 12.8]"."""
        return f"{self:.1f}"

    def __format__(self, digits: str) -> str:
        """Write each number in its own way: ``f"{interval:+.2f}"``. What rounds to zero has no sign.

        An interval that leaves zero out has one or two places more where these show it.
        """
        sign, least = re.fullmatch(r"([-+ ]?)\.(\d)f", digits or ".1f").groups()  # type: ignore[union-attr]
        written = [[_written(number, sign, int(least) + more) for number in self] for more in range(3)]
        apart = [texts for texts in written if float(texts[1]) and float(texts[2])]
        mean, low, high = apart[0] if apart and not self.low <= 0 <= self.high else written[0]
        return f"{mean} [{low}, {high}]"


class Gain(NamedTuple):
    """A paired difference: its 95 % interval, the p-value against no difference at all, and its unit."""

    interval: Interval
    p: float
    unit: str = "point"


class Comparison(NamedTuple):
    """A gain among several: interval, p-value corrected by Holm, and the verdict on "it is positive"."""

    interval: Interval
    p: float
    verdict: str


def mean_interval(
    values: Sequence[float] | Float[np.ndarray, " runs"], *, confidence: float = 0.95
) -> Interval:
    """Return the mean of independent runs with Student's t interval.

    For the difference of two methods, pass the differences of runs with the same seed.

    Parameters
    ----------
    values : one number per seed.
    confidence : of the interval.

    Raises
    ------
    ConfigError
        For fewer than two values: one run has no interval.
    """
    from scipy import stats

    _two_or_more(len(values), "mean_interval")
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def crossed_interval(values: Float[np.ndarray, "seeds queries"], *, resamples: int = 2000) -> Interval:
    """Return the mean over seeds and queries, with a 95 % interval for other seeds and other queries.

    It reaches as far as the wider of two: Student's t over seeds, which is honest about few of them, and the
    bootstrap that draws seeds and queries anew.

    Parameters
    ----------
    values : one number per seed and query.
    resamples : of the bootstrap.

    Raises
    ------
    ConfigError
        For fewer than two seeds.
    """
    return _wider(values, _bootstrap(values, resamples))


def gain_of(differences: Float[np.ndarray, "seeds queries"], *, resamples: int = 2000) -> Gain:
    """Return the interval of paired differences, and the greater p-value of the two ways to make it.

    Parameters
    ----------
    differences : in points, one per seed and query.
    resamples : of the bootstrap.
    """
    from scipy import stats

    drawn = _bootstrap(differences, resamples)
    interval = _wider(differences, drawn)
    if not differences.any():
        return Gain(interval, 1.0)
    beyond = min((drawn <= 0).mean(), (drawn >= 0).mean())
    by_seed = differences.mean(axis=1)
    student = float(stats.ttest_1samp(by_seed, 0.0).pvalue) if by_seed.std() > 0 else 0.0
    return Gain(interval, max(student, min(1.0, 2 * float(beyond)), 1 / resamples))


def mean_gain(values: Sequence[float], *, unit: str = "point") -> Gain:
    """Return Student's interval and p-value of differences, one number per seed, in a unit."""
    from scipy import stats

    interval = mean_interval(values)
    return Gain(interval, float(stats.ttest_1samp(values, 0.0).pvalue), unit)


def compare(gains: Mapping[Key, Gain]) -> dict[Key, Comparison]:
    """Return verdicts for gains that are looked at together: the more there are, the less each is believed.

    Parameters
    ----------
    gains : by name.
    """
    corrected = holm([gain.p for gain in gains.values()])
    return {
        name: Comparison(gain.interval, float(p), verdict(gain.interval, p=float(p), unit=gain.unit))
        for (name, gain), p in zip(gains.items(), corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Return p-values corrected for being several, by Holm's method."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1]


def detectable(values: Sequence[float] | Float[np.ndarray, " seeds"], *, power: float = 0.8) -> float:
    """Return the smallest difference that a paired comparison over as many seeds would find.

    It is stated before any comparison is made, from the runs of one variant alone: two variants whose runs
    had nothing in common would differ by sqrt(2) times what one's runs vary; what they share lowers it.

    Parameters
    ----------
    values : one recall per seed, of one variant.
    power : how often it would be found, at a level of 5 %.
    """
    from statsmodels.stats.power import TTestPower

    _two_or_more(len(values), "detectable")
    effect = TTestPower().solve_power(nobs=len(values), alpha=0.05, power=power)
    return float(effect) * math.sqrt(2) * float(np.std(values, ddof=1))


def verdict(interval: Interval, *, p: float, unit: str = "point") -> str:
    """Say what an interval allows to say of a claim that a difference is positive; the rule of the book.

    "supported": the interval is above zero, and the corrected p-value below 5 %. "opposite": it is below zero
    likewise. "no effect of a point or more": the whole interval is nearer to zero than `MARGIN`. Else "cannot
    tell".

    Parameters
    ----------
    interval : of the difference, in units.
    p : against no difference, corrected for the number of comparisons.
    unit : in the singular; the margin is one of it.
    """
    said = in_words(Gain(interval, p), more="supported", less="opposite", same="cannot tell")
    within = interval.low > -MARGIN and interval.high < MARGIN
    return f"no effect of a {unit} or more" if said == "cannot tell" and within else said


def in_words(
    *found: Interval | Gain | Comparison,
    more: str = "better",
    less: str = "worse",
    same: str = "no detectable difference",
) -> str:
    """Return the words that a difference allows.

    Parameters
    ----------
    *found : the difference; of several, all must lie on one side of zero. A `Gain` or `Comparison` must have
        a p-value below 5 % besides.
    more, less : for an interval above zero, and for one below.
    same : for all others.
    """
    if any(getattr(one, "p", 0.0) >= LEVEL for one in found):
        return same
    intervals = [one if isinstance(one, Interval) else one.interval for one in found]
    if all(interval.low > 0 for interval in intervals):
        return more
    return less if all(interval.high < 0 for interval in intervals) else same


def _written(number: float, sign: str, places: int) -> str:
    text = f"{number:{sign}.{places}f}"
    return text if float(text) else text.lstrip("+-")


def _wider(values: Float[np.ndarray, "seeds queries"], drawn: Float[np.ndarray, " resamples"]) -> Interval:
    student = mean_interval(values.mean(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(student.mean, min(student.low, float(low)), max(student.high, float(high)))


def _bootstrap(values: Float[np.ndarray, "seeds queries"], resamples: int) -> Float[np.ndarray, " resamples"]:
    """Return the means of samples in which seeds and queries are drawn anew, each with replacement."""
    from scipy.stats import bootstrap

    _two_or_more(len(values), "bootstrap")

    def mean_of(seeds: Int[np.ndarray, " s"], queries: Int[np.ndarray, " q"]) -> float:
        by_query = np.bincount(seeds, minlength=len(values)) @ values / len(seeds)  # as values[seeds].mean()
        return float(by_query[queries].mean())

    indices = tuple(np.arange(length) for length in values.shape)
    options: dict[str, Any] = {"vectorized": False, "method": "percentile", "rng": np.random.default_rng(0)}
    found = bootstrap(indices, mean_of, n_resamples=resamples, **options)
    return found.bootstrap_distribution


def _two_or_more(seeds: int, where: str) -> None:
    if seeds < 2:
        raise ConfigError(f"{seeds} run has no interval", where=where, remedy="Use two seeds or more.")
