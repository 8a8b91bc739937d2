import json
import os
import warnings
from pathlib import Path

import pytest
from PIL import Image

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.sections import DataSection
from yarbus.data.mixture import read_section
from yarbus.data.sample import Turn
from yarbus.data.sources import SOURCES
from yarbus.data.sources.classes import read_classes, unreadable


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of two and one pictures."""
    for number, name in enumerate(("n1_cat/b.JPEG", "n1_cat/a.png", "dog/1.webp")):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return tmp_path / "train"


def answers(samples):
    return [(sample.id, sample.turns[-1].text) for sample in samples]


def test_every_picture_is_a_row_whose_answer_is_its_class(folder):
    samples = read_classes(folder)
    assert answers(samples) == [("dog/1.webp", "dog"), ("n1_cat/a.png", "n1 cat"), ("n1_cat/b.JPEG", "n1 cat")]
    assert samples[0].images == (folder / "dog" / "1.webp",)
    assert samples[0].where == "train:dog/1.webp" and samples[0].source == "classes"
    assert samples[0].turns == (Turn("user", "<image>\nIdentify the object in this image:"), Turn("assistant", "dog"))
    assert samples[0].wording.names == ("dog", "n1 cat")
    assert samples[0].wording is samples[2].wording
    assert SOURCES["classes"] is read_classes


def test_names_come_from_classes_json_or_from_another_file(folder, tmp_path):
    (folder / "classes.json").write_text(json.dumps({"n1_cat": "tabby", "dog": "dog"}))
    assert [answer for _, answer in answers(read_classes(folder))] == ["dog", "tabby", "tabby"]
    (tmp_path / "other.json").write_text(json.dumps({"pet": ["n1_cat", "dog"]}))
    samples = read_section(DataSection(source="classes", path=str(folder), names=str(tmp_path / "other.json")))
    assert {answer for _, answer in answers(samples)} == {"pet"} and samples[0].wording.names == ("pet",)


def test_own_wordings_may_be_asked(folder, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(["Which pet?"]))
    samples = read_section(DataSection(source="classes", path=str(folder), templates=str(tmp_path / "mine.json")))
    assert samples[0].turns[0].text == "<image>\nWhich pet?"
    assert samples[0].asked(0, 0, 0).turns[0].text.startswith("<image>\nWhich pet?")


def test_a_task_and_a_fraction_go_as_for_any_source(folder):
    entry = DataSection(source="classes", path=str(folder), task="pets", fraction=0.67)
    samples = read_section(entry)
    assert len(samples) == 2 and {sample.task for sample in samples} == {"pets"}
    assert samples[0].wording is not None


def test_hidden_and_other_files_do_not_count(folder):
    (folder / ".cache").mkdir()
    (folder / "dog" / "._1.webp").write_bytes(b"x")
    (folder / "dog" / "Thumbs.db").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_classes(folder)) == 3


def test_pictures_that_no_class_holds_are_told(folder):
    Image.new("RGB", (8, 8)).save(folder / "stray.png")
    with pytest.warns(UserWarning, match="1 pictures belong to no class"):
        read_classes(folder)
    (folder / "stray.png").unlink()
    (folder / "dog" / "puppies").mkdir()
    with pytest.warns(UserWarning, match="folders inside of classes are left out: dog"):
        assert len(read_classes(folder)) == 3


def test_links_are_followed(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "dog").symlink_to(folder / "dog")
    (tmp_path / "linked" / "cat").mkdir()
    (tmp_path / "linked" / "cat" / "a.png").symlink_to(folder / "n1_cat" / "a.png")
    assert len(read_classes(tmp_path / "linked")) == 2


def empty(folder):
    (folder / "bird").mkdir()


def other_kind(folder):
    (folder / "bird").mkdir()
    (folder / "bird" / "1.heic").write_bytes(b"x")


def one_level_up(folder):
    os.renames(folder, folder / "train")


def broken(folder):
    (folder / "dog" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")


def web_page(folder):
    (folder / "dog" / "0.png").write_bytes(b"<html>404</html>")


def flat(folder):
    for path in list(folder.rglob("*")):
        if path.is_file():
            path.rename(folder / path.name)
    for path in list(folder.iterdir()):
        if path.is_dir():
            path.rmdir()


def alike(folder):
    (folder / "dog").rename(folder / "n1 cat")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty, "a class without pictures.*- bird; fix: add pictures"),
        (other_kind, r"a class without pictures.*- bird \(it holds 1.heic\)"),
        (broken, "cannot use picture.*dog/0.png.*damaged"),
        (web_page, "cannot use picture.*HTML"),
        (flat, "a folder without classes.*3 pictures lie in it, but no folders; fix: put the pictures of each class"),
        (alike, "two classes are called 'n1 cat'.*n1 cat and n1_cat"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_the_reason(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        read_classes(folder)


def test_the_folder_above_is_refused_and_the_right_one_named(folder):
    with pytest.raises(DataError, match=f"train: only folders inside; fix: give {folder} if"):
        read_classes(folder.parent)


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for name, why in (("none", "no such folder"), ("a.txt", "a file"), ("empty", "it holds no folders")):
        with pytest.raises(DataError, match=why):
            read_classes(tmp_path / name)


def test_an_option_of_another_source_is_refused(folder, tmp_path):
    entry = DataSection(source="classes", path=str(folder))
    with pytest.raises(ConfigError, match="source 'classes' takes no 'split'.*use one of: names, templates"):
        read_section(entry.model_copy(update={"split": "train"}))
    with pytest.raises(ConfigError, match="source 'classes' takes no 'images'"):
        read_section(entry.model_copy(update={"images": str(folder)}))
    with pytest.raises(DataError, match="no such file of names"):
        read_section(entry.model_copy(update={"names": str(tmp_path / "none.json")}))
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(ConfigError, match="source 'llava' takes no 'names'.*; fix: leave it out$"):
        read_section(DataSection(source="llava", path=str(tmp_path / "rows.json"), names="x"))


def test_every_picture_that_cannot_be_read_is_told_in_one_pass(folder):
    samples = read_classes(folder)
    for name in ("dog/1.webp", "n1_cat/b.JPEG"):
        (folder / name).write_bytes(b"")
    assert [(fault.where, "zero bytes" in fault.why) for fault in unreadable(samples)] == [
        ("train:dog/1.webp", True),
        ("train:n1_cat/b.JPEG", True),
    ]
