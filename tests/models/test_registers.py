"""Registers reach the language model of a loaded model as its processor counts, and never that of one from parts."""

import copy

import pytest
import torch

import yarbus
from tests import tiny
from tests.models.batches import ask
from tests.tiny.llava_dino import NUM_REGISTERS
from yarbus.core.errors import ConfigError
from yarbus.methods import CoVFT, QMoE
from yarbus.models.load import load_base
from yarbus.models.registers import drop_registers
from yarbus.models.vlm import VLM

NAMES = ["llava_dinov2_registers", "llava_dinov3"]


@torch.no_grad()
def features(model, processor, pictures):
    """What the projector is handed, [images, tokens, dim]."""
    handed = []
    hook = VLM.of(model).projector.register_forward_pre_hook(lambda _, args: handed.append(args[0]))
    model(**ask(processor, pictures[:2]))
    hook.remove()
    return handed[0]


@pytest.mark.parametrize("name", NAMES)
def test_registers_do_not_reach_the_language_model_of_a_model_from_parts(name, pictures):
    model, processor = tiny.EVERY[name]()
    kept = features(model, processor, pictures)
    placeholders = int((ask(processor, pictures[:2])["input_ids"] == model.config.image_token_id).sum())
    assert drop_registers(model, processor) == drop_registers(model, processor) == NUM_REGISTERS
    assert torch.equal(features(model, processor, pictures), kept[:, NUM_REGISTERS:])
    left = int((ask(processor, pictures[:2])["input_ids"] == model.config.image_token_id).sum())
    assert left == placeholders - 2 * NUM_REGISTERS == 2 * VLM.of(model).image_tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_keeps_what_its_processor_implies(name, pictures, tmp_path):
    model, processor = tiny.EVERY[name]()
    for drops in (False, True):
        if drops:
            drop_registers(model, processor)
        folder = tmp_path / str(drops)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        loaded, its_processor = load_base(str(folder))
        mine, theirs = features(model, processor, pictures), features(loaded.eval(), its_processor, pictures)
        assert torch.equal(mine, theirs)
        assert mine.shape[1] == 4 + (0 if drops else NUM_REGISTERS)


ATTACHED = {
    "covft": {"vision": CoVFT(num_experts=2, context_dim=16)},
    "qmoe": {"projector": QMoE(width=24, num_queries=3, num_heads=4, num_layers=1)},
}


@pytest.mark.parametrize("places", ATTACHED.values(), ids=ATTACHED)
def test_what_is_attached_to_a_model_without_registers_survives_saving(places, text_encoder, pictures, tmp_path):
    model, processor = tiny.EVERY["llava_dinov3"]()
    drop_registers(model, processor)
    yarbus.attach(model, processor, text_encoder=text_encoder, **places)
    twin = copy.deepcopy(model)
    expected = features(model, processor, pictures)
    assert expected.shape[1] == 4
    assert torch.equal(features(twin, processor, pictures), expected)
    yarbus.save(model, processor, tmp_path)
    loaded, its_processor = yarbus.load(tmp_path)
    assert torch.equal(features(loaded.eval(), its_processor, pictures), expected)


def test_a_tower_without_registers_has_none_to_drop_and_other_families_refuse():
    assert drop_registers(*tiny.llava()) == 0
    assert drop_registers(*tiny.EVERY["llava_dinov2"]()) == 0
    model, processor = tiny.EVERY["llava_dinov3"]()
    del processor.num_additional_image_tokens
    with pytest.raises(ConfigError, match="cannot drop the registers of DINOv3ViTConfig"):
        drop_registers(model, processor)
