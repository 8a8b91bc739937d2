import pickle

import pytest

from yarbus.data.render import Renderer, content
from yarbus.data.sample import Sample, Turn


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<image>\nwhat?", ["", "what?"]),
        ("what?\n<image>", ["what?", ""]),
        ("left <image> right <image>", ["left ", " right ", ""]),
        ("<image><image>\n\nhi", ["", "", "\nhi"]),
        ("a\nb", ["a\nb"]),
        ("", [""]),
    ],
)
def test_a_turn_is_text_between_pictures(text, parts):
    expected = [part for text in parts for part in ({"type": "text", "text": text}, {"type": "image"})][:-1]
    assert content(Turn("user", text)) == [part for part in expected if part["type"] == "image" or part["text"]]


def test_the_words_of_a_turn_have_no_image_tag():
    assert Turn("user", "<image>\nwhat is <image> this?").words == "what is this?"
    assert Turn("user", "<image>").words == ""


def test_an_end_marker_of_the_template_is_learned_and_a_missing_one_is_written(llava_processor, qwen_processor):
    sample = Sample(
        "1", (), (Turn("user", "what ?"), Turn("assistant", "one"), Turn("user", "?"), Turn("assistant", ""))
    )
    for processor, answers in (
        (llava_processor, ("one</s>", "</s>")),
        (qwen_processor, ("one<|im_end|>", "<|im_end|>")),
    ):
        rendered = Renderer(processor).conversation(sample)
        assert rendered.answers == answers
        assert [rendered.text[start:stop].strip() for start, stop in rendered.spans] == list(answers)


def test_a_renderer_travels_to_a_worker_process(llava_processor):
    renderer = pickle.loads(pickle.dumps(Renderer(llava_processor)))  # noqa: S301 (our own bytes)
    sample = Sample("1", (), (Turn("user", "what ?"), Turn("assistant", "one")))
    assert renderer.conversation(sample) == Renderer(llava_processor).conversation(sample)


def test_an_evaluation_prompt_is_the_beginning_of_the_training_text(llava_processor, qwen_processor):
    turns = (Turn("user", "what ?"), Turn("assistant", "one"), Turn("user", "which ?"), Turn("assistant", "two"))
    for processor, ended in ((llava_processor, "one</s>"), (qwen_processor, "one<|im_end|>")):
        renderer = Renderer(processor)
        rendered, prompt = renderer.conversation(Sample("1", (), turns)), renderer.prompt(Sample("1", (), turns))
        assert rendered.text.startswith(prompt)
        assert ended in prompt
        assert renderer.prompt(Sample("1", (), turns[:-1])) == prompt
