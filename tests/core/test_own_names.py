import pytest

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.own_names import own_name


def test_a_name_says_kind_path_and_options():
    own = own_name("dataset:a/food#1#split=val#closed=100#names=n.json")
    assert (own.kind, own.path, own.closed, own.seed) == ("dataset", "a/food#1", 100, 1234)
    assert own.options == {"split": "val", "names": "n.json"}
    assert own_name("classes:val#closed=all#seed=7").closed == "all"
    assert own_name("classes:val#seed=7").closed is None
    assert own_name("tinyworld/read") is None and own_name("mmvp") is None
    assert own_name("file:a#closed=2").path == "a#closed=2"  # a file has no options


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classes:val#clsed=5", "no option 'clsed'; fix: use one of: closed"),
        ("classes:val#split=val", "no option 'split'"),
        ("classes:val#closed=one", "closed is 'one'; fix: use a whole number from 2 on, or all"),
        ("classes:val#closed=1", "closed is '1'"),
        ("classes:val#seed=-1", "seed is '-1'"),
        ("classes:val#closed=5#closed=6", "says 'closed' twice"),
        ("classes:", "names no path; fix: write classes:PATH"),
        ("dataset:#split=val", "names no path"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        own_name(name)


def test_every_option_has_a_place_of_its_own():
    names = ("classes:val", "classes:val#closed=5", "classes:val#closed=6", "dataset:val", "classes:../val")
    places = [own_name(name).folder for name in names]
    assert len(set(places)) == len(names) and all(
        place.startswith(("classes/val-", "dataset/val-")) for place in places
    )


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for name, message in (
        (f"classes:{tmp_path}/a.txt", "no such folder of classes"),
        (f"dataset:{tmp_path}/none", "no such data set"),
        (f"file:{tmp_path}", "no such benchmark file"),
        (f"classes:{tmp_path}#names={tmp_path}/none.json", "no such file of class names"),
    ):
        with pytest.raises(DataError, match=message):
            own_name(name).check()
    own_name(f"classes:{tmp_path}").check()
