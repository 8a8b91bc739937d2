"""Every family's pictures as shapes: what autograd would keep of them is what it keeps of real ones."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import yarbus
from tests import tiny
from yarbus.core.sections import Stage
from yarbus.methods import CoVFT
from yarbus.models.shape_batch import shape_batch
from yarbus.models.vlm import VLM
from yarbus.training.footprint import Asked, NotEstimated, footprint

SIDES = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32, "mistral3": 28, "llava_next": 28, "llava_onevision": 28}
"""Of the pictures that the tiny models are made for."""
UNKNOWN = {"molmo2"}
"""Families whose pictures are not described yet: a plan tells the rest."""
STAGE = Stage.model_validate(
    {
        "train": {"projector": {"method": "full"}},
        "data": [{"source": "llava", "path": "x"}],
        "learning_rate": {"projector": 1e-3},
        "batch": 4,
    }
)


def kept(model, batch):
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found, in_head = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and not in_head:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    hook = VLM.of(model).lm_head.register_forward_pre_hook(lambda *_: in_head.append(True))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch, use_cache=False).loss
    hook.remove()
    loss.backward()
    return sum(found.values())


@pytest.mark.parametrize("family", tiny.EVERY)
def test_shapes_tell_what_a_real_forward_keeps(family):
    model, _ = yarbus.attach(*tiny.EVERY[family](), vision="layernorm", projector="full", language="full")
    asked = Asked(tokens=128, answer_tokens=16, side=SIDES.get(family, 28))
    if family in UNKNOWN:
        with pytest.raises(NotEstimated):
            footprint(model, STAGE, asked)
        return
    found = footprint(model, STAGE, asked)
    batch = shape_batch(model.train(), found.shape)
    if batch["pixel_values"].is_floating_point():
        batch["pixel_values"] = torch.randn(batch["pixel_values"].shape)
    assert kept(model, batch) == pytest.approx(found.activations, rel=0.15)


@pytest.mark.parametrize("family", [family for family in tiny.EVERY if family not in UNKNOWN])
def test_rows_may_have_no_picture_or_several(family):
    """What a method that maps pictures to rows keeps of them grows with their number, and a real forward runs."""
    model, processor = tiny.EVERY[family]()
    yarbus.attach(model, processor, vision=CoVFT(num_experts=2, context_dim=16), text_encoder="language_embeddings")
    kept = []
    for images in (0, 1, 2):
        found = footprint(model, STAGE, Asked(tokens=400, images=images, side=56))
        kept.append(found.activations)
        batch = shape_batch(model.train(), found.shape)
        if images and batch["pixel_values"].is_floating_point():
            batch["pixel_values"] = torch.randn(batch["pixel_values"].shape)
        assert torch.isfinite(model(**batch, use_cache=False).loss)
    assert kept[0] < kept[1] < kept[2]
