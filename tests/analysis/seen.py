"""A tiny model asked several questions about the same pictures, and what was observed of it."""

from pathlib import Path

import torch

from tests.models.batches import ask
from tests.models.test_question_path import METHODS, attached
from yarbus.data.sample import Sample, Turn
from yarbus.models.observe import Observed, observe

ASKED = {
    "read": ["what digit is red ?", "which digit is blue ?"],
    "locate": ["where is the blue one ?", "where is the red digit ?"],
    "colour": ["which colour is the digit ?", "what colour is the one ?"],
}


def rows_about(pictures, folder: Path, per_task: int = 2) -> list[Sample]:
    """``per_task`` questions of each task about each picture, as rows whose pictures lie in ``folder``."""
    rows = []
    for number, picture in enumerate(pictures):
        path = folder / f"{number}.png"
        picture.save(path)
        for task, questions in ASKED.items():
            for question in questions[:per_task]:
                turns = (Turn("user", f"<image>\n{question}"), Turn("assistant", "one"))
                rows.append(
                    Sample(f"row-{len(rows)}", (path,), turns, task, f"scene-{number}", "llava", "train.json:1")
                )
    return rows


def observed_on(family: str, text_encoder: str, pictures, folder: Path, kind: str = "cve-dense", per_task: int = 2):
    """(model, processor, observed, rows by id, labels by id)."""
    model, processor = attached(family, text_encoder, METHODS[kind])
    rows = rows_about(pictures, folder, per_task)
    shown = [picture for picture in pictures for _ in range(len(rows) // len(pictures))]
    batches = [
        {
            **ask(processor, shown[start : start + 5], [row.turns[0].words for row in rows[start : start + 5]]),
            "sample_ids": [row.id for row in rows[start : start + 5]],
        }
        for start in range(0, len(rows), 5)
    ]
    by_id = {row.id: row for row in rows}
    return model, processor, observe(model, batches), by_id, {row.id: row.task for row in rows}


def planted(contexts, *, text=None, features=None, routing=None, gaze=None) -> Observed:
    """What might have been observed: arrays [images, ...], by block where a dictionary is given."""
    contexts = contexts if isinstance(contexts, dict) else {2: contexts}
    number = len(next(iter(contexts.values())))

    def tensor(values, otherwise):
        return torch.as_tensor(otherwise if values is None else values, dtype=torch.float32)

    weights = routing if isinstance(routing, dict) else {2: routing}
    return Observed(
        sample_ids=[f"row-{index}" for index in range(number)],
        contexts={block: tensor(values, None) for block, values in contexts.items()},
        routing_weights={block: tensor(values, torch.full((number, 4), 0.25)) for block, values in weights.items()},
        gaze={} if gaze is None else {2: [tensor(one, None) for one in gaze]},
        text=tensor(text, torch.zeros(number, 0)),
        features=tensor(features, torch.ones(number, 3)),
    )


def rows_of(tasks, *, questions=None, groups=None, pictures=None):
    """Rows ``row-0``, ``row-1``, ... of these tasks, and their labels, by id."""
    rows = {}
    for place, task in enumerate(tasks):
        words = f"{task} {place} ?" if questions is None else questions[place]
        picture = Path(f"{place}.png" if pictures is None else pictures[place])
        group = None if groups is None else groups[place]
        name = f"row-{place}"
        rows[name] = Sample(name, (picture,), (Turn("user", words), Turn("assistant", "x")), task, group)
    return rows, {name: row.task for name, row in rows.items()}
