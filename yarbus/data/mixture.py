"""Several sources as one list of samples."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from yarbus.core.errors import DataError
from yarbus.core.plugins import resolve
from yarbus.core.sections import DataSection
from yarbus.data.sample import Sample
from yarbus.data.sources import SOURCES

Reader = Callable[[Path, Path | None], list[Sample]]
"""``reader(path, images)``: the rows of a file, ``images`` the folder that their pictures are named in."""


def _of_task(samples: list[Sample], section: DataSection) -> list[Sample]:
    """Rows that name another task go; a file that names none is all of that task."""
    named = {sample.task for sample in samples} - {None}
    if section.task is None:
        return samples
    if not named:
        return [
            Sample(row.id, row.images, row.turns, section.task, row.group, row.source, row.where) for row in samples
        ]
    if section.task not in named:
        tasks = ", ".join(sorted(map(str, named)))
        raise DataError(f"no row of task '{section.task}'", where=section.path, fix=f"use one of: {tasks}")
    return [sample for sample in samples if sample.task == section.task]


def _drawn(samples: list[Sample], fraction: float) -> list[int]:
    """The rows of a fraction, the same each time; a smaller fraction is part of a larger one."""
    order = list(range(len(samples)))
    Random(0).shuffle(order)
    return order[: max(1, round(len(samples) * fraction))]


def _fraction(samples: list[Sample], fraction: float) -> list[Sample]:
    """The rows of a fraction in the file's order."""
    return [samples[row] for row in sorted(_drawn(samples, fraction))]


def find_section(section: DataSection) -> tuple[Reader, Path, Path | None]:
    """The reader of one ``data`` entry, its file and its pictures' folder; raises where one of them is not there."""
    reader, path = SOURCES[section.source], Path(resolve(section.path))
    images = None if section.images is None else Path(resolve(section.images))
    if not path.exists():
        raise DataError("no such data file", where=path, fix="check the path")
    if images is not None and not images.is_dir():
        raise DataError("no such images folder", where=images, fix="check 'images'")
    return reader, path, images


def read_section(section: DataSection) -> list[Sample]:
    """The samples of one ``data`` entry of a recipe."""
    reader, path, images = find_section(section)
    samples = _of_task(reader(path, images), section)
    return samples if section.fraction == 1 else _fraction(samples, section.fraction)


def held_out(section: DataSection, share: float) -> list[Sample]:
    """The rows that an entry no longer reads once its fraction is multiplied by ``share``, in the file's order."""
    reader, path, images = find_section(section)
    samples = _of_task(reader(path, images), section)
    kept = set(_drawn(samples, section.fraction * share))
    return [samples[row] for row in sorted(_drawn(samples, section.fraction)) if row not in kept]


def read_mixture(sections: list[DataSection]) -> list[Sample]:
    """All samples of a stage, section after section; the sampler shuffles across them."""
    return [sample for section in sections for sample in read_section(section)]
