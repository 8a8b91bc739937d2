"""Classification: one large handwritten digit in an otherwise empty scene, to be named.

The *open world* question only asks; the *closed world* question lists five or all ten labels, the right one among
them. Train asks each picture one of the two, half and half; validation and test ask both about each picture, in
wordings that train never uses and of scans that train never shows. Digits are equally frequent, and scans take turns.

    train/classify.json                            tasks ``classify`` and ``classify-closed``
    validation|test/classify.json                  open world
    validation|test/classify-closed.json           closed world, the same pictures

Pictures unlike those of train stand next door, in ``tinyworld.shifts``.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

from numpy.random import Generator, default_rng

from yarbus.tinyworld.export import WORLD_SEED, Row, conversation, write_picture, write_rows
from yarbus.tinyworld.scene import Scene, draw_scene, render, scans_by_digit
from yarbus.tinyworld.tasks import Question, Task, pose

SEEDS = {"train": 20, "validation": 21, "test": 22}
NUM_PICTURES = {"train": 5000, "validation": 400, "test": 500}
"""Those of train are one for every seven rows of ``train.json``: both files together are the mix of 1 to 7. Where a
recipe reads fewer rows of instruction, ``fraction`` keeps the ratio."""
LIST_SIZES = (5, 10)
"""Labels in a closed-world list: of the usual 5 to 100 what ten classes allow."""

PHRASINGS = (
    "which digit is in the picture ?",
    "what digit is in the picture ?",
    "what is the digit in the picture ?",
    "name the digit in the picture .",
    "name the digit you see .",
    "name the digit that is in the picture .",
    "read the digit in the picture .",
    "read the digit you see .",
    "read the digit that you see .",
    "give the digit in the picture .",
    "give the digit that you see .",
    "which digit do you see ?",
    "what digit do you see in the picture ?",
    "which digit does the picture show ?",
    "which digit is there ?",
    "which digit can you see in the picture ?",
    "what digit can you see ?",
    "tell me which digit you see .",
    "tell me what digit the picture does show .",
    "tell me the digit in the picture .",
)
HELD_OUT = (
    "what digit does the picture show ?",
    "which digit do you see in the picture ?",
    "tell me which digit is in the picture .",
    "give the digit you see .",
    "what is the digit that you see ?",
)


def _with_list(phrasing: str) -> str:
    """``which digit is there : 3 7 1 0 9 ?``: neither "choose" nor "or" is a word of this world."""
    return f"{phrasing[:-1]}: {{labels}} {phrasing[-1]}"


def _ask_open(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    return {}, str(scene.digits[0].digit)


def _ask_closed(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    right = scene.digits[0].digit
    others = [digit for digit in rng.permutation(10).tolist() if digit != right]
    listed = [right, *others[: LIST_SIZES[rng.integers(len(LIST_SIZES))] - 1]]
    return {"labels": " ".join(str(listed[place]) for place in rng.permutation(len(listed)))}, str(right)


OPEN = Task(name="classify", chance=1 / 10, phrasings=PHRASINGS, held_out=HELD_OUT, ask=_ask_open)
CLOSED = Task(
    name="classify-closed",
    chance=mean(1 / size for size in LIST_SIZES),
    phrasings=tuple(map(_with_list, PHRASINGS)),
    held_out=tuple(map(_with_list, HELD_OUT)),
    ask=_ask_closed,
)
CLASSIFICATION = {task.name: task for task in (OPEN, CLOSED)}


def large_digit(split: str, number: int) -> Scene:
    """The split's picture of that number; the same on every machine."""
    scene = draw_scene(split, (WORLD_SEED, SEEDS[split], number), num_digits=(1, 1), sizes=("large",))
    (drawn,) = scene.digits
    turn, label = divmod(number, 10)
    scans = scans_by_digit(split)[label]
    digit = replace(drawn, digit=label, scan=int(scans[turn % len(scans)]))
    return replace(scene, name=f"classify-{scene.name}", digits=(digit,))


def questions_of(split: str, scene: Scene) -> list[Question]:
    """What is asked about a picture: one of the two in train, else both."""
    tasks = [(OPEN, CLOSED)[scene.seed[-1] // 10 % 2]] if split == "train" else [OPEN, CLOSED]
    return [
        pose(task, scene, default_rng((*scene.seed, 2, number)), held_out=split != "train")
        for number, task in enumerate(tasks)
    ]


def export(split: str, folder: Path, num_pictures: int | None = None) -> None:
    """Writes the split's files into the world's folder; the same bytes every time."""
    rows: list[Row] = []
    for number in range(NUM_PICTURES[split] if num_pictures is None else num_pictures):
        scene = large_digit(split, number)
        write_picture(folder, scene, render(scene))
        # Pictures of one scan are not independent, so resampling keeps them together.
        group = {"group": f"scan-{scene.digits[0].scan}"}
        rows += [conversation(split, scene, question) | group for question in questions_of(split, scene)]
    if split == "train":
        write_rows(folder / "classify.json", rows)
        return
    for task in CLASSIFICATION:
        write_rows(folder / f"{task}.json", [row for row in rows if row["task"] == task])
