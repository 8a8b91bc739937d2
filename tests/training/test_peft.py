"""peft's LoRA on the language model beside a method on the tower: train, save, load, merge."""

import peft
import pytest
import torch

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.training.rows import attached
from yarbus.models.attachment import parameter_groups

WORDS = r".*language_model.*\.(q_proj|v_proj)"


def with_lora(family, **settings):
    model, processor = attached(family)
    torch.manual_seed(2)
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=WORDS, **settings)), model, processor


def train_again(model):
    for tensors in parameter_groups(model).values():
        for tensor in tensors.values():
            tensor.requires_grad_(True)


def steps(wrapped, batch, number=2):
    """Names of what moved."""
    before = {name: p.detach().clone() for name, p in wrapped.named_parameters()}
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    for _ in range(number):
        optimizer.zero_grad()
        wrapped(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
    return {name for name, p in wrapped.named_parameters() if not torch.equal(p, before[name])}


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_both_train_save_load_and_merge(family, pictures, tmp_path):
    wrapped, model, processor = with_lora(family)
    batch = ask(processor, pictures, QUESTIONS)
    ours = {name for tensors in parameter_groups(model).values() for name in tensors}
    train_again(model)
    moved = steps(wrapped, batch)
    assert {f"base_model.model.{name}" for name in ours} <= moved and any("lora_B" in name for name in moved)
    assert all("lora_" in name or name.removeprefix("base_model.model.") in ours for name in moved)
    expected = logits(wrapped, batch)

    yarbus.save_adapter(model, tmp_path / "eyes", processor)
    wrapped.save_pretrained(tmp_path / "words")
    again, its_processor = yarbus.load_adapter(*tiny.FAMILIES[family](), tmp_path / "eyes")
    both = peft.PeftModel.from_pretrained(again, tmp_path / "words")
    torch.testing.assert_close(logits(both, ask(its_processor, pictures, QUESTIONS)), expected, atol=2e-6, rtol=1e-5)

    merged = both.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), expected, atol=1e-5, rtol=1e-4)
    yarbus.save(merged, its_processor, tmp_path / "full")
    whole, _ = yarbus.load(tmp_path / "full")
    torch.testing.assert_close(logits(whole, batch), logits(merged, batch), atol=2e-6, rtol=1e-5)


def test_peft_freezes_what_it_does_not_know(pictures):
    """What the how-to page cures: nothing says so, and the eyes stay as they are."""
    wrapped, _model, processor = with_lora("llava")
    moved = steps(wrapped, ask(processor, pictures))
    assert moved and all("lora_" in name for name in moved)


def test_generation_and_checkpointing_pass_through_the_wrapper(pictures):
    wrapped, model, processor = with_lora("llava")
    train_again(model)
    batch = ask(processor, pictures)
    options = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(wrapped.generate(**batch, **options), model.generate(**batch, **options))
    wrapped.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            wrapped.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        wrapped.zero_grad()
        wrapped(**batch, labels=batch["input_ids"]).loss.backward()
        found.append({name: p.grad.clone() for name, p in wrapped.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_modules_to_save_keeps_modules_that_were_put_in_the_place_of_others(pictures, tmp_path):
    """peft's own way: its adapter then holds copies of our modules, and ours must not be saved beside it."""
    model, processor = attached("llava")
    paths = {name.rpartition(".")[0] for tensors in parameter_groups(model).values() for name in tensors}
    mixtures = sorted({path for path in paths if path.endswith(".mlp")} | {"multi_modal_projector"})
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=WORDS, modules_to_save=mixtures))
    batch = ask(processor, pictures)
    assert any("modules_to_save" in name and "up_weight" in name for name in steps(wrapped, batch))
    wrapped.save_pretrained(tmp_path)
    fresh, _ = attached("llava")
    again = peft.PeftModel.from_pretrained(fresh, tmp_path)
    torch.testing.assert_close(logits(again, batch), logits(wrapped, batch), atol=2e-6, rtol=1e-5)
