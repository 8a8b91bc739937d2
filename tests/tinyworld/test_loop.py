import json

import pytest
import torch
from torch import nn

from yarbus.tinyworld.loop import Schedule, train

SCHEDULE = Schedule(seed=0, steps=30, batch=8, learning_rate=1e-2, warmup_steps=3, log_every=10, save_every=10)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


def loss_of(network: nn.Module, stop_at: int | None = None):
    def loss(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(step)
        rows = torch.randn(SCHEDULE.batch, 4, generator=generator)
        return (network(rows) - rows.sum(1, keepdim=True)).square().mean(), {}

    return loss


def test_an_interrupted_run_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    whole, stopped, resumed = module(), module(), module()
    assert train(whole, loss_of(whole), SCHEDULE, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, loss_of(stopped, stop_at=17), SCHEDULE, tmp_path / "stopped")
    assert train(resumed, loss_of(resumed), SCHEDULE, tmp_path / "stopped", resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    steps = [point["step"] for point in json.loads((tmp_path / "stopped/log.json").read_text())["curve"]]
    assert steps == [10, 20, 30]


def test_time_being_over_is_no_end_but_a_checkpoint(tmp_path):
    network = module()
    assert not train(network, loss_of(network), SCHEDULE, tmp_path, minutes=0.0)
    assert train(network, loss_of(network), SCHEDULE, tmp_path, resume=True)


def test_the_rate_rises_then_falls_to_zero():
    rates = [SCHEDULE.rate(step) for step in range(SCHEDULE.steps + 1)]
    assert max(rates) == rates[3] == SCHEDULE.learning_rate and rates[0] < rates[1] < rates[2]
    assert rates[-1] == pytest.approx(0)
