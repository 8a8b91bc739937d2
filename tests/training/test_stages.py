import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.runs import StopAt, Stopped, curves, final_hash
from yarbus.core.errors import CheckpointError, ConfigError, DataError, MismatchError, UserError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json, read_jsonl
from yarbus.training import checkpoint
from yarbus.training.folder import open_run, refuse_changes
from yarbus.training.stages import stage_seed, train, training_arguments

KEYS = {"step", "epoch", "loss", "gradient_norm", "groups", "wall_seconds", "samples_per_second", "peak_bytes"}


@pytest.fixture(scope="module")
def whole_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe trained without interruption."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def whole(whole_run: Path, recipe) -> Path:
    return train(recipe, whole_run, progress=False)


def interrupted(recipe, run: Path, stage: int, step: int) -> None:
    with pytest.raises(Stopped):
        train(recipe, run, progress=False, readers=[StopAt(stage, step)])


# Every 2 steps is a checkpoint; an epoch ends within step 4, so stage 1 is stopped in epoch 0 and in epoch 1.
@pytest.mark.parametrize(("stage", "step"), [(1, 1), (1, 3), (1, 4), (1, 5), (2, 1), (2, 3), (2, 6)])
def test_a_run_stopped_at_any_step_ends_with_the_same_weights_and_losses(whole, recipe, tmp_path, stage, step):
    run = tmp_path / "run"
    interrupted(recipe, run, stage, step)
    train(recipe, run, progress=False)
    assert curves(run) == curves(whole)
    assert final_hash(run) == final_hash(whole)


def test_a_run_stopped_three_times_ends_with_the_same_weights(whole, recipe, tmp_path):
    for stage, step in ((1, 4), (1, 5), (2, 4)):
        # a resumed run sees its own stages only: the third session resumes in stage 1 and stops in stage 2
        interrupted(recipe, tmp_path / "run", stage, step)
    train(recipe, tmp_path / "run", progress=False)
    assert curves(tmp_path / "run") == curves(whole)
    assert final_hash(tmp_path / "run") == final_hash(whole)


def test_a_named_checkpoint_is_resumed_exactly(whole, recipe, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, 2, 6)
    train(recipe, run, resume=run / "stages/instruct/checkpoints/step-000002", progress=False)
    assert final_hash(run) == final_hash(whole)
    assert curves(run) == curves(whole)


def test_stage_two_starts_exactly_from_the_result_of_stage_one(whole):
    last = checkpoint.newest(whole / "stages/align/checkpoints")
    weights = load_file(last / "weights.safetensors")
    alone = [name for name in weights if "multi_modal_projector" in name]
    assert sorted(weights) == sorted(alone)
    facts = checkpoint.verify(checkpoint.newest(whole / "stages/instruct/checkpoints")).facts
    assert len(facts["starts_from"]) == 64


def test_the_align_stage_alone_followed_by_instruct_from_its_adapter_gives_the_same_weights(whole, recipe, tmp_path):
    train(recipe, tmp_path / "align", stages=["align"], progress=False)
    start = tmp_path / "align" / "adapter"
    train(recipe, tmp_path / "rest", stages=["instruct"], start=start, progress=False)
    assert final_hash(tmp_path / "rest") == final_hash(whole)


