"""Gemma3: patches pooled to a fixed number of tokens, and crops that are images of their own."""

import torch

from tests.matrix.cells import BY_TEXT, OTHER, attached, logits, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.models.attachment import attachment_of
from yarbus.models.vlm import FAMILIES

CROPPING = {
    "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 14, "pan_and_scan_max_num_crops": 2,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}  # fmt: skip


def cropped(processor, pictures, contexts=None):
    """A broad picture, cut into two beside the whole, and a square one, which is not."""
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]}] for _ in range(2)
    ]
    text = processor.apply_chat_template(chats, add_generation_prompt=True)
    extra = {} if contexts is None else {"context": contexts}
    shown = [[pictures[0].resize((56, 28))], [pictures[1]]]
    return processor(images=shown, text=text, padding=True, return_tensors="pt", **CROPPING, **extra)


def test_an_image_takes_as_many_placeholders_as_its_pooled_tokens(pictures):
    model, processor = plain("gemma3")
    batch = ask(processor, pictures[:2])
    count = int((batch["input_ids"] == model.config.image_token_id).sum())
    units = FAMILIES["Gemma3Config"].units(model.config, batch, count)
    assert units.placeholders.tolist() == [model.config.mm_tokens_per_image] * 2
    assert batch["token_type_ids"].sum() == count


def test_crops_answer_to_the_question_of_their_picture_s_row(text_encoder, pictures):
    model, processor = attached("gemma3", text_encoder, BY_TEXT)
    batch = cropped(processor, pictures, QUESTIONS[:2])
    assert len(batch["pixel_values"]) == 4
    with attachment_of(model).slot.recording() as recorder:
        logits(model, batch)
    for values in recorder.of("routing_weights").values():
        first, second = values[0][:3], values[0][3:]
        assert torch.equal(first, first[:1].expand(3, -1)) and not torch.equal(first[0], second[0])


def test_a_row_keeps_every_bit_beside_a_picture_in_crops_that_is_asked_something_else(text_encoder, pictures):
    model, processor = attached("gemma3", text_encoder)
    left, right = (
        logits(model, cropped(processor, pictures, [first, QUESTIONS[0]])) for first in (QUESTIONS[0], OTHER)
    )
    assert torch.equal(left[1], right[1]) and not torch.equal(left[0], right[0])
