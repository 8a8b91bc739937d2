import math

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.cases import CASES
from yarbus.core.errors import ConfigError
from yarbus.core.sections import GroupRate
from yarbus.methods.assemble import build_all
from yarbus.models.attach import set_stage
from yarbus.models.attachment import parameter_groups
from yarbus.training.groups import (
    blocks_behind,
    check_groups,
    check_reached,
    gradient_norms,
    optimizer_groups,
    rate_factor,
    rate_range,
    rate_scales,
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"eyes": nn.Linear(3, 2), "mouth": nn.Linear(2, 4)})


@pytest.fixture
def groups(model):
    eyes, mouth = (
        {f"{part}.{name}": tensor for name, tensor in model[part].named_parameters()} for part in ("eyes", "mouth")
    )
    return {"vision": eyes, "language": mouth}


RATES = {"vision": 1e-3, "language": 1e-4}


def test_biases_and_norms_do_not_decay_and_each_group_has_its_rate(groups):
    entries = optimizer_groups(groups, RATES, weight_decay=0.1)
    told = [(entry["group"], entry["names"], entry["lr"], entry["weight_decay"]) for entry in entries]
    assert told == [
        ("vision", ["eyes.weight"], 1e-3, 0.1),
        ("vision", ["eyes.bias"], 1e-3, 0.0),
        ("language", ["mouth.weight"], 1e-4, 0.1),
        ("language", ["mouth.bias"], 1e-4, 0.0),
    ]
    assert all(len(entry["params"]) == len(entry["names"]) for entry in entries)


@pytest.mark.parametrize("case", CASES)
def test_no_bias_or_norm_of_any_method_decays_stacked_ones_included_and_every_matrix_does(case, text_encoder):
    model, processor = tiny.llava()
    set_stage(model, processor, {CASES[case].place: CASES[case].method}, text_encoder=text_encoder)
    groups = parameter_groups(model)
    entries = optimizer_groups(groups, dict.fromkeys(groups, 1e-3), weight_decay=0.1)
    decay_of = {name: entry["weight_decay"] for entry in entries for name in entry["names"]}
    tensors = {name: tensor for group in groups.values() for name, tensor in group.items()}
    assert decay_of.keys() == tensors.keys()
    for name, decay in decay_of.items():
        spared = "bias" in name.rpartition(".")[2] or "norm" in name or tensors[name].ndim < 2
        assert decay == (0.0 if spared else 0.1), name


@pytest.mark.parametrize("case", ["vision covft cve dense", "projector qmoe"])
def test_experts_have_stacked_biases(case, text_encoder):
    """Or the test above would show nothing of them."""
    model, processor = tiny.llava()
    set_stage(model, processor, {CASES[case].place: CASES[case].method}, text_encoder=text_encoder)
    assert any(name.endswith("_bias") and tensor.ndim == 2 for name, tensor in model.named_parameters())


def test_gradient_norms_are_those_of_the_joined_gradient(model, groups):
    model["mouth"](model["eyes"](torch.ones(5, 3))).square().sum().backward()
    model["eyes"].bias.grad = None
    norms = gradient_norms(groups)
    assert norms["vision"] == pytest.approx(model["eyes"].weight.grad.norm().item())
    parts = (model["mouth"].weight.grad, model["mouth"].bias.grad)
    assert norms["language"] == pytest.approx(math.hypot(*(part.norm().item() for part in parts)))


def test_a_group_without_a_gradient_has_the_norm_zero(groups):
    assert gradient_norms(groups) == {"vision": 0.0, "language": 0.0}


def test_groups_that_fit_pass(model, groups):
    check_groups(model, groups, ["vision", "language"], RATES | {"router": 1.0})


def test_a_declared_group_without_a_tensor_is_an_error(model, groups):
    with pytest.raises(ConfigError, match="group 'router' holds no tensor"):
        check_groups(model, groups, ["vision", "router"], RATES)


def test_a_group_without_a_rate_is_an_error_that_names_it_and_a_tensor(model, groups):
    with pytest.raises(
        ConfigError, match="no learning rate for group 'language'.*mouth.weight.*learning_rate.language"
    ):
        check_groups(model, groups, ["vision", "language"], {"vision": 1e-3})


def test_a_trainable_tensor_that_nobody_reaches_is_an_error_that_names_it(model, groups):
    del groups["vision"]["eyes.bias"]
    with pytest.raises(ConfigError, match="eyes.bias.*forward pass does not reach"):
        check_groups(model, groups, ["vision", "language"], RATES)
    model["eyes"].bias.requires_grad_(False)
    check_groups(model, groups, ["vision", "language"], RATES)


def test_a_stage_that_trains_nothing_is_an_error(model):
    with pytest.raises(ConfigError, match="trains nothing"):
        check_groups(model, {}, [], RATES)


def test_a_tensor_in_two_groups_is_our_own_mistake(model, groups):
    groups["language"]["eyes.bias"] = groups["vision"]["eyes.bias"]
    with pytest.raises(RuntimeError, match="eyes.bias"):
        check_groups(model, groups, ["vision", "language"], RATES)


def test_a_trained_tensor_without_a_gradient_is_an_error_that_names_it(model, groups):
    model["mouth"](model["eyes"](torch.ones(5, 3))).square().sum().backward()
    check_reached(groups)
    model["eyes"].bias.grad = None
    with pytest.raises(ConfigError, match=r"1 trained tensors.*eyes.bias.*dead_tail"):
        check_reached(groups)


