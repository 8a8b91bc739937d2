"""Qwen3-VL: what some blocks saw reaches the first language blocks on a way of its own (deepstack)."""

import pytest
import torch

import yarbus
from tests.matrix.cells import OTHER, attached, logits, loss, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.methods import CoVFT
from yarbus.models.attachment import parameter_groups
from yarbus.models.vlm import VLM

TAPPED = CoVFT(num_experts=3, context_dim=16, context="text", first_block=0, last_block=2)


def test_the_question_reaches_the_language_model_through_the_taps_alone(text_encoder, pictures):
    model, processor = attached("qwen3_vl", text_encoder, TAPPED)
    model.model.visual.merger.register_forward_hook(lambda _, args, output: torch.zeros_like(output))
    contexts = ([QUESTIONS[0]] * 2, [QUESTIONS[0], OTHER])
    left, right = (logits(model, ask(processor, pictures[:2], [QUESTIONS[0]] * 2, context=texts)) for texts in contexts)
    assert torch.equal(left[0], right[0])
    assert (left[1] - right[1]).abs().max() > 1e-5


def test_the_projectors_of_the_taps_belong_to_the_projector_and_not_to_the_tower():
    vlm = VLM.of(plain("qwen3_vl")[0])
    starts = ("model.visual.merger.", "model.visual.deepstack_merger_list.")
    assert {name for name, _ in vlm.model.named_parameters() if name.startswith(starts)} == set(
        vlm.place_parameters("projector")
    )
    assert not any(name.startswith(starts) for name in vlm.place_parameters("vision"))


def test_training_the_projector_trains_the_taps_and_nothing_of_the_tower(pictures):
    model, processor = plain("qwen3_vl")
    yarbus.attach(model, processor, projector="full")
    loss(model, ask(processor, pictures[:2])).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == set(parameter_groups(model)["projector"])
    assert any("deepstack" in name for name in trained)
    assert not any(".blocks." in name for name in trained)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_vl"])
def test_reentrant_checkpointing_behind_a_frozen_patch_embedding_leaves_no_block_without_gradient(
    name, text_encoder, pictures
):
    """The library asks a tower where its embeddings are, to make what leaves them require grad; not every one says."""
    model, processor = attached(name, text_encoder)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    loss(model, ask(processor, pictures[:2])).backward()
    for group in parameter_groups(model).values():
        assert not [name for name, parameter in group.items() if parameter.grad is None]


def test_a_frozen_tower_is_not_run_backwards_under_reentrant_checkpointing(text_encoder, pictures):
    model, processor = attached("qwen3_vl", text_encoder, CoVFT(num_experts=2, context_dim=16, first_block=3))
    for parameter in model.model.visual.parameters():
        parameter.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    runs = []
    VLM.of(model).blocks()[1].norm1.register_forward_hook(lambda *_: runs.append(1))
    loss(model, ask(processor, pictures[:2])).backward()
    assert len(runs) == 1
