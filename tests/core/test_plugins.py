import pytest

from yarbus.core import plugins as door
from yarbus.core.errors import CheckpointError, ConfigError


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


def test_what_an_interrupted_make_began_is_removed_and_the_next_call_makes_it(brought, monkeypatch, tmp_path):
    def interrupted(folder):
        (folder / "half.json").write_text("[")
        raise KeyboardInterrupt

    whole = door.plugins()["toy"]
    monkeypatch.setattr(door, "plugins", lambda: {"toy": door.Plugin(name="toy", make={"world": interrupted})})
    with pytest.raises(KeyboardInterrupt):
        door.resolve("toy:world/train.json")
    assert not list((tmp_path / "cache" / "toy-1").iterdir())
    monkeypatch.setattr(door, "plugins", lambda: {"toy": whole})
    assert door.resolve("toy:world/train.json").read_text() == "[]"


def test_two_makers_at_once_leave_one_folder(brought, monkeypatch, tmp_path):
    world = tmp_path / "cache" / "toy-1" / "world"

    def overtaken(folder):
        world.mkdir()
        (world / "train.json").write_text("[]")
        (folder / "train.json").write_text("[]")

    monkeypatch.setattr(door, "plugins", lambda: {"toy": door.Plugin(name="toy", make={"world": overtaken})})
    assert door.resolve("toy:world/train.json").read_text() == "[]"
    assert list(world.parent.iterdir()) == [world]


def test_a_made_folder_has_the_rights_that_the_umask_asks_for(brought):
    folder = door.resolve("toy:world/train.json").parent
    assert folder.stat().st_mode == folder.parent.stat().st_mode


def test_a_cache_that_cannot_be_written_is_named(brought, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YARBUS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match="YARBUS_CACHE"):
        door.resolve("toy:world/train.json")
