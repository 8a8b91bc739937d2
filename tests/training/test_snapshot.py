import random
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from yarbus.core.errors import CheckpointError, NonFiniteError
from yarbus.core.records import read_json, write_json
from yarbus.training.snapshot import (
    check_finite_tensors,
    load_optimizer,
    load_tensors,
    optimizer_numbers,
    optimizer_tensors,
    rng_tensors,
    save_tensors,
    set_rng,
)


def draws() -> tuple:
    return random.gauss(0, 1), random.random(), numpy.random.randn(3).tolist(), torch.rand(3).tolist()


def test_generators_continue_where_they_were_saved(tmp_path: Path):
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    draws()  # an odd number of gaussians: both libraries now hold half a pair
    save_tensors(rng_tensors(), tmp_path / "rng.safetensors")
    expected = draws()
    random.seed(2), numpy.random.seed(2), torch.manual_seed(2)
    set_rng(load_tensors(tmp_path / "rng.safetensors"))
    assert draws() == expected


def adam(names: list[str], seed: int = 0) -> torch.optim.AdamW:
    torch.manual_seed(seed)
    return torch.optim.AdamW(
        [{"names": [name], "group": name, "params": [nn.Parameter(torch.randn(3, 2))], "lr": 0.1} for name in names]
    )


def step(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def test_an_optimizer_continues_where_it_was_saved(tmp_path: Path):
    optimizer, other = adam(["a", "b"]), adam(["a", "b"])
    for both in (optimizer, other):
        step(both)
    optimizer.param_groups[0]["lr"] = 0.05
    save_tensors(optimizer_tensors(optimizer), tmp_path / "optimizer.safetensors")
    write_json(tmp_path / "state.json", optimizer_numbers(optimizer))
    fresh = adam(["a", "b"])
    step(fresh)  # same weights as `optimizer`, but its moments are overwritten
    load_optimizer(fresh, load_tensors(tmp_path / "optimizer.safetensors"), read_json(tmp_path / "state.json"))
    assert fresh.param_groups[0]["lr"] == 0.05 and fresh.param_groups[0]["betas"] == (0.9, 0.999)
    assert all(torch.equal(mine, its) for mine, its in zip(step(fresh), step(optimizer), strict=True))


def test_moments_are_found_under_their_parameters_names():
    optimizer = adam(["eyes.weight"])
    step(optimizer)
    assert sorted(optimizer_tensors(optimizer)) == ["eyes.weight/exp_avg", "eyes.weight/exp_avg_sq", "eyes.weight/step"]


def test_the_state_of_other_parameters_is_refused():
    with pytest.raises(CheckpointError, match="other parameters"):
        load_optimizer(adam(["a", "b"]), {}, optimizer_numbers(adam(["a", "c"])))


def test_weights_that_are_not_finite_are_never_saved():
    with pytest.raises(NonFiniteError, match="bad after step 4"):
        check_finite_tensors({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, step=4)


def test_a_missing_state_file_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="not exact: rng.safetensors missing"):
        load_tensors(tmp_path / "rng.safetensors")
