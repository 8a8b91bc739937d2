"""The guards, on a tiny Llava whose projector and language model train."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from tests import tiny
from yarbus.core.errors import CheckpointError, ConfigError, MismatchError, NonFiniteError
from yarbus.core.records import read_json, write_json
from yarbus.core.sections import GroupRate
from yarbus.data.collate import Collator
from yarbus.data.sample import Sample, Turn
from yarbus.data.sources.llava import read_llava
from yarbus.methods.assemble import build_all
from yarbus.models.attach import set_stage
from yarbus.models.attachment import adapter_tensors, parameter_groups
from yarbus.models.vlm import TOWERS
from yarbus.training import checkpoint
from yarbus.training.facts import tensors_hash
from yarbus.training.trainer import KEEPS_BY_MASK, GuardedTrainer, supervised_positions
from yarbus.training.update import Reader

RATES = {"projector": 1e-2, "language": 1e-3}


@pytest.fixture
def samples(data: Path) -> list[Sample]:
    return read_llava(data / "train.json", data)


@pytest.fixture
def parts():
    model, processor = tiny.llava()
    return set_stage(model, processor, build_all({"projector": "full", "language": "full"}))


def trainer_of(parts, samples, folder: Path, readers: list[Reader] = (), rates=RATES, **settings) -> GuardedTrainer:
    model, processor = parts
    defaults = {
        "max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "save_strategy": "no",
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False,
        "logging_steps": 1, "max_grad_norm": 1e-3, "lr_scheduler_type": "constant",
    }  # fmt: skip
    trainer = GuardedTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **defaults | settings),
        train_dataset=samples,
        data_collator=Collator(processor),
        learning_rates=rates,
        readers=readers,
        run="me",
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def batch_of(parts, samples: list[Sample]) -> dict:
    batch = Collator(parts[1])([(sample, 0, row) for row, sample in enumerate(samples)])
    return {name: value for name, value in batch.items() if name != "sample_ids"}


def full_logits_loss(model: nn.Module, batch: dict) -> torch.Tensor:
    """Cross-entropy as one writes it down: all logits, then the mean over the answer tokens."""
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    labels = batch["labels"]
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


# ---- loss ----


@pytest.mark.parametrize("by_mask", [True, False])
def test_the_loss_on_answer_positions_equals_the_full_logits_loss(parts, samples, tmp_path, monkeypatch, by_mask):
    if by_mask and not KEEPS_BY_MASK:
        pytest.skip("this transformers takes no mask")
    monkeypatch.setattr("yarbus.training.trainer.KEEPS_BY_MASK", by_mask)
    trainer, batch = trainer_of(parts, samples, tmp_path), batch_of(parts, samples[:4])
    kept = []
    parts[0].lm_head.register_forward_pre_hook(lambda module, args: kept.append(args[0].shape))
    loss = trainer.compute_loss(parts[0], dict(batch))
    assert math.prod(kept[0][:-1]) < batch["labels"].numel() / 2
    torch.testing.assert_close(loss, full_logits_loss(parts[0], batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("by_mask", [True, False])
def test_kept_positions_are_those_before_an_answer_token(by_mask):
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, -100, -100]])
    keep, shifted = supervised_positions(labels, by_mask=by_mask)
    if by_mask:
        assert keep.tolist() == [[False, True, True, False], [True, False, False, False]]
        assert shifted.tolist() == [7, 8, 5]
    else:
        assert keep.tolist() == [0, 1, 2]
        assert shifted.tolist() == [[-100, 7, 8], [5, -100, -100]]


def test_the_gradient_is_that_of_the_mean_over_the_answer_tokens_of_the_whole_batch(parts, samples, tmp_path):
    seen: list[dict[str, torch.Tensor]] = []

    def keep(step: int, model: nn.Module, sample_ids: list[str]) -> None:
        rows = [sample for name in sample_ids for sample in samples if sample.id == name]
        expected = torch.autograd.grad(full_logits_loss(model, batch_of(parts, rows)), trained)
        seen.append({"ours": [tensor.grad.clone() for tensor in trained], "expected": expected})

    trained = [tensor for tensor in parts[0].parameters() if tensor.requires_grad]
    trainer_of(parts, samples, tmp_path, [keep], max_steps=1).train()
    for ours, expected in zip(seen[0]["ours"], seen[0]["expected"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_micro_batch_without_an_answer_contributes_nothing(parts, samples, tmp_path):
    trainer, batch = trainer_of(parts, samples, tmp_path), batch_of(parts, samples[:2])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = trainer.compute_loss(parts[0], batch, num_items_in_batch=torch.tensor(0))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("place", ["projector", "vision"])
def test_rows_without_pictures_add_to_the_loss_but_not_to_the_gradient_of_the_eyes(samples, tmp_path, place):
    model, processor = tiny.llava()
    parts = set_stage(model, processor, build_all({place: "full"}))
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    text = Sample("text", (), (Turn("user", "what is red ?"), Turn("assistant", "one two three")), where="text:1")
    seen: list[tuple] = []

    def keep(step: int, model: nn.Module, sample_ids: list[str]) -> None:
        rows = [sample for name in sample_ids for sample in [*samples, text] if sample.id == name]
        loss = full_logits_loss(model, batch_of(parts, rows))
        ours = [tensor.grad.clone() for tensor in trained]
        seen.append((set(sample_ids), loss.item(), ours, torch.autograd.grad(loss, trained)))

    rows = [samples[0], text, text]  # a row a micro-batch
    settings = {"per_device_train_batch_size": 1, "max_steps": 1}
    trainer = trainer_of(parts, rows, tmp_path, [keep], rates={place: 1e-3}, **settings)
    trainer.train()
    ids, loss, ours, expected = seen[0]
    assert ids == {"row-0", "text"}
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    for mine, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_an_update_without_any_picture_leaves_the_projector_as_it_is(samples, tmp_path):
    model, processor = tiny.llava()
    parts = set_stage(model, processor, build_all({"projector": "full"}))
    before = tensors_hash(adapter_tensors(model))
    text = Sample("text", (), (Turn("user", "what is red ?"), Turn("assistant", "one")), where="text:1")
    trainer_of(parts, [text] * 6, tmp_path, rates={"projector": 1e-2}, weight_decay=0.1).train()
    assert tensors_hash(adapter_tensors(model)) == before


# ---- the one look at each gradient ----


def test_readers_see_the_accumulated_unclipped_gradient_once_per_update(parts, samples, tmp_path):
    seen, clipped = [], []

    def look(step: int, model: nn.Module, sample_ids: list[str]) -> None:
        norm = nn.utils.get_total_norm([t.grad for t in model.parameters() if t.grad is not None])
        seen.append((step, len(sample_ids), norm.item()))

    trainer = trainer_of(parts, samples, tmp_path, [look])
    take_step = trainer.create_optimizer().step
    trainer.optimizer.step = lambda *args: (clipped.append(gradient_norm(parts[0])), take_step(*args))[1]
    trainer.train()
    assert [(step, count) for step, count, _ in seen] == [(1, 6), (2, 6), (3, 6)]
    assert all(norm > 0.1 for _, _, norm in seen)  # not clipped yet
    assert all(norm <= 1.001e-3 for norm in clipped)  # clipped afterwards
    logged = [line["grad_norm"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx([norm for _, _, norm in seen], rel=1e-5)


def test_readers_see_each_update_also_without_clipping(parts, samples, tmp_path):
    steps = []
    trainer_of(parts, samples, tmp_path, [lambda step, *_: steps.append(step)], max_grad_norm=0.0).train()
    assert steps == [1, 2, 3]


def test_sample_ids_are_those_of_the_batch_and_never_reach_the_model(parts, samples, tmp_path):
    seen, keys = [], set()
    parts[0].register_forward_pre_hook(lambda m, args, kwargs: keys.update(kwargs), with_kwargs=True)
    trainer_of(parts, samples, tmp_path, [lambda step, model, ids: seen.extend(ids)]).train()
    assert "sample_ids" not in keys and "input_ids" in keys
    assert sorted(seen[:13]) == sorted(sample.id for sample in samples)  # the first epoch: each row once


# ---- finite check ----


@pytest.mark.parametrize("step", [1, 2])
def test_a_gradient_that_is_not_finite_stops_before_the_update(parts, samples, tmp_path, step):
    model = parts[0]
    weights: list[str] = []
    poison = model.model.language_model.layers[0].mlp.up_proj.weight

    def remember(now: int, model: nn.Module, sample_ids: list[str]) -> None:
        weights.append(tensors_hash(adapter_tensors(model)))

    trainer = trainer_of(parts, samples, tmp_path, [remember], logging_nan_inf_filter=True)
    poison.register_hook(
        lambda gradient: torch.full_like(gradient, math.inf) if trainer.state.global_step + 1 == step else gradient
    )
    before = tensors_hash(adapter_tensors(model))
    with pytest.raises(NonFiniteError) as error:
        trainer.train()
    assert error.value.exit_code == 70
    assert f"step {step}" in str(error.value) and "row-" in str(error.value)
    assert "layers.0.mlp.up_proj.weight" in str(error.value)
    assert len(weights) == step - 1
    assert all(torch.isfinite(tensor).all() for tensor in model.parameters())
    assert (tensors_hash(adapter_tensors(model)) == before) == (step == 1)
    assert trainer.state.global_step == step - 1


def test_a_loss_that_is_not_finite_names_the_samples_of_its_micro_batch_only(parts, samples, tmp_path):
    trainer = trainer_of(parts, samples, tmp_path)
    compute, calls, rows = trainer.compute_loss, [], []

    def poisoned(model, inputs, *args, **kwargs):
        calls.append(1)
        return compute(model, inputs, *args, **kwargs) * (math.nan if len(calls) == 2 else 1.0)

    trainer.compute_loss = poisoned
    step = trainer.training_step
    trainer.training_step = lambda model, inputs, *a: (
        rows.append(list(inputs["sample_ids"])),
        step(model, inputs, *a),
    )[1]
    with pytest.raises(NonFiniteError) as error:
        trainer.train()
    assert all(name in str(error.value) for name in rows[1])
    assert not any(f"{name}," in str(error.value) for name in rows[0])


# ---- groups ----


def test_a_declared_group_without_a_rate_is_refused_before_training(parts, samples, tmp_path):
    with pytest.raises(ConfigError, match="no learning rate for group 'language'"):
        trainer_of(parts, samples, tmp_path, rates={"projector": 1e-3})


def test_a_trainable_tensor_that_no_method_declares_is_refused(parts, samples, tmp_path):
    parts[0].model.vision_tower.post_layernorm.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="post_layernorm.weight"):
        trainer_of(parts, samples, tmp_path)


def test_a_trained_tensor_that_no_gradient_reaches_stops_before_the_first_update(samples, tmp_path, monkeypatch):
    tower = TOWERS["CLIPVisionConfig"]
    monkeypatch.setitem(TOWERS._entries, "CLIPVisionConfig", dataclasses.replace(tower, dead_tail=()))
    model, processor = tiny.llava()
    parts = set_stage(model, processor, build_all({"vision": "full"}))
    before = tensors_hash(adapter_tensors(model))
    with pytest.raises(ConfigError, match=r"no gradient.*post_layernorm\.weight.*dead_tail"):
        trainer_of(parts, samples, tmp_path, rates={"vision": 1e-3}).train()
    assert tensors_hash(adapter_tensors(model)) == before


def test_each_group_trains_at_its_own_rate_under_its_own_name(parts, samples, tmp_path):
    trainer = trainer_of(parts, samples, tmp_path, weight_decay=0.1)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["learning_rate/projector"] == 1e-2 and line["learning_rate/language"] == 1e-3
    assert line["gradient_norm/projector"] > 0 and line["gradient_norm/language"] > 0
    decays = {group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"] if p.ndim < 2}
    assert decays == {0.0}


def logged(trainer: GuardedTrainer, key: str) -> list[float]:
    return [line[key] for line in trainer.state.log_history if "loss" in line]


def test_each_group_follows_its_own_warm_up_and_schedule(parts, samples, tmp_path):
    rates = {
        "projector": GroupRate(peak=1e-2, warmup_fraction=0.25, schedule="constant"),
        "language": GroupRate(peak=1e-3, warmup_fraction=0.5, schedule="linear"),
    }
    trainer = trainer_of(parts, samples, tmp_path, rates=rates, max_steps=8)
    trainer.train()
    assert logged(trainer, "learning_rate/projector") == pytest.approx([1e-2 * f for f in (0, 0.5, 1, 1, 1, 1, 1, 1)])
    expected = [1e-3 * f for f in (0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25)]
    assert logged(trainer, "learning_rate/language") == pytest.approx(expected)


def test_a_group_that_leaves_its_schedule_open_follows_the_arguments(parts, samples, tmp_path):
    settings = {"lr_scheduler_type": "linear", "warmup_steps": 0, "max_steps": 4}
    rates = {"projector": GroupRate(peak=1e-2, warmup_fraction=0.5), "language": 1e-3}
    trainer = trainer_of(parts, samples, tmp_path, rates=rates, **settings)
    trainer.train()
    assert logged(trainer, "learning_rate/projector") == pytest.approx([1e-2 * f for f in (0, 0.5, 1, 0.5)])
    assert logged(trainer, "learning_rate/language") == pytest.approx([1e-3 * f for f in (1, 0.75, 0.5, 0.25)])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_one_schedule_for_all_groups_moves_weights_as_the_librarys_own(samples, tmp_path, schedule):
    hashes = []
    own = {group: GroupRate(peak=p, warmup_fraction=0.5, schedule=schedule) for group, p in RATES.items()}
    for rates in (RATES, own):
        model, processor = tiny.llava()
        parts = set_stage(model, processor, build_all({"projector": "full", "language": "full"}))
        settings = {"lr_scheduler_type": schedule, "warmup_steps": 2, "max_steps": 4}
        trainer_of(parts, samples, tmp_path / str(len(hashes)), rates=rates, **settings).train()
        hashes.append(tensors_hash(adapter_tensors(model)))
    assert hashes[0] == hashes[1]


def test_a_group_with_decay_logs_its_highest_and_its_lowest_rate(samples, tmp_path):
    model, processor = tiny.llava()
    parts = set_stage(model, processor, build_all({"vision": "full", "projector": "full"}))
    rates = {"vision": GroupRate(peak=1e-3, block_decay=0.5), "projector": 1e-2}
    trainer = trainer_of(parts, samples, tmp_path, rates=rates)
    trainer.train()
    assert logged(trainer, "learning_rate/vision") == [1e-3] * 3
    assert logged(trainer, "lowest_learning_rate/vision") == [1e-3 * 0.5**3] * 3
    assert not any("lowest_learning_rate/projector" in line for line in trainer.state.log_history)


def test_with_decay_the_first_update_of_adam_is_smaller_the_more_blocks_lie_behind(samples, tmp_path):
    model, processor = tiny.llava()
    parts = set_stage(model, processor, build_all({"vision": "full"}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rates = {"vision": GroupRate(peak=1e-3, block_decay=0.5)}
    trainer_of(parts, samples, tmp_path, rates=rates, max_steps=1, max_grad_norm=0.0).train()
    for block in range(3):
        name = next(n for n in before if f"layers.{block}.mlp.fc1.weight" in n and "vision" in n)
        moved = (model.state_dict()[name] - before[name]).abs().max().item()
        assert moved == pytest.approx(1e-3 * 0.5 ** (2 - block), rel=1e-2)


def test_what_unfreezes_in_the_second_half_is_the_same_to_the_bit_until_then(samples, tmp_path):
    model, processor = tiny.llava()
    parts = set_stage(model, processor, build_all({"projector": "full", "head": {"method": "carpe", "num_heads": 4}}))
    rates = {"projector": 1e-2, "head": 1e-2, "router": GroupRate(peak=1e-2, frozen_fraction=0.5)}
    states = []

    def look(step, model, sample_ids):
        states.append({name: tensor.clone() for name, tensor in adapter_tensors(model).items()})

    trainer = trainer_of(parts, samples, tmp_path, rates=rates, max_steps=4, weight_decay=0.1, readers=[look])
    trainer.train()
    states.append(adapter_tensors(model))
    router = list(parameter_groups(model)["router"])
    assert len(router) == 3
    assert all(torch.equal(states[0][name], states[2][name]) for name in router)
    assert any(not torch.equal(states[2][name], states[4][name]) for name in router)
    assert not torch.equal(states[0]["lm_head.weight"], states[2]["lm_head.weight"])
    assert logged(trainer, "learning_rate/router")[:2] == [0.0, 0.0]


# ---- costs ----


def test_every_line_tells_the_peak_of_memory_and_a_resumed_run_keeps_the_larger(parts, samples, tmp_path, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 1}
    monkeypatch.setattr("yarbus.training.guarded.peak_bytes", lambda device: 2**40)
    trainer = trainer_of(parts, samples, tmp_path, max_steps=2, **settings)
    trainer.train()
    assert logged(trainer, "peak_bytes") == [2**40, 2**40]
    monkeypatch.setattr("yarbus.training.guarded.peak_bytes", lambda device: 2**30)
    trainer = trainer_of(parts, samples, tmp_path, max_steps=3, **settings)
    trainer.train(str(tmp_path / "checkpoints" / "step-000002"))
    assert logged(trainer, "peak_bytes")[-1] == 2**40
    assert trainer_of(parts, samples, tmp_path / "new", max_steps=1).peak_bytes == 2**30


def test_a_checkpoint_older_than_peaks_and_groups_schedules_resumes(parts, samples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "lr_scheduler_type": "cosine"}
    trainer_of(parts, samples, tmp_path, **settings).train()
    folder = tmp_path / "checkpoints" / "step-000001"
    state = read_json(folder / "state.json")
    del state["peak_bytes"]
    write_json(folder / "state.json", state)
    trainer = trainer_of(parts, samples, tmp_path, **settings)
    trainer.create_optimizer_and_scheduler(2)
    trainer._load_optimizer_and_scheduler(str(folder))
    assert trainer.peak_before == 0 and trainer.peak_bytes > 2**20


# ---- checkpoints ----


def test_trainer_alone_resumes_exactly_from_the_newest_checkpoint(parts, samples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    trainer_of(parts, samples, tmp_path / "whole", **settings).train()
    whole = tensors_hash(adapter_tensors(parts[0]))

    def fresh():
        model, processor = tiny.llava()
        return set_stage(model, processor, build_all({"projector": "full", "language": "full"}))

    class Stop(Exception):
        pass

    def stop(step: int, model: nn.Module, sample_ids: list[str]) -> None:
        if step == 4:
            raise Stop

    with pytest.raises(Stop):
        trainer_of(fresh(), samples, tmp_path / "part", [stop], **settings).train()
    again = fresh()
    trainer_of(again, samples, tmp_path / "part", **settings).train(True)
    assert tensors_hash(adapter_tensors(again[0])) == whole


def test_resuming_reads_no_batch_of_the_steps_before(parts, samples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    trainer_of(parts, samples, tmp_path, **settings).train()
    trainer = trainer_of(parts, samples, tmp_path, **settings)
    calls = []
    collate = trainer.data_collator
    trainer.data_collator = lambda visits: (calls.append(len(visits)), collate(visits))[1]
    trainer.train(str(tmp_path / "checkpoints" / "step-000002"))
    assert calls == [2, 2, 2]


def test_a_foreign_pickle_in_the_checkpoint_is_refused(parts, samples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(parts, samples, tmp_path, **settings).train()
    folder = tmp_path / "checkpoints" / "step-000002"
    (folder / "optimizer.pt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match="pickle refused.*optimizer.pt"):
        trainer_of(parts, samples, tmp_path, **settings).train(str(folder))


def test_a_checkpoint_of_another_run_is_refused(parts, samples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(parts, samples, tmp_path, **settings).train()
    other = trainer_of(parts, samples, tmp_path, **settings)
    other.run_id = "somebody"
    with pytest.raises(MismatchError, match="run me, this is somebody"):
        other.train(True)


def test_weights_that_are_not_finite_are_not_saved(parts, samples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer = trainer_of(parts, samples, tmp_path, **settings)
    trainer.train()
    with torch.no_grad():
        parts[0].lm_head.weight[0, 0] = math.nan
    trainer.state.global_step = 2
    with pytest.raises(NonFiniteError, match="lm_head.weight"):
        trainer._save_checkpoint(parts[0], None)
    assert [folder.name for folder in checkpoint.folders(tmp_path / "checkpoints")] == ["step-000001"]


def test_save_model_writes_the_adapter_and_no_pickle(parts, samples, tmp_path):
    trainer_of(parts, samples, tmp_path / "run").save_model(str(tmp_path / "adapter"))
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == ["adapter.json", "adapter.safetensors"]


# ---- settings ----


def test_bfloat16_autocast_leaves_the_models_forward_as_it_was(parts, samples, tmp_path):
    trainer = trainer_of(parts, samples, tmp_path, bf16=True)
    kinds = set()
    parts[0].lm_head.register_forward_hook(lambda module, args, output: kinds.add(output.dtype))
    trainer.train()
    assert kinds == {torch.bfloat16}
    assert "forward" not in parts[0].__dict__
    assert parts[0].lm_head.weight.dtype == torch.float32


def test_gradient_checkpointing_gives_the_same_weights(samples, tmp_path):
    hashes = []
    name = (
        "activation_checkpointing"
        if hasattr(TrainingArguments, "activation_checkpointing")
        else "gradient_checkpointing"
    )
    for on in (False, True):
        model, processor = tiny.llava()
        parts = set_stage(model, processor, build_all({"projector": "full", "language": "full"}))
        settings = {name: on, f"{name}_kwargs": {"use_reentrant": False}}
        trainer_of(parts, samples, tmp_path / str(on), max_grad_norm=0.0, **settings).train()
        hashes.append(tensors_hash(adapter_tensors(model)))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    "settings",
    [{"fp16": True}, {"load_best_model_at_end": True, "eval_strategy": "no"}, {"auto_find_batch_size": True}],
)
def test_settings_that_would_break_a_promise_are_refused(parts, samples, tmp_path, settings):
    with pytest.raises((ConfigError, ValueError)):
        trainer_of(parts, samples, tmp_path, **settings)


def test_epochs_become_steps_that_cover_every_row(parts, samples, tmp_path):
    trainer = trainer_of(parts, samples, tmp_path, max_steps=-1, num_train_epochs=2)
    assert trainer.args.max_steps == math.ceil(2 * 13 / 6)


def test_the_mixin_works_on_a_plain_trainer_with_plain_items(parts, samples, tmp_path):
    from yarbus.training.guarded import Guarded

    model, processor = parts
    collate = Collator(processor)
    steps: list[int] = []
    trainer = Guarded(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
        ),
        train_dataset=samples,
        data_collator=lambda items: collate([(item, 0, 0) for item in items]),
        learning_rates=RATES,
        readers=[lambda step, *_: steps.append(step)],
    )
    trainer.remove_callback(PrinterCallback)
    assert isinstance(trainer, Trainer)
    trainer.train()
    assert steps == [1, 2]


def gradient_norm(model: nn.Module) -> float:
    return nn.utils.get_total_norm([t.grad for t in model.parameters() if t.grad is not None]).item()
