"""What must agree in one forward: image tokens and pictures row by row, counts that were told, cached questions."""

import pytest
import torch

from tests import tiny
from tests.matrix.cells import BY_TEXT, OTHER, attached, logits
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import DataError

TOLD_BY_PIXELS = ("idefics3", "smolvlm", "mllama")
"""Models whose pixels stand in rows of the batch."""
ONE_TOKEN_A_TILE = {"internvl"}
"""Small models in which a token that moved to another row is a tile that did: nothing else says whose a tile is."""


def with_a_token_moved(model, batch):
    """The first image token of row 0 is a word, and the last word of row 1 an image token."""
    ids = batch["input_ids"].clone()
    row, column = (ids == model.config.image_token_id).nonzero()[0].tolist()
    assert row == 0
    ids[row, column] = ids[0, -1]
    ids[1, -1] = model.config.image_token_id
    return {**batch, "input_ids": ids}


@pytest.mark.parametrize("name", [name for name in tiny.EVERY if name not in ONE_TOKEN_A_TILE])
def test_a_row_that_lost_an_image_token_to_another_is_named(name, text_encoder, pictures):
    model, processor = attached(name, text_encoder)
    whole = ask(processor, pictures[:2], [QUESTIONS[0]] * 2)
    with pytest.raises(DataError, match="do not agree: row 0 of the batch"):
        logits(model, with_a_token_moved(model, whole))


@pytest.mark.parametrize("name", TOLD_BY_PIXELS)
@pytest.mark.parametrize("numbers", [(2, 0, 1), (0, 1, 2), (1, 1, 1)])
def test_rows_with_different_numbers_of_pictures_agree(name, numbers, text_encoder, pictures):
    model, processor = attached(name, text_encoder)
    if name == "mllama":  # some processors of its take no row of words beside pictures
        numbers = tuple(max(1, number) for number in numbers)
    chats = [
        [{"role": "user", "content": [*[{"type": "image"}] * number, {"type": "text", "text": QUESTIONS[0]}]}]
        for number in numbers
    ]
    text, rest = processor.apply_chat_template(chats, add_generation_prompt=True), iter(pictures * 2)
    shown = [[next(rest) for _ in range(number)] for number in numbers]
    batch = processor(images=shown, text=text, padding=True, return_tensors="pt")
    assert torch.isfinite(logits(model, batch)).all()
    assert model.generate(**batch, max_new_tokens=2, num_beams=2).shape[0] == len(numbers)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_counts_beside_the_image_tokens_must_agree_with_them(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder)
    batch = dict(ask(processor, pictures[:2], [QUESTIONS[0]] * 2))
    expected = logits(model, batch)
    assert torch.equal(logits(model, {**batch, "context_image_counts": torch.tensor([1, 1])}), expected)
    with pytest.raises(DataError, match="image tokens and features do not agree: row 0"):
        logits(model, {**batch, "context_image_counts": torch.tensor([2, 0])})
    for counts in ([1, 0, 1], [1, 2], [2]):
        with pytest.raises(DataError, match=r"context_image_counts do not fit the batch.*2 images came"):
            logits(model, {**batch, "context_image_counts": torch.tensor(counts)})


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_cache_that_a_forward_made_remembers_its_question(family, as_tuple, text_encoder, pictures):
    """No cache was passed in: the model makes one, and hands it out."""
    model, processor = attached(family, text_encoder, BY_TEXT)
    first, other = (
        ask(processor, pictures[:1], QUESTIONS[:1]),
        ask(processor, pictures[:1], QUESTIONS[:1], context=[OTHER]),
    )
    output = model(**first, use_cache=True, return_dict=not as_tuple)
    cache = output[1] if as_tuple else output.past_key_values

    def go_on(batch):
        question = {name: value for name, value in batch.items() if name.startswith("context_")}
        return model(input_ids=first["input_ids"][:, -2:], past_key_values=cache, **question)

    with pytest.raises(DataError, match="a new question on cached pictures"):
        go_on(other)
    assert torch.isfinite(go_on(first).logits).all()


@torch.no_grad()
def test_a_cache_of_words_alone_may_be_asked_anything(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, BY_TEXT)
    words = ask(processor, [], QUESTIONS[:1], images_per_row=0)
    cache = model(**words, use_cache=True).past_key_values
    other = ask(processor, [], [OTHER], images_per_row=0)
    question = {name: value for name, value in other.items() if name.startswith("context_")}
    assert model(input_ids=words["input_ids"][:, -2:], past_key_values=cache, **question).logits.shape[1] == 2
