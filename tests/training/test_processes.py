"""Two processes train as one does, whoever of them sees pictures: DDP through accelerate, and FSDP2."""

import pytest
import torch

from tests.training.processes import CASES, SHARDED, alone, answers, built, outcomes


def assert_same(found, expected):
    assert len(found) == len(expected)
    for mine, wanted in zip(found, expected, strict=True):
        assert mine.keys() >= wanted.keys()
        for name, gradient in mine.items():  # one process alone leaves the eyes out where other places train
            expected = wanted.get(name, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_processes_of_ddp_have_the_gradients_of_one(name):
    for found in outcomes()[f"ddp {name}"]:
        assert_same(found, alone(name))


@pytest.mark.parametrize("name", SHARDED)
def test_processes_of_fsdp_have_the_gradients_of_one(name):
    for found in outcomes()[f"fsdp {name}"]:
        assert_same(found, alone(name))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("words")])
def test_where_all_see_words_alone_every_gradient_of_the_eyes_is_zero(name):
    for (gradients,) in outcomes()[f"ddp {name}"]:
        eyes = [gradient for name, gradient in gradients.items() if "vision" in name or "visual" in name]
        assert eyes and not any(gradient.any() for gradient in eyes)


@pytest.mark.parametrize("name", ["late", "late, qwen"])
def test_a_sharded_model_generates_what_a_whole_one_does_and_may_be_asked_about_nothing(name):
    model, processor = built(CASES[name])
    for rank, found in enumerate(outcomes()[f"generate {name}"]):
        assert torch.equal(found, answers(model, processor, 1 - rank, seed=rank))


def test_without_the_dummy_picture_a_process_waits_in_vain():
    waiting, other = outcomes()["uncured"]
    assert "Timed out" in waiting and other.endswith("tensors without a gradient")
