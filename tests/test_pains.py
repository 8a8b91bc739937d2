"""What users of such models really meet: each test shows the pain with its cure switched off, then that it is gone.

``docs/how-to/user-pains.md`` lists them by these tests' names.
"""

import json

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments, default_data_collator

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.tiny.llava_dino import NUM_REGISTERS
from tests.training.processes import alone, outcomes
from tests.training.rows import ANSWER, SETTINGS, chat, processed
from yarbus.core.errors import CheckpointError, DataError, MismatchError
from yarbus.methods import CoVFT
from yarbus.models import attach, consistency, context, recompute, save, wrapper
from yarbus.models.attachment import adapter_tensors, parameter_groups
from yarbus.models.processor import ContextProcessorMixin
from yarbus.models.registers import drop_registers
from yarbus.models.vlm import VLM
from yarbus.models.wrapper import ContextMixin

COVFT = CoVFT(num_experts=3, context_dim=16, layernorm="none")
pre_encodes = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="images are encoded in the first forward before 5.23"
)


def attached(family="llava", method=COVFT, **places):
    """Experts are apart, so that the question matters as it does after training."""
    model, processor = tiny.EVERY[family]()
    torch.manual_seed(1)
    yarbus.attach(model, processor, vision=method, **places, text_encoder="language_embeddings")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    return model, processor


def loss(model, batch):
    return model(**batch, labels=batch["input_ids"]).loss


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_vision_gradients_are_not_lost_under_checkpointing(pictures, monkeypatch):
    def reached():
        model, processor = attached("qwen3_vl")
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        loss(model, ask(processor, pictures)).backward()
        return set(gradients(model)), {name for group in parameter_groups(model).values() for name in group}

    with monkeypatch.context() as off:
        off.setattr(recompute, "_reached_by_gradient", lambda function, args: args)
        found, declared = reached()
        assert not found and declared  # and nothing says so
    found, declared = reached()
    assert found == declared


def test_a_tuned_tower_is_saved_and_not_overwritten_on_load(pictures, tmp_path, monkeypatch):
    model, processor = attached()
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    with monkeypatch.context() as off:
        off.setattr(wrapper, "VARIANT", None)
        model.save_pretrained(tmp_path / "off")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "off")  # loads, and is another model
    assert not torch.allclose(
        logits(plain, {k: v for k, v in batch.items() if "context" not in k}), expected, atol=1e-3
    )
    yarbus.save(model, processor, tmp_path / "on")
    with pytest.raises(OSError, match="no file named"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "on")
    again, _ = yarbus.load(tmp_path / "on")
    torch.testing.assert_close(logits(again, batch), expected, atol=2e-6, rtol=1e-5)


