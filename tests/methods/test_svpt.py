"""SVPT's three parts against slow loops, its start, what has no gradient at first, and its checkpointing."""

from dataclasses import replace

import pytest
import torch
import transformers
from packaging.version import Version
from torch import nn

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from tests.models.batches import ask
from yarbus.core.errors import ConfigError
from yarbus.methods import SVPT, VPT
from yarbus.methods.svpt import Connection, saliency_of_patches
from yarbus.models.attachment import parameter_groups
from yarbus.models.load import base_on_meta
from yarbus.models.vlm import VLM

HOOKS_STAND_OUTSIDE = Version(transformers.__version__) >= Version("5.23")
"""Of the checkpointed part of a block."""


def with_prompts(method=None, lively=False):
    model, processor = tiny.llava()
    torch.manual_seed(1)
    yarbus.attach(model, processor, vision=method or SVPT(num_prompts=3, salient_fraction=0.5, bottleneck=5))
    if lively:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for prompts in parameter_groups(model)["vision_new"].values():
                prompts += 0.5 * torch.randn(prompts.shape, generator=generator)
    return model, processor


def connection(dim=8):
    torch.manual_seed(2)
    made = Connection(dim, 3, 0.5, torch.zeros(1))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape)
    return made


def test_prompts_take_over_from_the_block_before_as_a_loop_says():
    made = connection()
    prompts, earlier = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    expected = torch.empty_like(prompts)
    for image in range(2):
        normed = [nn.functional.layer_norm(z, (8,), made.norm.weight, made.norm.bias) for z in earlier[image]]
        mean = sum(normed) / 4
        gate = torch.tanh(made.up.weight @ nn.functional.gelu(made.down.weight @ mean))
        for index in range(4):
            expected[image, index] = prompts[image, index] + gate * normed[index]
    torch.testing.assert_close(made.connect(prompts, earlier), expected)


def test_the_most_looked_at_patches_are_enhanced_and_the_others_not_touched():
    made = connection()
    patches, prompts = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    saliency = torch.tensor([[0.1, 0.4, 0.2, 0.25, 0.05], [0.3, 0.02, 0.18, 0.1, 0.4]])
    expected = patches.clone()
    for image, salient in enumerate(([1, 3], [4, 0])):  # round(0.5 x 5) is 2
        total = sum(saliency[image, patch] for patch in salient)
        for patch in salient:
            expected[image, patch] += made.gain * saliency[image, patch] / total * prompts[image].mean(dim=0)
    got = made.enhance(patches, saliency, prompts)
    torch.testing.assert_close(got, expected)
    assert torch.equal(got[0, [0, 2, 4]], patches[0, [0, 2, 4]])


@pytest.mark.parametrize("fused", [False, True])
def test_saliency_is_the_blocks_own_attention_from_prompts_to_patches(fused):
    plain, _ = tiny.llava()
    tower = VLM.of(plain).tower
    block = plain.model.vision_tower.encoder.layers[1]
    attention = block.self_attn
    linears = [attention.q_proj, attention.k_proj, attention.v_proj]
    tokens = torch.randn(2, 3 + 4, 32)
    expected = torch.zeros(2, 4)
    with torch.no_grad():
        for image in range(2):
            normed = block.layer_norm1(tokens[image])
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                queries, keys = linears[0](normed)[:3, part], linears[1](normed)[3:, part]
                for query in queries:
                    logits = torch.stack([query @ key for key in keys]) / 8**0.5
                    expected[image] += logits.softmax(dim=0) / (3 * 4)
        if fused:
            attention.qkv = nn.Linear(32, 96)
            attention.qkv.weight.copy_(torch.cat([linear.weight for linear in linears]))
            attention.qkv.bias.copy_(torch.cat([linear.bias for linear in linears]))
            tower = replace(tower, attention=("self_attn.qkv", "self_attn.out_proj"))
        got = saliency_of_patches(block, tower, 4, tokens, 3)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(2))


