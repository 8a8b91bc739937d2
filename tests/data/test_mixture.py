import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.sections import DataSection
from yarbus.data.mixture import held_out, mix, read_mixture, read_section
from yarbus.training.facts import samples_hash


@pytest.fixture
def section(tmp_path):
    def write(num_rows: int, tasks=(None,), name: str = "train.json", **options) -> DataSection:
        turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "this"}]
        rows = [{"id": index, "conversations": turns, "task": tasks[index % len(tasks)]} for index in range(num_rows)]
        (tmp_path / name).write_text(json.dumps(rows))
        return DataSection(source="llava", path=str(tmp_path / name), **options)

    return write


def ids(samples):
    return [int(sample.id) for sample in samples]


def test_sections_follow_one_another(section):
    assert ids(read_mixture([section(3), section(2, name="b.json")])) == [0, 1, 2, 0, 1]


def test_a_fraction_is_the_same_rows_each_time_and_part_of_a_larger_one(section):
    small, large = (ids(read_section(section(100, fraction=part))) for part in (0.25, 0.5))
    assert len(small) == 25 and small == sorted(small)
    assert set(small) < set(large)
    assert small == ids(read_section(section(100, fraction=0.25)))
    assert len(read_section(section(3, fraction=0.01))) == 1


def test_a_task_keeps_its_rows_or_names_all_of_a_file_that_names_none(section):
    assert ids(read_section(section(4, tasks=("read", "locate"), task="read"))) == [0, 2]
    assert [sample.task for sample in read_section(section(2, task="read"))] == ["read", "read"]
    with pytest.raises(DataError, match="no row of task 'raed'.*use one of: locate, read"):
        read_section(section(4, tasks=("read", "locate"), task="raed"))


def test_an_unknown_source_is_refused(section):
    with pytest.raises(ConfigError, match="unknown data source 'lava'; fix: use one of: llava"):
        read_section(section(1).model_copy(update={"source": "lava"}))


@given(rows=st.integers(1, 60), fraction=st.floats(0.01, 1), share=st.floats(0.01, 1))
def test_held_out_rows_are_those_of_the_entry_that_a_smaller_fraction_no_longer_reads(rows, fraction, share):
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "this"}]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        path.write_text(json.dumps([{"id": index, "conversations": turns} for index in range(rows)]))
        section = DataSection(source="llava", path=str(path), fraction=fraction)
        kept = ids(read_section(section.model_copy(update={"fraction": fraction * share})))
        out, all_of_it = ids(held_out(section, share)), ids(read_section(section))
    assert out == sorted(out) and not set(out) & set(kept)
    assert sorted(out + kept) == all_of_it


def test_held_out_rows_are_of_the_entrys_task(section):
    entry = section(40, tasks=("read", "locate"), task="read")
    assert [sample.task for sample in held_out(entry, 0.75)] == ["read"] * 5
    assert held_out(entry, 1.0) == []


@pytest.fixture
def pets(tmp_path):
    """Three pictures of two classes."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name)
    return DataSection(source="classes", path=str(tmp_path / "pets"), share=0.25)


def test_rows_with_a_share_are_known_by_their_place_and_their_class(section, pets):
    mixture = mix([section(3), pets, section(2, name="b.json", share=0.5)])
    assert len(mixture.samples) == 8
    first, second = mixture.shared
    assert first.share == 0.25 and [rows.tolist() for rows in first.classes] == [[3, 4], [5]]
    assert [mixture.samples[row].turns[-1].text for rows in first.classes for row in rows] == ["cat", "cat", "dog"]
    assert second.share == 0.5 and [rows.tolist() for rows in second.classes] == [[6, 7]]
    assert mix([section(3)]).shared == ()


def test_a_fraction_of_rows_with_a_share_is_shared(section, pets):
    mixture = mix([section(3), pets.model_copy(update={"fraction": 0.34})])
    assert sum(map(len, mixture.shared[0].classes)) == 1 and len(mixture.samples) == 4


def test_what_the_samples_say_is_hashed_with_the_words_of_their_questions(section, pets, tmp_path):
    before = samples_hash(read_mixture([section(3), pets]))
    assert samples_hash(read_mixture([section(3), pets])) == before
    (tmp_path / "mine.json").write_text(json.dumps(["Identify the object in this image:", "Which pet?"]))
    assert (
        samples_hash(read_mixture([section(3), pets.model_copy(update={"templates": str(tmp_path / "mine.json")})]))
        != before
    )
    (tmp_path / "pets" / "newt").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pets" / "newt" / "1.png")
    one_class_more = read_mixture([section(3), pets])[:-1]
    assert samples_hash(one_class_more) != before


def test_the_hash_of_rows_as_they_stand_is_the_one_it_was_before_there_were_wordings(section):
    assert samples_hash(read_mixture([section(3)]))[:16] == "b95dbb08d5791f77"
