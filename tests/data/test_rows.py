import gzip
import json
import pickle
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yarbus.core.errors import DataError
from yarbus.data.rows import Fault, Row, read_rows


@pytest.fixture
def rows(tmp_path):
    def read(content: bytes | str):
        (tmp_path / "train.json").write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_rows(tmp_path / "train.json"))

    return read


def good(found):
    return [row.value for row in found if isinstance(row, Row)]


def faults(found):
    return [(fault.where, fault.why) for fault in found if isinstance(fault, Fault)]


def test_an_array_and_lines_hold_the_same_rows(rows):
    values = [{"a": 1}, {"b": [1, {"c": None}]}, {"ü": "x"}]
    lines = "\n".join(json.dumps(value) for value in values)
    assert good(rows(json.dumps(values))) == good(rows(json.dumps(values, indent=3))) == good(rows(lines)) == values


def test_every_bad_line_is_named_with_its_column_and_the_good_ones_are_read(rows):
    found = rows('{"a": 1}\n{"a": }\n{"a": 2}\n{a: 1}\n{"a": 3} x\n')
    assert good(found) == [{"a": 1}, {"a": 2}]
    assert [where for where, _ in faults(found)] == ["train.json:2:7", "train.json:4:2", "train.json:5:10"]


@pytest.mark.parametrize(
    ("content", "where", "why"),
    [
        ('[{"a": 1}, {"a": ', "train.json:1:18", "row 2: the file ends inside this row"),
        ('[{"a": 1}', "train.json:1", "after row 1: the file ends inside the array"),
        ('[{"a": 1},', "train.json:1:11", "row 2: the file ends inside this row"),
        ('[{"a": 1} {"a": 2}]', "train.json:1", "after row 1: ',' or ']' expected"),
        ('[{"a": 1}]\n{"a": 1}', "train.json:1", "something follows the array"),
        ('[{"a": 1},\n {a: 1}]', "train.json:2:3", "row 2: Expecting property name"),
    ],
)
def test_a_broken_array_is_named(rows, content, where, why):
    ((found, reason),) = faults(rows(content))
    assert found == where
    assert reason.startswith(why)


@pytest.mark.parametrize("content", ["[]", " [ ] \n"])
def test_an_empty_array_has_no_rows(rows, content):
    assert rows(content) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty data file"),
        (b" \n \r\n", "empty data file"),
        (b"{\n}", "one object spread over lines"),
        (b'\xff\xfe[\x00{\x00"\x00', "UTF-16"),
        (gzip.compress(b"[]", mtime=0), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (pickle.dumps([{"a": 1}]), "a pickle, which is never opened"),
        (b"PAR1....", "Parquet"),
    ],
)
def test_what_is_no_json_file_is_named(rows, content, reason):
    with pytest.raises(DataError, match=reason):
        rows(content)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        list(read_rows(tmp_path / "nowhere.json"))
    with pytest.raises(DataError, match="a folder, pipe or device"):
        list(read_rows(tmp_path))


def test_marks_line_ends_and_rare_separators_change_no_row(rows):
    text = '{"a": "x\u2028y\u2029z\x85"}'
    content = b"\xef\xbb\xbf" + f"\n{text}\r\n\r\n   \n{text}".encode()
    assert good(rows(content)) == [json.loads(text)] * 2
    assert good(rows(b"\xef\xbb\xbf" + f"[{text},\r\n{text}]".encode())) == [json.loads(text)] * 2


def test_a_byte_that_is_not_utf8_names_its_row(rows):
    content = '{"a": 1}\n{"a": "café"}\n'.encode("latin-1")
    assert faults(rows(content)) == [("train.json:2:11", "byte 0xe9 is not UTF-8")]
    assert "not UTF-8" in faults(rows(b'[{"a": "caf\xe9"}]'))[0][1]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": "\\ud83d"}', "half a surrogate pair"),
        ('{"\\udc00": 1}', "half a surrogate pair"),
    ],
)
def test_a_row_that_means_nothing_is_named_and_the_others_stay(rows, row, why):
    found = rows('{"b": 1}\n' + row + '\n{"b": 2}')
    assert good(found) == [{"b": 1}, {"b": 2}]
    ((where, reason),) = faults(found)
    assert where.startswith("train.json:2") and re.search(why, reason)
    assert why in faults(rows('[{"b": 1},' + row + "]"))[0][1]


def test_a_whole_surrogate_pair_is_a_character(rows):
    assert good(rows('{"a": "\\ud83d\\ude00"}')) == [{"a": "😀"}]


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_is_a_row_a_fault_or_one_error(rows, data):
    lines = ['{"id": 1, "conversations": [{"from": "human", "value": "x"}]}'] * 3
    start = data.draw(st.sampled_from(["\n".join(lines), f"[{','.join(lines)}]"]))
    content = bytearray(start.encode())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        found = rows(bytes(content))
    except DataError as error:
        assert "train.json" in str(error)
    else:
        assert all(row.where.startswith("train.json") for row in found)
