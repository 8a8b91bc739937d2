"""The world as a LLaVA folder: pictures, and conversations about them, as a user's own data would lie on disk.

``<folder>/<split>.json`` holds the mix, one conversation per scene and task; ``<folder>/<task>.json`` the same
rows of one task alone; train has ``align.json`` too, which describes every digit in full. Pictures are
``images/<scene>.png``. The files of ``tinyworld.classification`` and ``tinyworld.shifts`` lie beside them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng
from PIL import Image

from yarbus.tinyworld.scene import Scene, draw_scene, render
from yarbus.tinyworld.tasks import DESCRIBE, TASKS, Question, pose

WORLD_SEED = 1967
SPLIT_SEEDS = {"train": 10, "validation": 11, "test": 12}
NUM_SCENES = {"train": 5000, "validation": 480, "test": 480}

Row = dict[str, Any]
"""One conversation of a LLaVA file."""


def scenes_of(split: str, num_scenes: int | None = None) -> list[Scene]:
    """The split's scenes, the first ``num_scenes`` of them."""
    numbers = range(NUM_SCENES[split] if num_scenes is None else num_scenes)
    return [draw_scene(split, (WORLD_SEED, SPLIT_SEEDS[split], number)) for number in numbers]


def questions_of(split: str, scene: Scene) -> list[Question]:
    """One question per task; train uses its own phrasings, the other splits the held-out ones."""
    return [
        pose(task, scene, default_rng((*scene.seed, 2, number)), held_out=split != "train")
        for number, task in enumerate(TASKS.values())
    ]


def conversation(split: str, scene: Scene, question: Question) -> Row:
    """The question as a row of a LLaVA file; ``group`` (the scene) is what resampling must keep together."""
    return {
        "id": f"{split}-{scene.name}-{question.task}",
        "image": f"images/{scene.name}.png",
        "conversations": [
            {"from": "human", "value": f"<image>\n{question.instruction}"},
            {"from": "gpt", "value": question.answer},
        ],
        "task": question.task,
        "group": scene.name,
    }


def export(split: str, folder: Path, num_scenes: int | None = None) -> None:
    """Writes the split into ``folder``; the same bytes every time."""
    rows: list[Row] = []
    scenes = scenes_of(split, num_scenes)
    for scene in scenes:
        write_picture(folder, scene, render(scene))
        rows += [conversation(split, scene, question) for question in questions_of(split, scene)]
    write_rows(folder / f"{split}.json", rows)
    for task in TASKS:
        write_rows(folder / f"{task}.json", [row for row in rows if row["task"] == task])
    if split == "train":
        write_rows(folder / "align.json", [conversation(split, scene, _description(scene)) for scene in scenes])


def _description(scene: Scene) -> Question:
    return pose(DESCRIBE, scene, default_rng((*scene.seed, 3)), held_out=False)


def write_picture(folder: Path, scene: Scene, pixels: np.ndarray) -> None:
    """Where :func:`conversation` says."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / f"{scene.name}.png", compress_level=1)


def write_rows(path: Path, rows: list[Row]) -> None:
    """A LLaVA file, one row a line."""
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
