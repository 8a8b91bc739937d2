"""A recipe whose model is built from parts: planned, trained, asked, resumed, loaded again, compared, taken along."""

import json

import pytest
import torch
from safetensors.torch import load_file

import yarbus
from tests.models.parts import NUM_REGISTERS, language_folder, tower_folder
from tests.studies.mixtures import done_here
from tests.training.conftest import stage
from tests.training.runs import StopAt, Stopped, curves, final_hash
from yarbus.cli.app import run as command
from yarbus.core.errors import ConfigError, MismatchError
from yarbus.core.parts import parts_of
from yarbus.core.recipe import load_recipe, write_recipe
from yarbus.core.records import read_json
from yarbus.data.collate import prompt_batch
from yarbus.data.sources import SOURCES
from yarbus.evaluation.runner import evaluate
from yarbus.models.attachment import attachment_of
from yarbus.models.load import load_base
from yarbus.models.vlm import VLM
from yarbus.studies import compare as comparing
from yarbus.studies.audit import audit_run
from yarbus.studies.export import export
from yarbus.training.footprint import Asked
from yarbus.training.planning import plan_recipe
from yarbus.training.run import load_run
from yarbus.training.stages import train

TOWERS = ("clip_whole", "dinov2_registers", "dinov2_at_another_size", "tinyworld:siglip", "tinyworld:dino")
THROUGH = ("dinov2_registers", "tinyworld:siglip", "tinyworld:dino")
"""Trained, planned, asked and audited."""
COVFT = {"method": "covft", "num_experts": 2, "context_dim": 16, "expert_jitter": 1e-2}
RATES = {"vision": 1e-3, "vision_new": 1e-3, "router": 1e-4, "projector": 1e-3, "language": 1e-3}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    language = language_folder(folder / "language")
    return {kind: {"vision_tower": tower_folder(kind, folder), "language_model": language} for kind in TOWERS}


@pytest.fixture(scope="module")
def recipe_with(text_encoder, data):
    def of(model: dict, *overrides: str, **train):
        places = train or {"vision": COVFT, "projector": "full", "language": "full"}
        values = {
            "model": model,
            "question": {"text_encoder": text_encoder},
            "stages": {
                "align": stage(data, {"projector": "full"}, {"projector": 1e-2}, steps=2),
                "instruct": stage(data, places, RATES, steps=2),
            },
            "evaluation": [f"file:{data / 'train.json'}"],
            "seed": 3,
        }
        return load_recipe(values, overrides)

    return of


@pytest.fixture(scope="module", params=THROUGH)
def trained(request, parts, recipe_with, tmp_path_factory):
    recipe = recipe_with(parts[request.param])
    return recipe, train(recipe, tmp_path_factory.mktemp("runs") / "run", progress=False)


@torch.no_grad()
def logits(loaded, data):
    model, processor = loaded
    return model.eval()(**prompt_batch(processor, SOURCES["llava"](data / "train.json", data)[:3])).logits


def test_a_run_is_loaded_again_from_its_recipe_and_from_its_adapter_alone(trained, data):
    _, run = trained
    expected = logits(load_run(run), data)
    assert torch.equal(logits(load_run(run), data), expected)
    assert torch.equal(logits(load_run(run / "adapter"), data), expected)
    assert not torch.equal(logits(load_base(load_recipe(run / "recipe.yaml").model.name), data), expected)


def test_its_adapter_names_the_base_that_it_was_made_for(trained):
    recipe, run = trained
    base = read_json(run / "adapter" / "adapter.json")["base"]
    assert parts_of(base["name"]) == recipe.model.parts
    model, _ = load_base(base["name"])
    yarbus.attach(model, None, language="full")
    assert attachment_of(model).base_fingerprint == base["fingerprint"]


