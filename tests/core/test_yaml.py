import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.core.errors import ConfigError
from yarbus.core.yaml import MAX_BYTES, dump_yaml, parse_yaml, read_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "recipe.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def test_each_value_knows_its_line():
    document = parse_yaml("a: 1\nb:\n  - x\n  - {c: true}\n", "recipe.yaml")
    assert document.value == {"a": 1, "b": ["x", {"c": True}]}
    assert document.places[("b", 1, "c")] == "recipe.yaml:4"


@given(VALUES)
def test_what_is_written_is_read_back(value):
    assert parse_yaml(dump_yaml(value), "recipe.yaml").value == value


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-4", "1.0e-4"), ("2E5", "2.0e+5"), ("-1.5e3", "-1.5e+3"), ("1.e4", "1.0e+4"), ("+3e-05", "+3.0e-05")],
)
def test_a_number_that_yaml_reads_as_text_is_refused_with_the_right_spelling(written, meant):
    message = refused(f"a:\n  rate: {written}")
    assert f"a.rate: {written} is text in YAML" in message
    assert "recipe.yaml:2" in message
    assert f"fix: write {meant}" in message
    assert parse_yaml(meant, "x").value == float(written)


def test_quoted_numbers_stay_text():
    assert parse_yaml("a: '1e-4'\nb: \"08\"", "x").value == {"a": "1e-4", "b": "08"}


def test_a_key_that_stands_twice_is_refused():
    message = refused("a: 1\nb:\n  c: 1\n  c: 2\n")
    assert message == "key 'b.c' stands twice (first in line 3): recipe.yaml:4; fix: remove one"


def test_all_faults_of_a_file_stand_in_one_message():
    message = refused("a: 1e-4\na: 2\nb: .nan\nc: 1e-5\n")
    assert "1e-4 is text" in message and "and 3 more" in message
    assert "recipe.yaml:2" in message and "recipe.yaml:3" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: .inf", "finite"),
        ("a: 2026-01-01", "timestamp"),
        ("a: !!python/object/apply:os.system [ls]", "os.system"),
        ("a: !!python/name:os.system x", "os.system"),
        ("no: 1", "'no' in quotes"),
        ("1: 1", "'1' in quotes"),
        ("[a]: 1", "as a key"),
        ("a: &x {b: 1}\nc: {<<: *x}", "merge key"),
        ("a:\n\t- b", "tabs"),
        ("a: [1", "not valid YAML: recipe.yaml:1"),
        ("a: b: c", "recipe.yaml:1:5"),
        ("a: *nobody", "nobody"),
        ("a: 1\n---\nb: 2", "document"),
        ("a: \x00", "not valid YAML"),
        ("a: &a [*a]", "levels"),
        ("[" * 100_000, "nested too deeply|levels"),
        ("a: " + "[" * 60 + "]" * 60, "50 levels"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, reason):
    assert re.search(reason, refused(text))


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than 20,000 values" in refused("\n".join(lines))


def test_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    for name, reason in [
        ("latin.yaml", "not UTF-8"),
        ("large.yaml", "too large"),
        (".", "not a file"),
        ("x", "no such"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            read_yaml(tmp_path / name)


def test_a_byte_order_mark_and_crlf_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read_yaml(tmp_path / "a.yaml").value == {"a": 1, "b": "x"}
