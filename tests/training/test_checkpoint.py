import json
import os
from pathlib import Path

import pytest

from yarbus.core.errors import CheckpointError, MismatchError
from yarbus.training import checkpoint


def write(root: Path, step: int, run: str = "a") -> Path:
    folder = checkpoint.prepare(root, step)
    (folder / "weights.safetensors").write_bytes(bytes([128, 2, *range(200), step]))
    (folder / "state.json").write_text(json.dumps({"step": step}))
    return checkpoint.publish(root, step, run=run, facts={"stage": "align"})


def flip(file: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(bytes(content))


def test_a_checkpoint_is_verified_as_it_was_written(tmp_path):
    manifest = checkpoint.verify(write(tmp_path, 7), run="a")
    assert (manifest.step, manifest.run, manifest.facts) == (7, "a", {"stage": "align"})
    assert sorted(manifest.files) == ["state.json", "weights.safetensors"]
    assert manifest.files["weights.safetensors"]["bytes"] == 203


def test_the_manifest_is_written_last_and_the_folder_named_after_everything_is_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(checkpoint, "sync", lambda path, real=checkpoint.sync: (synced.append(path), real(path))[1])
    folder = checkpoint.prepare(tmp_path, 1)
    (folder / "state.json").write_text("{}")
    renamed_after = []
    real_rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (renamed_after.append(list(synced)), real_rename(self, to))[1])
    checkpoint.publish(tmp_path, 1, run="a", facts={})
    assert renamed_after == [[folder / "state.json", folder / "manifest.json", folder]]
    assert synced[-1] == tmp_path


def test_every_flipped_bit_of_every_file_is_found(tmp_path):
    folder = write(tmp_path, 1)
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for byte in range(0, len(content), 7):
            flip(file, byte, bit=byte % 8)
            with pytest.raises(CheckpointError) as error:
                checkpoint.verify(folder)
            assert file.name in str(error.value)
            file.write_bytes(content)
    checkpoint.verify(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "longer", "missing"])
def test_a_cut_grown_or_missing_file_is_named(tmp_path, name, damage):
    file = write(tmp_path, 1) / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"truncated": content[:-3], "empty": b"", "longer": content + b"\n"}[damage])
    with pytest.raises(CheckpointError, match=name) as error:
        checkpoint.verify(file.parent)
    assert error.value.exit_code == 74


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "x.mdl", "no_suffix"]
)
def test_a_pickle_in_the_folder_is_refused_with_the_reason(tmp_path, name):
    folder = write(tmp_path, 1)
    (folder / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match="pickle refused") as error:
        checkpoint.verify(folder)
    assert name in str(error.value) and "run any program" in str(error.value)


def test_a_folder_that_trainer_wrote_is_incomplete_for_us(tmp_path):
    folder = tmp_path / "step-000001"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="incomplete"):
        checkpoint.verify(folder)


def test_a_newer_schema_is_told_from_damage(tmp_path):
    folder = write(tmp_path, 1)
    record = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(record | {"schema": 9}))
    with pytest.raises(CheckpointError, match="schema 9, this is 1"):
        checkpoint.verify(folder)


def test_the_newest_whole_checkpoint_is_found_by_its_step_not_by_its_time(tmp_path):
    for step in (30, 4, 100):
        write(tmp_path, step)
    assert checkpoint.newest(tmp_path, "a").name == "step-000100"
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_a_damaged_newest_checkpoint_is_kept_under_another_name(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    flip(tmp_path / "step-000003" / "state.json", 3)
    told: list[str] = []
    assert checkpoint.newest(tmp_path, "a", told.append).name == "step-000002"
    assert "step-000003/state.json" in told[0]
    assert (tmp_path / ".bad-step-000003" / "state.json").exists()


def test_if_all_are_damaged_each_is_listed_and_none_removed(tmp_path):
    for step in (1, 2):
        flip(write(tmp_path, step) / "state.json", 3)
    with pytest.raises(CheckpointError, match="step-000002.*step-000001"):
        checkpoint.newest(tmp_path, "a")
    assert len(checkpoint.folders(tmp_path)) == 2


def test_the_checkpoint_of_another_run_is_refused_and_stays(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 5, run="b")
    with pytest.raises(MismatchError, match="run b, this is a"):
        checkpoint.newest(tmp_path, "a")
    assert len(checkpoint.folders(tmp_path)) == 2


def test_rotation_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 10):
        write(tmp_path, step)
    checkpoint.rotate(tmp_path, keep=2)
    assert [path.name for path in checkpoint.folders(tmp_path)] == ["step-000003", "step-000010"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000010"]


def test_saving_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 1, run="a")
    write(tmp_path, 1, run="b")
    assert checkpoint.verify(tmp_path / "step-000001").run == "b"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_sweeping_removes_only_our_own_leftovers(tmp_path):
    write(tmp_path, 1)
    checkpoint.prepare(tmp_path, 2)
    for name in (".tmp-gone-step-000000", ".tmp-mine", ".bad-step-000003"):
        (tmp_path / name).mkdir()
    checkpoint.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bad-step-000003", ".tmp-mine", "step-000001"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path):
    (write(tmp_path, 1)).rename(tmp_path / ".tmp-old-step-000001")
    checkpoint.sweep(tmp_path)
    checkpoint.verify(tmp_path / "step-000001")


def test_files_have_the_mode_that_the_umask_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        folder = checkpoint.prepare(tmp_path, 1)
        (folder / "state.json").touch(mode=0o600)
        file = checkpoint.publish(tmp_path, 1, run="a", facts={}) / "state.json"
        assert file.stat().st_mode & 0o777 == 0o640
        assert (file.parent / "manifest.json").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_full_disk_is_reported_with_its_path_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    checkpoint.prepare(tmp_path, 2)
    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(CheckpointError, match="No space left") as error:
        checkpoint.publish(tmp_path, 2, run="a", facts={})
    assert error.value.exit_code == 74
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def test_a_kill_after_any_operation_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch):
    calls = 0
    dies_at = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal calls
            result = real(*args, **kwargs)
            calls += 1
            if calls == dies_at:
                raise Killed
            return result

        return call

    monkeypatch.setattr(checkpoint, "sync", counted(checkpoint.sync))
    for name in ("rename", "chmod", "write_bytes", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", counted(checkpoint.shutil.rmtree))

    for again in (False, True):  # a new step, and a step that is there already
        for k in range(1, 40):
            root = tmp_path / f"{again}-{k}"
            dies_at = 0
            write(root, 1)
            if again:
                write(root, 2)
            calls, dies_at = 0, k
            try:
                write(root, 2)
                checkpoint.rotate(root, keep=1)
            except Killed:
                dies_at = 0
                checkpoint.sweep(root)
                assert checkpoint.newest(root, "a") in (
                    checkpoint.step_folder(root, 1),
                    checkpoint.step_folder(root, 2),
                )
                assert not again or checkpoint.newest(root, "a") == checkpoint.step_folder(root, 2)
            else:
                assert k > 10
                break
