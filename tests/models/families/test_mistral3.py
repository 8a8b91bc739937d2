"""Mistral3: pictures of different sizes in one packed row, four patches joined into one placeholder."""

import pytest

from tests.matrix.cells import BY_TEXT, attached, logits, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.models.attachment import attachment_of
from yarbus.models.vlm import FAMILIES, VLM


@pytest.fixture
def shapes(pictures):
    return [picture.resize(size) for picture, size in zip(pictures, [(56, 28), (28, 28), (28, 56)], strict=False)]


def test_tower_projector_and_text_are_told_different_lengths(shapes):
    model, processor = plain("mistral3")
    batch = ask(processor, shapes, [QUESTIONS[0]] * 3)
    units = FAMILIES["Mistral3Config"].units(model.config, batch, 0)
    assert units.tower_lengths.tolist() == [32, 16, 32]
    assert units.projector_lengths.tolist() == units.placeholders.tolist() == [8, 4, 8]
    in_text = (batch["input_ids"] == model.config.image_token_id).sum(dim=1)
    assert in_text.tolist() == units.placeholders.tolist()
    handed = []
    vlm = VLM.of(model)
    vlm.blocks()[0].register_forward_pre_hook(lambda _, args, kwargs: handed.append(args[0].shape), with_kwargs=True)
    vlm.projector.register_forward_hook(lambda _, args, output: handed.append(output.shape))
    logits(model, batch)
    assert handed == [(1, 80, 32), (20, 48)]


def test_every_picture_answers_to_its_row_whatever_its_size(text_encoder, shapes):
    model, processor = attached("mistral3", text_encoder, BY_TEXT)
    batch = ask(processor, shapes, [QUESTIONS[0]] * 3, context=QUESTIONS[:3])
    with attachment_of(model).slot.recording() as recorder:
        logits(model, batch)
    for values in recorder.of("routing_weights").values():
        assert values[0].shape == (3, 3) and len({tuple(row) for row in values[0].tolist()}) == 3
