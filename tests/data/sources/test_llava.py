import json
import warnings
from pathlib import Path

import pytest

from yarbus.core.errors import DataError
from yarbus.data.sample import Turn
from yarbus.data.sources import SOURCES
from yarbus.data.sources.llava import read_llava, validate_llava

HUMAN, GPT = {"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "this"}
GOOD = {"id": "a", "image": "a.png", "conversations": [HUMAN, GPT]}


@pytest.fixture
def write(tmp_path: Path, picture):
    picture("a.png")

    def rows(*values, lines: bool = False) -> Path:
        text = "\n".join(map(json.dumps, values)) if lines else json.dumps(list(values))
        (tmp_path / "train.json").write_text(text)
        return tmp_path / "train.json"

    return rows


def but(**changes):
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}


@pytest.mark.parametrize("lines", [True, False])
def test_a_row_becomes_a_sample(write, tmp_path, lines):
    path = write(
        GOOD, but(id="b", image=None, conversations=[but_value("hi"), GPT], task="read", group="s1"), lines=lines
    )
    first, second = read_llava(path)
    assert first.images == (tmp_path / "a.png",)
    assert first.turns == (Turn("user", "<image>\nwhat?"), Turn("assistant", "this"))
    assert (first.id, first.task, first.group, first.source, first.where) == ("a", None, None, "llava", "train.json:1")
    assert (second.id, second.images, second.task, second.group) == ("b", (), "read", "s1")
    assert SOURCES["llava"] is read_llava


def but_value(text):
    return {"from": "human", "value": text}


def test_ids_and_images_may_be_written_in_several_ways(write, tmp_path):
    two = [but_value("<image><image> which?"), GPT]
    samples = read_llava(
        write(
            but(id=7),
            but(id="8", image=["a.png", "a.png"], conversations=two),
            but(id=9, image=None, conversations=[but_value("hi"), GPT]),
            but(id=..., image=..., conversations=[but_value("hi"), GPT]),
            but(id=10, image=[], conversations=[but_value("hi"), GPT], model="gpt-4", anything={"x": 1}),
        ),
        tmp_path,
    )
    assert [sample.id for sample in samples] == ["7", "8", "9", "train.json:4", "10"]
    assert [len(sample.images) for sample in samples] == [1, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("row", "reason", "fix"),
    [
        (3, "the row is 3", "object"),
        (but(conversations=...), "no 'conversations'", "add 'conversations'"),
        (but(conversations=..., conversation=[HUMAN, GPT]), "no 'conversations'", "rename 'conversation'"),
        (but(conversations=[]), "'conversations' is []", "list of turns"),
        (but(conversations=None), "'conversations' is None", "list of turns"),
        (but(conversations={"from": "human"}), "'conversations' is {", "list of turns"),
        (but(conversations=["hi", GPT]), "turn 1 is 'hi'", "'from'"),
        (but(conversations=[HUMAN, {"from": "gpt"}]), "turn 2 has no 'value'", "add 'value'"),
        (but(conversations=[{"value": "hi"}, GPT]), "turn 1 has no 'from'", "add 'from'"),
        (but(conversations=[HUMAN, {"from": "gpt", "value": None}]), "turn 2 has the value None", "text"),
        (but(conversations=[HUMAN, {"from": "bot", "value": "x"}]), "turn 2 is from 'bot'", "'human' or 'gpt'"),
        (but(conversations=[HUMAN, {"from": ["gpt"], "value": "x"}]), "turn 2 is from ['gpt']", "'human' or 'gpt'"),
        (but(conversations=[GPT, HUMAN]), "turn 1 is from gpt", "expected human"),
        (but(conversations=[HUMAN, GPT, GPT]), "turn 3 is from gpt", "expected human"),
        (but(conversations=[HUMAN]), "the last turn (1) is from human", "add the answer"),
        (but(image=3), "'image' holds 3", "file name"),
        (but(image=[None]), "'image' holds None", "file name"),
        (but(image=""), "'image' holds ''", "file name"),
        (but(image="../a.png"), "climbs out", "inside"),
        (but(id=[1]), "'id' is [1]", "text"),
        (but(task=3.5), "'task' is 3.5", "text"),
        (but(conversations=[but_value("what?"), GPT]), "1 image, 0 <image>", "add <image>"),
        (but(image=None), "0 images, 1 <image>", "name the missing images"),
        (but(conversations=[but_value("<image><image>"), GPT]), "1 image, 2 <image>", "remove <image>"),
        (but(image=["a.png"] * 500), "500 images, 1 <image>", "add <image>"),
        (but(conversations=[HUMAN, {"from": "gpt", "value": "an <image>"}]), "1 in answers", "from the answers"),
    ],
)
def test_a_wrong_row_names_place_field_value_and_what_is_allowed(write, row, reason, fix):
    with pytest.raises(DataError) as caught:
        read_llava(write(GOOD, row))
    message = str(caught.value)
    assert "1 of 2 rows cannot be used" in message and "train.json:2" in message
    assert reason in message and fix in message.partition("; fix: ")[2]
    assert len(message.splitlines()) <= 3


def test_all_bad_rows_are_named_in_one_message(write):
    rows = [GOOD, 3, but(id="b"), but(conversations=[]), but(image=None)]
    with pytest.raises(DataError, match=r"3 of 5 rows .*train\.json:2 - .*also train\.json:4, train\.json:5; fix"):
        read_llava(write(*rows))
    with pytest.raises(DataError, match=r"\(and 34 more\)"):
        read_llava(write(*[3] * 40))


def test_a_repeated_id_is_a_warning_with_both_rows(write):
    with pytest.warns(UserWarning, match=r"id 'a' stands twice: train\.json:1 and train\.json:3"):
        assert len(read_llava(write(GOOD, but(id="b"), GOOD))) == 3


def test_a_file_without_rows_is_refused(write):
    with pytest.raises(DataError, match="no rows"):
        read_llava(write())


def test_a_wrong_images_folder_shows_before_anything_is_trained(write, tmp_path):
    with pytest.raises(DataError, match="no such images folder"):
        read_llava(write(GOOD), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"missing picture: .*train\.json:1 - picture .*a\.png"):
        read_llava(write(GOOD), tmp_path / "empty")


def test_validation_lists_every_fault_in_one_pass(write, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reading = validate_llava(write(GOOD, 3, but(image="bad.png"), but(id="c", image="gone.png"), but(id="d")))
    assert len(reading.samples) == 4
    assert [fault.where for fault in reading.faults] == ["train.json:2", "train.json:3", "train.json:4"]
    assert "zero bytes" in reading.faults[1].why and "no such file" in reading.faults[2].why
    assert reading.repeated == [("a", "train.json:1", "train.json:3")]
