"""A folder of classes, as ImageNet lies on disk: ``PATH/<class>/<picture>``.

A class is called like its folder with blanks for underscores, or as ``PATH/classes.json`` or another ``names`` file
says (``data.class_names``). A row's answer is the name, without a full stop; its question is worded anew at each visit
(``data.wording``). Hidden files, files that are no pictures by their ending, and folders inside a class do not count;
where that leaves a class without pictures, it is refused.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from warnings import warn

from yarbus.core.errors import ConfigError, DataError
from yarbus.data.class_names import class_names
from yarbus.data.image import open_image
from yarbus.data.rows import Fault
from yarbus.data.sample import IMAGE_TAG, Sample, Turn
from yarbus.data.stored import Picture
from yarbus.data.wording import TEMPLATES, Wording, read_templates

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".mpo")
)
NAMES = "classes.json"
PROBED_CLASSES = 16
"""Classes whose first picture is opened when a folder is read, so that a broken copy shows at once."""
SHOWN = 3


@dataclass
class _Folder:
    """What lies in one folder, hidden entries left out, sorted."""

    pictures: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def _look(folder: Path) -> _Folder:
    found = _Folder()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # asked first: a link's kind takes a look at it
                    found.pictures.append(entry.name)
                elif entry.is_dir():
                    found.folders.append(entry.name)
                else:
                    found.others.append(entry.name)
    except OSError as error:
        raise DataError("cannot read folder", where=folder, why=str(error.strerror), fix="make it readable") from None
    for names in (found.pictures, found.folders, found.others):
        names.sort()
    return found


def _few(names: Sequence[str]) -> str:
    more = f" (and {len(names) - SHOWN} more)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _classes(path: Path) -> dict[str, list[str]]:
    """Class folder -> its pictures; raises where there are none."""
    if not path.is_dir():
        why = "no such folder" if not path.exists() else "a file"
        raise DataError("not a folder of classes", where=path, why=why, fix="give the folder that holds class folders")
    top = _look(path)
    if not top.folders:
        why = f"{len(top.pictures)} pictures lie in it, but no folders" if top.pictures else "it holds no folders"
        fix = "put the pictures of each class into a folder of their own: PATH/<class>/<picture>"
        raise DataError("a folder without classes", where=path, why=why, fix=fix)
    if top.pictures:
        warn(f"{path}: {len(top.pictures)} pictures belong to no class and are left out", stacklevel=4)
    classes = dict[str, list[str]]()
    empty, deep, mixed = list[str](), list[str](), list[str]()
    for name in top.folders:
        found = _look(path / name)
        classes[name] = found.pictures
        if not found.pictures:
            (deep if found.folders else empty).append(name)
        elif found.folders:
            mixed.append(name)
    if deep:
        why = f"{_few(deep)}: only folders inside"
        fix = f"give {path / deep[0]} if that holds the class folders; pictures lie right in the folder of their class"
        raise DataError("a class without pictures", where=path, why=why, fix=fix)
    if empty:
        others = _look(path / empty[0]).others
        held = f" (it holds {_few(others)})" if others else ""
        fix = "add pictures (PNG, JPEG, WebP, ...), or remove the folder"
        raise DataError("a class without pictures", where=path, why=f"{_few(empty)}{held}", fix=fix)
    if mixed:
        warn(f"{path}: folders inside of classes are left out: {_few(mixed)}", stacklevel=4)
    return classes


def refuse_images(source: str, images: str | Path | None) -> None:
    """Raises where a source that knows where its pictures are is told another place."""
    if images is not None:
        raise ConfigError(f"source '{source}' takes no 'images'", where=images, fix="leave it out; 'path' says it all")


def class_wording(names: Iterable[str], templates: str | Path | None) -> Wording:
    """How pictures of these classes are asked about."""
    return Wording(read_templates(TEMPLATES if templates is None else Path(templates)), tuple(sorted(set(names))))


def class_turns(wording: Wording) -> dict[str, tuple[Turn, Turn]]:
    """The turns of each class before a visit draws the question: the first wording, open."""
    question = Turn("user", f"{IMAGE_TAG}\n{wording.templates[0]}")
    return {name: (question, Turn("assistant", name)) for name in wording.names}


def class_sample(
    name: str, picture: Picture, turns: tuple[Turn, Turn], source: str, where: str, wording: Wording
) -> Sample:
    """A row about one picture."""
    return Sample(id=name, images=(picture,), turns=turns, source=source, where=where, wording=wording)


def unreadable(samples: Iterable[Sample]) -> list[Fault]:
    """Opens every picture and tells which cannot be used."""
    faults = []
    for sample in samples:
        for picture in sample.images:
            try:
                open_image(picture)
            except DataError as error:
                faults.append(Fault(sample.where, f"{error.where} - {error.why}", error.fix))
    return faults


def read_classes(
    path: str | Path,
    images: str | Path | None = None,
    *,
    names: str | Path | None = None,
    templates: str | Path | None = None,
) -> list[Sample]:
    """One row per picture, class after class. Of the first classes one picture is opened; ``unreadable`` opens all."""
    path = Path(path)
    refuse_images("classes", images)
    classes = _classes(path)
    own = path / NAMES
    file = Path(names) if names is not None else own if own.exists() else None
    named = class_names(list(classes), path, file)
    wording = class_wording(named.values(), templates)
    turns = class_turns(wording)
    samples = []
    for number, (folder, pictures) in enumerate(classes.items()):
        if number < PROBED_CLASSES:
            open_image(path / folder / pictures[0])
        for picture in pictures:
            name = f"{folder}/{picture}"
            where = f"{path.name}:{name}"
            samples.append(class_sample(name, path / name, turns[named[folder]], "classes", where, wording))
    return samples
