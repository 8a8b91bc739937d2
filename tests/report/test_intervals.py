"""Intervals against published values and slow loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.report.intervals import Difference, bootstrap_mean, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_values_of_newcombe_1998(k, n, low, high):
    found = wilson(k, n)
    assert round(found.low, 4) == low
    assert round(found.high, 4) == high


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_in_range_and_contains_the_fraction(trial):
    k, n = trial
    found = wilson(k, n)
    assert 0 <= found.low <= k / n <= found.high <= 1
    mirrored = wilson(n - k, n)
    assert found.low == pytest.approx(1 - mirrored.high)


def test_wilson_without_a_trial_says_nothing_and_an_impossible_count_is_refused():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    with pytest.raises(ValueError, match="k = 3, n = 2"):
        wilson(3, 2)


def questions(num_scenes=60, per_scene=4, effect=0.1, seed=0):
    """Answers of two models to questions whose scenes share a difficulty."""
    random = np.random.default_rng(seed)
    ease = random.uniform(0.2, 0.8, num_scenes).repeat(per_scene)
    a = random.random(len(ease)) < ease + effect
    b = random.random(len(ease)) < ease
    return a.astype(float).tolist(), b.astype(float).tolist(), np.arange(num_scenes).repeat(per_scene).tolist()


def slow_bootstrap(a, b, groups, seed, draws):
    """The same draws as a loop over scenes and questions."""
    random, names = np.random.default_rng(seed), list(dict.fromkeys(groups))
    times = random.multinomial(len(names), [1 / len(names)] * len(names), size=draws)
    random.multinomial(1, [1.0], size=draws)
    means = []
    for row in times:
        drawn = []
        for name, number in zip(names, row, strict=True):
            drawn += [x - y for x, y, group in zip(a, b, groups, strict=True) if group == name] * number
        means.append(sum(drawn) / len(drawn))
    return np.quantile(means, [0.025, 0.975])


def test_paired_bootstrap_equals_a_loop_over_scenes():
    a, b, groups = questions()
    found = paired_bootstrap(a, b, groups, seed=3, draws=200)
    low, high = slow_bootstrap(a, b, groups, seed=3, draws=200)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_paired_bootstrap_agrees_with_the_normal_interval_where_each_question_is_its_own_group():
    a, b, _ = questions(num_scenes=2000, per_scene=1)
    differences = np.subtract(a, b)
    half = 1.96 * differences.std() / len(differences) ** 0.5
    found = paired_bootstrap(a, b, None, draws=4000)
    assert found.low == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.1 * half)


def test_a_scene_copied_four_times_tells_no_more_than_once():
    a, b, groups = questions(per_scene=1)
    once = paired_bootstrap(a, b, groups, draws=500)
    copied = paired_bootstrap(a * 4, b * 4, groups * 4, draws=500)
    assert (copied.mean, copied.low, copied.high) == pytest.approx((once.mean, once.low, once.high))


def test_tasks_weigh_the_same_whatever_their_sizes():
    a = [1.0] * 30 + [0.0] * 10
    found = bootstrap_mean(a, None, tasks=["long"] * 30 + ["short"] * 10)
    assert found.mean == 0.5


def test_equal_models_differ_by_nothing():
    a, _, groups = questions()
    assert paired_bootstrap(a, a, groups) == Difference(0.0, 0.0, 0.0)
    assert paired_bootstrap(a, a, groups).includes_zero


def test_training_seeds_that_disagree_widen_the_interval():
    num = 400
    a = [1.0] * num + [0.0] * num  # one seed answers all, the other nothing
    b = [0.5] * (2 * num)
    groups, seeds = list(range(num)) * 2, [0] * num + [1] * num
    assert paired_bootstrap(a, b, groups, seeds=seeds).includes_zero
    found = paired_bootstrap(a, b, groups, seeds=seeds)
    assert (found.low, found.high) == (-0.5, 0.5)


def test_seed_variance_of_the_bootstrap_is_that_of_a_mean():
    """S - 1 of S seeds are drawn, so that the variance is s^2 / S with the unbiased s^2."""
    effects, num = np.array([0.0, 0.1, 0.3, 0.4]), 50
    a = effects.repeat(num).tolist()
    found = bootstrap_mean(a, list(range(num)) * 4, draws=20000, seeds=np.arange(4).repeat(num).tolist())
    standard_error = effects.std(ddof=1) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_the_same_seed_draws_the_same_interval_and_another_seed_another():
    a, b, groups = questions()
    assert paired_bootstrap(a, b, groups, seed=5) == paired_bootstrap(a, b, groups, seed=5)
    assert paired_bootstrap(a, b, groups, seed=5) != paired_bootstrap(a, b, groups, seed=6)


@pytest.mark.parametrize(("a", "b", "groups"), [([1], [1, 0], None), ([], [], None), ([1, 0], [0, 0], ["x"])])
def test_values_that_are_not_paired_are_refused(a, b, groups):
    with pytest.raises(ValueError):
        paired_bootstrap(a, b, groups)
