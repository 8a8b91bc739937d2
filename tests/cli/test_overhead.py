"""``yarbus overhead`` from its command line to its tables."""

import json
import shlex
import sys

import pytest

from tests.experiments import write_experiment
from yarbus.cli.app import run
from yarbus.core.records import read_json
from yarbus.studies import overhead as measuring

FEW = ["--rounds", "1", "--steps", "1", "--answers", "1", "--warmup", "1", "--new-tokens", "2"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture
def here(monkeypatch):
    """Turns are taken in this process: one of their own would spend seconds on imports."""
    monkeypatch.setattr(measuring, "in_own_process", lambda function, turn, threads: function(turn))


def test_methods_are_measured_and_shown(experiment, tmp_path, here, capsys, monkeypatch):
    vision = "frozen,full,covft[merged,num_experts=2,context_dim=16]"
    arguments = ["overhead", str(experiment), "--vision", vision, *FEW, "--folder", str(tmp_path / "o")]
    monkeypatch.setattr(sys, "argv", ["yarbus", *arguments])
    assert run(sys.argv[1:]) == 0
    printed = capsys.readouterr().out
    for word in ("A training step", "An answer of 2 tokens", "× frozen", "× full", "covft-merged", "Record: "):
        assert word in printed
    record = read_json(tmp_path / "o" / "overhead.json")
    assert list(record["variants"]) == ["frozen", "full", "covft-merged-num_experts-2-context_dim-16"]
    assert record["command"] == shlex.join(sys.argv) and record["references"] == ["frozen", "full"]
    assert record["variants"]["full"]["turns"]["0"]["bytes"].keys() == {"answering", "training", "kept"}


def test_json_is_the_record_and_nothing_else(experiment, tmp_path, here, capsys):
    sizes = ["--random-weights", "--tokens", "30", "--answer-tokens", "4", "--clock", "processor"]
    arguments = ["overhead", str(experiment), *FEW, *sizes, "--folder", str(tmp_path / "o"), "--json"]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == read_json(tmp_path / "o" / "overhead.json")
    assert list(found["variants"]) == ["frozen", "covft"] and found["random_weights"]
    assert found["protocol"]["clock"] == "processor"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vision", "covtf"], "unknown vision method or variant 'covtf'"),
        (["--vision", "full", "--variants", "covft"], "--variants and --vision are both given"),
        (["--variants", "frozn"], "unknown variant 'frozn'"),
        (["--tokens", "30"], "tokens without random weights"),
        (["--random-weights", "--tokens", "2"], "a row of 2 tokens is too short"),
        (["--clock", "sun"], "unknown clock"),
        (["--rounds", "0"], "--rounds"),
        (["--warmup", "0"], "--warmup"),
    ],
)
def test_what_cannot_be_measured_is_one_message_and_changes_nothing(
    arguments, message, experiment, tmp_path, here, capsys
):
    folder = tmp_path / "o"
    assert run(["overhead", str(experiment), *arguments, "--folder", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and "fix: " in error and len(error.strip().splitlines()) <= 3
    assert not folder.exists()
