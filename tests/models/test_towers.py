"""What towers are: which of their modules no gradient reaches, what their configs change, which ones are refused."""

from dataclasses import replace

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, Siglip2VisionConfig
from transformers.activations import ACT2FN

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.tiny.llava import llama, llava_tokenizer
from tests.tiny.llava_dino import NUM_REGISTERS, llava_dinov2, llava_dinov2_registers, llava_dinov3
from tests.tiny.llava_pixtral import llava_pixtral
from tests.tiny.llava_siglip import llava_siglip
from yarbus.core.errors import ConfigError
from yarbus.methods import CoVFT
from yarbus.models.images import ImageMap
from yarbus.models.observe import observe
from yarbus.models.towers.dinov2 import IS_NESTED
from yarbus.models.vlm import TOWERS, VLM

BUILDERS = {
    "clip": tiny.llava,
    "siglip": llava_siglip,
    "dinov2": llava_dinov2,
    "dinov2-swiglu": lambda **settings: llava_dinov2(use_swiglu_ffn=not IS_NESTED, **settings),
    "dinov2-registers": lambda **settings: llava_dinov2_registers(use_swiglu_ffn=False, **settings),
    "dinov2-registers-swiglu": llava_dinov2_registers,
    "dinov3": lambda **settings: llava_dinov3(use_gated_mlp=False, **settings),
    "dinov3-gated": llava_dinov3,
    "pixtral": llava_pixtral,
}


@pytest.mark.parametrize("layer", [-1, -2, 2, [-3, 1]])
@pytest.mark.parametrize("tower", BUILDERS)
def test_what_a_tower_calls_dead_is_what_no_gradient_reaches(tower, layer, pictures):
    model, processor = BUILDERS[tower](vision_feature_layer=layer)
    batch = ask(processor, pictures[:2])
    model(**batch, labels=batch["input_ids"]).loss.backward()
    vlm = VLM.of(model)
    unreached = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unreached == {name for name, parameter in model.named_parameters() if id(parameter) in vlm.dead_parameters()}
    assert vlm.num_executed() == {-1: 4, -2: 3, 2: 2}.get(layer if isinstance(layer, int) else 2)


@pytest.mark.parametrize("tower", BUILDERS)
def test_a_tower_says_what_its_config_makes_of_it(tower):
    model, _ = BUILDERS[tower]()
    vlm = VLM.of(model)
    for block in vlm.blocks():
        linears = list(vlm.feed_forward_linears(block))
        feed_forward = block.get_submodule(vlm.tower.feed_forward)
        inside = {id(module) for module in feed_forward.modules() if isinstance(module, torch.nn.Linear)}
        assert {id(linear) for linear in linears} == inside
        assert all(linear.in_features == vlm.vision_dim for linear in linears[:-1])
        named = ("activation_fn", "act_fn", "activation")
        activation = next(getattr(feed_forward, name) for name in named if hasattr(feed_forward, name))
        x = torch.linspace(-3, 3, 13)
        assert torch.equal(activation(x), ACT2FN[vlm.activation](x))
    registers = NUM_REGISTERS if "registers" in tower or "dinov3" in tower else 0
    assert vlm.tower.prefix_tokens == {"siglip": 0, "pixtral": 0}.get(tower, 1 + registers)


@pytest.mark.parametrize("routing", ["dense", "merged", "sparse", "random"])
@pytest.mark.parametrize("tower", ["dinov2-swiglu", "pixtral"])
def test_every_routing_runs_on_gated_and_on_packed_towers(tower, routing, text_encoder, pictures):
    model, processor = BUILDERS[tower]()
    shown = [pictures[0], pictures[1].resize((56, 28))]
    with torch.no_grad():
        expected = model(**ask(processor, shown)).logits
        method = CoVFT(num_experts=3, context_dim=16, routing=routing, expert_jitter=0.0)
        yarbus.attach(model, processor, vision=method, text_encoder=text_encoder)
        batch = ask(processor, shown)
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()


def test_packed_tokens_may_have_an_axis_of_one_before_them():
    images = ImageMap(torch.tensor([0, 1]), torch.tensor([3, 2]))
    tokens = torch.randn(1, 5, 4)
    images.check(tokens)
    assert torch.equal(images.strip(tokens), tokens[0])
    padded, mask = images.by_row(tokens, 2)
    assert torch.equal(padded[1, :2], tokens[0, 3:]) and mask.tolist() == [[True] * 3, [True, True, False]]
    with pytest.raises(RuntimeError, match="holds 4 tokens, the context maps 5"):
        images.check(tokens[:, :4])
    one = ImageMap(torch.tensor([0]))
    assert torch.equal(one.strip(tokens), tokens)


def test_a_pixtral_tower_needs_no_sizes_where_all_pictures_are_of_one(text_encoder, pictures):
    model, processor = llava_pixtral()
    method = CoVFT(num_experts=3, context_dim=16)
    yarbus.attach(model, processor, vision=method, text_encoder=text_encoder)
    batch = ask(processor, pictures[:2])
    with torch.no_grad():
        expected = model(**batch).logits
        batch.pop("image_sizes")
        torch.testing.assert_close(model(**batch).logits, expected)


def test_siglip2_of_native_resolution_is_refused_with_the_reason():
    vision = Siglip2VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, patch_size=14, num_patches=4
    )
    tokenizer = llava_tokenizer()
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=llama(tokenizer)))
    with pytest.raises(ConfigError, match=r"needs pixel_attention_mask and spatial_shapes.*fixed resolution"):
        VLM.of(model)


def test_a_path_that_is_wrong_is_named(monkeypatch):
    model, _ = tiny.llava()
    monkeypatch.setitem(
        TOWERS._own, "CLIPVisionConfig", replace(TOWERS["CLIPVisionConfig"], blocks=("encoder.blocks",))
    )
    with pytest.raises(ConfigError, match=r"no block list at 'encoder.blocks': CLIPVisionModel"):
        VLM.of(model).blocks()


@pytest.mark.parametrize("name", ["llava_dinov2", "llava_pixtral", "llava_next", "llava_onevision", "internvl"])
def test_what_the_eyes_notice_is_told_by_image(name, text_encoder, pictures):
    model, processor = tiny.EVERY[name]()
    yarbus.attach(model, processor, vision=CoVFT(num_experts=3, context_dim=16), text_encoder=text_encoder)
    batch = {**ask(processor, [pictures[0], pictures[1].resize((56, 56))], QUESTIONS[:2]), "sample_ids": ["a", "b"]}
    seen = observe(model, [batch])
    assert list(dict.fromkeys(seen.sample_ids)) == ["a", "b"]
    number = len(seen.sample_ids)
    assert len(seen.features) == len(seen.text) == number
    for block, weights in seen.routing_weights.items():
        assert len(weights) == len(seen.gaze[block]) == number
