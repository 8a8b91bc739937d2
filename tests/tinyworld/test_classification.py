import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yarbus.core.plugins import resolve
from yarbus.core.recipe import load_recipe
from yarbus.core.sections import DataSection
from yarbus.data.mixture import read_section
from yarbus.evaluation.benchmark import BENCHMARKS
from yarbus.evaluation.runner import load_benchmark
from yarbus.tinyworld.benchmarks import names_the_label
from yarbus.tinyworld.classification import (
    CLASSIFICATION,
    CLOSED,
    HELD_OUT,
    LIST_SIZES,
    NUM_PICTURES,
    OPEN,
    PHRASINGS,
    export,
    large_digit,
    questions_of,
)
from yarbus.tinyworld.decoder import NUM_SLOTS
from yarbus.tinyworld.export import NUM_SCENES
from yarbus.tinyworld.processor import language_tokenizer, text_tokenizer
from yarbus.tinyworld.scene import SCANS, SIZES, load_scans, render
from yarbus.tinyworld.tasks import TASKS

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {split: tmp_path_factory.mktemp(split) for split in SPLITS}
    for split, folder in made.items():
        export(split, folder, num_pictures=40)
    return made


def rows_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("split", SPLITS)
def test_a_picture_holds_one_large_digit_of_its_splits_scans(split):
    first, end = SCANS[split]
    for number in range(60):
        (digit,) = large_digit(split, number).digits
        assert digit.digit == number % 10 == load_scans()[1][digit.scan] and first <= digit.scan < end
        assert SIZES["large"][0] <= digit.px <= SIZES["large"][1]


def test_every_scan_of_a_split_is_shown_and_every_digit_as_often_as_any_other():
    for split, (first, end) in SCANS.items():
        digits = [large_digit(split, number).digits[0] for number in range(NUM_PICTURES[split])]
        assert {digit.scan for digit in digits} == set(range(first, end))
        assert set(Counter(digit.digit for digit in digits).values()) == {NUM_PICTURES[split] // 10}


def test_there_are_twenty_wordings_for_train_and_others_for_evaluation():
    assert len(set(PHRASINGS)) == 20 and len(set(HELD_OUT)) == 5 and not set(PHRASINGS) & set(HELD_OUT)
    assert set(" ".join(HELD_OUT).split()) <= set(" ".join(PHRASINGS).split())


def test_no_instruction_task_asks_in_these_words():
    asked = {phrasing for task in TASKS.values() for phrasing in task.phrasings + task.held_out}
    assert not asked & {*PHRASINGS, *HELD_OUT}


@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_made_of_words_that_both_tokenizers_know_and_fit_into_their_lengths(split):
    language, text = language_tokenizer(), text_tokenizer()
    for number in range(200):
        for question in questions_of(split, large_digit(split, number)):
            asked, read = language(question.instruction)["input_ids"], text(question.instruction)["input_ids"]
            assert language.unk_token_id not in asked + language(question.answer)["input_ids"], question.instruction
            assert text.unk_token_id not in read
            assert NUM_SLOTS + len(asked) + 8 <= language.model_max_length and len(read) <= text.model_max_length


def test_train_and_evaluation_never_ask_in_the_same_words():
    def wordings(split):
        questions = (q for number in range(400) for q in questions_of(split, large_digit(split, number)))
        return {question.instruction.split(":")[0].rstrip(" ?.") for question in questions}

    assert len(wordings("train")) == 20 and len(wordings("test")) == 5
    assert not wordings("train") & wordings("test")


def test_a_closed_list_holds_the_right_label_once_in_any_place():
    sizes, places = Counter(), Counter()
    for number in range(400):
        question = questions_of("test", large_digit("test", number))[1]
        listed = question.instruction.split(":")[1].split()[:-1]
        assert listed.count(question.answer) == 1 and len(set(listed)) == len(listed)
        sizes[len(listed)] += 1
        if len(listed) == 5:
            places[listed.index(question.answer)] += 1
    assert set(sizes) == set(LIST_SIZES) and min(sizes.values()) > 160
    assert min(places.values()) > sizes[5] / 5 * 0.6


def test_chance_is_what_a_guess_among_the_listed_labels_reaches():
    assert OPEN.chance == 0.1 and CLOSED.chance == pytest.approx((1 / 5 + 1 / 10) / 2)


def test_train_asks_half_of_every_digits_pictures_each_way_and_evaluation_both_ways(folders):
    rows = rows_of(folders["train"], "classify")
    by_answer = Counter((row["task"], row["conversations"][1]["value"]) for row in rows)
    assert len(rows) == 40 and set(by_answer.values()) == {2} and len(by_answer) == 20
    asked_open, asked_closed = (rows_of(folders["test"], name) for name in CLASSIFICATION)
    assert [row["image"] for row in asked_open] == [row["image"] for row in asked_closed]
    assert {row["task"] for row in asked_open} == {"classify"} and not (
        folders["train"] / "classify-closed.json"
    ).exists()


def test_a_row_shows_the_picture_that_was_drawn_and_is_grouped_by_scan(folders):
    for split in ("train", "test"):
        for number, row in enumerate(rows_of(folders[split], "classify")):
            scene = large_digit(split, number)
            (digit,) = scene.digits
            assert row["conversations"][1]["value"] == str(digit.digit) and row["group"] == f"scan-{digit.scan}"
            np.testing.assert_array_equal(np.asarray(Image.open(folders[split] / row["image"])), render(scene))


def test_exporting_again_gives_the_same_bytes(folders, tmp_path):
    export("test", tmp_path, num_pictures=40)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(folders["test"]): path.read_bytes() for path in folders["test"].rglob("*") if path.is_file()
    }