def test_an_adapter_is_never_ignored(pictures, tmp_path, monkeypatch):
    """Its tensors have names that the model does not know, as after another library wrapped the model."""
    model, processor = attached()
    yarbus.save_adapter(model, tmp_path, processor)
    path = tmp_path / "adapter.safetensors"
    save_file({f"base_model.model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    description = json.loads((tmp_path / "adapter.json").read_text())
    description["sha256"] = save._sha256(path)
    (tmp_path / "adapter.json").write_text(json.dumps(description))
    with monkeypatch.context() as off:
        off.setattr(save, "load_adapter_tensors", lambda model, tensors: model.load_state_dict(tensors, strict=False))
        ignored, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path)
        batch = ask(its_processor, pictures)
        bare = {name: value for name, value in batch.items() if "context" not in name}
        torch.testing.assert_close(logits(ignored, batch), logits(tiny.llava()[0], bare), atol=1e-5, rtol=0)  # the base
    with pytest.raises(MismatchError, match="does not fit"):
        yarbus.load_adapter(*tiny.llava(), tmp_path)


@pytest.fixture
def one_process(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_an_unreachable_block_does_not_break_ddp(pictures, one_process, monkeypatch):
    def two_updates():
        model, processor = tiny.llava()
        yarbus.attach(model, processor, vision="full", projector="full")
        shared = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):  # what got no gradient is found by the second forward
            loss(shared, ask(processor, pictures)).backward()
        return gradients(model)

    with monkeypatch.context() as off:
        off.setattr(VLM, "dead_parameters", lambda vlm: set())
        with pytest.raises(RuntimeError, match="did not receive grad|Expected to have finished reduction"):
            two_updates()
    assert two_updates()


def test_a_process_with_words_alone_does_not_hang():
    waiting, other = outcomes()["uncured"]
    assert "Timed out" in waiting and other.endswith("tensors without a gradient")
    for found in outcomes()["ddp turns"]:
        for mine, expected in zip(found, alone("turns"), strict=True):
            for name, gradient in expected.items():
                torch.testing.assert_close(mine[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_image_tokens_and_features_agree_row_by_row(pictures, monkeypatch):
    """One row lost a token, the other has one too many: the library compares sums. Or there is no picture at all."""
    model, processor = attached()
    whole = ask(processor, pictures[:2], [QUESTIONS[0]] * 2)
    moved = {**whole, "input_ids": whole["input_ids"].clone()}
    places = (whole["input_ids"] == model.config.image_token_id).nonzero()
    (row, column), word = places[0].tolist(), whole["input_ids"][0, -1]
    moved["input_ids"][row, column] = word
    moved["input_ids"][1, -1] = model.config.image_token_id
    unseen = {name: value for name, value in whole.items() if name != "pixel_values"}
    with monkeypatch.context() as off:
        off.setattr(context, "check_tokens_of_rows", lambda *args: None)
        off.setattr(context, "refuse_missing_pictures", lambda *args: None)
        assert torch.isfinite(logits(model, moved)).all() and torch.isfinite(logits(model, unseen)).all()
    with pytest.raises(DataError, match="do not agree: row 0 of the batch - 3 image tokens"):
        logits(model, moved)
    with pytest.raises(DataError, match="image tokens without a picture: row 0"):
        logits(model, unseen)


def test_context_columns_are_not_dropped(pictures, tmp_path, monkeypatch):
    model, processor = attached()
    data = processed(processor, pictures)

    def kept():
        arguments = TrainingArguments(output_dir=str(tmp_path), **SETTINGS)
        trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=default_data_collator)
        return set(next(iter(trainer.get_train_dataloader())))

    forward = type(model).forward
    with monkeypatch.context() as off:
        import inspect

        off.setattr(forward, "__signature__", inspect.signature(type(model).plain_class.forward))
        assert not any(name.startswith("context_") for name in kept())
    assert {"context_input_ids", "context_attention_mask", "pixel_values"} <= kept() and "note" not in kept()


def test_checkpointing_recomputes_with_the_context_of_its_own_forward(pictures, monkeypatch):
    def two_forwards(checkpointing):
        model, processor = attached()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batches = [
            ask(processor, pictures, [QUESTIONS[0]] * 2, context=asked) for asked in (QUESTIONS[:2], QUESTIONS[2:])
        ]
        sum(loss(model, batch) for batch in batches).backward()
        return gradients(model)

    expected = two_forwards(False)
    with monkeypatch.context() as off:
        for module in (wrapper, attach):
            off.setattr(module, "bind", lambda checkpoint, slot: checkpoint)
        off.setattr(attach, "release_context", lambda *args: None)  # a slot that keeps the last question
        stale = two_forwards(True)
        assert any(not torch.allclose(stale[name], expected[name], atol=1e-5, rtol=1e-3) for name in expected)
    for name, gradient in two_forwards(True).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_no_answer_leaks_into_the_context(pictures, monkeypatch):
    """On all three ways: messages, rendered text, and TRL's separate calls for prompts and completions."""
    _, processor = attached()
    conversation = [*chat(QUESTIONS[0], ANSWER), *chat(QUESTIONS[1], ANSWER)]
    shown = pictures[:2]

    def told(batch):
        return processor.context_tokenizer.batch_decode(batch["context_input_ids"], skip_special_tokens=True)

    def ways():
        kind = {"return_tensors": "pt"}
        for number, picture in zip((0, 3), shown, strict=True):
            conversation[0 if number == 0 else 2]["content"][0]["image"] = picture
        yield processor.apply_chat_template(conversation, tokenize=True, return_dict=True, **kind)
        text = processor.apply_chat_template(conversation)
        yield processor(images=[shown], text=[text], **kind)
        prompt = processor.apply_chat_template(chat(QUESTIONS[1]), add_generation_prompt=True)
        yield processor(images=[shown[:1]], text=[prompt], padding_side="left", add_special_tokens=False, **kind)

    with monkeypatch.context() as off:
        off.setattr(ContextProcessorMixin, "_turns_of_text", lambda processor, text: [text])
        leaked = [told(batch)[0] for batch in ways()]
        assert ANSWER in leaked[1]
    assert [told(batch) for batch in ways()] == [[QUESTIONS[1]]] * 3
    completion = processor(text=[f"{ANSWER}</s>"], padding_side="right", add_special_tokens=False, return_tensors="pt")
    assert not completion["context_attention_mask"].any()  # nobody asks in a completion


@pre_encodes
def test_generate_encodes_images_with_the_question(pictures, monkeypatch):
    model, processor = attached()
    batch = ask(processor, pictures)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with monkeypatch.context() as off:
        off.delattr(ContextMixin, "_maybe_prepare_encoder_kwargs_for_generation")
        with pytest.raises(DataError, match="no context for the vision tower"):
            model.eval().generate(**batch, **options)
    found = model.generate(**batch, **options, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(found.logits[0], logits(model, batch)[:, -1], atol=1e-5, rtol=1e-4)


def test_registers_do_not_reach_the_language_model(pictures):
    """They do where a model is built from parts and nobody drops them; ours are built with this call."""
    model, processor = tiny.EVERY["llava_dinov2_registers"]()

    def handed():
        widths = []
        hook = VLM.of(model).projector.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
        batch = ask(processor, pictures)
        logits(model, batch)
        hook.remove()
        return widths[0], int((batch["input_ids"] == model.config.image_token_id).sum()) // 2

    patches = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    assert handed() == (patches + NUM_REGISTERS,) * 2
    drop_registers(model, processor)
    assert handed() == (patches,) * 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_new_question_is_not_answered_from_cached_pictures(family, pictures, monkeypatch):
    model, processor = attached(family)
    model.eval()
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    first = ask(processor, pictures[:1], QUESTIONS[:1])

    def go_on(question):
        cache = model.generate(**first, **options, return_dict_in_generate=True)
        ids = torch.cat([cache.sequences, first["input_ids"][:, -2:]], dim=1)
        named = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **processor_question(processor, question)}
        if "mm_token_type_ids" in first:
            named["mm_token_type_ids"] = nn.functional.pad(
                first["mm_token_type_ids"], (0, ids.shape[1] - first["input_ids"].shape[1])
            )
        return model.generate(**named, **options, past_key_values=cache.past_key_values)

    def processor_question(processor, question):
        batch = ask(processor, pictures[:1], [question])
        return {name: value for name, value in batch.items() if name.startswith("context_")}

    same = go_on(QUESTIONS[0])
    with monkeypatch.context() as off:
        off.setattr(context, "refuse_new_question", lambda *args: None)
        assert torch.equal(go_on(QUESTIONS[1]), same)  # as if the other question had not been asked
    with pytest.raises(DataError, match="a new question on cached pictures"):
        go_on(QUESTIONS[1])
    assert consistency.QUESTION and torch.equal(go_on(QUESTIONS[0]), same)


def test_what_was_cut_from_a_saved_model_is_an_error(tmp_path):
    """Of the same kind as an ignored adapter: a full model that lacks a tensor."""
    model, processor = attached()
    yarbus.save(model, processor, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "down_weight" in name))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 tensors do not fit"):
        yarbus.load(tmp_path)
