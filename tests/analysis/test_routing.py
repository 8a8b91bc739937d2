"""Routing by task and block against known answers, and how far experts are apart against a loop."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.analysis.seen import ASKED, observed_on, planted, rows_of
from tests.models.test_question_path import METHODS, attached
from yarbus.analysis.routing import between_tasks, entropies, routing_record
from yarbus.methods.covft import mixtures_of
from yarbus.models.vlm import VLM


def test_entropy_of_even_routing_is_its_maximum_and_of_one_expert_zero():
    even, one = np.full((3, 4), 0.25), np.eye(4)[:3]
    np.testing.assert_allclose(entropies(even), np.log(4))
    assert entropies(one).tolist() == [0.0, 0.0, 0.0]
    mixed = np.array([[0.5, 0.3, 0.2, 0.0]])
    assert entropies(mixed)[0] == pytest.approx(-(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)))


def test_eta_squared_is_0_where_nothing_varies_and_1_where_tasks_are_all_that_varies():
    assert between_tasks(np.full((6, 4), 0.25), ["a", "b"] * 3) == 0.0
    assert between_tasks(np.full((6, 4), 0.25) + 1e-8 * np.arange(6)[:, None], ["a", "b"] * 3) == 0.0
    split = np.tile([[0.7, 0.3], [0.2, 0.8]], (3, 1))
    assert between_tasks(split, ["a", "b"] * 3) == pytest.approx(1.0)
    assert between_tasks(split, ["a"] * 6) == pytest.approx(0.0)


def test_eta_squared_equals_sums_over_images_and_experts():
    random = np.random.default_rng(0)
    weights, tasks = random.dirichlet(np.ones(4), size=30), [random.choice(["a", "b", "c"]) for _ in range(30)]
    total = within = 0.0
    for expert in range(4):
        mean = sum(weights[:, expert]) / 30
        total += sum((value - mean) ** 2 for value in weights[:, expert])
        for task in "abc":
            own = [weights[place, expert] for place in range(30) if tasks[place] == task]
            within += sum((value - sum(own) / len(own)) ** 2 for value in own)
    assert between_tasks(weights, tasks) == pytest.approx(1 - within / total)


def test_labels_without_meaning_reach_what_chance_gives():
    random = np.random.default_rng(1)
    found = [
        between_tasks(random.dirichlet(np.ones(4), size=40), list(random.permutation(["a", "b", "c", "d"] * 10)))
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(3 / 39, rel=0.1)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_expert_distance_equals_a_loop_over_the_experts_tensors(family, text_encoder):
    model, _ = attached(family, text_encoder, METHODS["cve-dense"])
    for block, mixture in mixtures_of(model).items():
        assert mixture is VLM.of(model).blocks()[block].mlp
        experts = []
        for index in range(mixture.num_experts):
            tensors = [mixture.up_weight[index], mixture.down_weight[:, index]]
            for stacked in (mixture.up_bias, mixture.gate_weight, mixture.gate_bias, mixture.down_bias):
                tensors += [] if stacked is None else [stacked[index]]
            experts.append(torch.cat([tensor.detach().flatten() for tensor in tensors]).double())
        distances = [(a - b).norm() for a, b in combinations(experts, 2)]
        expected = torch.stack(distances).mean() / torch.stack(experts).mean(dim=0).norm()
        found = mixture.expert_distance()
        assert isinstance(found, float) and found > 0.1
        assert found == pytest.approx(expected.item(), rel=1e-5)
        mixture.to(torch.bfloat16)
        assert mixture.expert_distance() == pytest.approx(found, rel=1e-2)


def test_copies_are_at_no_distance_and_a_jitter_of_a_thousandth_is_seen(text_encoder):
    copies, _ = attached("llava", text_encoder, METHODS["cve-dense"], spread_experts=False)
    assert {mixture.expert_distance() for mixture in mixtures_of(copies).values()} == {0.0}
    jittered = replace(METHODS["cve-dense"], expert_jitter=1e-3)
    apart, _ = attached("llava", text_encoder, jittered, spread_experts=False)
    assert all(1e-4 < mixture.expert_distance() < 1e-2 for mixture in mixtures_of(apart).values())
    single, _ = attached("llava", text_encoder, METHODS["one-expert"])
    assert mixtures_of(single) == {}
    assert VLM.of(single).blocks()[2].mlp.expert_distance() == 0.0


def test_planted_routing_is_recorded_by_block_and_task(text_encoder):
    model, _ = attached("llava", text_encoder, METHODS["cve-dense"])
    tasks = ["read", "locate"] * 6
    apart = np.tile([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], (6, 1))
    seen = planted(np.zeros((12, 2)), routing={1: np.full((12, 3), 1 / 3), 2: apart})
    rows, labels = rows_of(tasks, groups=[str(place // 2) for place in range(12)])
    record = routing_record(model, seen, rows, labels)
    assert (record["blocks"], record["num_experts"]) == ([1, 2], 3)
    assert record["tasks"] == {"read": 6, "locate": 6}
    first, second = record["by_block"]
    assert first["entropy"]["mean"] == pytest.approx(np.log(3)) == first["max_entropy"]
    assert first["between_tasks"] == 0.0 and second["between_tasks"] == pytest.approx(1.0)
    assert second["between_tasks_by_chance"] == pytest.approx(1 / 11)
    assert second["by_task"]["read"] == {
        "weights": [1.0, 0.0, 0.0],
        "entropy": {"mean": 0.0, "low": 0.0, "high": 0.0},
    }
    assert second["by_task"]["locate"]["entropy"]["mean"] == pytest.approx(np.log(2))
    assert second["entropy"]["low"] == second["entropy"]["high"], "each scene has one question of each task"
    assert second["expert_distance"] == mixtures_of(model)[2].expert_distance()


def test_uniform_routing_has_a_distance_of_experts_alone_and_one_expert_nothing(text_encoder, pictures, tmp_path):
    model, _, seen, rows, labels = observed_on("llava", text_encoder, pictures[:2], tmp_path, "uniform")
    record = routing_record(model, seen, rows, labels)
    assert json.dumps(record, allow_nan=False)
    for block in record["by_block"]:
        assert block["entropy"] is None and block["between_tasks"] is None and block["by_task"] == {}
        assert block["expert_distance"] > 0 and block["max_entropy"] == pytest.approx(np.log(3))
    model, _, seen, rows, labels = observed_on("llava", text_encoder, pictures[:1], tmp_path, "one-expert")
    with pytest.raises(ValueError, match="no mixture"):
        routing_record(model, seen, rows, labels)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_real_model_of_every_family_gives_a_whole_record(family, text_encoder, pictures, tmp_path):
    model, _, seen, rows, labels = observed_on(family, text_encoder, pictures[:4], tmp_path)
    record = routing_record(model, seen, rows, labels)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert routing_record(model, seen, rows, labels) == record
    assert record["blocks"] == sorted(seen.routing_weights)
    for block in record["by_block"]:
        assert set(block) == {
            "block", "entropy", "max_entropy", "by_task", "between_tasks", "between_tasks_by_chance", "expert_distance",
        }  # fmt: skip
        assert list(block["by_task"]) == list(ASKED)
        for part in block["by_task"].values():
            assert sum(part["weights"]) == pytest.approx(1.0, abs=1e-5)
            assert 0 <= part["entropy"]["low"] <= part["entropy"]["mean"] <= part["entropy"]["high"]
        assert 0 < block["entropy"]["mean"] < block["max_entropy"]
        assert 0 < block["between_tasks"] < 1