def test_the_plan_counts_what_the_model_has(trained):
    recipe, run = trained
    plans = plan_recipe(recipe, Asked(tokens=64))
    model, _ = load_run(run)
    assert [one.stage for one in plans] == ["align", "instruct"]
    assert all(one.footprint is not None for one in plans), [one.not_estimated for one in plans]
    held = sum(p.numel() for n, p in model.named_parameters() if "context_encoder" not in n)
    assert plans[1].plan.total("parameters") == held
    assert read_json(run / "plan.json")[0]["base"] == recipe.model.title


def test_a_plan_with_the_whole_architecture_reads_nothing_else(trained):
    recipe, _ = trained
    model, _ = load_base(recipe.model.name)
    whole = json.loads(model.config.to_json_string())
    named = {"vision_tower": "nobody/eyes", "language_model": "nobody/words", "config": whole}
    alone = load_recipe({**recipe.resolved(), "model": named})
    told = [[one.plan.total("parameters"), one.footprint] for one in plan_recipe(alone, Asked(tokens=64))]
    assert told == [[one.plan.total("parameters"), one.footprint] for one in plan_recipe(recipe, Asked(tokens=64))]


def test_it_is_evaluated(trained, tmp_path):
    recipe, run = trained
    scores = evaluate(*load_run(run), recipe.evaluation, tmp_path, progress=False)
    assert [one["num_errors"] for one in scores.values()] == [0]


def test_it_passes_the_audit(trained):
    found = audit_run(trained[1])
    assert found.passed, str(found)


def test_registers_are_dropped_in_training_and_after_it(parts, recipe_with, data, tmp_path):
    run = train(recipe_with(parts["dinov2_registers"]), tmp_path / "run", progress=False)
    model, processor = load_run(run)
    assert model.config.dropped_registers == NUM_REGISTERS
    assert VLM.of(model).image_tokens == 4 and processor.num_additional_image_tokens == 1
    yarbus.save(model, processor, tmp_path / "full")
    assert torch.equal(logits(yarbus.load(tmp_path / "full"), data), logits((model, processor), data))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(parts, recipe_with, tmp_path):
    recipe = recipe_with(parts["tinyworld:dino"])
    train(recipe, tmp_path / "whole", progress=False)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", progress=False, readers=[StopAt(2, 2)])
    train(recipe, tmp_path / "run", progress=False)
    assert curves(tmp_path / "run") == curves(tmp_path / "whole")
    assert final_hash(tmp_path / "run") == final_hash(tmp_path / "whole")


def test_the_first_stage_has_to_train_the_projector(parts, recipe_with, tmp_path):
    model = parts["clip_whole"]
    values = recipe_with(model, language="full").resolved()
    no_projector = load_recipe({**values, "stages": {"align": values["stages"]["instruct"]}})
    for refuses in (plan_recipe, lambda one: train(one, tmp_path / "run", progress=False)):
        with pytest.raises(ConfigError, match=r"stage 'align' does not train the projector - .*projector: full"):
            refuses(no_projector)
    frozen = recipe_with(model, vision={"method": "full"}, projector="frozen")
    with pytest.raises(ConfigError, match="stage 'instruct' does not train the projector"):
        train(frozen, tmp_path / "run", stages=["instruct"], progress=False)
    assert not (tmp_path / "run").exists()
    assert [one.stage for one in plan_recipe(frozen)] == ["align", "instruct"]


def test_a_later_stage_may_leave_the_projector_and_begin_from_an_adapter(parts, recipe_with, data, tmp_path):
    recipe = recipe_with(parts["clip_whole"], vision={"method": "full"})
    train(recipe, tmp_path / "align", stages=["align"], progress=False)
    values = recipe.resolved()
    alone = load_recipe({**values, "seed": 8, "stages": {"instruct": values["stages"]["instruct"]}})
    run = train(alone, tmp_path / "rest", start=tmp_path / "align" / "adapter", progress=False)
    assert logits(load_run(run), data).isfinite().all()


