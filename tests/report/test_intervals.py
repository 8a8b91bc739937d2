"""Intervals against published values and slow loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.report.intervals import Difference, bootstrap_mean, holm, paired_bootstrap, wilson


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
    assert paired_bootstrap(a, a, groups) == Difference(0.0, 0.0, 0.0, p=1.0)
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


def test_p_is_twice_the_share_of_draws_on_the_rarer_side_and_never_0():
    a, b, groups = questions(effect=0.0)
    found = paired_bootstrap(a, b, groups, seed=3, draws=200)
    random = np.random.default_rng(3)
    times = random.multinomial(60, [1 / 60] * 60, size=200)
    scenes = np.subtract(a, b).reshape(60, -1).mean(axis=1)
    means = (times @ scenes / 60).round(12)
    assert found.p == min(1.0, 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / 201)
    sure = paired_bootstrap([1.0] * 50, [0.0] * 50, None, draws=400)
    assert sure.p == 2 / 401


def test_p_is_below_the_level_where_the_interval_leaves_0_out():
    for effect in (0.0, 0.05, 0.1, 0.2):
        a, b, groups = questions(effect=effect, seed=4)
        found = paired_bootstrap(a, b, groups)
        assert (found.p < 0.05) != found.includes_zero


def test_exchanging_the_two_changes_signs_and_not_p():
    a, b, groups = questions()
    one, other = paired_bootstrap(a, b, groups), paired_bootstrap(b, a, groups)
    assert (one.mean, one.p) == (-other.mean, other.p)


def test_what_cancels_is_0_and_not_what_rounding_leaves():
    tasks = ["a", "b", "c"] * 10
    found = paired_bootstrap([0.1, 0.2, 0.3] * 10, [0.2, 0.3, 0.1] * 10, [0] * 30, tasks=tasks)
    assert found.includes_zero and found.p == 1.0


def test_with_several_seeds_luck_alone_seldom_looks_like_a_difference():
    random, false_claims = np.random.default_rng(0), 0
    for _ in range(60):
        ease, luck = random.uniform(0.3, 0.9, 100), random.normal(0, 0.03, 3)
        a = (random.random((3, 100)) < ease + luck[:, None]).ravel().astype(float).tolist()
        b = (random.random((3, 100)) < ease).ravel().astype(float).tolist()
        seeds, groups = np.arange(3).repeat(100).tolist(), list(range(100)) * 3
        false_claims += paired_bootstrap(a, b, groups, draws=300, seeds=seeds).p < 0.05
    assert false_claims <= 3


def test_holm_gives_the_values_of_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_keeps_their_order_and_counts_the_smallest_against_all(values):
    found = holm(values)
    assert all(1 >= high >= low for high, low in zip(found, values, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [found[i] for i in order] == sorted(found)
    assert found[order[0]] == pytest.approx(min(1.0, len(values) * values[order[0]]))
