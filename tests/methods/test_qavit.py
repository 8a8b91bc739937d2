"""QA-ViT's equations against slow loops, what hides padding, and the counts of the paper's model."""

import copy

import pytest
import torch
from torch import nn
from transformers import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTAttention

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import ConfigError
from yarbus.methods import QAViT
from yarbus.methods.qavit import QuestionRows
from yarbus.models.attachment import parameter_groups
from yarbus.models.context import context_of
from yarbus.models.images import ImageMap
from yarbus.models.load import base_on_meta
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.text_encoder import TextStates
from yarbus.models.vlm import VLM

BLOCK = 2
"""The only one that a tower of four blocks, three of them executed, reads the question in by default."""


def attached(text_encoder, *, open_gates=True, kernel="sdpa", **options):
    model, processor = tiny.llava()
    model.model.vision_tower.set_attn_implementation(kernel)
    torch.manual_seed(1)
    yarbus.attach(model, processor, vision=QAViT(**options), text_encoder=text_encoder)
    if open_gates:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for tensor in parameter_groups(model)["vision_new"].values():
                tensor += torch.randn(tensor.shape, generator=generator) * 0.3
    return model, processor


def attention_of(model, block=BLOCK):
    return VLM.of(model).blocks()[block].self_attn


def reading(model, batch):
    """The slot filled as in a forward of this batch."""
    kwargs = {"pixel_values": batch["pixel_values"]}
    context = context_of(model.model, batch["input_ids"], batch, kwargs)
    return model.model.context_slot.holding(context), context


def by_hand(attention, tokens, context, max_tokens, rotate=lambda part: part):
    """The block's attention row by row and head by head, over the tokens and the real rows of the question."""
    rows_of, heads = attention.question_rows, attention.num_heads
    projection = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
    outputs = []
    for image, row in enumerate(context.tower.rows.tolist()):
        states = context.text.encoded[row][0][:max_tokens]
        if context.text.has_question[row]:
            extra = rows_of.down(nn.functional.gelu(rows_of.up(rows_of.norm(states))))
        else:
            extra = rows_of.null_row[None]
        own = tokens[image]
        joint = torch.cat([own, extra])  # attention does not care for the order
        found = []
        for head in range(heads):
            part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            queries, keys, values = (
                project(joint)[:, part] for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            queries, keys = rotate(queries[: len(own)]), torch.cat([rotate(keys[: len(own)]), keys[len(own) :]])
            weights = torch.stack([torch.stack([q @ k for k in keys]) * attention.head_dim**-0.5 for q in queries])
            found.append(weights.softmax(dim=-1) @ values)
        attended = torch.cat(found, dim=-1)
        copied = projection.gated
        outputs.append(
            attended @ projection.weight.T
            + projection.bias
            + torch.tanh(copied.gate) * (attended @ copied.projection.weight.T + copied.projection.bias)
        )
    return torch.stack(outputs)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("max_tokens", [3, 64])
def test_attention_over_tokens_and_question_equals_plain_loops(kernel, max_tokens, text_encoder, pictures):
    model, processor = attached(text_encoder, kernel=kernel, max_tokens=max_tokens)
    attention = attention_of(model)
    questions = ["what digit is red ?", "", "where is the blue digit left and right ?"]
    batch = ask(processor, pictures[:3], QUESTIONS[:3], context=questions)
    tokens = torch.randn(3, 5, 32)
    holding, context = reading(model, batch)
    assert context.text.has_question.tolist() == [True, False, True]
    with holding, torch.no_grad():
        got, weights = attention(hidden_states=tokens, attention_mask=None)
        expected = by_hand(attention, tokens, context, max_tokens)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    if kernel == "eager":
        longest = min(max_tokens, max(len(states) for states, _ in context.text.encoded))
        assert weights.shape == (3, 4, 5, 5 + longest)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 5))
        assert not weights[1, :, :, 2 : 1 + longest].any()  # all but the first row of the empty question


