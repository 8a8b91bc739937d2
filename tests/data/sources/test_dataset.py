import builtins
import pickle
import socket
from pathlib import Path

import datasets
import numpy as np
import pytest

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.sections import DataSection
from yarbus.data.collate import Collator
from yarbus.data.image import open_image
from yarbus.data.mixture import read_section
from yarbus.data.sources import SOURCES
from yarbus.data.sources.dataset import read_dataset
from yarbus.data.stored import StoredPicture
from yarbus.evaluation.identity import SampleHashes

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
LABELS = [1, 0, 1, 0]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Nothing is fetched, and converted files stay in the test's folder."""

    def refuse(*args):
        raise AssertionError("reaches for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def made(**columns):
    from PIL import Image

    pictures = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["sea_snake", "dog"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": LABELS}, features=features)
    for name, (values, feature) in columns.items():
        data = data.add_column(name, values).cast_column(name, feature)
    return data


@pytest.fixture
def saved(tmp_path) -> Path:
    made().save_to_disk(tmp_path / "pets")
    return tmp_path / "pets"


def colours(samples):
    return [np.asarray(open_image(sample.images[0]))[0, 0].tolist() for sample in samples]


def check(samples, where: str):
    assert [sample.turns[-1].text for sample in samples] == ["dog", "sea snake", "dog", "sea snake"]
    assert colours(samples) == [list(colour) for colour in COLOURS]
    assert [sample.where for sample in samples] == [f"{where}:{row}" for row in range(4)]
    assert len({sample.id for sample in samples}) == 4
    assert samples[0].wording.names == ("dog", "sea snake") and samples[0].source == "dataset"


def test_a_saved_data_set_is_read_where_it_lies(saved):
    samples = read_section(DataSection(source="dataset", path=str(saved)))
    check(samples, "pets")
    assert SOURCES["dataset"] is read_dataset
    assert isinstance(samples[0].images[0], StoredPicture)
    assert sorted(path.name for path in saved.iterdir()) == [
        "data-00000-of-00001.arrow",
        "dataset_info.json",
        "state.json",
    ]


def test_splits_are_chosen_by_name(tmp_path):
    data = made()
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "pets")
    check(read_dataset(tmp_path / "pets", split="train"), "pets/train")
    assert len(read_dataset(tmp_path / "pets", split="test")) == 1
    with pytest.raises(DataError, match="several splits.*train, test; fix: say which, split: train"):
        read_dataset(tmp_path / "pets")
    with pytest.raises(DataError, match="no split 'tset'.*use one of: test"):
        read_dataset(tmp_path / "pets", split="tset")


def test_a_parquet_file_and_a_folder_of_them_are_read(tmp_path):
    (tmp_path / "hub" / "data").mkdir(parents=True)
    file = tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"
    made().to_parquet(file)
    check(read_dataset(file), "train-00000-of-00001.parquet/train")
    check(read_dataset(tmp_path / "hub"), "hub/train")


def test_a_folder_of_pictures_is_read_by_its_paths(tmp_path):
    data = made()
    for row, name in enumerate(["dog", "sea_snake", "dog", "sea_snake"]):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True, exist_ok=True)
        data[row]["image"].save(tmp_path / "pets" / "train" / name / f"{row}.png")
    samples = read_dataset(tmp_path / "pets")
    assert {sample.images[0] for sample in samples} == set((tmp_path / "pets").rglob("*.png"))
    assert {sample.turns[-1].text for sample in samples} == {"dog", "sea snake"}


def test_the_format_that_a_data_set_was_saved_in_does_not_matter(tmp_path):
    made().with_format("numpy").save_to_disk(tmp_path / "pets")
    check(read_dataset(tmp_path / "pets"), "pets")


def test_rows_that_were_selected_keep_their_own_pictures(tmp_path):
    made().select([3, 0]).save_to_disk(tmp_path / "pets")
    samples = read_dataset(tmp_path / "pets")
    assert colours(samples) == [list(COLOURS[3]), list(COLOURS[0])]


def test_columns_are_found_by_their_types(tmp_path):
    fine = datasets.ClassLabel(names=["a", "b", "c", "d"])
    made(fine=([0, 1, 2, 3], fine)).save_to_disk(tmp_path / "two")
    with pytest.raises(
        DataError, match=r"2 columns of class labels.*fine \(ClassLabel\); fix: say which, label: label"
    ):
        read_dataset(tmp_path / "two")
    assert [sample.turns[-1].text for sample in read_dataset(tmp_path / "two", label="fine")] == ["a", "b", "c", "d"]
    with pytest.raises(DataError, match="no column of class labels 'image'"):
        read_dataset(tmp_path / "two", label="image")
    made().cast_column("label", datasets.Value("int64")).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="0 columns of class labels.*class_encode_column"):
        read_dataset(tmp_path / "none")
    made().remove_columns("image").save_to_disk(tmp_path / "blind")
    with pytest.raises(DataError, match="0 columns of pictures"):
        read_dataset(tmp_path / "blind")


def test_labels_may_be_named_anew(saved, tmp_path):
    (tmp_path / "names.json").write_text('{"sea_snake": "coral snake", "dog": "hound"}')
    samples = read_section(DataSection(source="dataset", path=str(saved), names=str(tmp_path / "names.json")))
    assert samples[0].wording.names == ("coral snake", "hound")


def test_a_row_without_a_label_or_a_picture_is_refused_by_its_number(tmp_path):
    data = made().remove_columns("label").add_column("label", [1, 0, -1, 0])
    data.cast_column("label", datasets.ClassLabel(names=["cat", "dog"])).save_to_disk(tmp_path / "test")
    with pytest.raises(DataError, match="a row without a label.*test:2 - 'label' is -1"):
        read_dataset(tmp_path / "test")
    features = made().features
    holes = datasets.Dataset.from_dict({"image": [made()[0]["image"], None], "label": [0, 0]}, features=features)
    holes.save_to_disk(tmp_path / "holes")
    samples = read_dataset(tmp_path / "holes")
    with pytest.raises(DataError, match="cannot use picture.*holes/1 - the row holds no bytes"):
        open_image(samples[1].images[0])


def test_a_stored_picture_that_is_none_is_refused_like_a_file(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {"image": [{"bytes": b"<html>404", "path": None}], "label": [0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pets")
    with pytest.raises(DataError, match="pets/0 - the content is an HTML page"):
        open_image(read_dataset(tmp_path / "pets")[0].images[0])


@pytest.mark.parametrize("name", ["none", "empty", "text"])
def test_what_is_no_data_set_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    with pytest.raises(DataError, match=f"{tmp_path / name}.*; fix: "):
        read_dataset(tmp_path / name)


def test_without_the_library_the_fix_is_named(saved, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError("No module named 'datasets'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match="needs the datasets library.*fix: pip install datasets"):
        read_dataset(saved)


def test_a_stored_picture_is_a_row_like_any_other(saved, llava_processor):
    samples = read_dataset(saved)
    batch = Collator(llava_processor)([(sample, 0, row) for row, sample in enumerate(samples)])
    assert batch["pixel_values"].shape[0] == 4
    hashes = SampleHashes()
    assert len({hashes(sample) for sample in samples}) == 4
    again = pickle.loads(pickle.dumps(samples[2]))  # noqa: S301 - as a loader's worker process receives it
    assert again == samples[2] and colours([again]) == [list(COLOURS[2])]
    assert hash(samples[2]) == hash(again)