def test_an_adapter_of_other_first_weights_is_refused(parts, recipe_with, tmp_path):
    model = parts["clip_whole"]
    run = train(recipe_with(model), tmp_path / "run", stages=["align"], progress=False)
    other = recipe_with(model, "model.seed=4")
    with pytest.raises(MismatchError, match="adapter of another base"):
        train(other, tmp_path / "other", stages=["instruct"], start=run / "adapter", progress=False)


@pytest.fixture
def without_processes(monkeypatch):
    monkeypatch.setattr(comparing, "work_off", done_here)


@pytest.mark.usefixtures("without_processes")
def test_variants_and_seeds_of_a_comparison_begin_from_one_base(parts, recipe_with, tmp_path):
    recipe = recipe_with(parts["clip_whole"], "evaluation=[]")
    variants = {"frozen": {"stages.instruct.train.vision": "frozen"}, "full": {"stages.instruct.train.vision": "full"}}
    folder = yarbus.compare(recipe, variants, seeds=2, folder=tmp_path / "comparison", jobs=1, progress=False)
    adapters = [read_json(path)["base"] for path in folder.glob("*/adapter/adapter.json")]
    assert len(adapters) == 5 and all(base == adapters[0] for base in adapters)
    yarbus.compare(recipe, variants, seeds=2, folder=folder, jobs=1, progress=False)  # nothing of it is another's


@pytest.mark.usefixtures("without_processes")
def test_towers_can_be_compared(parts, recipe_with, tmp_path):
    values = recipe_with(parts["tinyworld:siglip"], "evaluation=[]").resolved()
    variants = {"siglip": {}, "dino": {"model.vision_tower": "tinyworld:dino"}}
    recipe = load_recipe({**values, "compare": {"variants": variants, "differs": ["model.vision_tower"]}})
    folder = yarbus.compare(recipe, folder=tmp_path / "comparison", jobs=1, progress=False)
    assert {path.name for path in folder.glob("*-seed3")} == {"siglip-seed3", "dino-seed3"}
    assert len(list(folder.glob("align-*"))) == 2


def test_it_can_be_blended_with_its_base_and_exported(parts, recipe_with, data, tmp_path):
    recipe = recipe_with(parts["clip_whole"], vision={"method": "full"}, projector="full")
    run = train(recipe, tmp_path / "run", progress=False)
    yarbus.save(*load_base(recipe.model.name), tmp_path / "base")
    yarbus.interpolate(tmp_path / "base", run, 0.5, out=tmp_path / "blend")
    blend = load_file(tmp_path / "blend" / "adapter.safetensors")
    own = load_file(run / "adapter" / "adapter.safetensors")
    start = load_base(recipe.model.name)[0].state_dict()
    for name, tensor in blend.items():
        torch.testing.assert_close(tensor, (start[name] + own[name]) / 2)
    with pytest.raises(ConfigError, match=r"a base from parts is in no folder.*yarbus\.save"):
        yarbus.interpolate(recipe.model.name, run, 0.5, out=tmp_path / "other")
    written = export(run, tmp_path / "plain")
    assert written.is_plain
    assert torch.equal(logits(load_base(str(tmp_path / "plain")), data), logits(load_run(run), data))
    assert json.loads(written.base)["vision_tower"] == parts["clip_whole"]["vision_tower"]


def test_the_command_line_plans_and_trains_it(parts, recipe_with, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_recipe(recipe_with(parts["tinyworld:dino"]), tmp_path / "mine.yaml")
    assert command(["plan", "mine.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["base"].startswith("tinyworld:dino + ")
    assert command(["train", "mine.yaml", "--run", "run", "model.vision_tower=tinyworld:siglip"]) == 0
    assert load_recipe("run/recipe.yaml").model.vision_tower == "tinyworld:siglip"
    assert command(["train", "mine.yaml", "--run", "run"]) == 2
    assert "model.vision_tower tinyworld:siglip -> tinyworld:dino" in capsys.readouterr().err
