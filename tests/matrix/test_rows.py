"""Rows of a batch: each is answered by its own pictures and its own question, whatever stands beside it."""

from contextlib import nullcontext

import pytest
import torch

from tests.matrix.cells import OTHER, TOLERANCE, Cell, all_models, hears, holds, logits, loss, only, trains, weighs
from tests.models.batches import QUESTIONS, ask, without_context
from yarbus.core.errors import DataError
from yarbus.models.attachment import attachment_of, is_attached
from yarbus.models.vlm import VLM

LONG = "where is the blue digit on the left , and which colour is the one on top ?"

SEVERAL = [LONG, OTHER, "describe the picture .", "yes", *QUESTIONS[1:]]
"""Of which one at least takes another way through experts that are chosen, not weighed."""


def listens(processor) -> bool:
    """Whether batches carry a question for the eyes."""
    return hasattr(processor, "context_tokenizer")


def test_another_question_changes_its_own_row_and_no_other_bit(cell, text_encoder, sizes):
    model, processor = cell.moved(text_encoder)
    same, other = (ask(processor, sizes[:2], [QUESTIONS[0], second]) for second in (QUESTIONS[0], OTHER))
    assert same["input_ids"].shape == other["input_ids"].shape
    left, right = logits(model, same), logits(model, other)
    if cell.method.further_encoders:  # of another number of tokens, when the other row takes another encoder
        torch.testing.assert_close(left[0], right[0], **TOLERANCE)
    else:
        assert torch.equal(left[0], right[0])
    assert not torch.equal(left[1], right[1])


@only(hears)
def test_the_question_alone_changes_what_the_eyes_see(cell, sizes):
    model, processor = cell.moved()  # whose vectors differ more than those of a random encoder

    def told(second):
        return logits(model, ask(processor, sizes[:2], [QUESTIONS[0]] * 2, context=[QUESTIONS[0], second]))

    same, others = told(QUESTIONS[0]), [told(text) for text in SEVERAL]
    assert all(torch.equal(other[0], same[0]) for other in others)
    assert max((other[1] - same[1]).abs().max() for other in others) > 1e-5


@only(weighs)
def test_what_was_said_alone_changes_what_the_head_answers(cell, text_encoder, sizes):
    model, processor = cell.moved(text_encoder)
    told = ([QUESTIONS[0]] * 2, [QUESTIONS[0], LONG])
    left, right = (logits(model, ask(processor, sizes[:2], [QUESTIONS[0]] * 2, said=texts)) for texts in told)
    if getattr(cell.method, "context_pass", "text_only") == "text_only":
        torch.testing.assert_close(left[0], right[0], **TOLERANCE)  # the longer text pads the other
        assert (left[1] - right[1]).abs().max() > 1e-5


def test_rows_may_be_permuted(cell, text_encoder, sizes):
    order = [2, 0, 1]

    def check(model, processor):
        # The same words, so that no row is longer; its own context is what each row keeps.
        contexts = QUESTIONS[:3] if listens(processor) else None
        batch = ask(processor, sizes[:3], [QUESTIONS[0]] * 3, context=contexts)
        moved = [sizes[row] for row in order], [QUESTIONS[0]] * 3
        shuffled = ask(processor, *moved, context=contexts and [contexts[row] for row in order])
        torch.testing.assert_close(logits(model, shuffled)[:, -1], logits(model, batch)[order, -1], **TOLERANCE)

    holds(check, cell, cell.moved(text_encoder))


@pytest.mark.parametrize("per_row", [1, 2])
def test_each_image_and_tile_answers_to_the_question_of_its_row(small_model, per_row, text_encoder, sizes):
    cell, shown = Cell(small_model, "vision covft text dense"), sizes[: 2 * per_row]

    def check(model, processor):
        ours = is_attached(model)

        def heard(rows):
            chosen = [picture for row in rows for picture in shown[row * per_row : (row + 1) * per_row]]
            texts = [QUESTIONS[row] for row in rows]
            context = texts if ours else None
            batch = ask(processor, chosen, [QUESTIONS[0]] * len(rows), context=context, images_per_row=per_row)
            with attachment_of(model).slot.recording() if ours else nullcontext() as recorder:
                logits(model, batch)
            return [values[0] for values in recorder.of("context").values()] if recorder else []

        for both, first, second in zip(heard([0, 1]), heard([0]), heard([1]), strict=True):
            in_first, in_second = ((both - one[0]).abs().amax(dim=1) < 1e-5 for one in (first, second))
            assert torch.equal(in_first, ~in_second)
            assert torch.equal(in_first, in_first.sort(descending=True).values)
            assert in_first.sum() >= len(first) and in_second.sum() >= len(second) and len(first) >= 1

    holds(check, cell, cell.moved(text_encoder))


