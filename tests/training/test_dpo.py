"""TRL's DPOTrainer: which model it compares with, alone and with our guards."""

import copy
from typing import Any

import datasets
import peft
import pytest
import torch
from transformers import PrinterCallback

import yarbus
from tests import tiny
from tests.training.rows import COVFT, QUESTIONS, SETTINGS, attached, losses
from tests.training.test_peft import WORDS, train_again
from yarbus.models.attachment import parameter_groups
from yarbus.models.load import load_base
from yarbus.training.guarded import Guarded

pytest.importorskip("trl", reason="trl is not installed: pip install 'yarbus[trl]'")

from trl import DPOConfig, DPOTrainer

CHOSEN, REJECTED = "five", "green"
"""Words of no question."""


def preferences(pictures: list) -> Any:
    return datasets.Dataset.from_list(
        [
            {
                "images": [pictures[number]],
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": CHOSEN}],
                "rejected": [{"role": "assistant", "content": REJECTED}],
            }
            for number, question in enumerate(QUESTIONS)
        ]
    )


def trainer_of(model: Any, processor: Any, pictures: list, folder: Any, kind: Any = DPOTrainer, **settings: Any) -> Any:
    own = {name: settings.pop(name) for name in ("ref_model", "learning_rates") if name in settings}
    arguments = DPOConfig(
        output_dir=str(folder), max_steps=3, bf16=False, max_length=None, **{**SETTINGS, **settings}
    )  # fmt: skip
    trainer = kind(model=model, args=arguments, train_dataset=preferences(pictures), processing_class=processor, **own)
    trainer.remove_callback(PrinterCallback)
    return trainer


def margins(trainer: Any) -> list[float]:
    return [line["rewards/margins"] for line in trainer.state.log_history if "rewards/margins" in line]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_copy_is_a_reference_and_no_answer_is_told(family, pictures, tmp_path):
    model, processor = attached(family)
    reference = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    told = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: told.append((kwargs["input_ids"], kwargs["context_input_ids"])),
        with_kwargs=True,
        prepend=True,
    )
    trainer = trainer_of(model, processor, pictures, tmp_path, ref_model=reference)
    trainer.train()
    assert margins(trainer)[0] == 0 and margins(trainer)[-1] > 0.01 and losses(trainer)[-1] < losses(trainer)[0]
    trained = {name for group in parameter_groups(model).values() for name in group}
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained
    assert all(torch.equal(p, before[name]) for name, p in trainer.ref_model.named_parameters())
    for ids, context in told:
        whole, asked = processor.tokenizer.batch_decode(ids), processor.context_tokenizer.batch_decode(context)
        assert all(CHOSEN in row or REJECTED in row for row in whole)
        assert not any(CHOSEN in row or REJECTED in row for row in asked)
        assert all(any(question in row for question in QUESTIONS) for row in asked)


def test_without_one_trl_compares_with_the_base_that_the_model_was_loaded_from(pictures, tmp_path):
    """Not with the model as it was given: it knows nothing of what was attached or trained since."""
    model, processor = tiny.llava()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model, processor = load_base(str(tmp_path / "base"))
    yarbus.attach(model, processor, vision=COVFT, projector="full", text_encoder="language_embeddings")
    with torch.no_grad():
        for tensor in parameter_groups(model)["projector"].values():
            tensor += 0.3 * torch.randn_like(tensor)  # as after supervised fine-tuning
    trainer = trainer_of(model, processor, pictures, tmp_path)
    assert type(trainer.ref_model).__name__ == "LlavaForConditionalGeneration"
    trainer.train()
    assert margins(trainer)[0] != 0


class GuardedDPO(Guarded, DPOTrainer):
    pass


def test_a_guarded_trainer_takes_the_model_as_it_was_given_as_reference(pictures, tmp_path):
    model, processor = attached()
    rates = {"vision": 1e-2, "vision_new": 1e-2, "router": 1e-2, "projector": 1e-2}
    found = []
    for own in ({}, {"ref_model": copy.deepcopy(model)}):
        policy = copy.deepcopy(model)
        trainer = trainer_of(
            policy, processor, pictures, tmp_path / str(len(found)), GuardedDPO, learning_rates=rates, **own
        )
        trainer.train()
        assert margins(trainer)[0] == 0 and margins(trainer)[-1] > 0.01
        found.append(losses(trainer))
    assert found[0] == found[1]


def test_with_peft_the_reference_is_the_model_without_its_lora(pictures, tmp_path):
    """The eyes are then the same on both sides; where they train too, a copy must be given."""
    model, processor = attached()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=WORDS))
    trainer = trainer_of(wrapped, processor, pictures, tmp_path)
    assert trainer.ref_model is None
    trainer.train()
    assert margins(trainer)[0] == 0 and margins(trainer)[-1] > 0


def test_with_peft_and_eyes_that_train_a_copy_is_the_reference(pictures, tmp_path):
    model, processor = attached()
    reference = copy.deepcopy(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=WORDS))
    train_again(model)
    trainer = trainer_of(wrapped, processor, pictures, tmp_path, ref_model=reference)
    trainer.train()
    assert margins(trainer)[0] == pytest.approx(0, abs=1e-6) and margins(trainer)[-1] > 0.01