# ---- decay by block ----


def behind_of(model, parts) -> dict[str, int]:
    """Blocks behind the first parameter whose name holds each of these words."""
    behind = blocks_behind(model)
    return {part: next(count for name, count in behind.items() if part in name) for part in parts}


def test_llava_counts_the_blocks_that_run_from_the_last_one_to_the_embeddings():
    model, _ = tiny.llava()  # 4 blocks, of which the last is dead
    parts = {"embeddings.": 3, "pre_layrnorm": 3, "layers.0.": 2, "layers.1.": 1, "layers.2.": 0, "layers.3.": 0}
    assert behind_of(model, parts) == parts
    assert not any("language_model" in name or "projector" in name for name in blocks_behind(model))


def test_qwen_runs_all_its_blocks_and_its_merger_comes_behind_them():
    model, _ = tiny.qwen()
    parts = {"patch_embed": 4, "blocks.0.": 3, "blocks.1.": 2, "blocks.2.": 1, "blocks.3.": 0, "merger": 0}
    assert behind_of(model, parts) == parts


def decayed(model, processor, train: dict, rates: dict[str, GroupRate]) -> dict[str, float]:
    set_stage(model, processor, build_all(train))
    return rate_scales(model, parameter_groups(model), rates)


def test_decay_multiplies_the_rate_once_per_executed_block_behind_a_tensor():
    model, processor = tiny.llava()
    rates = {"vision": GroupRate(peak=1e-3, block_decay=0.5), "projector": GroupRate(peak=1e-3)}
    scales = decayed(model, processor, {"vision": "full", "projector": "full"}, rates)
    groups = parameter_groups(model)
    assert scales.keys() == groups["vision"].keys()
    entries = optimizer_groups(groups, {"vision": 1e-3, "projector": 1e-3}, 0.1, scales)
    rate_of = {name: entry["lr"] for entry in entries for name in entry["names"]}
    n = 3  # executed blocks
    for name, rate in rate_of.items():
        block = next(
            (i for i in range(4) if f"vision_tower.encoder.layers.{i}." in name.replace("vision_model.", "")), None
        )
        power = 0 if "projector" in name else n if block is None else n - 1 - block
        assert rate == 1e-3 * 0.5**power, name
    assert len({entry["lr"] for entry in entries if entry["group"] == "vision"}) == 4
    sizes = sum(len(entry["params"]) for entry in entries)
    assert sizes == sum(map(len, groups.values())) == len(rate_of)
    assert [entry["lr"] for entry in entries if entry["group"] == "vision"] == sorted(
        entry["lr"] for entry in entries if entry["group"] == "vision"
    )


def test_decay_reaches_new_tensors_of_the_blocks_and_their_routers(text_encoder):
    model, processor = tiny.llava()
    covft = {"method": "covft", "num_experts": 2, "first_block": 1}
    rates = {group: GroupRate(peak=1e-3, block_decay=0.5) for group in ("vision_new", "router")}
    set_stage(model, processor, build_all({"vision": covft}), text_encoder=text_encoder)
    scales = rate_scales(model, parameter_groups(model), rates)
    for group in rates:
        assert {scales[name] for name in parameter_groups(model)[group]} == {0.5, 1.0}
    assert not any(name in scales for name in parameter_groups(model)["vision"])


@pytest.mark.parametrize("group", ["projector", "language"])
def test_decay_of_a_group_without_blocks_is_refused(group):
    model, processor = tiny.llava()
    rates = {name: GroupRate(peak=1e-3) for name in ("vision", "projector", "language")}
    rates[group] = GroupRate(peak=1e-3, block_decay=0.9)
    with pytest.raises(ConfigError, match=f"block_decay 0.9 for group '{group}'.*learning_rate.{group}.block_decay"):
        decayed(model, processor, {"vision": "full", "projector": "full", "language": "full"}, rates)


def test_decay_of_a_group_that_does_not_train_is_no_fault():
    model, processor = tiny.llava()
    rates = {"vision": GroupRate(peak=1e-3, block_decay=0.9), "projector": GroupRate(peak=1e-3)}
    assert decayed(model, processor, {"projector": "full"}, rates) == {}


# ---- schedules ----


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ],
)
def test_a_schedule_rises_over_its_warm_up_and_then_goes_its_way(schedule, expected):
    factor = rate_factor(schedule, 2, 6)
    assert [factor(step) for step in range(6)] == pytest.approx(expected)


def test_the_range_of_a_group_is_over_all_its_entries():
    entries = [{"group": "vision", "lr": 2.0}, {"group": "vision", "lr": 1.0}, {"group": "head", "lr": 3.0}]
    assert rate_range(entries) == {"vision": (1.0, 2.0), "head": (3.0, 3.0)}


def test_a_frozen_share_is_a_rate_of_nothing_and_then_the_schedule_from_where_it_is():
    plain, staged = rate_factor("cosine", 2, 10), rate_factor("cosine", 2, 10, frozen_steps=4)
    assert [staged(step) for step in range(4)] == [0.0] * 4
    assert [staged(step) for step in range(4, 11)] == [plain(step) for step in range(4, 11)]
