import math

import pytest
import torch
from torch import nn

from yarbus.core.errors import ConfigError
from yarbus.training.groups import check_groups, check_reached, gradient_norms, optimizer_groups


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
