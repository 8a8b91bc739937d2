"""TRL's SFTTrainer trains a head and the eyes, and what they are told never holds the answer."""

from typing import Any

import datasets
import pytest
import torch
from transformers import PrinterCallback, TrainerCallback

import yarbus
from tests import tiny
from yarbus.core.sections import GroupRate
from yarbus.methods import CARPE, CoVFT
from yarbus.models.attachment import parameter_groups
from yarbus.training.guarded import Guarded

pytest.importorskip("trl", reason="trl is not installed: pip install 'yarbus[trl]'")

from trl import SFTConfig, SFTTrainer

QUESTIONS = ("what digit is red ?", "where is the blue one ?", "which colour is the digit ?", "is there a digit ?")
ANSWER = "five"
"""A word of no question."""


def conversations(pictures: list) -> Any:
    """Whole conversations, the second of two turns."""
    rows = []
    for number, question in enumerate(QUESTIONS):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]
        if number == 1:
            turns += [{"role": "user", "content": QUESTIONS[3]}, {"role": "assistant", "content": ANSWER}]
        rows.append({"images": [pictures[number]], "messages": turns})
    return datasets.Dataset.from_list(rows)


def prompts(pictures: list) -> Any:
    """Prompts and their completions; one has no picture."""
    return datasets.Dataset.from_list(
        [
            {
                "images": [pictures[number]] if number else [],
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": ANSWER}],
            }
            for number, question in enumerate(QUESTIONS)
        ]
    )


PLACES = {
    "head": {"head": CARPE(), "projector": "full"},
    "eyes": {"vision": CoVFT(num_experts=3, context_dim=16, expert_jitter=1e-2), "projector": "full"},
}
KEYS = {"head": "context_prompt_ids", "eyes": "context_input_ids"}
"""In which tensor each is told the question."""


def attached(what: str = "head") -> tuple[Any, Any]:
    model, processor = tiny.llava()
    torch.manual_seed(1)
    return yarbus.attach(model, processor, **PLACES[what], text_encoder="language_embeddings")


def trainer_of(model: Any, processor: Any, data: Any, folder: Any, kind: Any = SFTTrainer, **settings: Any) -> Any:
    """Three steps over two micro-batches of two rows each; TRL checkpoints activations unless told otherwise."""
    mine = {name: settings.pop(name) for name in ("learning_rates", "compute_loss_func") if name in settings}
    steps = settings.pop("max_steps", 3)
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        use_cpu=True, bf16=False, learning_rate=1e-2, lr_scheduler_type="constant", max_length=None, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = kind(model=model, args=arguments, train_dataset=data, processing_class=processor, **mine)
    trainer.remove_callback(PrinterCallback)
    return trainer


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("data", [conversations, prompts])
def test_every_tensor_trains_and_no_answer_is_told(data, what, pictures, tmp_path):
    model, processor = attached(what)
    groups = parameter_groups(model)
    assert set(groups) == {"head": {"head"}, "eyes": {"vision", "vision_new"}}[what] | {"router", "projector"}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    told = []

    def listen(module, args, kwargs):
        told.append((kwargs["input_ids"], kwargs.get(KEYS[what])))

    handle = model.base_model.register_forward_pre_hook(listen, with_kwargs=True, prepend=True)
    trainer_of(model, processor, data(pictures), tmp_path).train()
    handle.remove()
    assert len(told) == 6
    for ids, prompt in told:
        whole, said = (processor.tokenizer.batch_decode(rows) for rows in (ids, prompt))
        assert all(ANSWER in row for row in whole) and not any(ANSWER in row for row in said)
        for row, words in zip(whole, said, strict=True):
            asked = sorted((question for question in QUESTIONS if question in row), key=row.index)
            # A head is told all that the user said, the eyes the last question.
            assert asked and all(question in words for question in (asked if what == "head" else asked[-1:]))
    trained = {name for group in groups.values() for name in group}
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained


def full_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Of all logits at once, as the library computes it."""
    logits, wanted = outputs.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("data", [conversations, prompts])
def test_the_fused_loss_is_the_loss_of_all_logits(data, what, pictures, tmp_path):
    """TRL 1.16 fuses the lm_head for ``nll``; ``chunked_nll`` is its old name. A loss of one's own gets all logits."""
    found = []
    ways = ({"loss_type": "nll"}, {"loss_type": "chunked_nll"}, {"compute_loss_func": full_loss})
    for number, settings in enumerate(ways):
        trainer = trainer_of(*attached(what), data(pictures), tmp_path / str(number), **settings)
        trainer.train()
        found.append(losses(trainer))
    assert len(found[0]) == 3 and found[0][-1] < found[0][0]
    assert found[0] == found[1] == pytest.approx(found[2], rel=1e-5)


def test_a_guarded_trainer_of_trl_freezes_the_weights_for_its_share_of_the_steps(pictures, tmp_path):
    class GuardedSFT(Guarded, SFTTrainer):
        pass

    model, processor = attached()
    router = parameter_groups(model)["router"]
    before, moved = {name: parameter.detach().clone() for name, parameter in router.items()}, []

    class Look(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            moved.append({name for name, parameter in router.items() if not torch.equal(parameter, before[name])})

    rates = {"projector": 1e-2, "head": 1e-2, "router": GroupRate(peak=1e-2, frozen_fraction=0.5)}
    trainer = trainer_of(model, processor, prompts(pictures), tmp_path, GuardedSFT, learning_rates=rates, max_steps=4)
    trainer.add_callback(Look())
    trainer.train()
    assert not moved[0] and not moved[1] and moved[3] == set(router)
