"""A tiny mixture of two tasks large enough for short runs, and runs done in this process instead of workers."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from tests.experiments import ANSWERS, QUESTIONS, write_experiment
from yarbus.studies.work import Work, do

TASKS = ("read", "colour")
PICTURES = 8


def rows_of(task: str, number: int) -> list[dict]:
    """Questions of one task about the experiment's pictures, in turn."""
    kind = TASKS.index(task) if task in TASKS else 0
    return [
        {
            "id": f"{task}-{place}",
            "image": f"{place % PICTURES}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTIONS[kind]}"},
                {"from": "gpt", "value": ANSWERS[(place + kind) % len(ANSWERS)]},
            ],
            "task": task,
            "group": f"scene-{place}",
        }
        for place in range(number)
    ]


def write_mixture(folder: Path, sizes: Mapping[str, int] | None = None) -> Path:
    """An experiment whose ``rows.json`` holds so many rows of each task; returns the recipe's path.

    ``align`` moves the tower too, so that where the last stage begins is not where the base is.
    """
    path = write_experiment(folder)
    sizes = dict.fromkeys(TASKS, 100) if sizes is None else sizes
    rows = [row for task, number in sizes.items() for row in rows_of(task, number)]
    (folder / "pictures" / "rows.json").write_text(json.dumps(rows))
    test = [row for task in sizes for row in rows_of(task, 4)]
    (folder / "pictures" / "test.json").write_text(json.dumps(test))
    recipe = yaml.safe_load(path.read_text())
    recipe["evaluation"] = [f"file:{folder / 'pictures' / 'test.json'}"]
    align = recipe["stages"]["align"]
    align["train"], align["learning_rate"] = (
        {"vision": "full", "projector": "full"},
        {"vision": 0.02, "projector": 0.01},
    )
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def done_here(works: Sequence[Work], after: Mapping[str, str], jobs: int, progress: bool) -> None:
    """``work_off`` without processes, each of which would import torch first."""
    gc.freeze()  # Trainer collects garbage twice a run, and would look at all that the test session has imported
    try:
        for work in works:
            if not work.is_finished():
                do(replace(work, jobs=jobs))
    finally:
        gc.unfreeze()
