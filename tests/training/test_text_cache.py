"""A recipe that keeps what its text encoder says: the same run to the bit, encoded before it trains."""

import errno
import json
import os
import shutil

import pytest

from tests.training.conftest import stage
from tests.training.runs import StopAt, Stopped, curves, final_hash
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.recipe import load_recipe
from yarbus.models.text_encoder import TextEncoder
from yarbus.training.folder import refuse_changes
from yarbus.training.stages import train

QAVIT = {"method": "qavit", "first_block": 1}


@pytest.fixture
def recipe(settings):
    """The second stage alone: the one that reads the question."""
    one = {**settings["stages"]["instruct"], "steps": 5}
    return load_recipe({**settings, "stages": {"instruct": one}})


@pytest.fixture
def encoded(monkeypatch):
    """Grows by one with each text that an encoder runs on."""
    runs, encode = [], TextEncoder._encode

    def counting(self, text):
        runs.append(text)
        return encode(self, text)

    monkeypatch.setattr(TextEncoder, "_encode", counting)
    return runs


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    return tmp_path_factory.mktemp("plain") / "run"


@pytest.fixture
def plain(plain_run, recipe):
    """The recipe trained without a folder."""
    return train(recipe, plain_run, progress=False)


def keeping(recipe, folder, **changes):
    return load_recipe(recipe.resolved(), {"question.text_cache": str(folder), **changes})


def result(run):
    """Equal only for runs that are the same to the bit."""
    return final_hash(run), curves(run, ["instruct"])


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


class Counts:
    """Notes before each update how many texts were encoded by then."""

    def __init__(self, encoded):
        self.encoded, self.seen = encoded, []

    def __call__(self, step, model, sample_ids):
        self.seen.append(len(self.encoded))


def test_a_run_with_a_folder_is_the_run_without_and_encodes_nothing_while_it_trains(plain, recipe, tmp_path, encoded):
    counts = Counts(encoded)
    one = keeping(recipe, tmp_path / "kept")
    train(one, tmp_path / "run", progress=False, readers=[counts])
    assert result(tmp_path / "run") == result(plain)
    assert set(counts.seen) == {3} and len(files(tmp_path / "kept")) == 3
    encoded.clear()
    train(one, tmp_path / "again", progress=False)
    assert not encoded and result(tmp_path / "again") == result(plain)


def test_a_stage_in_which_nothing_reads_the_question_keeps_nothing(settings, tmp_path):
    recipe = keeping(load_recipe(settings), tmp_path / "kept")
    train(recipe, tmp_path / "run", progress=False, stages=["align"])
    assert not (tmp_path / "kept").exists()


def test_a_method_that_reads_tokens_trains_the_same_with_a_folder(settings, data, tmp_path, encoded):
    rates = {"projector": 1e-3, "vision_new": 1e-2}
    settings["stages"] = {"instruct": stage(data, {"projector": "full", "vision": QAVIT}, rates)}
    recipe = load_recipe(settings)
    train(recipe, tmp_path / "plain", progress=False)
    train(keeping(recipe, tmp_path / "kept"), tmp_path / "filling", progress=False)
    encoded.clear()
    train(keeping(recipe, tmp_path / "kept"), tmp_path / "reading", progress=False)
    assert not encoded
    assert final_hash(tmp_path / "plain") == final_hash(tmp_path / "filling") == final_hash(tmp_path / "reading")


@pytest.mark.parametrize("then", ["kept", "moved", "deleted", "damaged", "left out"])
def test_a_stopped_run_goes_on_to_the_same_weights_whatever_became_of_the_folder(then, plain, recipe, tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    with pytest.raises(Stopped):
        train(keeping(recipe, kept), run, progress=False, readers=[StopAt(1, 4)])
    if then == "deleted":
        shutil.rmtree(kept)
    elif then == "damaged":
        files(kept)[0].write_bytes(b"half")
    other = {"moved": tmp_path / "elsewhere", "left out": None}.get(then, kept)
    resumed = recipe if other is None else keeping(recipe, other)
    train(resumed, run, progress=False)
    assert result(run) == result(plain)


def test_a_run_that_began_without_a_folder_goes_on_with_one(plain, recipe, tmp_path, encoded):
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(recipe, run, progress=False, readers=[StopAt(1, 4)])
    train(keeping(recipe, tmp_path / "kept"), run, progress=False)
    assert result(run) == result(plain) and files(tmp_path / "kept")


def test_only_what_the_steps_to_come_ask_is_encoded(recipe, tmp_path):
    path = tmp_path / "many.json"
    rows = [
        {"id": str(row), "image": f"{row % 13}.png", "conversations": [
            {"from": "human", "value": f"<image>\nwhat {'digit ' * row}?"}, {"from": "gpt", "value": "one"}]}
        for row in range(40)
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    changes = {"stages.instruct.data.0.path": str(path), "stages.instruct.steps": 2}
    train(keeping(recipe, tmp_path / "kept", **changes), tmp_path / "run", progress=False)
    assert len(files(tmp_path / "kept")) == 8  # two batches of four


def test_a_picture_to_classify_is_encoded_as_each_visit_words_it(recipe, data, tmp_path, encoded):
    classes = tmp_path / "classes"
    for number, name in enumerate(("one", "two", "three")):
        (classes / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(data / f"{number}.png", classes / name / f"{number}.png")
    rows, counts = [{"source": "classes", "path": str(classes)}], Counts(encoded)
    one = keeping(recipe, tmp_path / "kept", **{"stages.instruct.data": rows})
    train(one, tmp_path / "run", progress=False, readers=[counts])
    assert len(set(counts.seen)) == 1 and counts.seen[0] > 3


def test_where_it_is_kept_is_no_setting_of_the_run(recipe, tmp_path):
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", progress=False, readers=[StopAt(1, 4)])
    asked = {"stages": ["instruct"], "start": None}
    refuse_changes(keeping(recipe, "elsewhere", **{"question.text_cache_mib": 5}), tmp_path / "run", asked)
    with pytest.raises(ConfigError, match="question.max_tokens 128 -> 5"):
        refuse_changes(load_recipe(recipe.resolved(), {"question.max_tokens": 5}), tmp_path / "run", asked)


def test_a_full_disk_stops_before_the_first_update_and_the_run_goes_on_later(plain, recipe, tmp_path, monkeypatch):
    one, counts = keeping(recipe, tmp_path / "kept"), Counts([])

    replace = os.replace

    def full(source, target):
        if str(target).startswith(str(tmp_path / "kept")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("yarbus.models.feature_cache.os.replace", full)
        with pytest.raises(CheckpointError, match=r"cannot write the text cache: .*kept - No space left on device"):
            train(one, tmp_path / "run", progress=False, readers=[counts])
    assert not counts.seen and not files(tmp_path / "kept")
    train(one, tmp_path / "run", progress=False)
    assert result(tmp_path / "run") == result(plain)


def test_the_work_is_shown_and_only_where_progress_is(recipe, tmp_path, capsys):
    short = {"stages.instruct.steps": 1}
    train(keeping(recipe, tmp_path / "a", **short), tmp_path / "quiet", progress=False)
    assert "encode questions" not in capsys.readouterr().err
    train(keeping(recipe, tmp_path / "b", **short), tmp_path / "shown")
    assert "encode questions: " in capsys.readouterr().err
