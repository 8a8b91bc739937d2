"""Attaching and detaching under what users' tools do: fused optimizers, copies, checkpointing, peft, Trainer."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, Trainer, TrainingArguments

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.models.test_question_path import METHODS, attached
from yarbus.core.errors import ConfigError, MismatchError
from yarbus.methods import CoVFT, Frozen, Full, QMoE
from yarbus.models.attach import set_stage
from yarbus.models.attachment import adapter_tensors, attachment_of, is_attached, parameter_groups
from yarbus.models.question import Question
from yarbus.models.text_encoder import read_tokenizer


@pytest.mark.parametrize("keep_base", [False, True])
def test_a_step_of_the_default_fused_optimizer_counts_as_training(keep_base, text_encoder, pictures):
    model, processor = tiny.llava()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {"vision": METHODS["cve-dense"], "language": "full"}
    yarbus.attach(model, processor, **places, text_encoder=text_encoder, keep_base=keep_base)
    parameters = [p for group in parameter_groups(model).values() for p in group.values()]
    batch = ask(processor, pictures)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    torch.optim.AdamW(parameters, lr=1e-3, fused=True).step()
    if not keep_base:
        with pytest.raises(ConfigError, match="trained in place"):
            yarbus.detach(model, processor)
    else:
        yarbus.detach(model, processor)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_copy_and_a_model_in_another_precision_detach_if_nothing_trained(text_encoder):
    model, _ = attached("llava", text_encoder, METHODS["cve-dense"], spread_experts=False)
    yarbus.detach(copy.deepcopy(model))
    yarbus.detach(model.to(torch.bfloat16))
    assert not is_attached(model)


@pytest.mark.parametrize("keep_base", [False, True])
def test_a_table_of_which_few_rows_trained_has_trained(keep_base, pictures):
    model, processor = tiny.llava()
    model.resize_token_embeddings(4000)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yarbus.attach(model, processor, language="full", keep_base=keep_base)
    table = model.get_input_embeddings().weight
    batch = ask(processor, pictures)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    torch.optim.AdamW([table], lr=1e-4, weight_decay=0.0).step()
    moved = (table != before["model.language_model.embed_tokens.weight"]).any(dim=1).sum()
    assert 0 < moved < 20
    if not keep_base:
        with pytest.raises(ConfigError, match=r"1 tensors of the base were trained in place: .*embed_tokens\.weight"):
            yarbus.detach(model, processor)
        assert is_attached(model)
    else:
        yarbus.detach(model, processor)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("keep_base", [False, True])
def test_a_base_in_another_precision_detaches_if_nothing_trained(keep_base):
    model, processor = tiny.llava()
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    yarbus.attach(model, processor, language="full", vision="full", keep_base=keep_base)
    yarbus.detach(model.to(torch.bfloat16), processor)
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def test_a_tensor_that_another_library_renamed_is_missed_by_name_and_not_left_out(tmp_path):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision="full", projector="full")
    places = set(parameter_groups(model)), len(adapter_tensors(model))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "linear_1"]))
    for refuses in (parameter_groups, adapter_tensors, lambda one: yarbus.save_adapter(one, tmp_path), yarbus.detach):
        with pytest.raises(MismatchError, match=r"q_proj\.weight' is not in the model any more.*merge or unload"):
            refuses(model)
    assert not list(tmp_path.iterdir())
    wrapped.merge_and_unload()
    assert (set(parameter_groups(model)), len(adapter_tensors(model))) == places


def wrapped_models(tmp_path):
    model, _ = tiny.llava()
    yield "OptimizedModule", torch.compile(model, backend="eager")
    yield "PeftModel", get_peft_model(tiny.llava()[0], LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield "DistributedDataParallel", DistributedDataParallel(model)
    finally:
        destroy_process_group()


def test_what_stands_around_a_model_is_refused_by_its_name(text_encoder, tmp_path):
    _, processor = tiny.llava()
    for name, wrapped in wrapped_models(tmp_path):
        with pytest.raises(ConfigError, match=f"cannot attach to {name} .*attach before torch.compile, DDP or"):
            yarbus.attach(wrapped, processor, vision=METHODS["cve-dense"], text_encoder=text_encoder)
        with pytest.raises(ConfigError, match=f"cannot attach to {name} "):
            yarbus.load_adapter(wrapped, processor, tmp_path)
    assert type(processor) is type(tiny.llava()[1])


def test_a_later_stage_that_failed_and_is_tried_again_is_not_taken_for_done(text_encoder):
    model, processor = tiny.llava()
    set_stage(model, processor, {"projector": Full()})
    wrong, right = (CoVFT(num_experts=2, context_dim=16, last_block=last, layernorm="all") for last in (9, None))
    for _ in range(2):
        with pytest.raises(ConfigError, match="not all executed"):
            set_stage(model, processor, {"vision": wrong}, text_encoder=text_encoder)
    set_stage(model, processor, {"language": Full()})
    assert set(parameter_groups(model)) == {"language"}  # nothing that the failed method declared
    set_stage(model, processor, {"vision": right}, text_encoder=text_encoder)
    assert set(parameter_groups(model)) == {"vision", "vision_new", "router"}


@pytest.mark.parametrize("device", ["cpu", "meta"])  # a plan refuses it before anything has trained
def test_no_copy_is_taken_of_a_table_that_an_earlier_stage_trains(device, text_encoder):
    model = tiny.llava()[0].to(device)
    set_stage(model, None, {"language": Full()})
    reads = {"vision": METHODS["cve-dense"], "language": Full()}
    with pytest.raises(ConfigError, match=r"language_embeddings would copy .*embed_tokens.*in the first stage"):
        set_stage(model, None, reads, text_encoder="language_embeddings")
    assert getattr(model.base_model, "context_encoder", None) is None
    set_stage(model, None, reads, text_encoder=text_encoder)
    assert "router" in parameter_groups(model)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_a_text_encoder_without_its_tokenizer_is_refused(kind, text_encoder, tmp_path):
    if kind == "bert":  # whole, but for the tokenizer
        shutil.copytree(text_encoder, tmp_path / "encoder")
        for file in (tmp_path / "encoder").glob("tokenizer*"):
            file.unlink()
        model, processor = tiny.llava()
        with pytest.raises(ConfigError, match="cannot load the tokenizer of text encoder .*without words"):
            yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=str(tmp_path / "encoder"))
        assert not is_attached(model) and type(processor) is type(tiny.llava()[1])
    else:
        AutoConfig.for_model(kind).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="without words"):
            read_tokenizer(tmp_path)


def test_a_method_made_in_python_is_checked_as_one_from_a_recipe():
    code = """
