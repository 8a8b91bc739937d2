import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from yarbus.core.errors import DataError
from yarbus.data.collate import IGNORED, Collator, context_text, context_texts, prompt_batch
from yarbus.data.sample import Sample, Turn
from yarbus.data.wording import Wording
from yarbus.models.question import Question

ANSWERS = st.lists(
    st.sampled_from(["one", "two", "three", "four", "five", "yes", "no", ",", ".", "left"]), min_size=1, max_size=6
)


def conversation(*texts: str, images=(), name: str = "1") -> Sample:
    turns = tuple(Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))
    return Sample(name, tuple(images), turns, where=f"train.json:{name}")


def labelled(processor, labels) -> str:
    return processor.tokenizer.decode(labels[labels != IGNORED])


def visit(*samples: Sample):
    return [(sample, 0, row) for row, sample in enumerate(samples)]


def test_labels_are_the_answers_and_their_end_markers(processor, picture):
    end = processor.tokenizer.eos_token
    two = conversation("<image>\nwhat is this ?", "digit one", "where ?", "left .", images=[picture()])
    text_only = conversation("which ?", "five", name="2")
    batch = Collator(processor)(visit(two, text_only))
    spelled = [labelled(processor, row).split() for row in batch["labels"]]
    assert spelled == [["digit", "one", end, "left", ".", end], ["five", end]]
    assert batch["sample_ids"] == ["1", "2"]


def test_labels_stand_where_the_tokens_stand(processor, picture):
    batch = Collator(processor)(visit(conversation("<image>what ?", "one two", images=[picture()])))
    is_answer = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][is_answer], batch["input_ids"][is_answer])
    assert not (batch["labels"] == processor.image_token_id).any()


def test_several_images_of_different_sizes_shift_every_later_answer(processor, picture):
    images = [picture("a.png", 24, 16), picture("b.png", 64, 32), picture("c.png", 16, 16)]
    sample = conversation("<image> left <image> right ?", "one", "and <image>\nwhich ?", "two three", images=images)
    batch = Collator(processor)(visit(sample, conversation("what ?", "no", name="2")))
    end = processor.tokenizer.eos_token
    assert labelled(processor, batch["labels"][0]).split() == ["one", end, "two", "three", end]


@given(answers=st.lists(ANSWERS, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_answer_is_recovered_from_the_labels(processor, picture, answers):
    texts = [text for words in answers for text in ("<image>\nwhat is this ?", " ".join(words))]
    sample = conversation(*texts, images=[picture()] * len(answers))
    batch = Collator(processor)(visit(sample))
    end = processor.tokenizer.eos_token
    assert labelled(processor, batch["labels"][0]).split() == [word for words in answers for word in [*words, end]]


def test_a_batch_without_pictures_has_no_pixel_values(processor):
    batch = Collator(processor)(visit(conversation("what ?", "one")))
    assert "pixel_values" not in batch
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape


def test_a_row_that_is_too_long_is_refused_with_its_numbers(llava_processor, picture):
    sample = conversation("<image>\nwhat is this ?", "one", images=[picture()], name="17")
    length = Collator(llava_processor)(visit(sample))["input_ids"].shape[1]
    Collator(llava_processor, max_tokens=length)(visit(sample))
    with pytest.raises(DataError, match=rf"train.json:17 - {length} tokens \(4 image\) > {length - 1}"):
        Collator(llava_processor, max_tokens=length - 1)(visit(sample))


@pytest.mark.parametrize("answer", ["{{ 'no' }}", "{{ part['text'] | reverse }}", ""])
def test_a_template_that_does_not_write_the_answers_is_refused(llava_processor, answer):
    llava_processor.chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if message['role'] == 'user' %}{{ part['text'] }} {% else %}" + answer + "{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    with pytest.raises(DataError, match=r"chat template and answers disagree: train.json:1"):
        Collator(llava_processor)(visit(conversation("what ?", "one two")))


def test_a_prompt_that_the_answer_changes_is_refused(llava_processor):
    llava_processor.chat_template = (
        "{{ messages | length }}{% for message in messages %} {{ message['content'][0]['text'] }}{% endfor %}"
    )
    with pytest.raises(DataError, match="the text before answer 1 changes"):
        Collator(llava_processor)(visit(conversation("what ?", "one two")))


def test_labels_that_do_not_spell_the_answers_are_refused(llava_processor, monkeypatch):
    monkeypatch.setattr("yarbus.data.collate._moved", lambda span, moves: (span[0] - 6, span[1] - 6))
    with pytest.raises(DataError, match="labels do not spell the answers"):
        Collator(llava_processor)(visit(conversation("what ?", "one two")))


def test_empty_answers_without_an_end_marker_are_refused(llava_processor):
    llava_processor.tokenizer.eos_token = None
    with pytest.raises(DataError, match="nothing to learn from: train.json:1"):
        Collator(llava_processor)(visit(conversation("what ?", "")))


def test_an_image_token_of_the_model_in_other_text_is_refused(qwen_processor):
    with pytest.raises(DataError, match=r"0 images, 1 <\|image_pad\|>"):
        Collator(qwen_processor)(visit(conversation("what is <|image_pad|> ?", "one")))


def test_a_processor_without_a_template_writes_one_turn_a_line(llava_processor, picture):
    llava_processor.chat_template = None
    batch = Collator(llava_processor)(visit(conversation("<image>what ?", "one two", images=[picture()])))
    assert labelled(llava_processor, batch["labels"][0]).split() == ["one", "two", "</s>"]


def test_a_picture_that_cannot_be_opened_names_file_and_row(processor, tmp_path):
    (tmp_path / "a.png").write_bytes(b"<html>404")
    with pytest.raises(DataError, match=r"a\.png - .*HTML.*train\.json:1"):
        Collator(processor)(visit(conversation("<image>what ?", "one", images=[tmp_path / "a.png"])))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 3), (3, 90), (90, 1)])
