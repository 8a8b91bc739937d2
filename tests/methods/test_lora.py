"""LoRA against its equation and against peft's; what stands on top of it; what folding leaves behind."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import AutoModelForImageTextToText

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from tests.models.batches import ask
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.methods import CoVFT, LoRA
from yarbus.methods.lora import fold
from yarbus.models.attachment import adapter_tensors, is_attached, parameter_groups
from yarbus.models.load import base_on_meta
from yarbus.models.vlm import VLM

SMALL = {"rank": 2, "alpha": 3.0, "dropout": 0.0}


def attached(family="llava", trained=True, dtype=torch.float32, keep_base=False, **places):
    """A model with LoRA in the places named; trained, every tensor that may train has moved."""
    model, processor = tiny.FAMILIES[family]()
    model.to(dtype)
    text_encoder = "language_embeddings" if any(one.reads_question for one in places.values()) else None
    torch.manual_seed(1)
    yarbus.attach(model, processor, **places, text_encoder=text_encoder, keep_base=keep_base)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values() if trained else ():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += (0.1 * noise * (1 + tensor.abs().mean().float())).to(tensor.dtype)
    return model.eval(), processor


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def wrapped(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("place", ["vision", "language"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_layer_adds_what_the_equation_says(family, place, pictures):
    model, processor = attached(family, **{place: LoRA(**SMALL, targets="all-linear")})
    layers, seen = wrapped(model), {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda module, args, output, name=name: seen.update({name: (args[0], output)}))
    logits(model, ask(processor, pictures))
    assert seen.keys() == layers.keys() and layers
    for name, (values, output) in seen.items():
        layer = layers[name]
        update = (3.0 / 2) * layer.lora_B.weight @ layer.lora_A.weight
        expected = nn.functional.linear(values, layer.weight + update, layer.bias)
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-4)


def test_the_layers_are_those_that_the_options_name():
    def names(**places):
        model, _ = attached(trained=False, **places)
        return {name.removeprefix("model.") for name in wrapped(model)}

    attention, feed_forward = ("q_proj", "k_proj", "v_proj", "out_proj"), ("fc1", "fc2")
    blocks = [f"vision_tower.encoder.layers.{index}" for index in range(3)]
    in_attention = {f"{block}.self_attn.{leaf}" for block in blocks for leaf in attention}
    assert names(vision=LoRA()) == in_attention
    in_networks = {f"{block}.mlp.{leaf}" for block in blocks for leaf in feed_forward}
    assert names(vision=LoRA(targets="all-linear")) == in_attention | in_networks
    leaves = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    leaves += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert names(language=LoRA()) == {f"language_model.layers.{index}.{leaf}" for index in range(2) for leaf in leaves}
    qwen, _ = attached("qwen2_5_vl", trained=False, vision=LoRA())
    leaves = {f"model.visual.blocks.{index}.attn.{leaf}" for index in range(4) for leaf in ("qkv", "proj")}
    assert wrapped(qwen).keys() == leaves


@pytest.mark.parametrize(("rank", "declared", "trained"), [(8, 1_572_864, 1_507_328), (512, 100_663_296, 96_468_992)])
def test_parameters_of_the_papers_model_are_counted_as_the_paper_counts_them(rank, declared, trained):
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision=LoRA(rank=rank, alpha=2.0 * rank))
    plan = yarbus.plan(model)
    assert plan.total("declared", "vision_new") == declared
    assert plan.groups() == {"vision_new": trained}


def test_official_counts_and_those_of_a_language_model():
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision=LoRA.preset("official"), language=LoRA())
    plan = yarbus.plan(model)
    frozen_per_block = 4 * (1024 * 1024 + 1024)
    assert plan.total("declared", "vision") == 303_507_456 - 24 * frozen_per_block
    assert plan.total("trained", "vision") == 290_909_184 - 23 * frozen_per_block
    assert plan.total("trained", "vision_new") == 1_507_328
    assert plan.total("trained", "language") == 32 * 8 * (4 * 2 * 4096 + 3 * (4096 + 11008))


def test_the_official_preset_freezes_the_wrapped_layers_and_trains_the_rest_of_the_tower():
    assert LoRA.preset("official", rank=4) == LoRA(rank=4, rest="trained")
    assert LoRA.preset("paper") == LoRA.preset("ours") == LoRA()
    model, _ = attached(trained=False, vision=LoRA.preset("official"))
    groups = parameter_groups(model)
    tower = {name for name in VLM.of(model).place_parameters("vision") if "lora_" not in name}
    dead = {name for name in tower if "encoder.layers.3." in name or "post_layernorm" in name}
    frozen = {name for name in tower if ".self_attn." in name}
    assert groups["vision"].keys() == tower - dead - frozen
    assert all("lora_" in name for name in groups["vision_new"])


def test_the_base_keeps_its_objects_and_names():
    plain, _ = tiny.llava()
    model, _ = attached(vision=LoRA(**SMALL), language=LoRA(**SMALL))
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    new = state.keys() - plain.state_dict().keys()
    assert new == adapter_tensors(model).keys() and all("lora_" in name for name in new)
    assert type(model.model.language_model.layers[0].self_attn.q_proj) is nn.Linear


def test_updates_start_as_the_paper_draws_them(pictures):
    model, processor = attached(trained=False, language=LoRA(rank=16))
    batch = ask(processor, pictures)
    assert torch.equal(logits(model, batch), logits(tiny.llava()[0], batch))
    for layer in wrapped(model).values():
        bound = 1 / layer.in_features**0.5  # Kaiming-uniform with a = sqrt(5)
        assert layer.lora_A.weight.abs().max() <= bound and not layer.lora_B.weight.any()
        assert layer.lora_A.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    silent = {name for name, one in parameter_groups(model)["language"].items() if not one.grad.any()}
    assert silent == {name for name in parameter_groups(model)["language"] if ".lora_A." in name}


def test_dropout_acts_on_the_update_and_in_training_only(pictures):
    model, processor = attached(vision=LoRA(rank=2, dropout=0.5))
    batch = ask(processor, pictures)
    assert torch.equal(logits(model, batch), logits(model, batch))
    layer = wrapped(model)["model.vision_tower.encoder.layers.0.self_attn.q_proj"]
    values = torch.randn(2000, 32)
    with torch.no_grad():
        exact, base = layer(values), nn.functional.linear(values, layer.weight, layer.bias)
        layer.train()
        noisy = torch.stack([layer(values) for _ in range(50)])
    assert (noisy[0] - exact).abs().max() > 1e-2
    torch.testing.assert_close((noisy.mean(0) - base).std(), (exact - base).std(), rtol=0.05, atol=0)


CONFIG = {"r": 2, "lora_alpha": 3.0, "lora_dropout": 0.0}


def test_peft_with_the_same_tensors_is_the_same_function(pictures):
    """Our tensors have the names of a peft adapter file, and its layers compute what ours do."""
    model, processor = attached(vision=LoRA(**SMALL), language=LoRA(**SMALL))
    config = LoraConfig(target_modules=sorted(name for name in wrapped(model)), **CONFIG)
    theirs = get_peft_model(tiny.llava()[0], config)
    prefix = "base_model.model."
    ours = {f"{prefix}{name}": tensor for name, tensor in adapter_tensors(model).items()}
    assert ours.keys() == get_peft_model_state_dict(theirs).keys()
    set_peft_model_state_dict(theirs, ours)
    batch = ask(processor, pictures)
    torch.testing.assert_close(logits(theirs.eval(), batch), logits(model, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("targets", [r".*language_model.*q_proj", ["q_proj", "v_proj"], "all-linear"])
@pytest.mark.parametrize("name", ["default", "mine"])
def test_a_users_peft_on_top_keeps_ours(targets, name, pictures, tmp_path):
    model, processor = attached(vision=LoRA(**SMALL), language=LoRA(**SMALL))
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    config = LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **CONFIG)
    on_top = get_peft_model(copy.deepcopy(model), config, adapter_name=name).eval()
    assert torch.equal(logits(on_top, batch), expected)
    assert on_top.generate(**batch, max_new_tokens=2, do_sample=False).shape[0] == 2
    on_top(**batch, labels=batch["input_ids"]).loss.backward()
    named = dict(on_top.named_parameters())
    moved = [one for name_, one in named.items() if f"lora_B.{name}" in name_ and "encoder.layers.3." not in name_]
    assert moved and all(one.grad.any() for one in moved)
    ours = [one for name_, one in named.items() if name_.endswith(("lora_A.weight", "lora_B.weight"))]
    assert len(ours) == 2 * (12 + 14) and not any(one.requires_grad for one in ours)  # as all that peft did not add
    with torch.no_grad():
        for one in moved:
            one += 0.1
        theirs = logits(on_top, batch)
        assert not torch.equal(theirs, expected)
        with on_top.disable_adapter():
            assert torch.equal(logits(on_top, batch), expected)
    on_top.save_pretrained(tmp_path)
    folder = tmp_path if name == "default" else tmp_path / name
    again = PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()
    torch.testing.assert_close(logits(again, batch), theirs, atol=1e-5, rtol=1e-4)
    merged = on_top.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), theirs, atol=2e-5, rtol=1e-4)
    assert wrapped(merged).keys() == wrapped(model).keys()
    yarbus.save_adapter(merged, tmp_path / "ours", processor)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folded_model_is_an_ordinary_one_that_computes_the_same(family, pictures, tmp_path):
    places = {"vision": LoRA(**SMALL, targets="all-linear"), "language": LoRA(**SMALL)}
    model, processor = attached(family, **places, projector=yarbus.methods.Full())
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    folded = fold(copy.deepcopy(model))
    torch.testing.assert_close(logits(folded, batch), expected, atol=1e-5, rtol=1e-5)
    plain, _ = tiny.FAMILIES[family]()
    assert type(folded) is type(plain) and folded.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in plain.named_modules()]
    assert not any(module._forward_hooks for name, module in folded.named_modules() if name.endswith("_proj"))
    assert not is_attached(folded) and all(parameter.requires_grad for parameter in folded.parameters())
    for refuses in (yarbus.detach, yarbus.plan, lambda model: yarbus.save_adapter(model, tmp_path), fold):
        with pytest.raises(ConfigError, match="nothing is attached"):
            refuses(folded)
    assert torch.equal(logits(model, batch), expected)  # the copy that was not folded
    yarbus.save(folded, processor, tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, batch), logits(folded, batch))


def test_an_untrained_update_folds_to_the_base_bit_for_bit():
    model, _ = attached(trained=False, vision=LoRA(**SMALL), language=LoRA(**SMALL))
    state = fold(model).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tiny.llava()[0].state_dict().items())


def test_in_bf16_the_sum_is_rounded_once_and_the_model_is_as_near_to_exact_as_before(pictures):
    model, processor = attached(dtype=torch.bfloat16, vision=LoRA(**SMALL), language=LoRA(**SMALL))
    batch = ask(processor, pictures)
    exact, before = logits(copy.deepcopy(model).float(), batch), logits(model, batch)
    wanted = {
        name: layer.weight.double() + 1.5 * layer.lora_B.weight.double() @ layer.lora_A.weight.double()
        for name, layer in wrapped(model).items()
    }
    fold(model)
    for name, sum_ in wanted.items():
        weight = model.get_submodule(name).weight
        assert weight.dtype == torch.bfloat16
        # bf16 keeps 8 bits: rounding once is off by at most 2^-8 of the number.
        assert ((weight.double() - sum_).abs() <= (2**-8 + 1e-6) * sum_.abs() + 1e-9).all()
    errors = [(one - exact).square().mean().sqrt() for one in (before, logits(model, batch))]
    assert errors[1] < 1.5 * errors[0]  # 0.0128 and 0.0128 where logits are of size 1


COVFT = CoVFT(num_experts=2, context_dim=16, context="text")


@pytest.mark.parametrize("keep_base", [False, True])
def test_beside_another_method_the_attachment_says_what_is_left(keep_base, pictures, tmp_path):
    base, _ = tiny.llava()
    model, processor = attached(vision=COVFT, language=LoRA(**SMALL), keep_base=keep_base)
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    fold(model)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert not wrapped(model) and is_attached(model)
    assert set(yarbus.plan(model).groups()) == {"vision", "vision_new", "router"}
    with pytest.raises(ConfigError, match="no LoRA to fold"):
        fold(model)
    with pytest.raises(CheckpointError, match="lack what was folded into the weights: language"):
        yarbus.save_adapter(model, tmp_path / "adapter", processor)
    yarbus.save(model, processor, tmp_path / "full")
    loaded, its_processor = yarbus.load(tmp_path / "full")
    assert torch.equal(logits(loaded.eval(), ask(its_processor, pictures)), logits(model, batch))
    assert "language" not in json.loads((tmp_path / "full" / "config.json").read_text())["yarbus"]["places"]
    with pytest.raises(CheckpointError, match="lack what was folded"):
        yarbus.save_adapter(loaded, tmp_path / "adapter", its_processor)
    assert not (tmp_path / "adapter").exists()
    if not keep_base:
        with pytest.raises(ConfigError, match="tensors of the base were trained in place"):
            yarbus.detach(model, processor)
    else:
        yarbus.detach(model, processor)
        state = model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in base.state_dict().items())


def test_a_model_loaded_whole_folds_too(pictures, tmp_path):
    model, processor = attached(vision=LoRA(**SMALL), language=LoRA(**SMALL))
    batch = ask(processor, pictures)
    yarbus.save(model, processor, tmp_path)
    loaded = fold(yarbus.load(tmp_path)[0]).eval()
    torch.testing.assert_close(logits(loaded, batch), logits(model, batch), atol=1e-5, rtol=1e-5)
    assert type(loaded) is type(tiny.llava()[0]) and not is_attached(loaded)
