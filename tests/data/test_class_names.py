import json

import pytest

from yarbus.core.errors import DataError
from yarbus.data.class_names import class_names


@pytest.fixture
def write(tmp_path):
    def names(value) -> object:
        (tmp_path / "classes.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return tmp_path / "classes.json"

    return names


def test_a_class_is_called_like_its_folder_with_blanks_for_underscores():
    assert class_names(["golden_retriever", "cat"], "x") == {"golden_retriever": "golden retriever", "cat": "cat"}


def test_a_file_names_classes_and_may_name_more(write):
    assert class_names(["n1", "n2"], "x", write({"n1": "tabby  cat ", "n2": "dog", "n3": "cat"})) == {
        "n1": "tabby cat",
        "n2": "dog",
    }


def test_several_folders_are_one_class_only_on_purpose(write):
    file = write({"missile": ["n1", "n2"], "n3": "dog"})
    assert class_names(["n1", "n2", "n3"], "x", file) == {"n1": "missile", "n2": "missile", "n3": "dog"}
    with pytest.raises(DataError, match=r'called \'missile\'.*n1 and n2; fix: .*{"missile": \["n1", "n2"\]}'):
        class_names(["n1", "n2"], "x", write({"n1": "missile", "n2": "missile"}))
    with pytest.raises(DataError, match="two classes are called 'missile'.*n1 and n3"):
        class_names(["n1", "n2", "n3"], "x", write({"missile": ["n1", "n2"], "n3": "missile"}))


@pytest.mark.parametrize("pair", [("Crane", "crane"), ("sea_snake", "sea snake"), ("a_b", "a__b")])
def test_names_that_scoring_cannot_tell_apart_are_refused(pair):
    with pytest.raises(DataError, match="two classes are called"):
        class_names(pair, "x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"n2": "dog"}, r"classes without a name.*it has n1, which the file does not name.*\(it names n2\)"),
        ({"n1": ""}, "no class name.*class 'n1' is called ''"),
        ({"n1": "a<image>b"}, "no class name"),
        ({"n1": "a\x00b"}, "no class name"),
        ({"n1": 3}, "a name is text, or a list of text"),
        ({"cat": ["n1", 3]}, "a name is text, or a list of text"),
        ({"n1": "cat", "dog": ["n1"]}, "'n1' is 'cat' and 'dog'"),
        ('{"n1": "cat", "n1": "dog"}', "key 'n1' stands twice"),
        ([], "it holds no object"),
        ("{", "cannot read class names"),
        ("[" * 100_000, "cannot read class names"),
    ],
)
def test_a_file_that_names_no_classes_is_refused(write, value, message):
    with pytest.raises(DataError, match=message):
        class_names(["n1"], "x", write(value))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "classes.json").write_bytes(b'{"n1": "caf\xe9"}')
    with pytest.raises(DataError, match="cannot read class names.*classes.json.*decode"):
        class_names(["n1"], "x", tmp_path / "classes.json")
