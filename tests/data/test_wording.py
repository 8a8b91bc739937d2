import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from yarbus.core.errors import DataError
from yarbus.data.sample import Sample, Turn
from yarbus.data.wording import LIST_SIZES, Wording, read_templates
from yarbus.evaluation.classification import QUESTION

NAMES = tuple(f"name {number}" for number in range(120))
LIST = re.compile(r' Choose one from "(.*)"\.$')


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def listed(question: str) -> list[str]:
    return LIST.search(question)[1].split(", ")


def questions(wording: Wording, answer: str = "name 7", number: int = 4000) -> list[str]:
    return [wording.question(answer, Random(seed)) for seed in range(number)]


def test_twenty_wordings_ship_and_none_is_the_one_that_evaluation_asks():
    shipped = read_templates()
    assert len(shipped) == 20 == len({tuple(words(one)) for one in shipped})
    assert {"Identify the object in this image:", "What object can you spot in the picture?"} <= set(shipped)
    for held_out in (QUESTION, "What type of object is in the photo?"):
        assert words(held_out) not in [words(one) for one in shipped]
    assert not any("choose" in words(one) for one in shipped)


def test_half_of_the_questions_offer_names_in_lists_of_every_length():
    asked = questions(Wording(read_templates(), NAMES))
    closed = [question for question in asked if LIST.search(question)]
    assert 0.46 < len(closed) / len(asked) < 0.54
    sizes = Counter(len(listed(question)) for question in closed)
    assert set(sizes) == set(LIST_SIZES) and min(sizes.values()) > 0.15 * len(closed)
    openings = Counter(LIST.sub("", question) for question in asked)
    assert set(openings) == set(read_templates()) and min(openings.values()) > 130


def test_a_list_holds_the_answer_once_anywhere_and_others_at_random():
    places, others = Counter(), Counter()
    for question in questions(Wording(read_templates(), NAMES)):
        if LIST.search(question):
            names = listed(question)
            assert len(set(names)) == len(names) and set(names) <= set(NAMES)
            others.update(names)
            if len(names) == 5:
                places[names.index("name 7")] += 1
    assert set(places) == set(range(5)) and min(places.values()) > 0.1 * places.total()
    assert set(others) == set(NAMES)


@pytest.mark.parametrize(("number", "sizes"), [(3, {3}), (5, {5}), (12, {5, 10}), (1, {1})])
def test_lists_are_as_long_as_there_are_classes_for(number, sizes):
    asked = questions(Wording(("What?",), NAMES[:number]), answer="name 0", number=200)
    assert {len(listed(question)) for question in asked if LIST.search(question)} == sizes


def test_a_visit_is_asked_by_seed_epoch_and_row_alone():
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "name 7"))
    sample = Sample("a", (Path("a.png"),), turns, wording=Wording(read_templates(), NAMES))
    visits = [(seed, epoch, row) for seed in range(3) for epoch in range(3) for row in range(3)]
    asked = [sample.asked(*visit) for visit in visits]
    assert asked == [sample.asked(*visit) for visit in visits]
    assert len({one.turns[0].text for one in asked}) > 20
    assert all(one.turns[0].text.startswith("<image>\n") and one.turns[1] == turns[1] for one in asked)
    assert all(one.wording is None and one.asked(5, 5, 5) is one for one in asked)
    plain = Sample("a", (), turns)
    assert plain.asked(0, 0, 0) is plain


def test_the_draw_is_the_one_of_every_other_machine():
    sample = Sample("a", (), (Turn("user", ""), Turn("assistant", "name 7")), wording=Wording(read_templates(), NAMES))
    assert sample.asked(0, 0, 1).turns[0].text == "<image>\nWhat would you call the thing in this image?"
    closed = sample.asked(0, 0, 0).turns[0].text
    assert closed.startswith('<image>\nTell me what is pictured. Choose one from "name 67, name 54, name 45, ')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read questions"), ("{}", "no list of them"), ("[]", "no list of them"), ('["a", 3]', "3 is no"),
        ('["  "]', "is no question"), ('["<image> what?"]', "it is put in front"),
    ],
)  # fmt: skip
def test_a_file_of_questions_that_cannot_be_asked_is_refused(tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_templates(tmp_path / "mine.json")
