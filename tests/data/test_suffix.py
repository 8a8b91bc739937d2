"""PaliGemma's processor takes an answer as a suffix: labels stand on it alone, and nothing before it has read it."""

import pytest
import torch

import yarbus
from tests import tiny
from yarbus.core.errors import DataError
from yarbus.data.collate import IGNORED, Collator, prompt_batch
from yarbus.data.render import Renderer
from yarbus.data.sample import Sample, Turn

NEVER_ASKED = "five"
"""A word of no question."""


@pytest.fixture(scope="module")
def processor():
    return tiny.EVERY["paligemma"]()[1]


@pytest.fixture
def rows(pictures, tmp_path) -> list[Sample]:
    """A short answer and a longer one; the picture's tag before and behind the question."""
    questions = ("<image>\nwhat digit is red ?", "where is the blue one ?\n<image>")
    found = []
    for number, (question, answer) in enumerate(zip(questions, (NEVER_ASKED, f"{NEVER_ASKED} top left"), strict=True)):
        pictures[number].save(tmp_path / f"{number}.png")
        turns = (Turn("user", question), Turn("assistant", answer))
        found.append(Sample(str(number), (tmp_path / f"{number}.png",), turns, where=f"train.json:{number}"))
    return found


def attached(text_encoder: str, **places):
    """A PaliGemma whose eyes read the question."""
    torch.manual_seed(5)
    covft = {"method": "covft", "num_experts": 3, "context_dim": 16, "expert_jitter": 1e-2}
    return yarbus.attach(*tiny.EVERY["paligemma"](), vision=covft, text_encoder=text_encoder, **places)


def collated(processor, rows: list[Sample], **options):
    return Collator(processor, **options)([(row, 0, number) for number, row in enumerate(rows)])


def refused(processor, row: Sample) -> str:
    with pytest.raises(DataError) as caught:
        collated(processor, [row])
    return str(caught.value)


def test_labels_stand_on_the_suffix_and_its_end_alone(processor, rows):
    batch = collated(processor, rows)
    said = [processor.tokenizer.decode(labels[labels != IGNORED]) for labels in batch["labels"]]
    assert [words.split() for words in said] == [["five", "<eos>"], ["five", "top", "left", "<eos>"]]
    is_suffix = batch["token_type_ids"] == 1
    assert torch.equal(is_suffix, batch["labels"] != IGNORED)
    assert "context_turn_index" not in batch and batch["pixel_values"].shape[0] == 2


def test_the_question_stands_behind_all_pictures_wherever_its_tags_are(processor, rows):
    texts = [Renderer(processor).text(row) for row in rows]
    assert texts == ["<image>what digit is red ?", "<image>where is the blue one ?"]
    batch = collated(processor, rows)
    shown = (batch["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert shown == [processor.image_seq_length] * 2


def test_a_prompt_is_what_training_shows_before_the_suffix(processor, rows):
    prompts, trained = prompt_batch(processor, rows), collated(processor, rows)
    assert "labels" not in prompts and not prompts["token_type_ids"].any()
    for row in range(2):
        prompt = prompts["input_ids"][row][prompts["attention_mask"][row].bool()]
        first = int((trained["labels"][row] != IGNORED).int().argmax())
        assert torch.equal(prompt, trained["input_ids"][row][:first])
    questions = [Sample(row.id, row.images, row.turns[:1]) for row in rows]
    assert torch.equal(prompt_batch(processor, questions)["input_ids"], prompts["input_ids"])


def test_the_answer_reaches_neither_the_eyes_nor_what_a_head_is_told(text_encoder, rows):
    _, processor = attached(text_encoder, head={"method": "carpe"})
    batch = collated(processor, rows)
    told = {"context_input_ids": processor.context_tokenizer, "context_prompt_ids": processor.tokenizer}
    for name, tokenizer in told.items():
        words = tokenizer.batch_decode(batch[name])
        assert "red" in words[0] and "blue" in words[1], name
        assert not any(NEVER_ASKED in text for text in words), name
    turns = batch["context_turn_index"]
    assert torch.equal(turns >= 0, batch["labels"] != IGNORED) and int(turns.max()) == 0


def test_what_stands_before_an_answer_is_computed_without_it(text_encoder, rows):
    model, processor = attached(text_encoder)
    others = [
        Sample(r.id, r.images, (r.turns[0], Turn("assistant", r.turns[1].text.replace("five", "yes")))) for r in rows
    ]
    found = []
    for some in (rows, others):
        batch = collated(processor, some)
        batch.pop("sample_ids")
        with torch.no_grad():
            found.append(model(**batch).logits[(batch["token_type_ids"] == 0) & batch["attention_mask"].bool()])
    assert torch.equal(*found)


def test_several_turns_are_refused_with_the_reason(processor, rows):
    turns = (*rows[0].turns, Turn("user", "where ?"), Turn("assistant", "left"))
    told = refused(processor, Sample("1", rows[0].images, turns, where="train.json:1"))
    assert "a row of 4 turns: train.json:1" in told
    assert "an earlier answer would be read before it is said; fix: write one row for each question" in told
    with pytest.raises(DataError, match="a row of 3 turns"):
        prompt_batch(processor, [Sample("1", rows[0].images, turns[:3])])


def test_a_row_without_a_picture_is_refused(processor, rows):
    turns = (Turn("user", "what digit ?"), rows[0].turns[1])
    assert "a row without a picture: train.json:1" in refused(processor, Sample("1", (), turns, where="train.json:1"))


@pytest.mark.parametrize(
    ("question", "answer", "counts"),
    [("what digit ?", "five", "1 images, 0 <image>"), ("<image>what ?", "<image>", "1 images, 2 <image>")],
)
def test_image_tokens_must_be_those_of_the_pictures(processor, rows, question, answer, counts):
    turns = (Turn("user", question), Turn("assistant", answer))
    assert counts in refused(processor, Sample("1", rows[0].images, turns))


def test_a_row_may_show_several_pictures(processor, rows):
    turns = (Turn("user", "<image> or <image> , which is red ?"), Turn("assistant", "five"))
    two = Sample("2", (*rows[0].images, *rows[1].images), turns)
    batch = collated(processor, [two, rows[0]])
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [32, 16]
    assert Renderer(processor).text(two) == "<image><image>or , which is red ?"


def test_a_row_without_an_answer_teaches_nothing(processor, rows):
    assert "nothing to learn from" in refused(processor, Sample("1", rows[0].images, rows[0].turns[:1]))
