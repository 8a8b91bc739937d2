"""Idefics3 and SmolVLM: tiles of zeros are removed by the model before its tower runs, and by the map."""

from contextlib import suppress

import pytest
import torch

from tests.matrix.cells import BY_TEXT, DENSE, OTHER, attached, logits, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.models.attachment import attachment_of
from yarbus.models.vlm import FAMILIES, VLM

BOTH = pytest.mark.parametrize("name", ["idefics3", "smolvlm"])


@pytest.fixture
def shapes(pictures):
    """Pictures cut into 3, 5 and 3 tiles."""
    return [picture.resize(size) for picture, size in zip(pictures, [(56, 28), (56, 56), (28, 56)], strict=False)]


def tiles_seen(model, batch) -> int:
    """How many tiles the unchanged tower runs on."""
    seen = []
    hook = VLM.of(model).blocks()[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        logits(model, batch)
    finally:
        hook.remove()
    return seen[0]


def units_of(model, batch):
    return FAMILIES[type(model.config).__name__].units(model.config, batch, 0)


@BOTH
def test_the_map_has_the_tiles_that_the_model_keeps_in_its_order(name, shapes):
    model, processor = plain(name)
    batch = dict(ask(processor, shapes, [QUESTIONS[0]] * 3))
    assert batch["pixel_values"].shape[:2] == (3, 5)
    units = units_of(model, batch)
    assert units.rows.tolist() == [0] * 3 + [1] * 5 + [2] * 3
    assert len(units.rows) == tiles_seen(model, batch)
    assert int(units.placeholders.sum()) == int((batch["input_ids"] == model.config.image_token_id).sum())


@BOTH
def test_a_tile_of_zeros_between_others_is_skipped_too(name, shapes):
    model, processor = plain(name)
    batch = dict(ask(processor, shapes, [QUESTIONS[0]] * 3))
    pixels = batch["pixel_values"].clone()
    pixels[1, 2] = 0
    # Its placeholders go as well, or the model finds more of them than features.
    ids, first = batch["input_ids"].clone(), (batch["input_ids"][1] == model.config.image_token_id).nonzero()[8:12, 0]
    ids[1, first] = 1
    batch |= {"pixel_values": pixels, "input_ids": ids}
    units = units_of(model, batch)
    assert units.rows.tolist() == [0] * 3 + [1] * 4 + [2] * 3
    assert len(units.rows) == tiles_seen(model, batch)


def test_where_all_tiles_are_zeros_smolvlm_keeps_the_first_and_idefics3_none(pictures):
    for name, kept in (("smolvlm", [0]), ("idefics3", [])):
        model, processor = plain(name)
        batch = dict(ask(processor, pictures[:2]))
        batch["pixel_values"] = torch.zeros_like(batch["pixel_values"])
        assert units_of(model, batch).rows.tolist() == kept
    model, processor = plain("smolvlm")
    batch = dict(ask(processor, pictures[:2]))
    batch["pixel_values"] = torch.zeros_like(batch["pixel_values"])
    batch["input_ids"] = batch["input_ids"].where(batch["input_ids"] != model.config.image_token_id, 1)
    seen = []
    VLM.of(model).blocks()[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with suppress(RuntimeError, ValueError):  # what it does with the features of no picture is the library's
        logits(model, batch)
    assert seen == [1]


@BOTH
def test_every_tile_answers_to_the_question_of_its_row(name, text_encoder, shapes):
    model, processor = attached(name, text_encoder, BY_TEXT)
    batch = ask(processor, shapes, [QUESTIONS[0]] * 3, context=QUESTIONS[:3])
    with attachment_of(model).slot.recording() as recorder:
        logits(model, batch)
    for values in recorder.of("routing_weights").values():
        rows = values[0].split([3, 5, 3])
        assert all(torch.equal(row, row[:1].expand_as(row)) for row in rows)
        assert not torch.equal(rows[0][0], rows[1][0]) and not torch.equal(rows[1][0], rows[2][0])


@BOTH
def test_a_row_whose_tiles_are_filled_up_keeps_every_bit_when_the_longer_one_is_asked_something_else(
    name, text_encoder, shapes
):
    model, processor = attached(name, text_encoder, DENSE)
    left, right = (
        logits(model, ask(processor, shapes, [QUESTIONS[0]] * 3, context=[QUESTIONS[0], second, QUESTIONS[0]]))
        for second in (QUESTIONS[0], OTHER)
    )
    assert torch.equal(left[0], right[0]) and torch.equal(left[2], right[2])
    assert not torch.equal(left[1], right[1])