from yarbus.core.errors import ConfigError
from yarbus.methods import CoVFT, Frozen, Full, QMoE
for options in ({"routing": "thin"}, {"context": "picture"}, {"num_experts": 0}, {"num_heads": "4"}):
    try:
        CoVFT(**options)
    except ConfigError as error:
        assert f"option '{next(iter(options))}' of method 'covft'" in str(error), error
    else:
        raise SystemExit(f"{options} passed")
"""  # in a process of its own: here the shape checker would refuse them first
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr + run.stdout


def test_a_text_encoder_without_all_its_tensors_is_refused(text_encoder, tmp_path):
    import shutil

    folder = tmp_path / "half"
    shutil.copytree(text_encoder, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model, processor = tiny.llava()
    with pytest.raises(ConfigError, match=r"it lacks 16 tensors, the first is encoder\.layer\.1"):
        yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=str(folder))
    assert not is_attached(model)


def test_pickled_weights_are_not_read(text_encoder, tmp_path):
    from yarbus.models.load import load_base

    model, processor = tiny.llava()
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_base(str(tmp_path))


def test_a_later_stage_cannot_read_questions_in_another_way(text_encoder):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    same = {"vision": METHODS["cve-dense"]}
    set_stage(model, processor, same, text_encoder=text_encoder, question=Question())
    with pytest.raises(ConfigError, match="another text encoder"):
        set_stage(model, processor, same, text_encoder="language_embeddings")
    with pytest.raises(ConfigError, match="another question rules"):
        set_stage(model, processor, same, question=Question(rules="official"))


def test_an_adapter_keeps_the_name_of_its_text_encoder(text_encoder, tmp_path):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    yarbus.save_adapter(model, tmp_path, processor)
    loaded, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path)
    set_stage(loaded, its_processor, {"vision": METHODS["cve-dense"]}, text_encoder=text_encoder)
    yarbus.save_adapter(loaded, tmp_path / "again", its_processor)
    assert (tmp_path / "again" / "text_encoder" / "model.safetensors").is_file()


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was(text_encoder, tmp_path):
    import json

    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    yarbus.save_adapter(model, tmp_path, processor)
    description = json.loads((tmp_path / "adapter.json").read_text())
    description["places"]["vision"]["num_experts"] = 4
    (tmp_path / "adapter.json").write_text(json.dumps(description))
    base, its_processor = tiny.llava()
    with pytest.raises(MismatchError):
        yarbus.load_adapter(base, its_processor, tmp_path)
    assert not is_attached(base) and type(base).__name__ == "LlavaForConditionalGeneration"


def test_attaching_again_after_detach_works_with_checkpointing_on(text_encoder, pictures):
    model, processor = tiny.llava()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for _ in range(2):
        yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=text_encoder)
        model.train()
        batch = ask(processor, pictures)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        yarbus.detach(model, processor)


def test_an_empty_question_is_told_from_no_question(pictures):
    model, processor = tiny.llava()
    method = CoVFT(num_experts=2, context_dim=16, context="text")
    yarbus.attach(model, processor, vision=method, text_encoder="language_embeddings")
    seen = []
    model.model.multi_modal_projector.register_forward_hook(lambda *_: seen.append(model.model.context_slot.read()))
    with torch.no_grad():
        model(**ask(processor, pictures, [QUESTIONS[0]] * 3, context=["", "what", "digit red"]))
    assert seen[0].text.has_question.tolist() == [False, True, True]


def test_a_question_longer_than_the_encoder_is_cut(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    processor.question = Question(max_tokens=512)
    batch = ask(processor, pictures, [QUESTIONS[0]], context=["what digit " * 100])
    assert batch["context_input_ids"].shape[1] == 64
    with torch.no_grad():
        model(**batch)


def test_new_encoder_weights_forget_what_was_encoded(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    with torch.no_grad():
        before = model(**batch).logits
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for name in state:
            if "context_encoder" in name:
                state[name] += 0.5
        model.load_state_dict(state)
        assert not torch.equal(model(**batch).logits, before)


def test_a_pickled_processor_opens_in_a_fresh_process(text_encoder, tmp_path):
    for family in tiny.FAMILIES:
        _, processor = attached(family, text_encoder, METHODS["cve-dense"])
        (tmp_path / "processor").write_bytes(pickle.dumps(processor))
        code = "import pickle, sys; print(type(pickle.load(open(sys.argv[1], 'rb'))).__name__)"
        run = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "processor"],
            capture_output=True, text=True, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert run.stdout.strip() == type(processor).__name__, run.stderr[-1500:]


def test_peft_lora_on_the_language_model_stands_beside_our_method(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    with torch.no_grad():
        expected = model(**batch).logits
    config = LoraConfig(
        r=2, target_modules=r".*language_model.*q_proj", modules_to_save=["router"], task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        assert torch.equal(wrapped(**batch).logits, expected)
    assert wrapped.generate(**batch, max_new_tokens=2, do_sample=False).shape[0] == 2
    wrapped(**batch, labels=batch["input_ids"]).loss.backward()
    assert any(
        p.grad is not None and p.grad.any() for name, p in wrapped.named_parameters() if "modules_to_save" in name
    )


def test_trainer_keeps_the_context_when_it_removes_unused_columns(text_encoder, pictures, tmp_path):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    rows = [{name: value[row] for name, value in batch.items()} | {"note": 1} for row in range(2)]
    for row in rows:
        row["labels"] = row["input_ids"]
    before = model.model.vision_tower.encoder.layers[2].mlp.router.weight.clone()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True, save_strategy="no",
        learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    assert arguments.remove_unused_columns
    Trainer(model, arguments, train_dataset=rows).train()
    assert not torch.equal(model.model.vision_tower.encoder.layers[2].mlp.router.weight, before)


@pytest.mark.parametrize("place", ["projector", "vision"])
def test_a_place_that_holds_a_method_is_frozen_by_its_word_and_trains_again_under_its_method(place, text_encoder):
    model, processor = tiny.llava()
    held = CoVFT(num_experts=2, context_dim=16) if place == "vision" else Full()
    set_stage(model, processor, {place: held}, text_encoder=text_encoder)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    set_stage(model, processor, {place: Frozen(), "language": Full()})
    assert attachment_of(model).places[place] == held
    now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and now and not trained & now
    set_stage(model, processor, {place: held})
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with pytest.raises(ConfigError, match="holds 'covft' already" if place == "vision" else "holds 'full' already"):
        set_stage(model, processor, {place: {"vision": Full(), "projector": QMoE()}[place]}, text_encoder=text_encoder)
