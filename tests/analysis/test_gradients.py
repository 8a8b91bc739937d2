from itertools import combinations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.models.batches import ask
from yarbus.analysis.gradients import Products, agreement, block_products, cosines, drawn_weights, opposing
from yarbus.models.vlm import VLM

DIM = 400


def sampled(true: np.ndarray, num_batches: int, noise: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Gram matrix and owners of noisy batch gradients around the tasks' true ones, ``true`` [tasks, dim]."""
    generator = np.random.default_rng(seed)
    rows = np.concatenate([one + noise * generator.standard_normal((num_batches, len(one))) for one in true])
    return rows @ rows.T, [f"task{index}" for index in range(len(true)) for _ in range(num_batches)]


def at_cosine(value: float, seed: int = 0) -> np.ndarray:
    """Two unit vectors with that cosine."""
    generator = np.random.default_rng(seed)
    a, b = np.linalg.qr(generator.standard_normal((DIM, 2)))[0].T
    return np.stack([a, value * a + np.sqrt(1 - value**2) * b])


@pytest.mark.parametrize("value", [-0.8, 0.0, 0.5, 1.0])
def test_corrected_cosine_is_that_of_endless_data_and_across_is_not(value):
    found = []
    for seed in range(40):
        gram, owners = sampled(at_cosine(value, seed), 8, noise=0.1, seed=seed)
        found.append(agreement({0: gram}, owners, batch=1, draws=50)["overall"])
    corrected = np.mean([one["corrected"]["mean"] for one in found])
    assert corrected == pytest.approx(value, abs=0.08)
    assert abs(np.mean([one["across"]["mean"] for one in found])) <= 0.5 * abs(value) + 0.03


def test_same_task_ceiling_equals_cosines_of_random_halves():
    generator = np.random.default_rng(0)
    ceilings, halves = [], []
    for seed in range(60):
        rows = at_cosine(0.0, seed)[:1] + 0.08 * generator.standard_normal((8, DIM))
        gram = rows @ rows.T
        owners = np.zeros(8, dtype=int)
        same, _, _ = cosines(Products(gram, owners, drawn_weights(owners, 2)))
        ceilings.append(same[0][0])
        for half in list(combinations(range(8), 4))[:35]:
            a, b = rows[list(half)].mean(0), rows[[i for i in range(8) if i not in half]].mean(0)
            halves.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.mean(ceilings) == pytest.approx(np.mean(halves), abs=0.02)


def test_products_equal_a_loop_over_pairs_of_different_batches():
    gram, owners = sampled(at_cosine(0.3), 3, noise=0.2)
    index = np.array([0, 0, 0, 1, 1, 1])
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 1, 0, 0, 0, 3]], dtype=float)
    products = Products(gram, index, weights)
    for draw, counts in enumerate(weights):
        for a in (0, 1):
            for b in (0, 1):
                total = weight = 0.0
                for i in np.flatnonzero(index == a):
                    for j in np.flatnonzero(index == b):
                        if a == b and i == j:
                            continue
                        total += counts[i] * counts[j] * gram[i, j]
                        weight += counts[i] * counts[j]
                expected = total / weight if weight else np.nan
                np.testing.assert_allclose(products.between[draw, a, b], expected)
    assert owners == ["task0"] * 3 + ["task1"] * 3


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    inside = 0
    for seed in range(60):
        gram, owners = sampled(at_cosine(0.2, seed), 10, noise=0.05, seed=seed)
        found = agreement({0: gram}, owners, batch=1, draws=200, seed=seed)["overall"]["corrected"]
        inside += found["low"] <= 0.2 <= found["high"]
    assert inside >= 48  # of 60; percentile intervals of ten batches fall somewhat short of 95 %


def test_matrix_has_the_ceiling_on_its_diagonal_and_is_symmetric():
    gram, owners = sampled(np.concatenate([at_cosine(0.5), at_cosine(-0.5, 1)]), 6, noise=0.02)
    record = agreement({3: gram, 4: gram}, owners, batch=2, draws=20)
    cosine = np.array(record["matrix"]["cosine"])
    np.testing.assert_allclose(cosine, cosine.T)
    assert np.all(np.diag(cosine) > 0.6)
    assert cosine[0, 1] == pytest.approx(0.5, abs=0.1)
    assert record["blocks"] == [3, 4]
    assert [line["block"] for line in record["by_block"]] == [3, 4]


def test_gradients_of_pure_noise_leave_the_corrected_cosine_unsaid_or_wide():
    gram, owners = sampled(np.zeros((2, DIM)), 6, noise=1.0)
    found = agreement({0: gram}, owners, batch=1, draws=100)["overall"]
    assert abs(found["same_task"]["mean"]) < 0.2
    corrected = found["corrected"]
    assert corrected["mean"] is None or corrected["low"] is None or corrected["high"] - corrected["low"] > 0.5


def test_two_lengths_that_noise_made_negative_give_no_corrected_cosine():
    # Two batches of each task that point apart: |A|^2 and |B|^2 come out negative, and their product positive.
    gram = np.array([[1.0, -0.5, 0.3, 0.3], [-0.5, 1.0, 0.3, 0.3], [0.3, 0.3, 1.0, -0.5], [0.3, 0.3, -0.5, 1.0]])
    found = agreement({0: gram}, ["a", "a", "b", "b"], batch=1, draws=20)
    assert found["overall"]["corrected"] == {"mean": None, "low": None, "high": None}
    assert found["matrix"]["cosine"][0][1] is None and found["overall"]["opposing_pairs_of_tasks"] == [0, 0]


def test_opposing_shares_count_negative_products():
    gram = np.array([[1, 1, -1, -1], [1, 1, -1, 1], [-1, -1, 1, -1], [-1, 1, -1, 1]], dtype=float)
    across, same = opposing(gram, np.array([0, 0, 1, 1]))
    assert across == 0.75
    assert same == 0.5


def labelled(processor, pictures):
    batch = ask(processor, pictures, answers=["one", "two"])
    return {**batch, "labels": batch["input_ids"].clone(), "sample_ids": ["a", "b"]}


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_products_of_a_model_are_those_of_its_gradients_and_it_stays_as_it_was(family, pictures):
    model, processor = tiny.FAMILIES[family]()
    model.train()
    model.requires_grad_(False)
    batches = [labelled(processor, pictures[:2]), labelled(processor, pictures[2:4])]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    products = block_products(model, batches)
    vlm = VLM.of(model)
    assert list(products) == list(vlm.executed_blocks(0))
    assert model.training
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())

    model.eval()
    for index, block in vlm.executed_blocks(0).items():
        block.requires_grad_(True)
        rows = []
        for batch in batches:
            model.zero_grad()
            model(**{name: value for name, value in batch.items() if name != "sample_ids"}).loss.backward()
            rows.append(torch.cat([p.grad.flatten() for p in block.parameters()]))
        np.testing.assert_allclose(products[index], torch.stack(rows) @ torch.stack(rows).T, rtol=1e-3, atol=1e-7)
        block.requires_grad_(False)


def test_a_long_gradient_is_sketched_and_keeps_its_products(pictures):
    model, processor = tiny.FAMILIES["llava"]()
    batches = [labelled(processor, pictures[:2]), labelled(processor, pictures[2:4])]
    whole, sketched = block_products(model, batches), block_products(model, batches, dim=4096)
    for block, products in whole.items():
        lengths = np.sqrt(np.outer(np.diag(products), np.diag(products)))
        assert np.abs(sketched[block] - products).max() > 0
        np.testing.assert_allclose(sketched[block] / lengths, products / lengths, atol=4 * np.sqrt(2 / 4096))