def test_a_tower_with_rotary_positions_turns_its_patches_and_nothing_else():
    torch.manual_seed(0)
    config = DINOv3ViTConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, num_register_tokens=2)
    config._attn_implementation = "sdpa"
    attention = DINOv3ViTAttention(config).eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    slot = ContextSlot()
    rows = QuestionRows(16, 32, max_tokens=64, prefix_tokens=3, slot=slot)
    tokens, angles = torch.randn(2, 3 + 4, 32), torch.randn(4, 8)
    positions = (angles.cos(), angles.sin())
    encoded = [(torch.randn(5, 16), torch.randn(16)), (torch.randn(2, 16), torch.randn(16))]
    context = Context(TextStates(encoded, torch.tensor([True, True])), ImageMap(torch.tensor([1, 0])), None)

    def rotate(part):
        first, second = part[3:].chunk(2, dim=-1)
        turned = part[3:] * positions[0] + torch.cat([-second, first], dim=-1) * positions[1]
        return torch.cat([part[:3], turned])

    attention.register_module("question_rows", rows)
    attention.register_forward_pre_hook(rows.join, with_kwargs=True)
    attention.register_forward_hook(rows.part, with_kwargs=True)
    attention.o_proj = yarbus.methods.qavit.TwofoldProjection(attention.o_proj)
    with slot.holding(context), torch.no_grad():
        got, _ = attention(tokens, attention_mask=None, position_embeddings=positions)
        expected = by_hand(attention, tokens, context, 64, rotate)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_with_every_row_hidden_the_block_is_the_pretrained_one(text_encoder, pictures, monkeypatch):
    plain, processor = tiny.llava()
    batch = ask(processor, pictures)
    expected = plain(**batch).logits
    model, processor = attached(text_encoder, open_gates=False)
    whole = QuestionRows.forward
    monkeypatch.setattr(QuestionRows, "forward", lambda self: (whole(self)[0], torch.zeros_like(whole(self)[1])))
    torch.testing.assert_close(model(**ask(processor, pictures)).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_length_of_another_question_has_no_effect(kernel, text_encoder, pictures):
    model, processor = attached(text_encoder, kernel=kernel, first_block=0)

    def logits(other):
        with torch.no_grad():
            return model(**ask(processor, pictures, [QUESTIONS[0]] * 2, context=["what digit", other])).logits

    short, long = logits("red"), logits("where is the blue digit left and right and top and bottom ?")
    torch.testing.assert_close(long[0], short[0], atol=2e-6, rtol=0)
    assert (long[1] - short[1]).abs().max() > 1e-4


def test_blocks_below_the_first_do_not_see_the_question(text_encoder, pictures):
    model, processor = attached(text_encoder)
    assert [index for index in range(4) if hasattr(attention_of(model, index), "question_rows")] == [BLOCK]
    seen = []
    for block in VLM.of(model).blocks():
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    for question in ("what digit", "where is the blue one ?"):
        with torch.no_grad():
            model(**ask(processor, pictures, [QUESTIONS[0]] * 2, context=[question] * 2))
    assert torch.equal(seen[0], seen[4]) and torch.equal(seen[1], seen[5])
    assert not torch.equal(seen[2], seen[6])
    assert all(output.shape == (2, 5, 32) for output in seen)


def test_an_empty_question_reads_the_null_row_alone(text_encoder, pictures):
    model, processor = attached(text_encoder)
    name = f"model.vision_tower.encoder.layers.{BLOCK}.self_attn.question_rows.null_row"

    def gradient(context):
        model.zero_grad()
        batch = ask(processor, pictures, context=context)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        return model.get_parameter(name).grad

    assert not gradient(["what digit", "where"]).any()  # zero, not None: every tensor is reached at every step
    assert gradient(["what digit", ""]).any()
    with torch.no_grad():
        before = model(**ask(processor, pictures, context=["what digit", ""])).logits
        model.get_parameter(name).add_(1)
        after = model(**ask(processor, pictures, context=["what digit", ""])).logits
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_the_copied_projection_starts_silent_and_trains_once_the_gate_has_moved(text_encoder, pictures):
    model, processor = attached(text_encoder, open_gates=False)
    projection = attention_of(model).out_proj
    frozen = projection.weight.clone()
    assert torch.equal(projection.gated.projection.weight, projection.weight)
    groups = parameter_groups(model)
    optimizer = torch.optim.AdamW(groups["vision_new"].values(), lr=1e-2, weight_decay=0.0)
    batch = ask(processor, pictures)
    heard = []
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        heard.append(bool(projection.gated.projection.weight.grad.any()))
        assert projection.gated.gate.grad.any()
        optimizer.step()
    assert heard == [False, True]
    assert torch.equal(projection.weight, frozen) and not projection.weight.requires_grad


def test_tensors_of_the_tower_keep_their_names(text_encoder):
    plain = set(tiny.llava()[0].state_dict())
    model, _ = attached(text_encoder)
    names = {name for name in model.state_dict() if not name.startswith("model.context_encoder.")}
    assert plain <= names
    block = f"model.vision_tower.encoder.layers.{BLOCK}.self_attn"
    rows = ("norm.weight", "norm.bias", "up.weight", "down.weight", "null_row")
    copied = ("projection.weight", "projection.bias", "gate")
    new = {f"{block}.question_rows.{name}" for name in rows} | {f"{block}.out_proj.gated.{name}" for name in copied}
    assert names - plain == new == set(parameter_groups(model)["vision_new"])


def test_the_rows_of_each_block_are_part_of_a_copy(text_encoder, pictures):
    model, processor = attached(text_encoder)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        attention_of(twin).question_rows.down.weight.zero_()
    batch = ask(processor, pictures)
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, twin(**batch).logits)


def test_attention_that_adds_no_mask_is_refused_with_the_fix(text_encoder, pictures):
    model, processor = tiny.llava()
    model.config.vision_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="flash_attention_2") as caught:
        yarbus.attach(model, processor, vision=QAViT(), text_encoder=text_encoder)
    assert "attn_implementation='sdpa'" in caught.value.fix
    model, processor = attached(text_encoder)
    model.config.vision_config._attn_implementation = "flex_attention"  # switched after attach
    with pytest.raises(ConfigError, match="flex_attention"):
        model(**ask(processor, pictures))


def test_a_tower_whose_attention_takes_no_mask_is_refused(text_encoder, monkeypatch):
    model, processor = tiny.llava()
    monkeypatch.setattr(type(attention_of(model)), "forward", lambda self, hidden_states: None)
    with pytest.raises(ConfigError, match="takes no attention_mask"):
        yarbus.attach(model, processor, vision=QAViT(), text_encoder=text_encoder)


def test_the_counts_of_llava_7b():
    """methods.md 2 and 5.1: 69.3M in 11 blocks, with the language model's embeddings (d = 4096) as text."""
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision=QAViT(), text_encoder="language_embeddings")
    rows = [row for row in yarbus.plan(model).rows if row.group == "vision_new"]
    assert [row.block for row in rows] == list(range(12, 23))
    # W_1, W_2, LayerNorm, null row; W'_o with its bias, gate.
    per_block = (4096 * 1024 + 1024 * 1024 + 2 * 4096 + 1024) + (1024 * 1024 + 1024 + 1)
    assert {row.trained for row in rows} == {per_block} == {6_301_697}
    assert yarbus.plan(model).total("trained", "vision_new") == 11 * per_block == 69_318_667
