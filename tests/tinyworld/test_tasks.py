from collections import Counter
from string import Formatter

import pytest
from numpy.random import default_rng

from yarbus.tinyworld.export import questions_of, scenes_of
from yarbus.tinyworld.scene import COLOURS, Digit, Scene, draw_scene
from yarbus.tinyworld.tasks import TASKS, caption, description, pose

SEVEN = Digit(digit=7, scan=0, colour="red", size="small", lean="left", x=10.0, y=40.0, px=14, angle=20.0)
THREE = Digit(digit=3, scan=1, colour="blue", size="large", lean="right", x=40.0, y=10.0, px=21, angle=-20.0)
SCENE = Scene(name="000000", digits=(SEVEN, THREE), ground="dots", seed=(0, 0))


def asked_for(instruction: str, scene: Scene) -> Digit:
    """The digit that an instruction names by its digit or by its colour."""
    words = instruction.split()
    (found,) = [digit for digit in scene.digits if str(digit.digit) in words or digit.colour in words]
    return found


@pytest.mark.parametrize(
    ("task", "right"),
    [
        ("read", lambda digit: str(digit.digit)),
        ("colour", lambda digit: digit.colour),
        ("locate", lambda digit: digit.cell),
        ("size", lambda digit: digit.size),
        ("lean", lambda digit: digit.lean),
    ],
)
@pytest.mark.parametrize("held_out", [False, True])
def test_an_answer_is_what_the_scene_says_of_the_digit_that_is_asked_for(task: str, right, held_out: bool):
    for number in range(100):
        scene = draw_scene("train", (3, number))
        question = pose(TASKS[task], scene, default_rng(number), held_out=held_out)
        assert question.answer == right(asked_for(question.instruction, scene))


def test_exist_is_answered_by_the_pair_being_there():
    for number in range(200):
        scene = draw_scene("train", (3, number))
        words = pose(TASKS["exist"], scene, default_rng(number), held_out=False)
        tokens = words.instruction.split()
        digit = next(int(token) for token in tokens if token.isdigit())
        colour = next(token for token in tokens if token in COLOURS)
        is_there = any(other.digit == digit and other.colour == colour for other in scene.digits)
        assert words.answer == ("yes" if is_there else "no")


def test_a_caption_names_everything_from_left_to_right():
    assert caption(SCENE) == "red 7 blue 3"
    assert description(SCENE) == "red 7 small left a4 blue 3 large right d1"
    assert pose(TASKS["caption"], SCENE, default_rng(0), held_out=True).answer == "red 7 blue 3"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_exist_is_balanced_in_every_split(split: str):
    answers = Counter(
        question.answer
        for scene in scenes_of(split, 480)
        for question in questions_of(split, scene)
        if question.task == "exist"
    )
    assert answers == {"yes": 240, "no": 240}


def test_no_held_out_phrasing_is_used_in_train():
    for task in TASKS.values():
        assert not set(task.phrasings) & set(task.held_out)
        assert len(task.phrasings) >= 4 and len(task.held_out) >= 2


def test_held_out_phrasings_are_made_of_words_that_train_has_taught():
    def words(phrasings) -> set[str]:
        return {word for text in phrasings for part, *_ in Formatter().parse(text) for word in part.split()}

    taught = words(phrasing for task in TASKS.values() for phrasing in task.phrasings)
    assert words(phrasing for task in TASKS.values() for phrasing in task.held_out) <= taught


def test_no_constant_answer_beats_the_stated_chance_by_more_than_noise():
    answers = {task: Counter() for task in TASKS}
    for scene in scenes_of("test"):
        for question in questions_of("test", scene):
            answers[question.task][question.answer] += 1
    for name, counts in answers.items():
        best, total = max(counts.values()), sum(counts.values())
        chance = TASKS[name].chance
        assert best / total <= chance + 3.5 * (max(chance, 0.01) / total) ** 0.5, name
