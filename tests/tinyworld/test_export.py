import json
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from yarbus.tinyworld.export import NUM_SCENES, conversation, export, questions_of, scenes_of
from yarbus.tinyworld.scene import render
from yarbus.tinyworld.tasks import TASKS, description


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    export("train", folder, num_scenes=12)
    return folder


def test_every_row_holds_the_question_and_the_picture_that_were_drawn(folder):
    rows = iter(json.loads((folder / "train.json").read_text()))
    for scene in scenes_of("train", 12):
        for question in questions_of("train", scene):
            row = next(rows)
            human, gpt = row["conversations"]
            assert human == {"from": "human", "value": f"<image>\n{question.instruction}"}
            assert gpt == {"from": "gpt", "value": question.answer}
            assert (row["task"], row["group"]) == (question.task, scene.name)
            np.testing.assert_array_equal(np.asarray(Image.open(folder / row["image"])), render(scene))


def test_align_describes_every_digit_in_full(folder):
    for scene, row in zip(scenes_of("train", 12), json.loads((folder / "align.json").read_text()), strict=True):
        assert row["conversations"][1]["value"] == description(scene) and row["image"] == f"images/{scene.name}.png"


def test_the_mix_is_the_tasks_put_together(folder):
    mix = json.loads((folder / "train.json").read_text())
    for task in TASKS:
        assert json.loads((folder / f"{task}.json").read_text()) == [row for row in mix if row["task"] == task]


def test_exporting_again_gives_the_same_bytes(folder, tmp_path):
    export("train", tmp_path, num_scenes=12)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_ids_are_distinct(folder):
    ids = [row["id"] for row in json.loads((folder / "train.json").read_text())]
    assert len(set(ids)) == len(ids)


def test_test_and_validation_have_four_hundred_questions_per_task_or_more():
    assert min(NUM_SCENES["test"], NUM_SCENES["validation"]) >= 400


def test_train_asks_in_other_words_than_test():
    asked = {
        split: {question.instruction for scene in scenes_of(split, 480) for question in questions_of(split, scene)}
        for split in ("train", "test")
    }
    assert not asked["train"] & asked["test"]


def test_the_reader_for_a_users_own_data_reads_the_folder(folder):
    from yarbus.data.sources import SOURCES

    samples = SOURCES["llava"](folder / "train.json", folder)
    assert len(samples) == 12 * len(TASKS)
    assert samples[0].group == "000000" and samples[0].task == "read"
    assert samples[0].images == (folder / "images/000000.png",)


@pytest.mark.parametrize(
    ("split", "rows", "brightness"),
    [
        ("train", "40fe7ec0e670f973", (57.616, 66.239, 54.128, 73.268)),
        ("validation", "62344ef7770b7fe1", (66.7, 83.073, 79.422, 77.156)),
        ("test", "66fc514e44482f41", (86.486, 63.75, 70.044, 60.129)),
    ],
)
def test_the_world_is_the_one_that_published_runs_saw(split, rows, brightness):
    scenes = scenes_of(split, 12)
    made = [conversation(split, scene, question) for scene in scenes for question in questions_of(split, scene)]
    assert sha256(json.dumps(made).encode()).hexdigest()[:16] == rows
    # Not the bytes: the last bit of a sine differs between processors.
    assert [float(render(scene).mean()) for scene in scenes[:4]] == pytest.approx(brightness, abs=0.05)
