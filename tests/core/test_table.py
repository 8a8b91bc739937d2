import sys

import pytest

from yarbus.core.errors import ConfigError
from yarbus.core.table import Table


def test_listing_names_imports_nothing():
    sys.modules.pop("this_module_does_not_exist", None)
    table = Table("method", {"covft": "this_module_does_not_exist:CoVFT"})
    assert list(table) == ["covft"] and len(table) == 1 and "covft" in table


def test_an_entry_is_imported_when_it_is_asked_for():
    assert Table("thing", {"path": "os:path"})["path"] is __import__("os").path


def test_an_unknown_name_is_answered_with_the_nearest():
    table = Table("method", {"covft": "a:b", "full": "a:b"})
    with pytest.raises(ConfigError, match="unknown method 'covtf'; fix: use one of: covft"):
        table["covtf"]
    with pytest.raises(ConfigError, match="use one of: covft, full"):
        table["zzz"]


def test_a_name_has_one_meaning():
    table = Table("tower", {"clip": "a:b"})
    table.add("mine", 3)
    table.add("mine", 3)
    assert table["mine"] == 3
    with pytest.raises(ConfigError, match="declared already"):
        table.add("clip", 4)


def test_more_entries_come_at_the_first_look_and_cannot_take_a_name():
    looks = []

    def more():
        looks.append(1)
        return {"mine": "os:path"}

    table = Table("method", {"covft": "a:b"}, more=more)
    assert not looks
    assert list(table) == ["covft", "mine"] and table["mine"] is __import__("os").path and len(looks) == 1
    with pytest.raises(ConfigError, match="declared already"):
        list(Table("method", {"mine": "a:b"}, more=more))


def test_an_entry_is_found_by_what_it_is_called_where_it_lives_without_importing_it():
    table = Table("method", {"covft": "this_module_does_not_exist:CoVFT"})
    table.add("mine", int)
    assert table.name_of("CoVFT") == "covft" and table.name_of("int") == "mine" and table.name_of("float") is None
