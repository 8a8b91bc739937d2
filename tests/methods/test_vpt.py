"""VPT against a loop that calls each block on the whole sequence; what of it may be seen from outside; its draws."""

from math import sqrt

import pytest
import torch

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from tests.models.batches import ask
from yarbus.methods import VPT
from yarbus.models.attachment import parameter_groups
from yarbus.models.load import base_on_meta
from yarbus.models.vlm import VLM


def with_prompts(number=3, **options):
    model, processor = tiny.llava()
    torch.manual_seed(1)
    yarbus.attach(model, processor, vision=VPT(num_prompts=number, **options))
    return model, processor


def slow_loop(plain, prompts, pixel_values):
    """Hidden states before each block and after the last executed one, blocks called on the concatenated sequence."""
    tower = plain.model.vision_tower
    seen = []
    with torch.no_grad():
        hook = tower.encoder.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        tower(pixel_values)
        hook.remove()
        for block, prompt in zip(tower.encoder.layers, prompts, strict=False):
            images = []
            for image in seen[-1]:
                sequence = torch.cat([image[:1], prompt, image[1:]])
                output = block(sequence[None], None)[0]
                images.append(torch.cat([output[:1], output[1 + len(prompt) :]]))
            seen.append(torch.stack(images))
    return seen


def test_it_equals_a_loop_over_blocks_that_run_on_the_concatenated_sequence(pictures):
    model, processor = with_prompts(init="normal")
    pixel_values = ask(processor, pictures)["pixel_values"]
    prompts = [block.prompts.weight.detach() for block in VLM.of(model).executed_blocks(first=0).values()]
    expected = slow_loop(tiny.llava()[0], prompts, pixel_values)
    with torch.no_grad():
        output = model.model.vision_tower(pixel_values, output_hidden_states=True)
    assert len(prompts) == 3 and len(expected) == 4 and len(output.hidden_states) == 5
    for ours, slow in zip(output.hidden_states, expected, strict=False):
        torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-4)


def test_nobody_outside_of_a_block_sees_a_prompt(pictures):
    model, processor = with_prompts()
    plain, _ = tiny.llava()
    batch = ask(processor, pictures)
    shapes = {}
    for name, one in (("ours", model), ("plain", plain)):
        shapes[name] = []
        one.model.multi_modal_projector.register_forward_hook(
            lambda module, args, output, name=name: shapes[name].append(args[0].shape)
        )
        with torch.no_grad():
            output = one(**batch, output_hidden_states=True)
            tower = one.model.vision_tower(batch["pixel_values"], output_hidden_states=True)
        shapes[name] += [state.shape for state in (*output.hidden_states, *tower.hidden_states)]
        shapes[name] += [output.logits.shape, tower.last_hidden_state.shape]
    assert shapes["ours"] == shapes["plain"]


def test_the_dead_last_block_gets_none_and_parameters_are_counted_as_the_paper_counts_them():
    model, _ = with_prompts()
    assert [hasattr(block, "prompts") for block in VLM.of(model).blocks()] == [True, True, True, False]
    large = base_on_meta(LLAVA_7B)
    yarbus.attach(large, None, vision="vpt")
    assert yarbus.plan(large).groups() == {"vision_new": 23 * 50 * 1024}
    assert yarbus.plan(large).total("declared") == 1_177_600


@pytest.mark.parametrize("patch_size", [14, (14, 14)])
def test_prompts_are_drawn_as_the_paper_draws_them(patch_size):
    model, processor = tiny.llava()
    model.config.vision_config.patch_size = patch_size
    yarbus.attach(model, processor, vision=VPT(num_prompts=400))
    bound = sqrt(6 / (3 * 14 * 14 + 32))
    for prompts in parameter_groups(model)["vision_new"].values():
        assert prompts.abs().max() <= bound
        assert prompts.std().item() == pytest.approx(bound / sqrt(3), rel=0.05)


def test_the_official_code_draws_them_wider():
    assert VPT.preset("official", num_prompts=7) == VPT(init="normal", num_prompts=7)
    assert VPT.preset("paper") == VPT.preset("ours") == VPT()
    model, _ = with_prompts(400, init="normal")
    prompts = parameter_groups(model)["vision_new"]["model.vision_tower.encoder.layers.0.prompts.weight"]
    assert prompts.std().item() == pytest.approx(1, rel=0.05)


def test_a_half_precision_tower_keeps_its_precision(pictures):
    model, processor = tiny.llava()
    model.to(torch.bfloat16)
    yarbus.attach(model, processor, vision=VPT(num_prompts=3))
    batch = ask(processor, pictures)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert model(**batch).logits.dtype == torch.bfloat16
