# ruff: noqa: E501 - a table of command lines reads better unbroken
"""Every verb does by hand what quickstart does, prints JSON, and leaves with the right code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments import write_experiment
from yarbus.cli.app import VERBS, run
from yarbus.models.attachment import Method


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert run(["train", str(experiment), "seed=1", "--run", str(folder)]) == 0
    return folder


@pytest.fixture
def yarbus_json(capsys):
    def call(*arguments):
        assert run([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_help_imports_neither_torch_nor_transformers():
    code = "import sys; from yarbus.cli.app import run; run(['--help']); assert not {'torch','transformers'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb, capsys):
    assert run([verb, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_training_by_hand_writes_the_run_as_the_design_says(trained):
    for name in ("recipe.yaml", "environment.json", "plan.json", "adapter/adapter.safetensors"):
        assert (trained / name).is_file()
    assert (trained / "stages" / "instruct" / "metrics.jsonl").is_file()


def test_evaluate_and_report_follow_by_hand(trained, yarbus_json):
    scores = yarbus_json("evaluate", trained)
    (record,) = scores.values()
    assert record["num_replies"] == 8 and set(record["metrics"]) >= {"read", "colour"}
    table = yarbus_json("report", trained)
    assert table
    assert (trained / "report" / "index.html").is_file()


def test_a_finished_run_is_complete(trained, experiment, capsys):
    assert run(["train", str(experiment), "seed=1", "--run", str(trained)]) == 0
    assert "already complete" in capsys.readouterr().err


def test_plan_needs_no_weights_and_lists_unused_rates(experiment, yarbus_json, capsys):
    plans = yarbus_json("plan", experiment, "stages.instruct.train.vision=frozen")
    assert [plan["stage"] for plan in plans] == ["align", "instruct"]
    assert set(plans[1]["unused_learning_rate"]) == {"vision", "vision_new", "router"}
    assert run(["plan", "covft-llava-1.5-7b"]) == 0
    printed = capsys.readouterr().out
    assert "11-22   vision_new     33,574,912     33,574,912" in printed and "never reached" in printed
    words = " ".join(printed.split())  # the paper counts the norms of the last block, which no gradient reaches
    assert "parameters declared trained rate" in words and "vision 23 vision 4,096 4,096 never reached" in words
    assert "rate of" not in printed and "data:" not in printed
    assert "in all vision 98,304 94,208 in all vision_new 402,898,944 402,898,944" in words
    assert "in all router 126,010,416 118,923,312" in words
    places = ("place", "vision", "projector", "language", "in all")
    assert all(len(line) <= 100 for line in printed.splitlines() if line.startswith(places))


def test_plan_tells_each_groups_own_rate_and_how_much_of_the_data_is_used(yarbus_json, capsys):
    rate = "stages.instruct.learning_rate.vision={peak: 2.0e-5, warmup_fraction: 0.1, schedule: constant, block_decay: 0.5}"
    arguments = ["plan", "full-llava-1.5-7b", rate, "stages.instruct.fraction=0.25", "stages.instruct.steps=1000"]
    assert run(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "rate of vision: 2e-05, times 0.5 per block towards the input; constant after a warm-up of 10 %" in printed
    assert "rate of the others: cosine after a warm-up of 3 %" in printed
    assert "data: 25 % of the rows, 250 of 1,000 steps" in printed
    for place in ("vision 22 vision 12,596,224 12,596,224 12,596,224 2e-05", "12,596,224 1e-05 vision 22"):
        assert place in printed
    assert "12,596,224 12,596,224 never reached" in printed
    plan = yarbus_json(*arguments)[1]
    assert plan["learning_rate"]["vision"]["block_decay"] == 0.5 and plan["learning_rate"]["language"] == 2e-5
    rates = {row["block"]: row["learning_rate"] for row in plan["rows"] if row["group"] == "vision" and row["trained"]}
    assert rates[22] == 2e-5 and rates[0] == 2e-5 * 0.5**22 and rates[None] == 2e-5 * 0.5**23


def test_conflict_by_hand_trains_what_comes_before_and_prints_advice_and_table(experiment, tmp_path, capsys):
    folder = tmp_path / "c"
    assert run(["conflict", str(experiment), *FEW, "--folder", str(folder)]) == 0
    printed = capsys.readouterr().out
    record = json.loads((folder / "conflict.json").read_text())
    assert record["start"].startswith("after stage align")
    assert " ".join(record["advice"]["headline"].split()) in " ".join(printed.split())
    for word in ("between tasks", "ceiling", "noise corrected", "opposing", "Not measured", "Report: "):
        assert word in printed
    assert "needs --run" in printed and (folder / "report" / "index.html").is_file()


def test_conflict_prints_its_record_and_nothing_else_and_names_its_command(
    experiment, tmp_path, yarbus_json, monkeypatch
):
    arguments = ["conflict", str(experiment), *FEW, "--start", "base", "--folder", str(tmp_path / "a study")]
    monkeypatch.setattr(sys, "argv", ["yarbus", *arguments])
    record = yarbus_json(*arguments)
    assert record == json.loads((tmp_path / "a study" / "conflict.json").read_text())
    assert record["start"] == "the base model as it is" and record["gap"] is None
    assert record["command"].startswith("yarbus conflict ") and record["command"].endswith("a study'")
    assert [task["num_samples"] for task in record["grouping"]["tasks"].values()] == [4, 4]


def test_the_table_of_a_study_shows_short_runs_with_three_digits_and_null_as_a_dash():
    from io import StringIO

    from rich.console import Console

    from yarbus.report.tables import conflict_table

    nothing = {"mean": None, "low": None, "high": None}
    cosines = {"across": {"mean": 0.1, "low": None, "high": None}, "same_task": nothing, "corrected": nothing}
    line = {
        "alone": 1.0,
        "mix": 1.0123,
        "frozen": 2.0,
        "gap": {"mean": 0.0123, "low": 0.0045, "high": 0.02},
        "gain": nothing,
    }
    record = {
        "advice": {"headline": "Headline.", "sentences": ["One.", "Two."], "sureness": "Sure."},
        "gradients": {"by_block": [{"block": 0, **cosines, "opposing": 0.5}], "overall": {**cosines, "opposing": None}},
        "gap": {"steps": 10, "unit": "nats", "tasks": {"read [bold]": line}},
        "missing": [],
    }
    out = StringIO()
    Console(file=out, width=100).print(conflict_table(record))
    text = out.getvalue()
    assert "+0.012" in text and "+0.004 to +0.020" in text and "1.012" in text and "\N{EN DASH}" in text
    assert "read [bold]" in text and "50.0 %" in text and "Not measured" not in text


@pytest.mark.parametrize("kind", ["methods", "families", "towers", "benchmarks", "recipes"])
def test_lists_name_what_the_tables_hold(kind, yarbus_json, capsys):
    assert yarbus_json("list", kind)
    assert run(["list", kind]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("kind", ["families", "towers"])
def test_families_and_towers_say_what_they_are_and_how_images_lie_in_them(kind, yarbus_json, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = {row["config"]: row for row in yarbus_json("list", kind)}
    assert all(len(row["what"]) > 20 for row in rows.values())
    if kind == "families":
        assert (rows["LlavaConfig"]["images"], rows["MllamaConfig"]["images"]) == ("tokens", "cross")
        assert "llava" in {one["model"] for one in rows["LlavaConfig"]["tested"] if one["holds"] > 100}
    else:
        assert rows["CLIPVisionConfig"]["layout"] == "images tokens dim"
        assert rows["PixtralVisionConfig"]["layout"] == "total dim"
    capsys.readouterr()
    run(["list", kind])
    text = capsys.readouterr().out
    assert all(text.count(f"{name} ") == 2 for name in rows)
    if kind == "families":
        assert "[total, dim]" in " ".join(text.split())


def test_methods_take_a_line_of_facts_each_at_80_columns_and_json_keeps_all_of_them(yarbus_json, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = yarbus_json("list", "methods")
    capsys.readouterr()
    run(["list", "methods"])
    lines = capsys.readouterr().out.splitlines()
    facts, meanings = lines[1 : 1 + len(rows)], " ".join(" ".join(lines[2 + len(rows) :]).split())
    for row, line in zip(rows, facts, strict=True):
        assert line.split()[:4] == [row["place"], row["method"], row["start"], row["fidelity"]]
        assert ("all" if len(row["layouts"]) == len(Method.layouts) else row["layouts"][0]) in line
        assert line.rstrip().endswith(row["paper"][-10:])
        assert f"{row['method']} {row['what']}" in meanings
    assert {"place", "method", "paper", "start", "fidelity", "layouts", "what"} == set(rows[0])
    assert len(lines) < 3 * len(rows)


def broken_adapter(folder: Path, trained: Path) -> Path:
    import shutil

    shutil.copytree(trained, folder)
    path = folder / "adapter" / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    return folder


def broken_checkpoints(folder: Path, trained: Path) -> Path:
    """A run that was stopped before its end, every checkpoint of which has one wrong bit."""
    import shutil

    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "adapter")
    for path in folder.glob("stages/*/checkpoints/*/weights.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    return folder


def other_environment(folder: Path, trained: Path) -> Path:
    import shutil

    shutil.copytree(trained, folder)
    (folder / "environment.json").write_text("[]")
    return folder


def other_base(folder: Path, trained: Path) -> Path:
    import shutil

    import torch
    import yaml

    from tests import tiny

    shutil.copytree(trained, folder)
    model, processor = tiny.llava()
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(folder / "other")
    processor.save_pretrained(folder / "other")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["model"]["base"] = str(folder / "other")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def written(folder: Path, text: str) -> str:
    path = folder / "bad.yaml"
    path.write_text(text)
    return str(path)


def unfinished(folder: Path, trained: Path) -> Path:
    import shutil

    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "adapter")
    return folder


def earlier_study(folder: Path, recipe: Path, damaged: bool = False) -> str:
    """A folder with the record of a study of the recipe, or half of one."""
    from yarbus.core.recipe import load_recipe

    text = json.dumps({"kind": "conflict", "recipe": load_recipe(recipe).resolved()})
    (folder / "conflict.json").write_text(text[: len(text) // 2] if damaged else text)
    return str(folder)


def without_vision(folder: Path, recipe: Path) -> str:
    """The recipe whose last stage has no learning rate for the tower."""
    import yaml

    values = yaml.safe_load(recipe.read_text())
    values["stages"]["instruct"]["learning_rate"] = {"projector": 0.001, "language": 0.001}
    values["stages"]["instruct"]["train"]["vision"] = "frozen"
    values["compare"]["variants"] = {"frozen": {"seed": 0}}
    return written(folder, yaml.safe_dump(values))


FEW = ("--samples", "4", "--batch", "1")
BAD = {
    "unknown key": (lambda t, e, r: ["plan", written(t, f"extends: {e}\nmodle: 1\n")], 2, "model"),
    "unknown key by override": (lambda t, e, r: ["plan", str(e), "stages.instruct.batchh=4"], 2, "batch"),
    "duplicate key": (lambda t, e, r: ["plan", written(t, f"extends: {e}\nseed: 1\nseed: 2\n")], 2, "bad.yaml:3"),
    "rate as text": (
        lambda t, e, r: ["plan", written(t, f"extends: {e}\nstages: {{align: {{learning_rate: {{projector: 1e-4}}}}}}\n")],
        2,
        "1.0e-4",
    ),
    "wrong type": (lambda t, e, r: ["plan", str(e), "seed=abc"], 2, "seed"),
    "out of range": (lambda t, e, r: ["plan", str(e), "stages.instruct.batch=0"], 2, "batch"),
    "unknown method": (lambda t, e, r: ["plan", str(e), "stages.instruct.train.vision=covtf"], 2, "covft"),
    "unknown option": (
        lambda t, e, r: ["plan", str(e), "stages.instruct.train.vision={method: covft, num_expert: 2}"],
        2,
        "num_experts",
    ),
    "experts out of range": (
        lambda t, e, r: ["plan", str(e), "stages.instruct.train.vision={method: covft, num_experts: 0}"],
        2,
        "num_experts",
    ),
    "blocks that are not executed": (
        lambda t, e, r: ["plan", str(e), "stages.instruct.train.vision={method: covft, last_block: 3}"],
        2,
        "executes blocks 0 to 2",
    ),
    "decay without blocks": (
        lambda t, e, r: ["plan", str(e), "stages.align.learning_rate.projector.block_decay=0.9"],
        2,
        "learning_rate.projector.block_decay",
    ),
    "rate missing": (lambda t, e, r: ["plan", str(e), "stages.align.train.language=full"], 2, "learning_rate.language"),
    "unknown model": (lambda t, e, r: ["train", str(e), f"model.base={t}/nothing", "--run", f"{t}/run"], 2, "nothing"),
    "unknown recipe": (lambda t, e, r: ["plan", "tinywrld"], 2, "tinyworld"),
    "missing recipe file": (lambda t, e, r: ["plan", f"{t}/none.yaml"], 2, "none.yaml"),
    "missing data file": (
        lambda t, e, r: ["train", str(e), f"stages.align.data=[{{source: llava, path: {t}/none.json}}]", "--run", f"{t}/run"],
        65,
        "none.json",
    ),
    "unknown source": (
        lambda t, e, r: ["train", str(e), f"stages.align.data=[{{source: lava, path: {t}/x.json}}]", "--run", f"{t}/run"],
        2,
        "llava",
    ),
    "output folder is a file": (lambda t, e, r: ["train", str(e), "--run", written(t, "")], 2, "bad.yaml"),
    "other settings in a run": (lambda t, e, r: ["train", str(e), "seed=2", "--run", str(r)], 2, "seed 1 -> 2"),
    "damaged adapter": (lambda t, e, r: ["evaluate", str(broken_adapter(t / "b", r))], 74, "adapter.safetensors"),
    "damaged checkpoint": (
        lambda t, e, r: ["train", str(e), "seed=1", "--run", str(broken_checkpoints(t / "b", r))],
        74,
        "weights.safetensors",
    ),
    "record of another kind": (lambda t, e, r: ["report", str(other_environment(t / "b", r))], 74, "environment.json"),
    "record of another kind, going on": (
        lambda t, e, r: ["train", str(e), "seed=1", "--run", str(other_environment(t / "b", r))],
        74,
        "environment.json",
    ),
    "run below a file": (lambda t, e, r: ["train", str(e), "--run", f"{written(t, '')}/run"], 74, "bad.yaml/run"),
    "run where nothing can be": (lambda t, e, r: ["train", str(e), "--run", "/proc/run"], 74, "/proc/run"),
    "comparison below a file": (
        lambda t, e, r: ["quickstart", "--recipe", str(e), "--folder", f"{written(t, '')}/q"],
        74,
        "bad.yaml/q",
    ),
    "evaluation into a file": (lambda t, e, r: ["evaluate", str(r), "--output", written(t, "")], 74, "bad.yaml"),
    "report below a file": (lambda t, e, r: ["report", str(r), "--output", f"{written(t, '')}/a.html"], 74, "bad.yaml"),
    "no stage": (lambda t, e, r: ["train", str(e), "--run", f"{t}/run", "--stages", ""], 2, "align, instruct"),
    "unknown benchmark of a comparison": (
        lambda t, e, r: ["quickstart", "--folder", f"{t}/q", "--recipe", written(t, f"extends: {e}\nevaluation: [tinyworld/reed]\n")],
        2,
        "tinyworld/read",
    ),
    "another base": (lambda t, e, r: ["evaluate", str(other_base(t / "b", r))], 78, "made for"),
    "unknown benchmark": (lambda t, e, r: ["evaluate", str(r), "--benchmarks", "tinyworld/reed"], 2, "tinyworld/read"),
    "not a run": (lambda t, e, r: ["evaluate", f"{t}/no/such/run"], 2, "no/such/run"),
    "no such report": (lambda t, e, r: ["report", f"{t}/nothing"], 2, "nothing"),
    "unknown variant": (lambda t, e, r: ["quickstart", "--recipe", str(e), "--variants", "frozn", "--folder", f"{t}/q"], 2, "frozen"),
    "conflict of no recipe": (lambda t, e, r: ["conflict", "tinywrld", *FEW], 2, "tinyworld"),
    "conflict of a missing file": (lambda t, e, r: ["conflict", f"{t}/none.yaml", *FEW], 2, "none.yaml"),
    "conflict of a run": (lambda t, e, r: ["conflict", str(r), *FEW], 2, "one/recipe.yaml --run "),
    "conflict of one task": (
        lambda t, e, r: ["conflict", str(e), "stages.instruct.data.0.task=read", *FEW, "--folder", f"{t}/c"],
        65,
        "nothing to compare",
    ),
    "conflict in an unknown stage": (lambda t, e, r: ["conflict", str(e), "--stage", "instrct", *FEW], 2, "instruct"),
    "conflict of too few samples": (
        lambda t, e, r: ["conflict", str(e), "--samples", "7", "--batch", "2", "--folder", f"{t}/c"],
        2,
        "at least 8 samples",
    ),
    "conflict of a task with too few rows": (
        lambda t, e, r: ["conflict", str(e), "--samples", "8", "--batch", "2", "--folder", f"{t}/c"],
        65,
        "task 'read' has 4 rows",
    ),
    "short runs with too few rows": (
        lambda t, e, r: ["conflict", str(e), *FEW, "--steps", "2", "--folder", f"{t}/c"],
        65,
        "task 'read' has too few rows for short runs",
    ),
    "conflict with no steps": (lambda t, e, r: ["conflict", str(e), "--steps", "0"], 2, "--steps"),
    "conflict of another recipe in the folder": (
        lambda t, e, r: ["conflict", str(e), "seed=1", *FEW, "--folder", earlier_study(t, e)],
        2,
        "seed 0 -> 1",
    ),
    "damaged study in the folder": (
        lambda t, e, r: ["conflict", str(e), *FEW, "--folder", earlier_study(t, e, damaged=True)],
        74,
        "conflict.json",
    ),
    "conflict with a run that is none": (lambda t, e, r: ["conflict", str(e), *FEW, "--run", f"{t}/x"], 2, "recipe.yaml"),
    "conflict with a run that has not finished": (
        lambda t, e, r: ["conflict", str(e), *FEW, "--run", str(unfinished(t / "b", r))],
        74,
        "--resume auto",
    ),
    "conflict with a run of other data": (
        lambda t, e, r: ["conflict", str(e), f"stages.instruct.data.0.path={t}/x.json", *FEW, "--run", str(r)],
        2,
        "trained on other data",
    ),
    "conflict from no adapter": (lambda t, e, r: ["conflict", str(e), *FEW, "--start", f"{t}/x"], 2, "adapter.json"),
    "short runs without a rate for vision": (
        lambda t, e, r: ["conflict", without_vision(t, e), *FEW, "--steps", "2", "--folder", f"{t}/c"],
        2,
        "no learning rate for vision",
    ),
    "conflict into a file": (lambda t, e, r: ["conflict", str(e), *FEW, "--folder", written(t, "")], 2, "bad.yaml"),
    "conflict below a file": (
        lambda t, e, r: ["conflict", str(e), *FEW, "--start", "base", "--folder", f"{written(t, '')}/c"],
        74,
        "bad.yaml/c",
    ),
    "conflict of missing data": (
        lambda t, e, r: ["conflict", str(e), f"stages.instruct.data.0.path={t}/none.json", *FEW, "--folder", f"{t}/c"],
        65,
        "none.json",
    ),
    "conflict with an unknown setting": (lambda t, e, r: ["conflict", str(e), "stages.instruct.batchh=4", *FEW], 2, "batch"),
    "unknown verb": (lambda t, e, r: ["trian"], 2, "train"),
    "wrong option value": (lambda t, e, r: ["quickstart", "--seeds", "none"], 2, "--seeds"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_message_the_right_code_and_changes_nothing(name, experiment, trained, tmp_path, capsys):
    arguments, code, named = BAD[name]
    given = arguments(tmp_path, experiment, trained)
    there = [path for place in (trained, experiment.parent, tmp_path) for path in place.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in there}
    assert run(given) == code
    printed = capsys.readouterr()
    message = printed.err.strip()
    assert message.count("error: ") == 1 and "fix: " in message and named in message, message
    assert "Traceback" not in message
    assert len(message[message.index("error: ") :].splitlines()) <= 3
    assert {path: path.read_bytes() for path in there} == before


def test_a_cache_that_cannot_be_written_is_told(experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("YARBUS_CACHE", f"{written(tmp_path, '')}/cache")
    data = "stages.align.data=[{source: llava, path: 'tinyworld:train/train.json'}]"
    assert run(["train", str(experiment), data, "--run", str(tmp_path / "run")]) == 74
    assert "YARBUS_CACHE" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_what_the_operating_system_refuses_is_one_message(monkeypatch, capsys):
    import yarbus.core.recipe

    def full(*args):
        raise OSError(28, "No space left on device", "/full/disk")

    monkeypatch.setattr(yarbus.core.recipe, "load_recipe", full)
    assert run(["plan", "tinyworld"]) == 74
    assert "/full/disk - No space left on device; fix: " in capsys.readouterr().err
    with pytest.raises(OSError, match="No space"):
        run(["--debug", "plan", "tinyworld"])


def test_debug_shows_the_traceback(experiment):
    from yarbus.core.errors import ConfigError

    with pytest.raises(ConfigError):
        run(["--debug", "plan", str(experiment), "seed=abc"])


def test_an_interrupt_leaves_with_130_and_says_how_to_go_on(monkeypatch, capsys):
    import yarbus.core.recipe

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(yarbus.core.recipe, "load_recipe", interrupt)
    assert run(["plan", "tinyworld"]) == 130
    assert "from the last checkpoint" in capsys.readouterr().err


def test_quickstart_trains_compares_and_says_where_the_report_is(experiment, tmp_path, capsys):
    folder = tmp_path / "quick"
    arguments = ["--recipe", str(experiment), "--folder", str(folder), "--steps", "1", "--jobs", "2"]
    assert run(["quickstart", *arguments]) == 0
    out = capsys.readouterr().out
    assert "frozen, covft" in out and "Report:" in out
    assert (folder / "report" / "index.html").is_file()
    assert json.loads((folder / "comparison.json").read_text())["recipe"]["stages"]["instruct"]["steps"] == 1


def test_export_prints_the_kind_of_folder_and_who_honours_it(trained, tmp_path, yarbus_json, capsys):
    assert run(["export", str(trained), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "an ordinary Hugging Face model in bfloat16" in printed
    assert "transformers" in printed and "honours" in printed and "llama.cpp" in printed
    told = yarbus_json("export", trained, tmp_path / "again")
    assert told["kind"] == "plain" and told["url"] is None and told["dtype"] == "float32"
    assert run(["export", str(trained), str(tmp_path / "out")]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert run(["export", str(trained), str(tmp_path / "x"), "--dtype", "int4"]) == 2
    assert "no precision 'int4'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"]
