"""Several sources as one list of samples, and which of them have a share of every batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from random import Random

import numpy as np

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.plugins import resolve
from yarbus.core.sections import DataSection
from yarbus.core.table import closest
from yarbus.data.sample import Sample
from yarbus.data.sampler import SharedRows
from yarbus.data.sources import SOURCES

Reader = Callable[[Path, Path | None], list[Sample]]
"""``reader(path, images)``: the rows of a file, ``images`` the folder that their pictures are named in."""
OPTIONS = ("names", "templates", "split", "label")
"""Keys of an entry that only some sources know: those whose reader takes an argument of that name."""
FILES = ("names", "templates")


def _of_task(samples: list[Sample], section: DataSection) -> list[Sample]:
    """Rows that name another task go; a file that names none is all of that task."""
    named = {sample.task for sample in samples} - {None}
    if section.task is None:
        return samples
    if not named:
        return [replace(row, task=section.task) for row in samples]
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


def _options(section: DataSection, reader: Reader) -> dict[str, str | Path]:
    """What the entry says of its source alone."""
    options: dict[str, str | Path] = {}
    known = [name for name in OPTIONS if name in signature(reader).parameters]
    for name in OPTIONS:
        if (value := getattr(section, name)) is None:
            continue
        if name not in known:
            fix = f"leave it out{f', or use one of: {closest(name, known)}' if known else ''}"
            raise ConfigError(f"source '{section.source}' takes no '{name}'", where=section.path, fix=fix)
        options[name] = Path(resolve(value)) if name in FILES else value
        if name in FILES and not Path(options[name]).is_file():
            raise DataError(f"no such file of {name}", where=options[name], fix=f"check '{name}'")
    return options


def find_section(section: DataSection) -> tuple[Reader, Path, Path | None]:
    """The reader of one ``data`` entry, its file and its pictures' folder; raises where one of them is not there."""
    reader, path = SOURCES[section.source], Path(resolve(section.path))
    images = None if section.images is None else Path(resolve(section.images))
    if not path.exists():
        raise DataError("no such data file", where=path, fix="check the path")
    if images is not None and not images.is_dir():
        raise DataError("no such images folder", where=images, fix="check 'images'")
    options = _options(section, reader)
    return (partial(reader, **options) if options else reader), path, images


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


@dataclass(frozen=True)
class Mixture:
    """The rows of a stage, and which of them have a share of every batch."""

    samples: list[Sample]
    """Section after section; the sampler shuffles across them."""
    shared: tuple[SharedRows, ...] = ()


def _shared_rows(share: float, samples: Sequence[Sample], first: int) -> SharedRows:
    """Rows by class where their source knows classes: the answer is the class."""
    classes: dict[str, list[int]] = {}
    for row, sample in enumerate(samples, first):
        classes.setdefault("" if sample.wording is None else sample.turns[-1].text, []).append(row)
    return SharedRows(share, tuple(np.array(rows) for rows in classes.values()))


def mix(sections: Sequence[DataSection]) -> Mixture:
    """The rows of all entries of a stage."""
    samples: list[Sample] = []
    shared = []
    for section in sections:
        found = read_section(section)
        if section.share is not None:
            shared.append(_shared_rows(section.share, found, len(samples)))
        samples += found
    return Mixture(samples, tuple(shared))


def read_mixture(sections: list[DataSection]) -> list[Sample]:
    """All samples of a stage, section after section."""
    return mix(sections).samples
