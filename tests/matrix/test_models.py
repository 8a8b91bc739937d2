"""What must be true of a small model before anything is said about methods on it."""

import torch

from tests.matrix.cells import logits, loss, plain
from tests.models.batches import ask
from yarbus.models.vlm import VLM


def test_the_small_model_looks_at_its_pictures(small_model, pictures):
    model, processor = plain(small_model)
    one, other = ask(processor, pictures[:2]), ask(processor, pictures[2:4])
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert (logits(model, one) - logits(model, other)).abs().max() > 0.1
    loss(model, one).backward()
    vlm = VLM.of(model)
    for block in list(vlm.executed_blocks(0).values()):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


def test_every_parameter_has_one_place_and_what_is_dead_is_what_gets_no_gradient(small_model, pictures):
    model, processor = plain(small_model)
    vlm = VLM.of(model)
    places = [vlm.place_parameters(place) for place in ("vision", "projector", "language")]
    named = dict(model.named_parameters())
    assert sorted(name for place in places for name in place) == sorted(named)
    assert all(places)
    loss(model, ask(processor, pictures[:2])).backward()
    unreached = {name for name, parameter in named.items() if parameter.grad is None}
    assert unreached == {name for name, parameter in named.items() if id(parameter) in vlm.dead_parameters()}
