"""Molmo2, where the installed transformers has it: crops of a picture share its row, and listing needs no Molmo2."""

import subprocess
import sys

import pytest
import torch

from tests import tiny
from tests.matrix.cells import BY_TEXT, attached, logits, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.models.attachment import attachment_of
from yarbus.models.vlm import FAMILIES, VLM

installed = pytest.mark.skipif("molmo2" not in tiny.EVERY, reason="this transformers has no Molmo2")


@pytest.fixture
def shapes(pictures):
    """Three crops, two, and three."""
    return [picture.resize(size) for picture, size in zip(pictures, [(56, 28), (28, 28), (56, 28)], strict=False)]


def test_listing_families_and_towers_touches_no_class_of_the_library():
    code = (
        "from yarbus.models.vlm import FAMILIES, TOWERS; "
        "print(len([entry for table in (FAMILIES, TOWERS) for _, entry in table.items()])); "
        "import sys; print([name for name in sys.modules if name.startswith('transformers.models.molmo2')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, loaded = done.stdout.split("\n")[:2]
    assert int(count) >= 25 and loaded == "[]"


@installed
def test_crops_stand_in_the_row_of_their_picture_and_tokens_too(shapes):
    model, processor = plain("molmo2")
    batch = ask(processor, shapes, [QUESTIONS[0]] * 3)
    units = FAMILIES["Molmo2Config"].units(model.config, batch, 0)
    assert units.tiles.tolist() == [3, 2, 3]
    assert units.placeholders.tolist() == [12, 8, 12]
    assert (batch["input_ids"] == model.config.image_token_id).sum(dim=1).tolist() == [12, 8, 12]
    assert units.projector_lengths.tolist() == [12, 0, 0, 8, 0, 12, 0, 0]


@installed
def test_every_crop_answers_to_the_question_of_its_row(text_encoder, shapes):
    model, processor = attached("molmo2", text_encoder, BY_TEXT)
    batch = ask(processor, shapes, [QUESTIONS[0]] * 3, context=QUESTIONS[:3])
    with attachment_of(model).slot.recording() as recorder:
        logits(model, batch)
    for values in recorder.of("routing_weights").values():
        rows = values[0].split([3, 2, 3])
        assert all(torch.equal(row, row[:1].expand_as(row)) for row in rows)
        assert len({tuple(row[0].tolist()) for row in rows}) == 3


@installed
def test_blocks_behind_the_last_one_that_is_read_are_dead():
    vlm = VLM.of(plain("molmo2")[0])
    assert vlm.config.adapter_config.vision_feature_layer == [2, 0]
    assert vlm.num_executed() == 3 and vlm.dead_modules() == vlm.blocks()[3:]
    assert vlm.feature_dim == 2 * vlm.vision_dim
