"""What counts as the question: user turns only, cleaned by rule, found in messages and in rendered text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import yarbus
from tests import tiny
from tests.models.test_question_path import METHODS
from yarbus.core.errors import DataError
from yarbus.models.question import Question, TemplateMarkers, one_per_row

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


HOLDS_A_MARKER = [
    ("what digit ?", "five {to_user} red green"),
    ("what digit ?", "five {to_user} red green", "where ?", "left"),
    ("what digit ?", "five", "where ?", "left {to_user} red"),
    ("what digit ?", "five {to_assistant} red"),
    ("what {to_assistant} digit ?", "five"),
    ("what {to_user} digit ?", "five"),
    ("what digit ?", "five", "where {to_user} ?", "left"),
]
"""Turns of which one holds what the template writes between turns."""


@pytest.mark.parametrize("turns", HOLDS_A_MARKER)
@pytest.mark.parametrize("chat_turns", ["last", "upto_current"])
def test_a_turn_that_holds_a_marker_is_never_taken_for_another_turn(processor, turns, chat_turns, pictures):
    """What an answer says behind the user's marker would be the context, and a question would end too early."""
    processor.question = Question(chat_turns=chat_turns)
    processor(text=["x"], return_tensors="pt")
    _, markers = processor._markers
    told = {"to_user": markers.to_user, "to_assistant": markers.to_assistant}
    text = processor.apply_chat_template(chat(*(turn.format(**told) for turn in turns)))
    with pytest.raises(DataError, match=r"cannot tell the turns.*pass context="):
        processor(images=pictures[:1], text=[text], return_tensors="pt")
    batch = processor(images=pictures[:1], text=[text], context=["what digit ?"], return_tensors="pt")
    assert words(processor, batch) == "what digit ?"


def test_a_chat_that_the_assistant_begins_has_the_user_s_turns_and_an_answer_alone_has_none(processor, pictures):
    text = processor.apply_chat_template(chat("what digit ?", "five"))
    processor(text=["x"], return_tensors="pt")
    _, markers = processor._markers
    begun = f"{markers.to_assistant} five "
    batch = processor(images=pictures[:1], text=[begun + text], return_tensors="pt")
    assert words(processor, batch) == "what digit ?"
    with pytest.raises(DataError, match=r"cannot tell the turns.*pass context="):
        processor(text=[f"{begun}{markers.user} red"], return_tensors="pt")


def written(begin, opens, closes, last=""):
    """A chat template as a function: how a turn of each role opens and closes."""

    def render(messages):
        turns = ((message["role"], message["content"][0]["text"]) for message in messages)
        return begin + "".join(f"{opens[role]}{text}{closes[role]}" for role, text in turns) + last

    return render


def every(text):
    """The same for every role; ``{}`` is the role's name."""
    return {role: text.format(role) for role in ("system", "user", "assistant")}


BEGUN = {
    "Llama 3.2": (
        "<|begin_of_text|>",
        written("<|begin_of_text|>", every("<|start_header_id|>{}<|end_header_id|>\n\n"), every("<|eot_id|>")),
    ),
    "SmolVLM": ("<|im_start|>", written("<|im_start|>", every("{}: "), every("<end_of_utterance>\n"))),
    "Mistral": (
        "<s>",
        written(
            "<s>",
            {"system": "[SYSTEM_PROMPT]", "user": "[INST]", "assistant": ""},
            {"system": "[/SYSTEM_PROMPT]", "user": "[/INST]", "assistant": "</s>"},
        ),
    ),
    "Qwen": (None, written("", every("<|im_start|>{}\n"), every("<|im_end|>\n"))),
}
"""Begin token and template of models whose first turn stands right behind it."""


@pytest.mark.parametrize("name", BEGUN)
def test_a_system_message_may_stand_between_the_begin_token_and_the_first_turn(name):
    begin, render = BEGUN[name]
    markers = TemplateMarkers.of(render, begin)

    def turns(*said):
        return markers.user_turns(render([{"role": r, "content": [{"type": "text", "text": t}]} for r, t in said]))

    asked = [("user", "what digit ?"), ("assistant", "five"), ("user", "where ?"), ("assistant", "left")]
    assert turns(*asked) == ["what digit ?", "where ?"]
    assert turns(("system", "the user likes red"), *asked) == ["what digit ?", "where ?"]
    assert markers.user_turns("five") == markers.user_turns((begin or "") + "five") == []


def test_the_processor_knows_its_begin_token(text_encoder):
    model, processor = tiny.EVERY["mllama"]()
    yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=text_encoder)
    processor.chat_template = (
        "{{ bos_token }}{% for turn in messages %}{{ turn.role.upper() }}: {{ turn.content[0].text }} {% endfor %}"
    )
    asked = [{"role": "user", "content": [{"type": "text", "text": "what digit ?"}]}]
    told = [{"role": "system", "content": [{"type": "text", "text": "red one ."}]}, *asked]
    assert processor.apply_chat_template(told).startswith("<|begin_of_text|>SYSTEM: red")
    for messages in (asked, told):
        text = processor.apply_chat_template(messages)
        assert words(processor, processor(text=[text], return_tensors="pt")) == "what digit ?"


def test_without_a_chat_template_the_whole_text_is_the_question(processor, pictures):
    processor.chat_template = None
    tag = processor.image_token
    batch = processor(images=[pictures[0]], text=f"{tag} what digit is red", return_tensors="pt")
    assert words(processor, batch) == "what digit is red"


def test_a_context_per_row_is_wanted(processor, pictures):
    rendered = processor.apply_chat_template(chat("what ?"), add_generation_prompt=True)
    with pytest.raises(DataError, match="2 contexts for 1 texts"):
        processor(images=[pictures[0]], text=rendered, context=["a", "b"], return_tensors="pt")


def test_a_context_is_a_text_or_none_for_each_row():
    assert one_per_row("where", 1) == one_per_row(("where",), 1) == one_per_row(np.array(["where"]), 1) == ["where"]
    assert one_per_row(["where", None], 2) == ["where", None]
    for context, kind in (([["where"]], "list"), ([5], "int"), (5, "int"), (["where", b"what"], "bytes")):
        with pytest.raises(DataError, match=f"no text - it is of type {kind}; fix: pass context= with one text"):
            one_per_row(context, 1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.Tensor, {"return_tensors": "pt"}),
        (torch.Tensor, {"text_kwargs": {"return_tensors": "pt"}}),
        (torch.Tensor, {"common_kwargs": {"return_tensors": "pt"}}),
        (np.ndarray, {"return_tensors": "np"}),
        (list, {}),
    ],
)
def test_the_question_comes_in_what_the_tokens_come_in(kind, options, text_encoder):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision=METHODS["cve-dense"], head="carpe", text_encoder=text_encoder)
    batch = processor(text=["USER: what digit ? ASSISTANT:"], **options)
    added = [name for name in batch if name.startswith("context_")]
    assert {"context_input_ids", "context_attention_mask", "context_prompt_ids"} <= set(added)
    assert {type(batch[name]) for name in ["input_ids", *added]} == {kind}


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
