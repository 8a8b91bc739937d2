"""``yarbus compare`` from its command line to its table."""

import json
import shlex
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.experiments import write_experiment
from tests.studies.mixtures import done_here
from yarbus.cli.app import run
from yarbus.core.records import read_json
from yarbus.studies import compare as comparing


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture
def here(monkeypatch):
    """Runs are done in this process: a worker would spend seconds on imports."""
    monkeypatch.setattr(comparing, "work_off", done_here)


def test_methods_with_options_are_trained_compared_and_shown(experiment, tmp_path, here, capsys, monkeypatch):
    folder = tmp_path / "c"
    vision = "frozen,full,covft[merged,num_experts=2,context_dim=16]"
    arguments = ["compare", str(experiment), "stages.instruct.steps=4", "--vision", vision, "--folder", str(folder)]
    monkeypatch.setattr(sys, "argv", ["yarbus", *arguments, "--seeds", "2"])
    assert run(sys.argv[1:]) == 0
    printed = capsys.readouterr().out
    name = "covft-merged-num_experts-2-context_dim-16"
    assert f"tiny: frozen, full, {name}; 6 runs, in" in printed and "Report: " in printed
    for word in ("minus", "trained", "step", "p 1.000", "shared"):
        assert word in printed
    record = read_json(folder / "comparison.json")
    assert record["variants"] == ["frozen", "full", name] and record["seeds"] == [0, 1]
    assert record["command"] == shlex.join(sys.argv)
    assert (folder / f"{name}-seed1" / "adapter").is_dir() and not list(folder.rglob("analysis"))

    assert run([*arguments, "--seeds", "2", "--json"]) == 0  # nothing is repeated
    found = json.loads(capsys.readouterr().out)
    assert found == read_json(folder / "comparison.json") and found["results"]["headline"]


def test_variants_of_the_recipe_are_all_compared_or_those_named(experiment, tmp_path, here, capsys):
    for arguments, names in (([], ["frozen", "covft"]), (["--variants", "covft"], ["covft"])):
        folder = tmp_path / str(len(names))
        assert run(["compare", str(experiment), *arguments, "--folder", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["variants"] == names


def test_places_are_combined_and_runs_looked_into_where_asked_for(experiment, tmp_path, here, capsys):
    arguments = ["--vision", "frozen", "--language", "frozen,full", "--diagnose", "--folder", str(tmp_path / "c")]
    assert run(["compare", str(experiment), *arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["variants"] == ["frozen+frozen", "frozen+full"]
    assert {one["reference"] for one in record["results"]["differences"]} == {"frozen+frozen"}
    assert (tmp_path / "c" / "frozen+full-seed0" / "analysis" / "index.json").is_file()


def test_projectors_are_compared_from_the_align_stage_that_each_needs(experiment, tmp_path, here, capsys):
    names = ["frozen", "full", "qmoe-num_queries-2-width-16-num_layers-1-num_heads-2"]
    arguments = ["--projector", "frozen,full,qmoe[num_queries=2,width=16,num_layers=1,num_heads=2]"]
    assert run(["compare", str(experiment), *arguments, "--folder", str(tmp_path / "c"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variants"] == names
    starts = [read_json(tmp_path / "c" / f"{name}-seed0" / "environment.json")["start"] for name in names]
    assert starts[0] == starts[1] != starts[2] and len(list((tmp_path / "c").glob("align-*"))) == 2
    frozen, align = (
        load_file(folder / "adapter" / "adapter.safetensors")
        for folder in (tmp_path / "c" / "frozen-seed0", *(
            path for path in (tmp_path / "c").glob("align-*")
            if read_json(path / "adapter" / "adapter.json")["sha256"] == starts[0]
        ))
    )  # fmt: skip
    projector = [name for name in align if "projector" in name]
    assert projector and all(torch.equal(frozen[name], align[name]) for name in projector)


def test_a_recipe_without_variants_is_told_what_to_name(experiment, tmp_path, capsys):
    values = yaml.safe_load(experiment.read_text())
    del values["compare"]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
    assert run(["compare", str(tmp_path / "my.yaml"), "--folder", str(tmp_path / "c")]) == 2
    printed = capsys.readouterr()
    assert "runs" not in printed.out and "--vision frozen,full" in printed.err and "compare.variants" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vision", "covtf"], "unknown vision method or variant 'covtf'"),
        (["--vision", "full", "--variants", "covft"], "--variants and --vision are both given"),
        (["--variants", "frozn"], "unknown variant 'frozn'"),
        (["compare.variants.frozen.stages.instruct.steps=9"], "variants differ in stages.instruct.steps"),
        (["--seeds", "0"], "--seeds"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_what_cannot_be_compared_is_one_message_and_changes_nothing(arguments, message, experiment, tmp_path, capsys):
    folder = tmp_path / "c"
    assert run(["compare", str(experiment), *arguments, "--folder", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and "fix: " in error and len(error.strip().splitlines()) <= 3
    assert not folder.exists()
