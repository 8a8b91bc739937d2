import json
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yarbus.core.errors import CheckpointError
from yarbus.core.records import JsonlWriter, environment, read_json, read_jsonl, sha256_file, write_json


def test_what_is_written_is_read_back(tmp_path):
    value = {"a": [1, 2.5, None, "ü \u2028"], "b": {"c": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"a\.json - No space left on device; fix: free some space"):
            write_json(tmp_path / "a.json", 2)
    assert read_json(tmp_path / "a.json") == 1
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_umask_is_respected(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        JsonlWriter(tmp_path / "b.jsonl").close()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "b.jsonl")]
    assert modes == [0o640, 0o640]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    with JsonlWriter(tmp_path / "b.jsonl") as lines, pytest.raises(ValueError, match="JSON compliant"):
        lines.write({"loss": float("inf")})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write"):
        write_json(tmp_path / "nowhere" / "a.json", 1)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_json(tmp_path / "a.json")


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"damaged record: .*a\.json"):
        read_json(tmp_path / "a.json")


def test_each_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with JsonlWriter(tmp_path / "a.jsonl") as lines:
        lines.write({"step": 1})
        assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1}]


@given(cut=st.integers(0, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_kill_costs_at_most_the_last_line(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    path.unlink(missing_ok=True)
    rows = [{"step": step, "text": "ü"} for step in range(3)]
    with JsonlWriter(path) as lines:
        for row in rows:
            lines.write(row)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    whole = content[: len(content) - cut].count(b"\n")
    with JsonlWriter(path) as lines:
        lines.write({"step": 99})
    found = read_jsonl(path)
    assert found[-1] == {"step": 99}
    assert found[:-1] in (rows[:whole], rows[: whole + 1])


def test_a_torn_last_line_is_left_out_with_a_warning(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.warns(UserWarning, match=r"a\.jsonl:2 is torn"):
        assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}]


def test_a_damaged_line_before_the_last_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(CheckpointError, match=r"a\.jsonl:1"):
        read_jsonl(tmp_path / "a.jsonl")


def test_a_hash_is_that_of_the_content_and_a_pipe_has_none(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        sha256_file(tmp_path / "pipe")


def test_the_environment_names_versions_but_no_path_and_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = environment()
    text = json.dumps(found)
    assert found["packages"]["yarbus"] and found["packages"]["torch"]
    assert "hf_secret" not in text and str(tmp_path.home()) not in text
