"""LLaVA's conversation files, a JSON array or JSON lines::

    {"id": "7", "image": "000007.png", "conversations": [{"from": "human", "value": "<image>\\nRead."},
                                                         {"from": "gpt", "value": "42"}]}

``image`` may be a name, a list of names, null or absent; ``id`` text or a number. ``task`` and ``group``
may stand beside them. Other keys are nobody's business and ignored.
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from warnings import warn

from yarbus.core.errors import DataError
from yarbus.data.image import open_image
from yarbus.data.rows import Fault, Row, read_rows
from yarbus.data.sample import IMAGE_TAG, Sample, Turn

ROLES: dict[str, Literal["user", "assistant"]] = {"human": "user", "gpt": "assistant"}
PROBED_ROWS = 16
"""Rows whose pictures are looked for when a file is read, so that a wrong folder shows at once."""


class _Wrong(Exception):
    """Why a row is refused, and the fix."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why, fix)
        self.why, self.fix = why, fix


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _one_text(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _Wrong(f"'{key}' is {_shown(value)}", f"'{key}' is text")
    return None if value is None else str(value)


def _images(row: dict[str, Any], folder: Path) -> tuple[Path, ...]:
    value = row.get("image")
    names = value if isinstance(value, list) else [] if value is None else [value]
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name:
            raise _Wrong(f"'image' holds {_shown(name)}", "'image' is a file name, a list of file names or null")
        if ".." in PurePosixPath(name).parts:
            raise _Wrong(f"'image' {_shown(name)} climbs out of the images folder", "name a file inside it")
    return tuple(folder / name for name in names)


def _missing(row: dict[str, Any], key: str) -> _Wrong:
    close = get_close_matches(key, row, n=1)
    return _Wrong(f"no '{key}'", f"rename '{close[0]}'" if close else f"add '{key}'")


def _turn(position: int, value: Any) -> Turn:
    if not isinstance(value, dict):
        raise _Wrong(f"turn {position} is {_shown(value)}", "a turn is {'from': ..., 'value': ...}")
    for key in ("from", "value"):
        if key not in value:
            raise _Wrong(f"turn {position} has no '{key}'", f"add '{key}'")
    if not isinstance(value["from"], str) or value["from"] not in ROLES:
        raise _Wrong(f"turn {position} is from {_shown(value['from'])}", "'from' is 'human' or 'gpt'")
    if not isinstance(value["value"], str):
        raise _Wrong(f"turn {position} has the value {_shown(value['value'])}", "'value' is text")
    role = ROLES[value["from"]]
    word = "gpt" if position % 2 == 0 else "human"
    if value["from"] != word:
        raise _Wrong(f"turn {position} is from {value['from']}", f"turns alternate from human on: expected {word}")
    return Turn(role, value["value"])


def _turns(row: dict[str, Any]) -> tuple[Turn, ...]:
    if "conversations" not in row:
        raise _missing(row, "conversations")
    conversation = row["conversations"]
    if not isinstance(conversation, list) or not conversation:
        raise _Wrong(f"'conversations' is {_shown(conversation)}", "'conversations' is a list of turns")
    turns = tuple(_turn(position, value) for position, value in enumerate(conversation, 1))
    if turns[-1].role != "assistant":
        raise _Wrong(f"the last turn ({len(turns)}) is from human", "add the answer as a turn from gpt")
    return turns


def _check_tags(images: int, turns: tuple[Turn, ...]) -> None:
    asked = sum(turn.text.count(IMAGE_TAG) for turn in turns if turn.role == "user")
    answered = sum(turn.text.count(IMAGE_TAG) for turn in turns if turn.role == "assistant")
    if answered:
        counts = f"{images} images, {asked} {IMAGE_TAG} in questions, {answered} in answers"
        raise _Wrong(counts, f"remove {IMAGE_TAG} from the answers")
    if asked != images:
        fix = f"add {IMAGE_TAG}" if asked < images else f"remove {IMAGE_TAG}, or name the missing images"
        raise _Wrong(f"{images} image{'s' * (images != 1)}, {asked} {IMAGE_TAG}", fix)


def _sample(row: Row, folder: Path) -> Sample:
    if not isinstance(row.value, dict):
        raise _Wrong(f"the row is {_shown(row.value)}", "a row is an object with 'conversations'")
    images, turns = _images(row.value, folder), _turns(row.value)
    _check_tags(len(images), turns)
    return Sample(
        id=_one_text(row.value, "id") or row.where,
        images=images,
        turns=turns,
        task=_one_text(row.value, "task"),
        group=_one_text(row.value, "group"),
        source="llava",
        where=row.where,
    )


@dataclass
class Reading:
    """What one file holds."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    repeated: list[tuple[str, str, str]] = field(default_factory=list)
    """Ids that stand twice: (id, where first, where again)."""


def _read(path: Path, folder: Path) -> Reading:
    reading, first = Reading(), dict[str, str]()
    for row in read_rows(path):
        if isinstance(row, Fault):
            reading.faults.append(row)
            continue
        try:
            sample = _sample(row, folder)
        except _Wrong as wrong:
            reading.faults.append(Fault(row.where, wrong.why, wrong.fix))
            continue
        if first.setdefault(sample.id, sample.where) != sample.where:
            reading.repeated.append((sample.id, first[sample.id], sample.where))
        reading.samples.append(sample)
    return reading


def _folder(path: Path, images: str | Path | None) -> Path:
    folder = path.parent if images is None else Path(images)
    if images is not None and not folder.is_dir():
        raise DataError("no such images folder", where=folder, fix="check 'images'")
    return folder


def validate_llava(path: str | Path, images: str | Path | None = None) -> Reading:
    """Everything in the file, good and bad, with every picture opened; raises only if the file is none of ours."""
    reading = _read(Path(path), _folder(Path(path), images))
    for sample in reading.samples:
        for image in sample.images:
            try:
                open_image(image)
            except DataError as error:
                reading.faults.append(Fault(sample.where, f"{error.where} - {error.why}", error.fix))
    return reading


def _refusal(path: Path, reading: Reading) -> DataError:
    first, *others = reading.faults
    total = len(reading.samples) + len(reading.faults)
    more = ""
    if others:
        more = f"; also {', '.join(fault.where for fault in others[:5])}"
        more += f" (and {len(others) - 5} more)" if len(others) > 5 else ""
    what = f"{len(reading.faults)} of {total} rows cannot be used"
    return DataError(what, where=path.parent / first.where, why=first.why + more, fix=first.fix)


def read_llava(path: str | Path, images: str | Path | None = None) -> list[Sample]:
    """The samples of a file, all or none: one bad row refuses the file, naming the first few.

    A repeated id is a warning. Pictures are not opened here (the collator does, naming the row), but those
    of the first rows must exist.
    """
    path = Path(path)
    reading = _read(path, _folder(path, images))
    if reading.faults:
        raise _refusal(path, reading)
    if not reading.samples:
        raise DataError("no rows", where=path, fix="write at least one row")
    for sample in islice((sample for sample in reading.samples if sample.images), PROBED_ROWS):
        for image in sample.images:
            if isinstance(image, Path) and not image.exists():
                why = f"picture {image} does not exist"
                raise DataError("missing picture", where=path.parent / sample.where, why=why, fix="check 'images'")
    if reading.repeated:
        name, again = reading.repeated[0], len(reading.repeated) - 1
        more = f" (and {again} more)" if again else ""
        warn(f"id '{name[0]}' stands twice: {name[1]} and {name[2]}{more}", stacklevel=2)
    return reading.samples