def test_the_channel_axis_is_never_guessed(llava_processor, tmp_path, width, height):
    Image.new("RGB", (width, height), (255, 0, 127)).save(tmp_path / "a.png")
    sample = conversation("<image>what ?", "one", images=[tmp_path / "a.png"])
    pixels = Collator(llava_processor)(visit(sample))["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor([1.0, -1.0, -1 / 255]))


def test_the_context_is_one_question_per_visit_chosen_by_seed_epoch_and_row():
    sample = conversation("<image>\nwhat ?", "one", "where <image> ?", "left", "which ?", "two")
    chosen = [context_text(sample, "sampled_turn", 0, epoch, 5) for epoch in range(40)]
    assert set(chosen) == {"what ?", "where ?", "which ?"}
    assert chosen == [context_text(sample, "sampled_turn", 0, epoch, 5) for epoch in range(40)]
    assert context_text(sample, "all_human", 0, 0, 5) == "what ?\nwhere ?\nwhich ?"


def test_a_class_picture_is_worded_anew_at_each_visit(llava_processor, picture):
    wording = Wording(("what is this ?", "which digit ?"), ("one", "two", "three", "four", "five", "yes", "no"))
    turns = (Turn("user", "<image>\nwhat is this ?"), Turn("assistant", "two"))
    sample = Sample("1", (picture(),), turns, where="train:1", wording=wording)
    collate = Collator(llava_processor, seed=3)
    lengths = {}
    for epoch in range(12):
        batch = collate([(sample, epoch, 5)])
        assert labelled(llava_processor, batch["labels"][0]).split() == ["two", "</s>"]
        lengths[epoch] = int(batch["attention_mask"].sum())
        assert torch.equal(batch["input_ids"], Collator(llava_processor, seed=3)([(sample, epoch, 5)])["input_ids"])
        asked = sample.asked(3, epoch, 5)
        assert context_text(sample, "sampled_turn", 3, epoch, 5) == asked.turns[0].words
    assert len(set(lengths.values())) > 1  # open and closed


def test_all_texts_of_some_visits_are_what_the_collator_tells_on_them():
    wording = Wording(("what is this ?", "which digit ?"), ("one", "two", "three", "four", "five", "yes", "no"))
    samples = [
        conversation("<image>\nwhat ?", "one", "where <image> ?", "left", "which ?", "two"),
        conversation("what ?", "one"),
        Sample("1", (), (Turn("user", "what is this ?"), Turn("assistant", "two")), wording=wording),
        Sample("2", (), (Turn("assistant", "two"),)),
    ]
    visits = [(sample, epoch, row) for epoch in range(6) for row, sample in enumerate(samples)]
    texts = context_texts(iter(visits), "sampled_turn", 3)
    assert {"what ?", "where ?", "which ?"} < set(texts) and len(set(texts)) == len(texts) > 5
    assert set(texts) == {context_text(one, "sampled_turn", 3, epoch, row) for one, epoch, row in visits} - {None}
    assert context_texts(visits[:2], "all_human", 3) == ["what ?\nwhere ?\nwhich ?", "what ?"]


def test_the_context_reaches_the_processor_only_if_it_wants_one(llava_processor):
    seen = []

    class Wanting(type(llava_processor)):
        def __call__(self, images=None, text=None, *, context=None, **kwargs):
            seen.append(context)
            return super().__call__(images, text, **kwargs)

    sample = conversation("what ?", "one", "where ?", "left")
    Collator(llava_processor)(visit(sample))
    llava_processor.__class__ = Wanting
    llava_processor.context_tokenizer = llava_processor.tokenizer
    Collator(llava_processor, train_turns="all_human")(visit(sample))
    for chat_turns in ("last", "upto_current"):
        llava_processor.question = Question(chat_turns=chat_turns)
        prompt_batch(llava_processor, [sample])
    assert seen == [["what ?\nwhere ?"], ["where ?"], ["what ?\nwhere ?"]]


def test_prompts_end_where_the_answer_begins(processor, picture):
    samples = [conversation("<image>what ?", "one", images=[picture()]), conversation("where ?", "left", name="2")]
    prompts = prompt_batch(processor, samples)
    trained = Collator(processor)(visit(*samples))
    for row in range(2):
        prompt = prompts["input_ids"][row][prompts["attention_mask"][row].bool()]
        ids = trained["input_ids"][row]
        first = int((trained["labels"][row] != IGNORED).int().argmax())
        assert torch.equal(prompt, ids[:first])
    assert prompts["attention_mask"][1, 0] == 0, "the shorter prompt is padded on the left"
    assert set(prompts).isdisjoint({"labels", "offset_mapping", "text_replacement_offsets"})


def test_a_known_batch_of_64_short_rows_is_written_in_40_milliseconds(llava_processor):
    samples = [conversation(f"what is this , {row} ?", "digit one", name=str(row)) for row in range(64)]
    collate = Collator(llava_processor)
    collate(visit(*samples))
    seconds = []
    for _ in range(10):
        start = time.process_time()
        collate(visit(*samples))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.04
