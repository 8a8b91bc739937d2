import numpy as np
import pytest
import torch

from yarbus.analysis import linear_probe
from yarbus.analysis.linear_probe import SOLVERS, fit, hold_out, numbers_of


def planted(rows: int = 120, classes: int = 3, dim: int = 6, noise: float = 0.1, seed: int = 0):
    """Features around one corner per class: linearly separable while the noise is small."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    corners = np.eye(dim)[:classes] * 4
    return (corners[labels] + noise * random.normal(size=(rows, dim))).astype(np.float32), labels


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_what_a_line_separates_is_read_without_a_fault(solver, classes):
    features, labels = planted(classes=classes, dim=classes)
    test_features, test_labels = planted(classes=classes, dim=classes, seed=1)
    probe = fit(features, labels, solver, 0, epochs=100)
    assert (probe.predict(test_features) == test_labels).all()
    assert probe.held_out_accuracy == 1.0 and probe.weight.shape == (classes, classes)


@pytest.mark.parametrize("solver", SOLVERS)
def test_labels_that_were_drawn_by_lot_are_read_at_chance(solver):
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 8)).astype(np.float32)
    labels = random.integers(4, size=600)
    test_features, test_labels = random.normal(size=(2000, 8)).astype(np.float32), random.integers(4, size=2000)
    found = (fit(features, labels, solver, 0, epochs=20).predict(test_features) == test_labels).mean()
    assert abs(found - 0.25) < 0.05


def test_a_feature_that_never_varies_and_one_that_is_huge_do_no_harm():
    features, labels = planted()
    features = np.concatenate([features * 1e4, np.full((len(features), 1), 7, np.float32)], axis=1)
    probe = fit(features, labels, "lbfgs", 0)
    assert (probe.predict(features) == labels).all() and np.isfinite(probe.weight).all()


def test_a_tenth_is_held_out_evenly_and_no_class_loses_its_last_row():
    labels = np.array([0] * 60 + [1] * 39 + [2])
    held = hold_out(labels, seed=3)
    assert held.sum() == 10 and 5 <= held[:60].sum() <= 7 and not held[99]
    assert not (held == hold_out(labels, seed=4)).all()
    assert (held == hold_out(labels, seed=3)).all()


def test_something_is_held_out_of_very_few_rows():
    assert hold_out(np.array([0, 0, 1, 1]), seed=0).sum() == 1
    assert hold_out(np.array([0, 1, 2]), seed=0).sum() == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_choice_is_the_best_on_held_out_rows_and_looks_at_no_others(solver, monkeypatch):
    features, labels = planted(rows=300, noise=2.5)
    seen, shown = [], []
    judge = linear_probe._judge

    def spy(scores, wanted):
        shown.append(wanted.tolist())
        seen.append(judge(scores, wanted))
        return seen[-1]

    monkeypatch.setattr(linear_probe, "_judge", spy)
    probe = fit(features, labels, solver, 0, epochs=30)
    assert all(wanted == labels[hold_out(labels, 0)].tolist() for wanted in shown)
    assert probe.held_out_accuracy == max(seen)[0]
    choices = linear_probe.STRENGTHS if solver == "lbfgs" else range(1, 31)
    assert probe.chosen == list(choices)[seen.index(max(seen))]


def test_a_probe_is_a_function_of_its_seed():
    features, labels = planted(noise=3.0)
    first, again, other = (fit(features, labels, "adam", seed, epochs=3) for seed in (0, 0, 1))
    assert (first.weight == again.weight).all() and not (first.weight == other.weight).all()


def test_fitting_leaves_the_programs_random_numbers_alone():
    features, labels = planted()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(features, labels, "adam", 0, epochs=2)
    assert torch.equal(torch.rand(1), expected)


def test_names_become_their_places():
    assert numbers_of(["dog", "cat", "dog"], ["cat", "dog"]).tolist() == [1, 0, 1]
