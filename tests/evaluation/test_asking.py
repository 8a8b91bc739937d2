"""How replies are decoded, on a tiny random Llava."""

import copy

import pytest
import torch

from yarbus.evaluation import asking
from yarbus.evaluation.asking import Decoding, ask, reply

LENGTH = 6


@pytest.fixture
def asked(samples) -> list:
    """Questions that the random model answers with words."""
    return [samples[index] for index in (0, 1, 3, 5)]


@pytest.fixture
def said(tiny, asked) -> list[str]:
    """Greedy replies to them, at full length."""
    found = reply(*tiny, asked, Decoding(max_new_tokens=LENGTH))
    assert all(found)
    return found


@pytest.fixture
def lengths(tiny, monkeypatch) -> list[int]:
    """Tokens that each call of ``generate`` from now on puts behind its prompt."""
    found = []
    model = tiny[0]
    original = model.generate

    def spy(**inputs):
        tokens = original(**inputs)
        found.append(tokens.shape[1] - inputs["input_ids"].shape[1])
        return tokens

    monkeypatch.setattr(model, "generate", spy)
    return found


def test_a_reply_ends_before_the_first_of_its_ends_and_generation_stops_there(tiny, asked, said, lengths):
    words = said[0].split()
    end = next(word for word in words[1:] if word != words[0])
    texts = reply(*tiny, asked[:1], Decoding(max_new_tokens=LENGTH, until=("never said", end)))
    assert texts == [said[0].partition(end)[0].strip()]
    assert lengths == [words.index(end) + 1] and lengths[0] < LENGTH


def test_other_rows_go_on_after_one_has_ended(tiny, asked, said):
    end = said[0].split()[-1]
    texts = reply(*tiny, asked, Decoding(max_new_tokens=LENGTH, until=(end,)))
    assert texts == [text.partition(end)[0].strip() for text in said]


def test_an_end_in_the_prompt_ends_nothing(tiny, asked, said):
    assert reply(*tiny, asked, Decoding(max_new_tokens=LENGTH, until=("ASSISTANT", "digit is red"))) == said


def test_only_what_is_told_reaches_generate():
    assert Decoding(max_new_tokens=4).options() == {
        "max_new_tokens": 4,
        "num_beams": 1,
        "do_sample": False,
        "repetition_penalty": 1.0,
    }
    drawn = Decoding(max_new_tokens=4, temperature=0.5, top_p=0.9).options()
    assert drawn["do_sample"] and (drawn["temperature"], drawn["top_p"]) == (0.5, 0.9) and "top_k" not in drawn
    assert Decoding(max_new_tokens=4, temperature=0.5, top_k=2).options()["top_k"] == 2


def test_beams_penalties_and_draws_decode_differently_and_draws_repeat_with_their_seed(tiny, asked, said):
    def replies(**options):
        torch.manual_seed(0)
        return reply(*tiny, asked, Decoding(max_new_tokens=LENGTH, **options))

    others = [{"num_beams": 3}, {"repetition_penalty": 9.0}, {"temperature": 5.0, "top_p": 0.99}]
    found = [replies(**options) for options in others]
    assert all(texts != said for texts in found[1:])
    assert found == [replies(**options) for options in others]
    assert replies(temperature=5.0, top_k=1) == said


def test_beams_are_those_of_the_library(tiny, samples):
    model, processor = tiny
    batch = asking.prompt_batch(processor, samples[:2])
    tokens = copy.deepcopy(model).generate(**batch, max_new_tokens=LENGTH, num_beams=3, do_sample=False)
    expected = processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    found = reply(model, processor, samples[:2], Decoding(max_new_tokens=LENGTH, num_beams=3))
    assert found == [text.strip() for text in expected]


def test_a_batch_too_large_for_the_memory_is_asked_one_by_one(samples):
    sizes = []

    def answer(some):
        sizes.append(len(some))
        if len(some) > 1:
            raise torch.OutOfMemoryError("too large")
        return [some[0].id]

    assert [text for _, text, error in ask(answer, samples[:3]) if error is None] == ["0-0", "0-1", "1-0"]
    assert sizes == [3, 1, 1, 1]
