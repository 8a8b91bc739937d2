"""Replies on disk: what a line of replies.jsonl holds, and which lines may stay when a run goes on."""

import json
from pathlib import Path
from typing import Any

from yarbus.core.errors import DataError, MismatchError
from yarbus.core.records import read_json, read_jsonl, write_json, write_text
from yarbus.data.sample import Sample, Turn
from yarbus.evaluation.benchmark import Protocol
from yarbus.evaluation.scoring import Reply

Row = dict[str, Any]
"""One line of replies.jsonl."""

IDENTITY = {
    "benchmark": "benchmark",
    "protocol": "protocol",
    "max_new_tokens": "length of replies",
    "model": "model or adapter",
    "prompt": "processor (template, tokenizer, image processing or context)",
}
"""Keys of identity.json that must agree, and what each one stands for in a message."""


def question_of(sample: Sample) -> str:
    """The last thing the user says, without image tags."""
    return next((turn.words for turn in reversed(sample.turns) if turn.role == "user"), "")


def answer_of(sample: Sample) -> str:
    """The right answer: the sample's last turn, which must be the assistant's."""
    if not sample.turns or sample.turns[-1].role != "assistant":
        raise DataError("question without an answer", where=sample.where, fix="end the sample with an answer turn")
    return sample.turns[-1].text


def reply_of(row: Row) -> Reply:
    """A line of replies.jsonl as a Reply, enough to judge and count it again."""
    sample = Sample(
        id=row["sample_id"],
        images=tuple(map(Path, row["images"])),
        turns=(Turn("user", row["question"]), Turn("assistant", row["answer"])),
        task=row["task"],
        group=row["group"],
        source=row["source"],
        where=row["where"],
    )
    return Reply(sample=sample, text=row["reply"], is_correct=bool(row["is_correct"]), error=row["error"])


def _verdict(protocol: Protocol, text: str, answer: str) -> bool | None:
    """Right or wrong; None where the judge itself failed, so that the reply still reaches the disk.

    ``rescore`` asks the judge again and lets its error out.
    """
    try:
        return protocol.judge(text, answer)
    except Exception:
        return None


def row_of(sample: Sample, sample_hash: str, protocol: Protocol, text: str, error: str | None) -> Row:
    answer = answer_of(sample)
    return {
        "sample_id": sample.id,
        "task": sample.task,
        "group": sample.group,
        "question": question_of(sample),
        "images": [str(path) for path in sample.images],
        "reply": text,
        "answer": answer,
        "is_correct": False if error is not None else _verdict(protocol, text, answer),
        "error": error,
        "source": sample.source,
        "where": sample.where,
        "sample_hash": sample_hash,
    }


def write_rows(path: Path, rows: list[Row]) -> None:
    """All replies anew: the old file or the new one, whenever the machine stops."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def claim(folder: Path, identity: Row, about: Row) -> None:
    """Marks an empty folder with the identity of the replies to come, or refuses one that holds others.

    ``about``: what is kept beside the identity, for those who judge the replies again.
    """
    path = folder / "identity.json"
    if path.exists():
        found = read_json(path)
        for key, meaning in IDENTITY.items():
            if found.get(key) != identity[key]:
                raise MismatchError(
                    f"replies of another {meaning}",
                    where=folder,
                    why=f"on disk {found.get(key)}, now {identity[key]}",
                    fix="delete the folder to start over, or use another run or checkpoint name",
                )
    elif (folder / "replies.jsonl").exists():
        raise MismatchError(
            "replies of unknown origin",
            where=folder,
            why="identity.json is gone",
            fix="delete the folder to start over",
        )
    write_json(path, {**identity, **about})


def keep(folder: Path, hashes: dict[str, str]) -> dict[str, Row]:
    """Replies that stand, by sample id; a torn line and rows that failed are dropped and run again.

    A reply to a question that has changed, or is none of the benchmark's, is refused.
    """
    path = folder / "replies.jsonl"
    if not path.exists():
        return {}
    rows = {row["sample_id"]: row for row in read_jsonl(path) if row["error"] is None}
    for name, row in rows.items():
        if hashes.get(name) != row["sample_hash"]:
            raise MismatchError(
                "replies to other data",
                where=f"{path}: {name}",
                why=f"on disk {row['sample_hash']}, now {hashes.get(name, 'no such sample')}",
                fix="delete the folder to start over",
            )
    write_rows(path, list(rows.values()))
    return rows


def check_unique(samples: list[Sample]) -> None:
    seen: dict[str, str] = {}
    for sample in samples:
        if sample.id in seen:
            raise DataError(
                f"two questions are called '{sample.id}'",
                where=sample.where,
                why=f"the first is {seen[sample.id]}",
                fix="give each question its own id",
            )
        seen[sample.id] = sample.where
