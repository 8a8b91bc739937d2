"""lmms-eval's conversations and generation settings in our words."""

from pathlib import Path

import pytest
from PIL import Image

from yarbus.core.errors import DataError
from yarbus.data.image import open_image
from yarbus.data.render import content
from yarbus.evaluation.asking import Decoding
from yarbus.evaluation.messages import MAX_NEW_TOKENS, Asked, decoding_of, not_followed, sample_of

PICTURE = Image.new("RGB", (4, 4), "red")


def text(words):
    return {"type": "text", "text": words}


def image(url=PICTURE):
    return {"type": "image", "url": url}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def as_hugging_face_has_it(parts):
    return [part if part["type"] == "text" else {"type": "image"} for part in parts]


@pytest.mark.parametrize(
    "parts",
    [
        [text("what ?")],
        [image(), text("what ?")],
        [image(), text("\nwhat ?\n")],
        [text("what ?"), image()],
        [text("first:\n"), image(), image(), text("\n\nsecond ?"), image(), text("\n")],
        [image(), image()],
    ],
)
def test_pictures_and_text_keep_their_order_and_every_line_break(parts):
    sample = sample_of([user(*parts)], "task/test:3")
    assert content(sample.turns[0]) == as_hugging_face_has_it(parts)
    assert len(sample.images) == sum(part["type"] == "image" for part in parts)
    assert sample.turns[0].text.count("<image>") == len(sample.images)


def test_a_picture_before_a_question_is_written_as_training_data_writes_it():
    assert sample_of([user(image(), text("what ?"))], "task/test:3").turns[0].text == "<image>\nwhat ?"


def test_tags_in_the_text_say_where_the_pictures_stand_if_there_are_as_many():
    sample = sample_of([user(image(), image(), text("is <image> like <image> ?"))], "task/test:3")
    assert sample.turns[0].text == "is <image> like <image> ?" and len(sample.images) == 2
    other = sample_of([user(image(), text("a <image> and a <image> ?"))], "task/test:3")
    assert other.turns[0].text.count("<image>") == 3  # refused where it is rendered: three tags, one picture


def test_roles_and_turns_stay():
    said = [
        {"role": "system", "content": [text("be short")]},
        user(image(), text("first ?")),
        {"role": "assistant", "content": [text("one")]},
        user(text("second ?")),
    ]
    sample = sample_of(said, "task/test:3")
    assert [turn.role for turn in sample.turns] == ["system", "user", "assistant", "user"]
    assert sample.turns[3].words == "second ?" and sample.where == sample.id == "task/test:3"


def test_a_picture_may_be_open_or_a_path(tmp_path):
    PICTURE.save(tmp_path / "red.png")
    sample = sample_of([user(image(), image(str(tmp_path / "red.png")))], "task/test:3")
    assert [open_image(one).getpixel((0, 0)) for one in sample.images] == [(255, 0, 0)] * 2
    assert str(sample.images[0]) == str(Path("task/test") / "3:0") and sample.images[1] == tmp_path / "red.png"


def test_videos_sounds_and_what_is_no_picture_are_refused_with_task_and_row():
    for kind in ("video", "audio"):
        with pytest.raises(DataError, match=f"{kind} input: task/test:3 - .*pictures"):
            sample_of([user({"type": kind, "url": "a.mp4"})], "task/test:3")
    with pytest.raises(DataError, match="cannot use picture: task/test:3 - a dict"):
        sample_of([user(image({"bytes": b""}))], "task/test:3")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"max_new_tokens": MAX_NEW_TOKENS}),
        ({"max_new_tokens": 16, "temperature": 0.0, "do_sample": False, "top_p": 0, "num_beams": 1}, {}),
        ({"max_gen_toks": 16, "temperature": None, "top_p": None, "num_beams": None, "until": None}, {}),
        ({"max_new_tokens": 16, "do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 3}, {}),
        ({"max_new_tokens": 16, "do_sample": True, "temperature": 0}, {}),
        ({"max_new_tokens": 16, "temperature": 0.2}, {"temperature": 0.2}),
        ({"max_new_tokens": 16, "do_sample": True}, {"temperature": 1.0}),
        (
            {"max_new_tokens": 16, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 3},
            {"temperature": 0.7, "top_p": 0.9, "top_k": 3},
        ),
        (
            {"max_new_tokens": 16, "num_beams": 3, "repetition_penalty": 1.2},
            {"num_beams": 3, "repetition_penalty": 1.2},
        ),
        ({"max_new_tokens": 16, "until": ["\n\n"]}, {}),
        ({"max_new_tokens": 16, "until": "ASSISTANT:"}, {"until": ("ASSISTANT:",)}),
        ({"max_new_tokens": 16, "until": ["", "Q:", "\n\n", "\n"]}, {"until": ("Q:", "\n")}),
    ],
)
def test_settings_become_a_decoding(settings, expected):
    assert decoding_of(settings) == Decoding(**{"max_new_tokens": 16, **expected})


def test_both_shapes_of_a_request_say_the_same():
    settings, doc = {"max_new_tokens": 3}, {"pictures": [PICTURE, "a/b.PNG"]}
    parts = [image(), image("a/b.PNG"), text("what ?")]
    chat = Asked.of(("what ?", lambda doc: [user(*parts)], settings, 3, "task", "test"))
    older = Asked.of(("what ?", settings, lambda doc: doc["pictures"], 3, "task", "test"))
    for asked in (chat, older):
        assert (asked.settings, asked.where, asked.context) == (settings, "task/test:3", "what ?")
        assert asked.messages(doc) == [user(*parts)]
    for pictures in (None, lambda doc: None, lambda doc: []):
        assert Asked.of(("what ?", settings, pictures, 3, "task", "test")).messages(doc) == [user(text("what ?"))]
    videos = Asked.of(
        ("what ?", settings, lambda doc: ["a.mp4", {"type": "audio", "array": []}, {}], 3, "task", "test")
    )
    kinds = [part["type"] for part in videos.messages(doc)[0]["content"]]
    assert kinds == ["video", "audio", "video", "text"]


def test_settings_that_change_nothing_are_named():
    assert not_followed({"until": [], "temperature": 0, "image_aspect_ratio": "pad", "n": 2}) == [
        "image_aspect_ratio",
        "n",
    ]
