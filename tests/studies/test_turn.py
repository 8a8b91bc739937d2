"""A turn answers and trains as asked, counts all of it, and tells what memory ran out on."""

import pytest
import torch

from tests.experiments import write_experiment
from yarbus.analysis.overhead import ANSWER_PARTS, STEP_PARTS, Protocol
from yarbus.core.errors import DataError
from yarbus.core.recipe import load_recipe, variant
from yarbus.models.vlm import VLM
from yarbus.studies import turn as module
from yarbus.studies.subject import load_subject
from yarbus.studies.turn import Turn, answer, is_out_of_memory, measure, train_steps
from yarbus.training.footprint import Asked
from yarbus.training.planning import plan_recipe

FEW = Protocol(warmup=1, steps=2, answers=2, new_tokens=4)
ASKED = Asked(tokens=30, answer_tokens=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return load_recipe(write_experiment(tmp_path_factory.mktemp("experiment")))


def recipe_of(experiment, name, **stage):
    """A variant's recipe with other settings of its last stage."""
    changes = {f"stages.instruct.{key}": value for key, value in stage.items()}
    return load_recipe(variant(experiment, name).resolved(), changes)


@pytest.mark.parametrize("asked", [None, ASKED], ids=["own rows", "made up"])
def test_a_turn_counts_answers_and_steps_by_part_after_warming_up(experiment, asked):
    found = measure(Turn(recipe=recipe_of(experiment, "covft").resolved(), protocol=FEW, made_up=asked))
    beside = {"rows"} if asked is None else set()
    assert len(found["steps"]) == len(found["answers"]) == 2 and found["failed"] == {}
    assert all(set(step) == {*STEP_PARTS, *beside} for step in found["steps"])
    beside = {"processor"} if asked is None else set()
    assert all(set(one) == {*ANSWER_PARTS, *beside} for one in found["answers"])
    assert all(seconds >= 0 for one in (*found["steps"], *found["answers"]) for seconds in one.values())
    assert found["bytes"]["kept"] > 0 and set(found["bytes"]) == {"answering", "training", "kept"}
    assert found["batch"]["rows"] == 4 and found["batch"]["pixel_values"] == [4, 3, 28, 28]
    assert found["prompt"]["rows"] == 1 and found["prompt"]["pixel_values"] == [1, 3, 28, 28]
    if asked is not None:
        assert (found["batch"]["tokens"], found["batch"]["answer_tokens"], found["prompt"]["tokens"]) == (30, 4, 26)
    assert found["machine"]["packages"]["torch"] and found["device"] == {"type": "cpu", "name": ""}


def test_micro_batches_checkpointing_and_bfloat16_are_the_recipes(experiment):
    recipe = recipe_of(experiment, "covft", micro_batch=1, gradient_checkpointing=True, precision="bfloat16")
    found = measure(Turn(recipe=recipe.resolved(), protocol=FEW, made_up=ASKED))
    assert found["batch"]["micro_batches"] == 4 and found["batch"]["rows"] == 1
    assert found["prompt"]["precision"] == "bfloat16"


def test_every_answer_asks_anew_looks_once_and_decodes_as_many_tokens(experiment):
    subject = load_subject(recipe_of(experiment, "covft"), None, CPU)
    calls = {"text_encoder": 0, "tower": 0, "model": 0}
    vlm = VLM.of(subject.model)
    for name, part in (
        ("text_encoder", vlm.base_model.context_encoder.encoder),
        ("tower", vlm.vision_tower),
        ("model", subject.model),
    ):
        part.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    answer(subject, FEW)
    # Of eight rows two questions are asked; each answer hears its own for the first time.
    assert calls == {"text_encoder": 3, "tower": 3, "model": 3 * FEW.new_tokens}


def test_a_turn_trains_what_the_recipe_says_and_writes_nothing(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = load_subject(recipe_of(experiment, "covft"), None, CPU)
    before = {name: tensor.clone() for name, tensor in subject.model.named_parameters()}
    train_steps(subject, FEW)
    moved = {name for name, tensor in subject.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved and all(dict(subject.model.named_parameters())[name].requires_grad for name in moved)
    assert not list(tmp_path.iterdir())
    assert not subject.model._forward_hooks and subject.model.training


def test_more_is_kept_for_more_that_trains_as_much_as_the_plan_says(experiment):
    kept = {}
    for name in ("frozen", "covft"):
        recipe = recipe_of(experiment, name)
        planned = plan_recipe(recipe, ASKED)[-1].footprint
        kept[name] = measure(Turn(recipe=recipe.resolved(), protocol=FEW, made_up=ASKED))["bytes"]["kept"]
        assert kept[name] == pytest.approx(planned.activations + planned.logits, rel=0.01)
    assert kept["covft"] > kept["frozen"]


def test_checkpointing_keeps_less(experiment):
    plain, checkpointed = (
        measure(
            Turn(
                recipe=recipe_of(experiment, "covft", gradient_checkpointing=on).resolved(),
                protocol=FEW,
                made_up=ASKED,
            )
        )["bytes"]["kept"]
        for on in (False, True)
    )
    assert checkpointed < plain / 2


@pytest.mark.parametrize("phase", ["loading", "answering", "training"])
def test_memory_that_runs_out_is_told_and_what_was_measured_before_stands(experiment, phase, monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError("no room\nfor this")

    monkeypatch.setattr(
        module, {"loading": "load_subject", "answering": "answer", "training": "train_steps"}[phase], full
    )
    found = measure(Turn(recipe=recipe_of(experiment, "frozen").resolved(), protocol=FEW, made_up=ASKED))
    assert found["failed"] == {phase: "out of memory: no room"}
    assert ("answers" in found) == ("answering" in found["bytes"]) == (phase == "training")
    assert "steps" not in found


def test_running_out_of_memory_is_known_from_other_errors(experiment, monkeypatch):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))

    def broken(*given):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(module, "answer", broken)
    with pytest.raises(RuntimeError, match="do not fit"):
        measure(Turn(recipe=recipe_of(experiment, "frozen").resolved(), protocol=FEW, made_up=ASKED))


def test_a_forward_that_breaks_leaves_no_hook_behind(experiment):
    subject = load_subject(recipe_of(experiment, "frozen"), ASKED, CPU)

    def broken(*given):
        raise torch.OutOfMemoryError

    hook = VLM.of(subject.model).vision_tower.register_forward_pre_hook(broken)
    with pytest.raises(torch.OutOfMemoryError):
        train_steps(subject, FEW)
    hook.remove()
    assert not subject.model._forward_hooks and not subject.model._forward_pre_hooks
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def test_rows_without_pictures_cannot_tell_what_eyes_cost(experiment, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(
        '[{"id": "1", "conversations": [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "one"}]}]'
    )
    recipe = recipe_of(experiment, "frozen", data=[{"source": "llava", "path": str(rows)}])
    with pytest.raises(DataError, match="no row with a picture"):
        load_subject(recipe, None, CPU)
