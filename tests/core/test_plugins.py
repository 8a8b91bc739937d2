import pytest

from yarbus.core import plugins as door
from yarbus.core.errors import ConfigError


@pytest.fixture
def brought(monkeypatch, tmp_path):
    """A plug-in 'toy' with one file, and one folder that has to be made."""
    made = []

    def make(folder):
        made.append(folder)
        (folder / "train.json").write_text("[]")

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "base.txt").write_text("weights")
    toy = door.Plugin(name="toy", files=tmp_path / "files", make={"world": make})
    monkeypatch.setattr(door, "plugins", lambda: {"toy": toy})
    monkeypatch.setenv("YARBUS_CACHE", str(tmp_path / "cache"))
    return made


def test_plain_paths_come_back_as_they_are(brought):
    for path in ("a/b.json", "/a:b/c", "C:\\data", "org/model"):
        assert door.resolve(path) == path


def test_a_shipped_file_is_found(brought):
    assert door.resolve("toy:base.txt").read_text() == "weights"


def test_a_folder_is_made_once(brought):
    first = door.resolve("toy:world/train.json")
    assert first.read_text() == "[]" and door.resolve("toy:world/train.json") == first
    assert len(brought) == 1


def test_unknown_names_are_refused(brought):
    with pytest.raises(ConfigError, match="use one of: toy"):
        door.resolve("tooy:world")
    with pytest.raises(ConfigError, match="plug-in 'toy' has no 'wrld'; |use one of: world"):
        door.resolve("toy:wrld/train.json")
