"""What counts as the question: user turns only, cleaned by rule, found in messages and in rendered text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import yarbus
from tests import tiny
from tests.models.test_question_path import METHODS
from yarbus.core.errors import DataError
from yarbus.models.question import Question

FORMAT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture(params=list(tiny.FAMILIES))
def processor(request, text_encoder):
    model, processor = tiny.FAMILIES[request.param]()
    yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=text_encoder)
    return processor


def words(processor, batch, row=0):
    """The context of a row, as words."""
    ids = torch.as_tensor(batch["context_input_ids"])[row]
    return processor.context_tokenizer.decode(ids, skip_special_tokens=True)


def chat(*turns):
    roles = ("user", "assistant") * len(turns)
    return [
        {"role": role, "content": [*([{"type": "image"}] if index == 0 else []), {"type": "text", "text": text}]}
        for index, (role, text) in enumerate(zip(roles, turns, strict=False))
    ]


def test_the_answer_never_reaches_the_context(processor, pictures):
    messages = chat("what digit is red ?", "five")
    text = processor.apply_chat_template(messages)
    batch = processor(images=[pictures[0]], text=text, return_tensors="pt")
    assert words(processor, batch) == "what digit is red ?"


def test_messages_and_their_rendered_text_give_the_same_context(processor, pictures):
    messages = chat("what digit is red ?", "five", "where is the blue one ?")
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    from_text = processor(images=[pictures[0]], text=rendered, return_tensors="pt")
    messages[0]["content"][0]["image"] = pictures[0]
    from_messages = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert words(processor, from_text) == words(processor, from_messages) == "where is the blue one ?"
    assert torch.equal(from_text["input_ids"], from_messages["input_ids"])


def test_all_turns_up_to_the_current_one_may_be_the_context(processor, pictures):
    processor.question = Question(chat_turns="upto_current")
    rendered = processor.apply_chat_template(chat("what digit ?", "five", "where ?"), add_generation_prompt=True)
    assert (
        words(processor, processor(images=[pictures[0]], text=rendered, return_tensors="pt")) == "what digit ? where ?"
    )


def test_format_sentences_of_every_joined_turn_are_removed(processor, pictures):
    processor.question = Question(chat_turns="upto_current")
    messages = chat(f"what digit ?\n{FORMAT}", "five", f"where ?\n{FORMAT}")
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert (
        words(processor, processor(images=[pictures[0]], text=rendered, return_tensors="pt")) == "what digit ? where ?"
    )


def test_the_word_user_in_a_text_is_no_turn(processor):
    for text in ("a digit the user likes", "the user is one"):
        assert not processor(text=[text], return_tensors="pt")["context_attention_mask"].any()


def test_text_without_a_user_turn_has_no_context(processor):
    batch = processor(text=["a digit is red"], return_tensors="pt")
    assert not batch["context_attention_mask"].any()


def test_an_ambiguous_prompt_asks_for_the_context(text_encoder):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=text_encoder)
    with pytest.raises(DataError, match="pass context="):
        processor(text=["what digit ASSISTANT: five"], return_tensors="pt")


def test_without_a_chat_template_the_whole_text_is_the_question(processor, pictures):
    processor.chat_template = None
    tag = processor.image_token
    batch = processor(images=[pictures[0]], text=f"{tag} what digit is red", return_tensors="pt")
    assert words(processor, batch) == "what digit is red"


def test_a_context_per_row_is_wanted(processor, pictures):
    rendered = processor.apply_chat_template(chat("what ?"), add_generation_prompt=True)
    with pytest.raises(DataError, match="2 contexts for 1 texts"):
        processor(images=[pictures[0]], text=rendered, context=["a", "b"], return_tensors="pt")


def test_a_long_question_is_cut_at_the_limit(processor, pictures):
    processor.question = Question(max_tokens=6)
    batch = processor(text=["x"], context=["what digit is red blue green where"], return_tensors="pt")
    assert batch["context_input_ids"].shape[1] == 6


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        ("ours", f"<image>\nWhat is it?\n{FORMAT}", "What is it?"),
        ("ours", "What is it?\nReference OCR token: a, b\n" + FORMAT, "What is it?"),
        ("ours", f"What is it?\nA. cat\nB. dog\n{LETTER}", "What is it?\nA. cat\nB. dog"),
        ("ours", "那是什么？\n请直接回答选项字母。", "那是什么？"),
        ("official", f"<image>\nWhat is it?\n{FORMAT}", f"What is it?\n{FORMAT}"),
        ("official", "What is it? <image>", "What is it? <image>"),
    ],
)  # fmt: skip
def test_rules_keep_what_describes_the_picture(rules, text, expected):
    assert Question(rules=rules).clean(text, ["<image>"]) == expected


@given(st.text(alphabet=st.sampled_from("ab\n <image>.?"), max_size=60), st.sampled_from(["ours", "official"]))
def test_cleaning_twice_changes_nothing(text, rules):
    question = Question(rules=rules)
    once = question.clean(f"{text}\n{FORMAT}", ["<image>"])
    if rules == "ours":
        assert question.clean(once, ["<image>"]) == once