def test_the_tower_equals_a_loop_over_blocks(pictures):
    """The parts put together: which block's notes are read where, and where the enhanced patches go."""
    model, processor = with_prompts(lively=True)
    batch = ask(processor, pictures)
    seen = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    plain, _ = tiny.llava()
    tower, vlm = plain.model.vision_tower, VLM.of(plain)
    with torch.no_grad():
        model(**batch)
        hook = tower.encoder.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        tower(batch["pixel_values"])
        hook.remove()
        images = []
        for tokens in seen[1]:
            tokens, earlier, saliency = tokens[None], None, None
            blocks = zip(tower.encoder.layers, VLM.of(model).executed_blocks(first=0).values(), strict=False)
            for index, (block, ours) in enumerate(blocks):
                prompts, own = ours.prompts.weight[None], ours.prompts.connection
                if index:
                    prompts = own.connect(prompts, earlier)
                    patches = own.enhance(tokens[:, 1:], saliency, prompts)
                    tokens = torch.cat([tokens[:, :1], patches], dim=1)
                sequence = torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], dim=1)
                saliency = saliency_of_patches(block, vlm.tower, vlm.num_heads, sequence[:, 1:], 3)
                output = block(sequence, None)
                earlier, tokens = output[:, 1:4], torch.cat([output[:, :1], output[:, 4:]], dim=1)
            images.append(tokens[:, 1:])
    torch.testing.assert_close(seen[0], torch.cat(images), atol=1e-5, rtol=1e-4)


def test_at_the_start_it_is_vpt_bit_for_bit(pictures):
    ours, processor = with_prompts(SVPT(num_prompts=3))
    vpt, _ = with_prompts(VPT(num_prompts=3))
    mine = ours.state_dict()
    vpt.load_state_dict({name: mine[name] for name in vpt.state_dict()})
    batch = ask(processor, pictures)
    with torch.no_grad():
        assert torch.equal(ours(**batch).logits, vpt(**batch).logits)


def test_what_acts_through_u_alone_has_no_gradient_until_u_has_moved(pictures):
    model, processor = with_prompts()
    batch = ask(processor, pictures)
    named = parameter_groups(model)["vision_new"]
    model(**batch, labels=batch["input_ids"]).loss.backward()
    silent = {name for name, parameter in named.items() if not parameter.grad.any()}
    parts = ("connection.down.weight", "connection.norm.weight", "connection.norm.bias")
    assert silent == {name for name in named if name.endswith(parts)} and len(silent) == 2 * 3
    assert all(any(part in name for part in SVPT.silent) for name in silent)
    with torch.no_grad():
        for parameter in named.values():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(parameter.grad.any() for parameter in named.values())


def test_the_block_before_learns_from_the_block_after(pictures):
    """A gradient passes from one block's gate to the prompts of the block before, through the notes."""
    model, processor = with_prompts(lively=True)
    first = VLM.of(model).blocks()[0].prompts
    left = {}
    connect = VLM.of(model).blocks()[1].prompts.connection.connect

    def keep(prompts, earlier):
        left["prompts"] = connect(prompts, earlier)
        return left["prompts"]

    VLM.of(model).blocks()[1].prompts.connection.connect = keep
    model(**ask(processor, pictures))
    gradient = torch.autograd.grad(left["prompts"].square().sum(), first.weight)[0]
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_never_cuts_the_gradient_between_blocks_silently(reentrant, pictures):
    def gradients(checkpointing):
        model, processor = with_prompts(lively=True)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        batch = ask(processor, pictures)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        return {name: parameter.grad for name, parameter in parameter_groups(model)["vision_new"].items()}

    plain = gradients(False)
    if reentrant and not HOOKS_STAND_OUTSIDE:
        with pytest.raises(ConfigError, match="without the gradient between its blocks.*use_reentrant"):
            gradients(True)
        return
    for name, gradient in gradients(True).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-3)


def test_parameters_of_the_papers_model_are_those_of_the_formulas():
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision="svpt")
    later_blocks = 2 * 1024 * 64 + 2 * 1024 + 1024  # V and U, LN, gamma
    assert yarbus.plan(model).groups() == {"vision_new": 23 * 50 * 1024 + 22 * later_blocks}
    assert yarbus.plan(model).total("declared") == 4_128_768


def test_a_bottleneck_may_be_chosen_and_a_narrow_tower_has_at_least_one():
    for bottleneck, width in ((None, 2), (7, 7)):
        model, _ = with_prompts(SVPT(num_prompts=3, bottleneck=bottleneck))
        assert VLM.of(model).blocks()[1].prompts.connection.down.weight.shape == (width, 32)