def test_all_of_train_and_of_classification_together_are_seven_to_one():
    assert NUM_PICTURES["train"] * 7 == NUM_SCENES["train"] * len(TASKS)


def test_a_recipe_reads_either_half_of_the_rows_by_task_and_any_share_of_them(folders):
    path = str(folders["train"] / "classify.json")
    for task in CLASSIFICATION:
        rows = read_section(DataSection(source="llava", path=path, task=task))
        assert len(rows) == 20 and {row.task for row in rows} == {task}
    assert len(read_section(DataSection(source="llava", path=path, fraction=0.5))) == 20


def test_the_shipped_recipes_instruction_mix_can_take_classification_in():
    both = [{"source": "llava", "path": f"tinyworld:train/{name}.json"} for name in ("train", "classify")]
    recipe = load_recipe("tinyworld", {"stages.instruct.data": both})
    assert [entry.path for entry in recipe.stages["instruct"].data] == [entry["path"] for entry in both]


@pytest.mark.parametrize(
    ("reply", "named"), [("7", True), ("cyan 7", True), ("7 0", True), ("a7", False), ("", False), ("17", False)]
)
def test_a_label_is_named_by_a_word_of_its_own(reply: str, named: bool):
    assert names_the_label(reply, "7") is named


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_test_and_validation_questions_are_benchmarks(name):
    benchmark = BENCHMARKS[f"tinyworld/{name}"]
    samples = benchmark.samples()
    assert len(samples) == NUM_PICTURES["test"] and {sample.task for sample in samples} == {name}
    assert benchmark.chance_of("exact_match") == CLASSIFICATION[name].chance
    assert len(load_benchmark(f"file:tinyworld:validation/{name}.json").samples()) == NUM_PICTURES["validation"]


@pytest.mark.parametrize(
    ("path", "questions"),
    [
        ("validation/classify.json", "4074dfd8e049d9bb"),
        ("validation/classify-closed.json", "49b02624d2faae2f"),
        ("validation/classify-ood.json", "161b812a2a3e8b37"),
        ("test/classify.json", "b3a9e3ab06823736"),
        ("test/classify-closed.json", "f4644ebe81f7f6e9"),
        ("test/classify-ood.json", "afd19e021e3b5f73"),
    ],
)
def test_the_questions_are_the_ones_that_published_runs_answered(path: str, questions: str):
    rows = json.loads(Path(resolve(f"tinyworld:{path}")).read_text())
    assert sha256(json.dumps(rows).encode()).hexdigest()[:16] == questions
