"""Mllama: two lists of blocks, images by row of the batch, a language model that looks across."""

import pytest
import torch
from torch import nn

import yarbus
from tests.matrix.cells import BY_TEXT, OTHER, attached, logits, loss, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import ConfigError, DataError
from yarbus.methods import VPT, CoVFT, QAViT
from yarbus.models.attachment import attachment_of, is_attached
from yarbus.models.observe import observe
from yarbus.models.vlm import VLM


def weights_of(model, batch) -> list[torch.Tensor]:
    with attachment_of(model).slot.recording() as recorder:
        logits(model, batch)
    return [values[0] for values in recorder.of("routing_weights").values()]


def two_and_one(processor, pictures, contexts):
    """A row with two pictures beside one with one, whose second place is filled up."""
    chats = [
        [{"role": "user", "content": [*[{"type": "image"}] * number, {"type": "text", "text": QUESTIONS[0]}]}]
        for number in (2, 1)
    ]
    text = processor.apply_chat_template(chats, add_generation_prompt=True)
    shown = [pictures[:2], pictures[2:3]]
    return processor(images=shown, text=text, padding=True, return_tensors="pt", context=contexts)


def test_the_local_blocks_come_first_and_the_global_ones_last():
    vlm = VLM.of(plain("mllama")[0])
    starts = ["model.vision_model.transformer.layers."] * 3 + ["model.vision_model.global_transformer.layers."] * 2
    assert [path[: len(start)] for path, start in zip(vlm.block_paths(), starts, strict=True)] == starts
    assert [hasattr(block, "gate_ffn") for block in vlm.blocks()] == [False] * 3 + [True] * 2
    assert vlm.num_executed() == 5 and not vlm.dead_modules()


def test_the_projector_is_handed_the_layers_side_by_side():
    vlm = VLM.of(plain("mllama")[0])
    assert type(vlm.projector) is nn.Linear
    assert vlm.projector.in_features == vlm.feature_dim == 3 * vlm.vision_dim


def test_a_place_without_a_picture_answers_to_the_question_of_its_row(text_encoder, pictures):
    model, processor = attached("mllama", text_encoder, BY_TEXT)
    for weights in weights_of(model, two_and_one(processor, pictures, QUESTIONS[:2])):
        assert len(weights) == 4
        assert torch.equal(weights[0], weights[1]) and torch.equal(weights[2], weights[3])
        assert not torch.equal(weights[0], weights[2])


def test_an_analysis_counts_pictures_and_not_the_places_that_are_filled_up(text_encoder, pictures):
    model, processor = attached("mllama", text_encoder)
    batch = {**two_and_one(processor, pictures, QUESTIONS[:2]), "sample_ids": ["two", "one"]}
    observed = observe(model, [batch])
    assert observed.sample_ids == ["two", "two", "one"]
    assert observed.features.shape == (3, 96) and observed.text.shape == (3, 16)
    assert all(len(values) == 3 for values in observed.contexts.values())
    alone = observe(
        model, [{**ask(processor, pictures[2:3], [QUESTIONS[0]], context=[QUESTIONS[1]]), "sample_ids": "x"}]
    )
    torch.testing.assert_close(observed.features[2:], alone.features, atol=1e-5, rtol=1e-4)
    for block, values in alone.gaze.items():
        torch.testing.assert_close(observed.gaze[block][2], values[0], atol=1e-5, rtol=1e-4)


def test_a_row_with_fewer_pictures_keeps_every_bit_when_another_row_is_asked_something_else(text_encoder, pictures):
    model, processor = attached("mllama", text_encoder)
    left, right = (
        logits(model, two_and_one(processor, pictures, contexts))
        for contexts in ([QUESTIONS[0]] * 2, [OTHER, QUESTIONS[0]])
    )
    assert torch.equal(left[1], right[1]) and not torch.equal(left[0], right[0])


def test_a_row_of_words_beside_pictures_needs_a_question_since_it_reads_the_empty_image(text_encoder, pictures):
    model, processor = attached("mllama", text_encoder)
    chats = [
        [{"role": "user", "content": [*shown, {"type": "text", "text": QUESTIONS[0]}]}]
        for shown in ([], [{"type": "image"}])
    ]
    text = processor.apply_chat_template(chats, add_generation_prompt=True)
    try:
        plain("mllama")[1](images=[[], pictures[:1]], text=text, padding=True)
    except ValueError as error:  # that of 5.17 takes no row of words beside pictures
        pytest.skip(f"base cannot: {error}")

    def batch(contexts):
        shown = {"images": [[], pictures[:1]], "text": text}
        return processor(**shown, padding=True, return_tensors="pt", context=contexts)

    asked, otherwise = (logits(model, batch([first, QUESTIONS[0]])) for first in (QUESTIONS[0], OTHER))
    assert torch.equal(asked[1], otherwise[1])
    assert not torch.equal(asked[0], otherwise[0])
    with pytest.raises(DataError, match="no question for an image: row 0"):
        logits(model, batch([None, QUESTIONS[0]]))


def test_checkpointing_leaves_its_vision_blocks_out_and_covers_the_language_blocks(text_encoder, pictures):
    model, processor = attached("mllama", text_encoder, language="full")
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    runs = {"vision": 0, "language": 0}
    vlm = VLM.of(model)
    for what, norm in (
        ("vision", vlm.blocks()[0].input_layernorm),
        ("language", vlm.language_blocks[0].input_layernorm),
    ):
        norm.register_forward_hook(lambda *_, what=what: runs.__setitem__(what, runs[what] + 1))
    loss(model, ask(processor, pictures[:2])).backward()
    assert runs == {"vision": 1, "language": 2}


@pytest.mark.parametrize("method", [VPT(num_prompts=2), QAViT(first_block=1, max_tokens=4)])
def test_a_method_that_adds_tokens_is_refused_before_anything_changes(method, text_encoder):
    model, processor = plain("mllama")
    with pytest.raises(ConfigError, match=r"does not work on MllamaVisionConfig.*images tiles dim"):
        yarbus.attach(model, processor, vision=method, text_encoder=text_encoder)
    assert not is_attached(model)


def test_beams_keep_their_row_s_question(text_encoder, pictures):
    model, processor = attached("mllama", text_encoder, CoVFT(num_experts=3, context_dim=16))
    together = model.generate(
        **ask(processor, pictures[:2], [QUESTIONS[0]] * 2, context=[QUESTIONS[0], OTHER]),
        max_new_tokens=3, num_beams=2, do_sample=False,
    )  # fmt: skip
    for row, context in enumerate([QUESTIONS[0], OTHER]):
        alone = model.generate(
            **ask(processor, pictures[row : row + 1], QUESTIONS[:1], context=[context]),
            max_new_tokens=3, num_beams=2, do_sample=False,
        )  # fmt: skip
        shared = min(alone.shape[1], together.shape[1])
        assert torch.equal(alone[0, :shared], together[row, :shared])