@pytest.mark.parametrize("per_row", [1, 2])
def test_a_row_gives_the_same_beside_one_with_more_tiles_and_a_longer_question(cell, per_row, text_encoder, sizes):
    """Padding on the left, several pictures of a row, pictures of other sizes."""

    def check(model, processor):
        questions, shown = [QUESTIONS[0], LONG], [sizes[:per_row], sizes[per_row : 2 * per_row]]
        together = logits(model, ask(processor, [*shown[0], *shown[1]], questions, images_per_row=per_row))
        for row in range(2):
            alone = logits(model, ask(processor, shown[row], [questions[row]], images_per_row=per_row))
            torch.testing.assert_close(together[row, -1], alone[0, -1], **TOLERANCE)

    holds(check, cell, cell.moved(text_encoder))


def rendered(processor, num_images: list[int]) -> list[str]:
    """The text of each row before its images are put in."""
    rows = list(zip(num_images, QUESTIONS, strict=False))
    if processor.chat_template is None:
        return [processor.image_token * number + text for number, text in rows]
    chats = [
        [{"role": "user", "content": [*[{"type": "image"}] * number, {"type": "text", "text": text}]}]
        for number, text in rows
    ]
    return processor.apply_chat_template(chats, add_generation_prompt=True)


def test_text_only_rows_stand_beside_rows_with_images(cell, text_encoder, sizes):
    def check(model, processor):
        text = rendered(processor, [0, 1, 0])
        mixed = logits(model, processor(images=[[], [sizes[1]], []], text=text, padding=True, return_tensors="pt"))
        shown = processor(images=[[sizes[1]]], text=text[1:2], padding=True, return_tensors="pt")
        torch.testing.assert_close(mixed[1, -1], logits(model, shown)[0, -1], **TOLERANCE)
        words = processor(text=[text[0], text[2]], padding=True, return_tensors="pt")
        torch.testing.assert_close(mixed[[0, 2], -1], logits(model, words)[:, -1], **TOLERANCE)

    holds(check, cell, cell.moved(text_encoder))


def test_a_batch_of_text_alone_runs_and_trains(cell, text_encoder):
    def check(model, processor):
        words = processor(text=rendered(processor, [0, 0]), padding=True, return_tensors="pt")
        words.pop("labels", None)
        assert model.generate(**words, max_new_tokens=2).shape[0] == 2
        loss(model.train(), words).backward()
        trained = [p for p in VLM.of(model).language_blocks[0].parameters() if p.requires_grad]
        assert all(parameter.grad is not None for parameter in trained)
        assert trained or (cell.place == "language" and not trains(cell))

    holds(check, cell, cell.moved(text_encoder, projector="full", language="full"))


@all_models
@only(hears)
def test_an_empty_question_is_a_question(cell, pictures):
    model, processor = cell.moved()

    def told(text):
        return logits(model, ask(processor, pictures[:1], [QUESTIONS[0]], context=[text]))

    assert torch.isfinite(told("")).all()
    assert any(not torch.equal(told(""), told(text)) for text in SEVERAL)


@all_models
def test_a_conversation_is_answered_to_its_last_question(cell, text_encoder, sizes):
    def check(model, processor):
        def turn(role, text, *content):
            return {"role": role, "content": [*content, {"type": "text", "text": text}]}

        picture = {"type": "image"}
        chats = [
            [turn("user", QUESTIONS[0], picture), turn("assistant", "three"), turn("user", QUESTIONS[1])],
            [turn("user", QUESTIONS[2], picture)],
        ]
        text = processor.apply_chat_template(chats, add_generation_prompt=True)

        def batch(rows, **context):
            images = [[sizes[row]] for row in rows]
            return processor(
                images=images, text=[text[row] for row in rows], padding=True, return_tensors="pt", **context
            )

        together = logits(model, batch([0, 1]))
        for row in range(2):
            torch.testing.assert_close(together[row, -1], logits(model, batch([row]))[0, -1], **TOLERANCE)
        if listens(processor):
            assert torch.equal(logits(model, batch([0, 1], context=[QUESTIONS[1], QUESTIONS[2]])), together)

    holds(check, cell, cell.moved(text_encoder))


@all_models
@only(hears)
def test_a_missing_context_raises(cell, text_encoder, pictures):
    model, processor = cell.moved(text_encoder)
    batch = without_context(ask(processor, pictures[:2]))
    with pytest.raises(DataError, match="no question reached"):
        logits(model, batch)
    with pytest.raises(DataError, match="no question reached"):
        model.generate(**batch, max_new_tokens=2)
    with pytest.raises(DataError, match="row 1"):
        logits(model, ask(processor, pictures[:2], context=["what digit", None]))


@all_models
@only(weighs)
def test_a_head_that_weighs_raises_where_nobody_says_anything(cell, text_encoder, pictures):
    model, processor = cell.moved(text_encoder)
    with pytest.raises(DataError):
        logits(model, without_context(ask(processor, pictures[:2])))