def test_a_finished_run_is_left_as_it_is(whole, recipe, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    train(recipe, whole, readers=[StopAt(1, 1)])
    assert "already complete" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_run_without_its_adapter_finishes_without_training_again(whole, recipe, tmp_path):
    run = tmp_path / "run"
    train(recipe, run, progress=False)
    shutil.rmtree(run / "adapter")
    train(recipe, run, progress=False, readers=[StopAt(1, 1)])
    assert final_hash(run) == final_hash(whole)


def test_records_are_written_before_the_first_step(recipe, tmp_path):
    interrupted(recipe, tmp_path / "run", 1, 1)
    for name in ("recipe.yaml", "environment.json", "plan.json"):
        assert (tmp_path / "run" / name).is_file()
    written = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert written.resolved() | {"name": None} == recipe.resolved()
    plans = read_json(tmp_path / "run" / "plan.json")
    assert [plan["stage"] for plan in plans] == ["align", "instruct"]
    assert set(plans[1]["learning_rate"]) == {"vision", "vision_new", "router", "projector", "language"}


def test_a_later_stage_that_could_not_train_is_refused_before_anything_is_written(settings, tmp_path):
    del settings["stages"]["instruct"]["learning_rate"]["language"]
    with pytest.raises(ConfigError, match="stage 'instruct'.*no learning rate for group 'language'"):
        train(load_recipe(settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages.instruct.data": [{"source": "lava", "path": "x"}]}, "unknown data source 'lava'.*llava"),
        ({"stages.instruct.data.0.path": "nowhere.json"}, "stage 'instruct'.*no such data file.*nowhere.json"),
        ({"stages.instruct.data.0.images": "nowhere"}, "stage 'instruct'.*no such images folder.*nowhere"),
        ({"evaluation": ["tinyworld/raed"]}, "unknown benchmark 'tinyworld/raed'.*tinyworld/read"),
        ({"evaluation": ["file:nowhere.json"]}, "no such benchmark file.*nowhere.json"),
    ],
)
def test_what_a_later_stage_or_the_evaluation_lacks_is_told_before_anything_is_written(
    settings, tmp_path, change, told
):
    with pytest.raises(UserError, match=told):
        train(load_recipe(settings, change), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_stage_that_is_not_run_needs_no_data(settings, tmp_path):
    recipe = load_recipe(settings, {"stages.instruct.data.0.path": "nowhere.json", "stages.align.steps": 1})
    train(recipe, tmp_path / "run", stages=["align"], progress=False)
    assert (tmp_path / "run" / "adapter").is_dir()


def test_stages_train_in_the_recipes_order_however_they_are_named(whole, recipe, tmp_path):
    train(recipe, tmp_path / "run", stages=["instruct", "align"], progress=False)
    assert final_hash(tmp_path / "run") == final_hash(whole)


@pytest.mark.parametrize(
    ("stages", "told"), [([], "no stage named"), (["align", "align"], "'align' is named twice"), ([""], "no stage ''")]
)
def test_stages_that_cannot_be_meant_are_refused(recipe, tmp_path, stages, told):
    with pytest.raises(ConfigError, match=told):
        train(recipe, tmp_path / "run", stages=stages, progress=False)
    assert not (tmp_path / "run").exists()


SPARSE = {"method": "covft", "num_experts": 3, "routing": "sparse"}
CONNECTOR = {"method": "qmoe", "num_queries": 4, "width": 16, "num_layers": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("place", "method", "is_refused"),
    [
        ("vision", {"method": "covft", "num_experts": 2}, False),
        ("vision", SPARSE, False),
        ("vision", {**SPARSE, "balance_loss": 0.01}, True),
        ("vision", {**SPARSE, "z_loss": 0.01}, True),
        ("vision", {"method": "lora", "dropout": 0.0}, False),
        ("vision", {"method": "lora", "dropout": 0.1}, True),
        ("projector", CONNECTOR, True),
    ],
)
def test_micro_batch_may_change_on_resume_where_no_method_depends_on_it(settings, tmp_path, place, method, is_refused):
    """Of the stage or of one before: what ``align`` attached stays in ``instruct``."""
    settings["stages"]["align"]["train"] = {place: method}
    groups = ("vision", "vision_new", "router", "projector", "language")
    for stage in settings["stages"].values():
        stage["learning_rate"] = dict.fromkeys(groups, 1e-3)
    settings["stages"]["instruct"]["train"] = {"language": "full"}
    old, new = (load_recipe(settings, {"stages.instruct.micro_batch": size}) for size in (2, 1))
    asked = {"stages": ["align", "instruct"], "start": None}
    open_run(old, tmp_path / "run", "auto", asked["stages"], None)
    refuse_changes(old, tmp_path / "run", asked)
    if is_refused:
        with pytest.raises(ConfigError, match="settings differ.*stages.instruct.micro_batch 2 -> 1"):
            refuse_changes(new, tmp_path / "run", asked)
    else:
        refuse_changes(new, tmp_path / "run", asked)


def test_a_method_of_a_later_stage_leaves_the_micro_batch_of_an_earlier_one_free(settings, tmp_path):
    settings["stages"]["instruct"]["train"]["vision"] = {**SPARSE, "balance_loss": 0.01}
    old, new = (load_recipe(settings, {"stages.align.micro_batch": size}) for size in (2, 1))
    asked = {"stages": ["align", "instruct"], "start": None}
    open_run(old, tmp_path / "run", "auto", asked["stages"], None)
    refuse_changes(new, tmp_path / "run", asked)


@pytest.mark.parametrize("content", ["[]", "{}", '{"run": 7}', "{"])
def test_a_damaged_environment_record_is_an_error_that_names_it(recipe, tmp_path, content):
    interrupted(recipe, tmp_path / "run", 1, 3)
    (tmp_path / "run" / "environment.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"damaged record.*environment\.json"):
        train(recipe, tmp_path / "run", progress=False)


def test_a_damaged_adapter_to_start_from_is_an_error_that_names_it(recipe, tmp_path):
    (tmp_path / "adapter.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"damaged record.*adapter\.json"):
        train(recipe, tmp_path / "run", start=tmp_path, progress=False)


def test_a_stage_that_names_no_checkpoints_has_some_on_the_way(settings):
    del settings["stages"]["align"]["checkpoint_every"]
    assert load_recipe(settings).stages["align"].checkpoint_every == 100


@pytest.fixture
def varied(settings):
    """The recipe with a rate, warm-up and schedule per group, decay by block, and a part of the rows."""
    settings["stages"]["align"] |= {"fraction": 0.8}
    settings["stages"]["instruct"]["learning_rate"] |= {
        "vision": {"peak": 1e-3, "warmup_fraction": 0.5, "schedule": "linear", "block_decay": 0.5},
        "vision_new": {"peak": 1e-3, "block_decay": 0.9},
        "router": {"peak": 1e-4, "schedule": "constant"},
    }
    return load_recipe(settings)


@pytest.fixture(scope="module")
def varied_run(tmp_path_factory):
    return tmp_path_factory.mktemp("varied") / "run"


@pytest.mark.parametrize(("stage", "step"), [(1, 4), (2, 2), (2, 4), (2, 6)])
def test_groups_with_schedules_of_their_own_resume_with_the_same_weights(varied, varied_run, tmp_path, stage, step):
    whole = train(varied, varied_run, progress=False)
    interrupted(varied, tmp_path / "run", stage, step)
    train(varied, tmp_path / "run", progress=False)
    assert curves(tmp_path / "run") == curves(whole)
    assert final_hash(tmp_path / "run") == final_hash(whole)


def test_each_groups_own_rates_are_logged_and_planned(varied, varied_run):
    run = train(varied, varied_run, progress=False)
    lines = {line["step"]: line["groups"] for line in read_jsonl(run / "stages/instruct/metrics.jsonl")}
    # 7 steps; 2 of warm-up as the stage says, 4 of vision; before step 6 five are done, before step 7 six
    assert lines[6]["vision"]["learning_rate"] == pytest.approx(1e-3 * 2 / 3)
    assert lines[7]["vision"]["learning_rate"] == pytest.approx(1e-3 * 1 / 3)
    assert lines[7]["vision"]["lowest_learning_rate"] == pytest.approx(1e-3 / 3 * 0.5**2)  # block 0 of 0-2
    assert [lines[step]["router"]["learning_rate"] for step in (3, 6, 7)] == pytest.approx([1e-4] * 3)
    assert "lowest_learning_rate" not in lines[7]["router"]
    plans = {plan["stage"]: plan for plan in read_json(run / "plan.json")}
    assert plans["align"]["learning_rate"] == {"projector": 1e-2}
    assert plans["instruct"]["learning_rate"] == {
        "vision": {"peak": 1e-3, "warmup_fraction": 0.5, "schedule": "linear", "block_decay": 0.5},
        "vision_new": {"peak": 1e-3, "block_decay": 0.9},
        "router": {"peak": 1e-4, "schedule": "constant"},
        "projector": 1e-3,
        "language": 1e-3,
    }
    rows = [row for row in plans["instruct"]["rows"] if row["group"] == "vision" and row["trained"]]
    rates = {row["block"]: row["learning_rate"] for row in rows}
    assert rates == {0: 1e-3 * 0.5**2, 1: 1e-3 * 0.5, 2: 1e-3}


def test_a_decay_that_no_tensor_could_have_is_refused_before_anything_is_written(settings, tmp_path):
    settings["stages"]["align"]["learning_rate"] = {"projector": {"peak": 1e-2, "block_decay": 0.9}}
    with pytest.raises(ConfigError, match="stage 'align': block_decay 0.9 for group 'projector'"):
        train(load_recipe(settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def trained_rows(recipe, run: Path) -> tuple[set[str], int]:
    """Ids of all rows that the first stage trained on, and its steps."""
    seen: set[str] = set()
    steps = []
    look = lambda step, model, ids: (seen.update(ids), steps.append(step))  # noqa: E731
    train(recipe, run, stages=["align"], progress=False, readers=[look])
    return seen, max(steps)


def test_a_fraction_trains_on_part_of_the_rows_of_a_larger_one_for_as_small_a_part_of_the_steps(settings, tmp_path):
    found = {}
    for fraction in (0.25, 0.5, 1.0):
        change = {"stages.align.fraction": fraction, "stages.align.steps": 12}
        found[fraction] = trained_rows(load_recipe(settings, change), tmp_path / str(fraction))
    assert [steps for _, steps in found.values()] == [3, 6, 12]
    assert [len(rows) for rows, _ in found.values()] == [3, 6, 13]
    assert found[0.25][0] < found[0.5][0] < found[1.0][0]


def test_a_fraction_of_a_stage_with_epochs_shrinks_it_by_its_rows(settings, tmp_path):
    change = {"stages.align.fraction": 0.5, "stages.align.epochs": 2.0}
    rows, steps = trained_rows(load_recipe(settings, change), tmp_path / "run")
    assert (len(rows), steps) == (6, 3)


def test_a_run_whose_recipe_is_older_than_fractions_goes_on(whole, recipe, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, 1, 4)
    text = (run / "recipe.yaml").read_text()
    old = "\n".join(line for line in text.splitlines() if not line.startswith("    fraction:"))
    assert old.count("fraction:") == text.count("fraction:") - len(recipe.stages)
    (run / "recipe.yaml").write_text(old + "\n")
    train(recipe, run, progress=False)
    assert final_hash(run) == final_hash(whole)


def test_another_fraction_is_another_run(settings, recipe, tmp_path):
    interrupted(recipe, tmp_path / "run", 1, 3)
    with pytest.raises(ConfigError, match="stages.align.fraction 1.0 -> 0.5"):
        train(load_recipe(settings, {"stages.align.fraction": 0.5}), tmp_path / "run", progress=False)


def test_metrics_hold_one_line_per_logged_step_with_every_group(whole):
    assert [line["step"] for line in read_jsonl(whole / "stages/align/metrics.jsonl")] == [1, 3, 5]
    lines = read_jsonl(whole / "stages/instruct/metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 3, 6, 7]
    for line in lines:
        assert set(line) == KEYS
        assert set(line["groups"]) == {"vision", "vision_new", "router", "projector", "language"}
        assert all(set(group) == {"learning_rate", "gradient_norm"} for group in line["groups"].values())
        assert all(group["gradient_norm"] > 0 for group in line["groups"].values())
        squares = sum(group["gradient_norm"] ** 2 for group in line["groups"].values())
        assert line["gradient_norm"] == pytest.approx(squares**0.5, rel=1e-6)
        assert line["wall_seconds"] > 0 and line["samples_per_second"] > 0
    rates = [line["groups"]["router"]["learning_rate"] for line in lines]
    assert rates[0] == 0 and rates[1] == pytest.approx(1e-4)  # two steps of warm-up from nothing, then the cosine
    assert lines[-1]["groups"]["projector"]["learning_rate"] == pytest.approx(rates[-1] * 10)


def test_no_checkpoint_holds_a_pickle(whole):
    files = [file for file in whole.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".jsonl", ".safetensors", ".yaml", ".txt", ".jinja"}
    assert not any(
        file.read_bytes().startswith((b"PK", b"\x80\x02", b"\x80\x04"))
        for file in files
        if file.suffix != ".safetensors"
    )


def test_training_never_reads_or_writes_a_pickle(recipe, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle")

    monkeypatch.setattr("torch.save", refuse)
    monkeypatch.setattr("torch.load", refuse)
    interrupted(recipe, tmp_path / "run", 2, 6)
    train(recipe, tmp_path / "run", progress=False)


def test_only_the_newest_checkpoints_stay(whole):
    for stage, steps in (("align", [4, 5]), ("instruct", [6, 7])):
        names = sorted(path.name for path in (whole / "stages" / stage / "checkpoints").iterdir())
        assert names == [f"step-{step:06d}" for step in steps]


@pytest.mark.parametrize(
    ("key", "change", "told"),
    [
        (("seed",), 4, "seed 3 -> 4"),
        (("stages", "align", "batch"), 8, "stages.align.batch 4 -> 8"),
        (("stages", "instruct", "learning_rate", "router"), 0.5, "stages.instruct.learning_rate.router 0.0001 -> 0.5"),
    ],
)
def test_a_changed_setting_is_refused_with_its_old_and_new_value(settings, recipe, tmp_path, key, change, told):
    interrupted(recipe, tmp_path / "run", 1, 3)
    inner = settings
    for part in key[:-1]:
        inner = inner[part]
    inner[key[-1]] = change
    with pytest.raises(ConfigError) as error:
        train(load_recipe(settings), tmp_path / "run", progress=False)
    assert told in str(error.value)


def test_settings_that_change_no_result_may_change(settings, whole, recipe, tmp_path):
    interrupted(recipe, tmp_path / "run", 1, 3)
    settings["stages"]["align"] |= {"checkpoint_every": 3, "keep_checkpoints": 5, "num_workers": 1}
    settings["evaluation"] = []
    train(load_recipe(settings), tmp_path / "run", progress=False)
    assert final_hash(tmp_path / "run") == final_hash(whole)


def test_changed_data_is_refused(settings, data, recipe, tmp_path):
    rows = json.loads((data / "train.json").read_text())
    copy = tmp_path / "data"
    copy.mkdir()
    (copy / "train.json").write_text(json.dumps(rows))
    for stage in settings["stages"].values():
        stage["data"][0]["path"] = str(copy / "train.json")
    interrupted(load_recipe(settings), tmp_path / "run", 1, 3)
    rows[5]["conversations"][1]["value"] = "five"
    (copy / "train.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="data changed"):
        train(load_recipe(settings), tmp_path / "run", progress=False)


def test_never_refuses_a_folder_with_progress(recipe, tmp_path):
    interrupted(recipe, tmp_path / "run", 1, 3)
    with pytest.raises(ConfigError, match="holds a run already"):
        train(recipe, tmp_path / "run", resume="never", progress=False)


def test_a_file_in_the_way_is_named(recipe, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        train(recipe, tmp_path / "run", progress=False)


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(whole, recipe, tmp_path, capsys):
    run = tmp_path / "run"
    interrupted(recipe, run, 1, 5)
    newest = run / "stages/align/checkpoints/step-000004"
    damage(newest / "weights.safetensors")
    train(recipe, run, progress=False)
    assert "step-000004/weights.safetensors" in capsys.readouterr().err
    assert (newest.parent / ".bad-step-000004").is_dir()
    assert final_hash(run) == final_hash(whole)


def test_a_named_damaged_checkpoint_is_an_error_that_names_the_file(recipe, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, 1, 5)
    folder = run / "stages/align/checkpoints/step-000004"
    damage(folder / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match="optimizer.safetensors") as error:
        train(recipe, run, resume=folder, progress=False)
    assert error.value.exit_code == 74


def test_a_run_whose_only_checkpoint_is_damaged_stops_with_74(recipe, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, 1, 3)
    damage(run / "stages/align/checkpoints/step-000002/state.json")
    with pytest.raises(CheckpointError, match="state.json") as error:
        train(recipe, run, progress=False)
    assert error.value.exit_code == 74
    assert (run / "stages/align/checkpoints/step-000002").is_dir()


def test_a_checkpoint_of_another_run_is_refused(whole, recipe, tmp_path):
    run = tmp_path / "run"
    interrupted(recipe, run, 1, 3)
    foreign = whole / "stages/align/checkpoints/step-000005"
    mine = run / "stages/align/checkpoints/step-000005"
    mine.mkdir()
    for file in foreign.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
    with pytest.raises(MismatchError, match="another run"):
        train(recipe, run, progress=False)
    assert mine.is_dir()


def test_a_batch_that_the_devices_cannot_share_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="cannot be shared out.*3 device"):
        training_arguments(recipe.stages["align"], tmp_path, steps=5, seed=0, own_seed=1)


def test_a_stage_draws_the_same_wherever_it_starts():
    assert stage_seed(0, "align") == stage_seed(0, "align")
    assert len({stage_seed(seed, stage) for seed in range(3) for stage in ("align", "instruct")}) == 6


def damage(file: Path) -> None:
    """Flips one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
