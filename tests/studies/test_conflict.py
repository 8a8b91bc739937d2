"""A conflict study measures what it says, tells what would stop it before any work, and goes on where it stopped."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import yarbus
from tests.studies.mixtures import TASKS, done_here, rows_of, write_mixture
from yarbus.core.errors import CheckpointError, ConfigError, DataError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json
from yarbus.data.collate import Collator
from yarbus.data.grouping import group_samples
from yarbus.data.mixture import read_mixture
from yarbus.models.load import load_base
from yarbus.models.vlm import VLM
from yarbus.studies import conflict as module
from yarbus.studies import diagnose as diagnosing
from yarbus.studies.measuring import picture_of
from yarbus.studies.probes import plan_probes
from yarbus.training.run import load_run

SMALL = {"samples": 8, "batch": 2, "jobs": 1, "progress": False}
COVFT = {"method": "covft", "num_experts": 2, "context_dim": 16, "expert_jitter": 1e-2}


RATES = {f"stages.align.learning_rate.{group}": 1e-3 for group in ("vision_new", "router")}


@pytest.fixture(scope="module", autouse=True)
def here():
    """Runs are done in this process: a worker would spend seconds on imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "work_off", done_here)
        yield


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_mixture(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def study(experiment, tmp_path_factory):
    """Gradients and short runs after ``align``."""
    return yarbus.conflict(experiment, steps=4, folder=tmp_path_factory.mktemp("conflicts") / "tiny", **SMALL)


@pytest.fixture(scope="module")
def record(study):
    return read_json(study / "conflict.json")


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be trained, and no gradient taken."""

    def begun(*arguments, **options):
        raise AssertionError("work was begun")

    monkeypatch.setattr(module, "work_off", begun)
    monkeypatch.setattr(module, "_gradients", begun)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_record_holds_its_parts_and_the_page_is_drawn_from_it(record, study):
    assert (record["kind"], record["name"], record["stage"], record["seed"]) == ("conflict", "tiny", "instruct", 0)
    assert record["start"].startswith("after stage align (align-")
    assert record["grouping"]["by"] == "task"
    assert list(record["grouping"]["tasks"]) == list(TASKS)
    for facts in record["grouping"]["tasks"].values():
        assert (facts["num_rows"], facts["num_samples"]) == (100, 8) and facts["examples"]
    gradients = record["gradients"]
    assert (gradients["num_batches"], gradients["batch"], gradients["blocks"]) == (8, 2, [0, 1, 2])
    assert [line["block"] for line in gradients["by_block"]] == [0, 1, 2]
    assert record["run"] is None and record["command"].startswith("yarbus.conflict('tiny'")
    assert [line.split(":")[0] for line in record["missing"]] == [
        "contexts", "routing", "gaze", "swapped questions", "gradient agreement in training",
    ]  # fmt: skip
    assert all("--run" in line for line in record["missing"])
    assert record["advice"]["headline"] in (study / "report" / "index.html").read_text()
    json.dumps(record, allow_nan=False)


def test_gradients_are_those_of_the_model_as_the_stage_begins(experiment, study, record):
    (align,) = study.glob("align-*")
    model, processor = load_run(align)
    model.train()
    recipe = load_recipe(experiment)
    rows = read_mixture(recipe.stages["instruct"].data)
    chosen = module._chosen(rows, group_samples(rows), 8, 2, recipe.seed)
    collate = Collator(processor)
    block = VLM.of(model.eval()).executed_blocks(0)[1]
    model.requires_grad_(False)
    block.requires_grad_(True)
    vectors = []
    for some in chosen.values():
        for start in range(0, 8, 2):
            model.zero_grad()
            batch = collate([(row, 0, place) for place, row in enumerate(some[start : start + 2], start)])
            batch.pop("sample_ids")
            model(**batch).loss.backward()
            vectors.append(torch.cat([parameter.grad.flatten() for parameter in block.parameters()]).numpy())
    gram = np.array(vectors) @ np.array(vectors).T
    found = record["gradients"]["by_block"][1]
    assert found["opposing"] == pytest.approx((gram[:4, 4:] < 0).mean())
    squares = [np.mean([gram[i, j] for i in part for j in part if i != j]) for part in (range(4), range(4, 8))]
    if min(squares) > 0:
        corrected = gram[:4, 4:].mean() / np.sqrt(squares[0] * squares[1])
        assert found["corrected"]["mean"] == pytest.approx(np.clip(corrected, -1, 1), rel=1e-3)


def planned(experiment, study):
    recipe = load_recipe(experiment)
    grouping = group_samples(read_mixture(recipe.stages["instruct"].data))
    (align,) = study.glob("align-*")
    return plan_probes(recipe, "instruct", grouping, 4, study, align / "adapter"), align


def test_short_runs_all_began_from_the_same_adapter_and_ran_to_their_length(experiment, study):
    plan, align = planned(experiment, study)
    start = read_json(align / "adapter" / "adapter.json")["sha256"]
    assert len(plan.runs) == 8
    for probe in plan.runs:
        assert probe.work.is_trained()
        assert read_json(probe.work.run / "environment.json")["start"] == start
        line = (probe.work.run / "stages" / "instruct" / "metrics.jsonl").read_text().splitlines()[-1]
        assert json.loads(line)["step"] == (2 if probe.task else 4)


def test_the_gap_is_that_of_losses_taken_row_by_row(experiment, study, record):
    plan, _ = planned(experiment, study)

    def losses(probe, task):
        model, processor = load_run(probe.work.run)
        collate, found = Collator(processor), []
        with torch.no_grad():
            for place, row in enumerate(plan.held_out[task]):
                batch = collate([(row, 0, place)])
                batch.pop("sample_ids")
                found.append(model.eval()(**batch).loss.item())
        return np.array(found)

    def of(kind, task):
        some = [probe for probe in plan.runs if probe.kind == kind and probe.task in (None, task)]
        assert len(some) == 2
        return np.array([losses(probe, task) for probe in some])

    line, task = record["gap"]["tasks"]["colour"], "colour"
    alone, mix, frozen = (of(kind, task) for kind in ("only", "mix", "frozen"))
    assert line["num_rows"] == 10
    for key, value in (("alone", alone), ("mix", mix), ("frozen", frozen)):
        assert line[key] == pytest.approx(value.mean(), rel=1e-3)
    assert line["gap"]["mean"] == pytest.approx((mix - alone).mean(), abs=1e-4)
    assert line["gain"]["mean"] == pytest.approx((frozen - mix).mean(), abs=1e-4)
    assert len({picture_of(row) for row in plan.held_out[task]}) >= 5
    assert line["gap"]["low"] <= line["gap"]["mean"] <= line["gap"]["high"]
    assert record["gap"]["steps"] == 4 and record["gap"]["seeds"] == 2


def test_weight_changes_are_counted_from_where_the_runs_began_not_from_the_base(experiment, study, record):
    _, align = planned(experiment, study)
    before = load_file(align / "adapter" / "adapter.safetensors")
    base = dict(load_base(load_recipe(experiment).model.base)[0].named_parameters())
    names = sorted(name for name in before if "vision" in name and ".layers.0." in name)
    assert names and any((before[name] - base[name]).norm() > 0.5 for name in names)

    def delta(run):
        after = load_file(study / "probes" / run / "adapter" / "adapter.safetensors")
        return torch.cat([(after[name] - before[name]).flatten() for name in names])

    pairs = [("only-read-seed0", "only-colour-seed1"), ("only-read-seed1", "only-colour-seed0")]
    found = record["drift"]["across"][0]
    across = [torch.cosine_similarity(delta(one), delta(other), dim=0).item() for one, other in pairs]
    assert found["cosine"]["mean"] == pytest.approx(np.mean(across), abs=1e-3)
    distance = [(delta(one) - delta(other)).norm().item() for one, other in pairs]
    assert found["l2"] == pytest.approx(np.mean(distance), rel=1e-3)


def test_an_interrupted_study_goes_on_and_repeats_no_finished_run(experiment, study, record, tmp_path, monkeypatch):
    folder, left = tmp_path / "c", [1]
    shutil.copytree(study, folder)
    (folder / "conflict.json").unlink()
    for run in ("frozen-seed1", "only-colour-seed0"):
        shutil.rmtree(folder / "probes" / run)

    def stopping(works, *rest):
        for work in works:
            if work.is_finished():
                continue
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            done_here([work], *rest)

    monkeypatch.setattr(module, "work_off", stopping)
    with pytest.raises(KeyboardInterrupt):
        yarbus.conflict(experiment, steps=4, folder=folder, **SMALL)
    assert not (folder / "conflict.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in folder.rglob("adapter.safetensors")}
    assert len(finished) == 8
    left[0] = 1
    yarbus.conflict(experiment, steps=4, folder=folder, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    again = read_json(folder / "conflict.json")
    for key in ("gradients", "gap", "drift", "grouping"):
        assert again[key] == record[key], key


def test_a_second_call_repeats_no_run_and_gives_the_same_record(experiment, study, record, monkeypatch):
    def begun(works, *rest):
        assert all(work.is_finished() for work in works)

    monkeypatch.setattr(module, "work_off", begun)
    yarbus.conflict(experiment, steps=4, folder=study, **SMALL)
    assert read_json(study / "conflict.json") == record


@pytest.mark.parametrize("start", ["base", "adapter"])
def test_it_may_begin_from_the_base_or_an_adapter_without_training_anything(
    start, experiment, study, record, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "work_off", None)
    (align,) = study.glob("align-*")
    given = "base" if start == "base" else align / "adapter"
    folder = yarbus.conflict(experiment, start=given, folder=tmp_path / "c", **SMALL)
    found = read_json(folder / "conflict.json")
    assert (found["gradients"] == record["gradients"]) == (start == "adapter")
    assert found["start"] == ("the base model as it is" if start == "base" else str(given))
    assert found["drift"] is None and found["gap"] is None and "need --steps" in found["missing"][0]
    assert "gap" not in found["advice"]["headline"] and found["advice"]["sureness"].startswith("A lead")


def test_the_model_does_not_change_by_being_looked_at(experiment, tmp_path):
    before = contents(experiment.parent)
    yarbus.conflict(experiment, start="base", folder=tmp_path / "c", **SMALL)
    assert contents(experiment.parent) == before
    assert load_base(load_recipe(experiment).model.base)[0] is not None


def test_smaller_tasks_give_fewer_whole_batches(experiment, tmp_path):
    pictures = experiment.parent / "pictures"
    (pictures / "odd.json").write_text(json.dumps(rows_of("read", 40) + rows_of("colour", 9)))
    recipe = load_recipe(experiment, {"stages.instruct.data.0.path": str(pictures / "odd.json")})
    folder = yarbus.conflict(recipe, start="base", folder=tmp_path / "c", **{**SMALL, "samples": 24})
    found = read_json(folder / "conflict.json")
    assert [task["num_samples"] for task in found["grouping"]["tasks"].values()] == [24, 8]
    assert found["gradients"]["num_batches"] == 16
    assert [line["share"] for line in found["gradients"]["by_task"]] == pytest.approx([40 / 49, 9 / 49])


def refused(error, message, experiment, folder, **arguments):
    """The call is refused with that message, and nothing in the folder or the experiment changes."""
    before = contents(experiment.parent) | contents(folder)
    there = folder.exists()
    with pytest.raises(error, match=message):
        yarbus.conflict(**{"recipe": experiment, "folder": folder, **SMALL, **arguments})
    assert contents(experiment.parent) | contents(folder) == before and folder.exists() == there


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stage": "instrct"}, ConfigError, "unknown stage 'instrct'; fix: use one of: instruct"),
        ({"samples": 7}, ConfigError, "7 samples per task in batches of 2.*at least 8"),
        ({"batch": 0}, ConfigError, "batches of 0"),
        ({"steps": 0}, ConfigError, "steps is 0"),
        ({"start": "nowhere"}, ConfigError, "not an adapter: nowhere"),
        ({"run": "nowhere"}, ConfigError, "not a run: nowhere"),
        ({"samples": 512, "batch": 64}, DataError, "task 'read' has 100 rows.*4 batches of 64.*batches of 25"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(arguments, error, message, experiment, tmp_path, no_work):
    refused(error, message, experiment, tmp_path / "c", **arguments)


@pytest.mark.parametrize(
    ("change", "steps", "error", "message"),
    [
        ({"stages.instruct.data.0.task": "read"}, None, DataError, "nothing to compare"),
        ({"stages.instruct.data.0.path": "gone.json"}, None, DataError, "gone.json"),
        ({"stages.instruct.data.0.source": "lava"}, None, ConfigError, "llava"),
        ({"stages.align.train.vision": COVFT, **RATES}, 4, ConfigError, "holds 'covft' already"),
    ],
)
def test_a_recipe_that_cannot_be_measured_is_refused_before_any_work(
    change, steps, error, message, experiment, tmp_path, no_work
):
    refused(error, message, experiment, tmp_path / "c", recipe=load_recipe(experiment, change), steps=steps)


def test_another_study_in_the_folder_is_refused_and_its_record_kept(experiment, study, no_work):
    other = load_recipe(experiment, {"seed": 5})
    refused(ConfigError, "study of another recipe.*seed 0 -> 5.*another folder", experiment, study, recipe=other)


def test_short_runs_of_another_length_are_never_taken_for_these(experiment, study, no_work):
    refused(ConfigError, r"steps .*4 -> 6.*another folder", experiment, study, steps=6)


def test_short_runs_from_another_start_are_never_taken_for_these(experiment, study, no_work):
    refused(ConfigError, r"run\.start .* -> None", experiment, study, steps=4, start="base")


def test_runs_that_a_stopped_study_left_are_checked_without_its_record(experiment, study, tmp_path, no_work):
    shutil.copytree(study, tmp_path / "c")
    (tmp_path / "c" / "conflict.json").unlink()
    refused(ConfigError, "4 -> 6", experiment, tmp_path / "c", steps=6)


def test_a_comparison_of_another_recipe_is_no_place_for_a_study(experiment, tmp_path, no_work):
    folder = tmp_path / "c"
    folder.mkdir()
    other = load_recipe(experiment, {"stages.instruct.batch": 2}).resolved()
    (folder / "comparison.json").write_text(json.dumps({"recipe": other}))
    refused(ConfigError, "comparison of another recipe is in this folder.*batch 2 -> 4", experiment, folder)
    (folder / "comparison.json").write_text("{}")
    refused(CheckpointError, "holds no 'recipe'", experiment, folder)


def test_a_file_is_no_folder(experiment, tmp_path, no_work):
    (tmp_path / "c").write_text("")
    with pytest.raises(ConfigError, match="the folder is a file"):
        yarbus.conflict(experiment, folder=tmp_path / "c", **SMALL)


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    """A run of the recipe with a router, from the base."""
    from yarbus.training.stages import train

    change = {"stages.align.train.vision": "frozen", "stages.instruct.train.vision": COVFT}
    recipe = load_recipe(experiment, change)
    return train(recipe, tmp_path_factory.mktemp("runs") / "covft", stages=["instruct"], progress=False)


def test_a_trained_run_adds_what_only_it_can_show(experiment, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosing, "diagnose", partial(diagnosing.diagnose, samples=16, questions=2))
    folder = yarbus.conflict(experiment, start="base", run=trained, folder=tmp_path / "c", **SMALL)
    found = read_json(folder / "conflict.json")
    assert found["run"] == str(trained)
    assert {path.stem for path in (trained / "analysis").glob("*.json")} >= {"contexts", "routing", "gaze", "swapped"}
    assert [line.split(":")[0] for line in found["missing"]] == [
        "weight changes and what sharing costs", "agreement",
    ]  # fmt: skip
    assert any("Told the question of another task" in line for line in found["advice"]["sentences"])
    assert "Swapped questions" in (folder / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("unfinished", CheckpointError, "the run has not finished"),
        ("base", ConfigError, "trained on another base.*elsewhere there"),
        ("data", ConfigError, r"trained on other data.*other\.json there.*recipe\.yaml"),
    ],
)
def test_a_run_that_does_not_belong_is_refused_before_any_work(
    change, error, message, experiment, trained, tmp_path, no_work
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    text = (run / "recipe.yaml").read_text()
    if change == "unfinished":
        shutil.rmtree(run / "adapter")
    elif change == "base":
        text = text.replace(f"base: {load_recipe(experiment).model.base}", "base: elsewhere")
    else:
        text = text.replace("rows.json", "other.json")
    (run / "recipe.yaml").write_text(text)
    refused(error, message, experiment, tmp_path / "c", run=run)


def test_short_runs_of_an_earlier_call_stay_in_the_record(experiment, study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "tiny")
    before = read_json(folder / "conflict.json")
    after = read_json(yarbus.conflict(experiment, folder=folder, **SMALL) / "conflict.json")
    assert after["gap"] == before["gap"] and after["drift"] == before["drift"]
    assert not any("need --steps" in line for line in after["missing"])
    assert len(before["gap"]["tasks"][TASKS[0]]["gap_by_seed"]) == before["gap"]["seeds"] == 2


def test_one_seed_has_no_control(experiment, tmp_path, no_work):
    with pytest.raises(ConfigError, match="seeds is 1"):
        yarbus.conflict(experiment, steps=4, seeds=1, folder=tmp_path / "one", **SMALL)
