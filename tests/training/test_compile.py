"""Blocks may be compiled one by one.

In a process of its own: the checks of shapes that tests switch on cannot be traced.
"""

import os
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

from tests.models.batches import QUESTIONS, ask
from tests.training.rows import attached
from yarbus.models.vlm import VLM

COMPARED = "llava", "qwen2_5_vl", "internvl"
"""One tower of fixed size, one that packs pictures, and one of tiles whose blocks scale what they add."""


def updates(model, processor, pictures):
    """Loss and gradients of three batches with other questions each."""
    found = []
    for first in range(3):
        model.zero_grad()
        batch = ask(processor, pictures, QUESTIONS[:2], context=[QUESTIONS[0], QUESTIONS[first]])
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        found.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}))
    return found


def compare(family):
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(2)]
    model, processor = attached(family)
    expected = updates(model.train(), processor, pictures)
    vlm = VLM.of(model)
    for block in (*vlm.blocks(), vlm.language_blocks[0]):
        block.compile(backend="aot_eager")
    found = updates(model, processor, pictures)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert expected[0][0] != expected[1][0]
    for (loss, gradients), (wanted, others) in zip(found, expected, strict=True):
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
        for name, gradient in others.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_compiled_blocks_have_the_losses_and_gradients_of_others():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = "from tests.training.test_compile import COMPARED, compare\nfor family in COMPARED: compare(family)"
    ended = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
