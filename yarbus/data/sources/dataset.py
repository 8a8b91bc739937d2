"""A Hugging Face data set of pictures and class labels, on this machine.

``path`` is what ``dataset.save_to_disk`` wrote, one Parquet file, or a folder that ``load_dataset`` understands
(Parquet files, pictures in class folders). The columns are found by their types: the one ``Image`` and the one
``ClassLabel``. Nothing is fetched: a link inside a row is no picture.
"""

from pathlib import Path
from typing import Any

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.table import closest
from yarbus.data.class_names import class_names
from yarbus.data.sample import Sample
from yarbus.data.sources.classes import class_sample, class_turns, class_wording, refuse_images
from yarbus.data.stored import Picture, StoredPicture

FIX = "save it once from Python: datasets.load_dataset(NAME).save_to_disk(FOLDER)"


def _library() -> Any:
    """Imported when a recipe needs it: a second, and Arrow, that other sources do without."""
    try:
        import datasets
    except ImportError as error:
        fix = "pip install datasets"
        raise ConfigError("source 'dataset' needs the datasets library", why=str(error), fix=fix) from None
    return datasets


def _load(path: Path) -> Any:
    """A data set, or several by split."""
    library = _library()
    if not path.exists():  # before the library would take the path for a name on the hub
        raise DataError("no such data set", where=path, fix=FIX)
    try:
        if path.is_file():
            return library.load_dataset("parquet", data_files=str(path))
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return library.load_from_disk(str(path))
        return library.load_dataset(str(path))
    except Exception as error:  # the library lets a dozen types through: its own, pyarrow's, fsspec's
        told = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise DataError("cannot read data set", where=path, why=told, fix=FIX) from None


def _one_split(found: Any, path: Path, split: str | None) -> tuple[Any, str]:
    if not isinstance(found, dict):
        if split is not None:
            fix = "leave 'split' out, or give the folder above"
            raise DataError(f"no split '{split}'", where=path, why="the data set has no splits", fix=fix)
        return found, ""
    names = list(map(str, found))
    if split is None and len(names) == 1:
        return found[names[0]], names[0]
    if split is None:
        raise DataError("several splits", where=path, why=", ".join(names), fix=f"say which, split: {names[0]}")
    if split not in names:
        raise DataError(f"no split '{split}'", where=path, fix=f"use one of: {closest(split, names)}")
    return found[split], split


def _columns(data: Any, path: Path, label: str | None) -> tuple[str, str]:
    """Names of the picture and the label column."""
    library = _library()
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    shown = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    pictures = [name for name, feature in data.features.items() if isinstance(feature, library.Image)]
    if len(pictures) != 1:
        fix = "keep one: dataset.remove_columns(...)" if pictures else "dataset.cast_column(NAME, datasets.Image())"
        raise DataError(f"{len(pictures)} columns of pictures instead of one", where=path, why=shown, fix=fix)
    labels = [name for name, feature in data.features.items() if isinstance(feature, library.ClassLabel)]
    if label is not None:
        if label not in labels:
            fix = f"use one of: {closest(label, labels)}" if labels else "dataset.class_encode_column(NAME)"
            raise DataError(f"no column of class labels '{label}'", where=path, why=shown, fix=fix)
        return pictures[0], label
    if len(labels) != 1:
        fix = f"say which, label: {labels[0]}" if labels else "dataset.class_encode_column(NAME)"
        raise DataError(f"{len(labels)} columns of class labels instead of one", where=path, why=shown, fix=fix)
    return pictures[0], labels[0]


def _labels(data: Any, column: str, path: Path) -> list[int]:
    values = data.select_columns([column])[:][column]
    for row, value in enumerate(values):
        if value is None or value < 0:
            fix = "use a labelled split, or remove such rows"
            raise DataError("a row without a label", where=f"{path}:{row}", why=f"'{column}' is {value}", fix=fix)
    return list(values)


def _pictures(data: Any, column: str, path: Path, split: str) -> list[Picture]:
    """Paths where the data set only points at files, else pictures inside it."""
    rows = data.select_columns([column]).cast_column(column, _library().Image(decode=False))
    stored = [
        StoredPicture(path, f"{split}:{row}" if split else str(row), row, column, rows) for row in range(len(data))
    ]
    first = rows[0][column] or {}
    if first.get("bytes") is not None:
        return list(stored)
    entries = rows[:][column]
    return [
        Path(entry["path"]) if entry and entry["bytes"] is None and entry["path"] else inside
        for entry, inside in zip(entries, stored, strict=True)
    ]


def read_dataset(
    path: str | Path,
    images: str | Path | None = None,
    *,
    names: str | Path | None = None,
    split: str | None = None,
    label: str | None = None,
    templates: str | Path | None = None,
) -> list[Sample]:
    """One row per picture, in the data set's order; pictures stay where they are."""
    path = Path(path)
    refuse_images("dataset", images)
    data, split = _one_split(_load(path), path, split)
    data = data.with_format(None)  # a data set keeps the format that it was saved in
    if len(data) == 0:
        raise DataError("a data set without rows", where=path, fix="choose another split")
    picture_column, label_column = _columns(data, path, label)
    labels = _labels(data, label_column, path)
    classes = data.features[label_column].names
    named = class_names(classes, path, None if names is None else Path(names))
    wording = class_wording(named.values(), templates)
    turns = class_turns(wording)
    pictures = _pictures(data, picture_column, path, split)
    file = f"{path.name}/{split}" if split else path.name
    return [
        class_sample(f"{file}/{row}", picture, turns[named[classes[one]]], "dataset", f"{file}:{row}", wording)
        for row, (one, picture) in enumerate(zip(labels, pictures, strict=True))
    ]
