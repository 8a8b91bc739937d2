"""``Trainer`` over two processes, of which one sees words alone: DDP, and DeepSpeed where it is installed.

``python -m tests.training.test_trainer_processes FOLDER KIND`` is what each process runs.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from tests.training.processes import start
from tests.training.rows import ANSWER, QUESTIONS, SETTINGS, attached, chat, losses, quiet

zero = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install 'yarbus[deepspeed]'"
)
KINDS = ["ddp", pytest.param("zero 2", marks=zero), pytest.param("zero 3", marks=zero)]


class InOrder(Trainer):
    """Rows one after the other: with two processes the first sees those with pictures, the second the others."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return SequentialSampler(self.train_dataset)


def trained(kind: str | None, folder: Path) -> list[float]:
    """Losses of three updates over two rows each; a process alone does them one after the other."""
    model, processor = attached()
    random = np.random.default_rng(0)
    shown = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(6)]

    def collate(numbers: list[int]) -> dict[str, Any]:
        (number,) = numbers
        turns = chat(QUESTIONS[number % 4], ANSWER)
        if number % 2:
            del turns[0]["content"][0]
        text = processor.apply_chat_template([turns])
        batch = processor(images=None if number % 2 else [[shown[number]]], text=text, return_tensors="pt")
        return {**batch, "labels": batch["input_ids"]}

    stage = int(kind.split()[1]) if kind and kind.startswith("zero") else None
    settings = {
        **SETTINGS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1 if kind else 2,
        "deepspeed": stage and {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": stage},
        },
    }  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=3, remove_unused_columns=False, max_grad_norm=0.0, **settings
    )
    trainer = quiet(InOrder(model=model, args=arguments, train_dataset=list(range(6)), data_collator=collate))  # type: ignore[arg-type]
    trainer.train()
    return losses(trainer)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_a_process_that_does_the_work_of_both(kind, tmp_path):
    start(tmp_path, [kind], "tests.training.test_trainer_processes")
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found == pytest.approx(trained(None, tmp_path), rel=1e-5)


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    found = trained(sys.argv[2], Path(sys.argv[1]))
    if os.environ["RANK"] == "0":
        (Path(sys.argv[1]) / "losses.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()  # together: gloo's threads end the process of who is left behind
