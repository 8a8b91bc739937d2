"""Rows for the trainers of others: questions about pictures, and answers with a word that no question holds."""

from typing import Any

import datasets
import torch
from transformers import PrinterCallback

import yarbus
from tests import tiny
from yarbus.methods import CoVFT

QUESTIONS = ("what digit is red ?", "where is the blue one ?", "which colour is the digit ?", "is there a digit ?")
ANSWER = "five"
"""A word of no question."""
SETTINGS = {
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
COVFT = CoVFT(num_experts=3, context_dim=16, expert_jitter=1e-2)


def attached(family: str = "llava", **places: Any) -> tuple[Any, Any]:
    model, processor = tiny.EVERY[family]()
    torch.manual_seed(1)
    places = places or {"vision": COVFT, "projector": "full"}
    return yarbus.attach(model, processor, **places, text_encoder="language_embeddings")


def chat(question: str, answer: str | None = None) -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns


def processed(processor: Any, pictures: list, answer: str | None = ANSWER, note: bool = True) -> datasets.Dataset:
    """What the processor made of each question and picture, a row each, with a column of no use."""
    text = processor.apply_chat_template(
        [chat(question, answer) for question in QUESTIONS], add_generation_prompt=answer is None
    )
    shown = [[picture] for picture in pictures[: len(QUESTIONS)]]
    batch = processor(images=shown, text=text, padding=True, return_tensors="pt")
    columns = {name: value.tolist() for name, value in batch.items()}
    columns["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100).tolist()
    if note:
        columns["note"] = list(QUESTIONS)
    return datasets.Dataset.from_dict(columns)


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def quiet(trainer: Any) -> Any:
    trainer.remove_callback(PrinterCallback)
    return trainer
