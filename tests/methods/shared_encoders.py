"""A model whose processes choose otherwise, for a test that runs it in several; importing it makes little."""

import numpy as np
import torch
from PIL import Image

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.tiny.further_encoders import encoder_folder
from yarbus.methods import CARPE
from yarbus.models.attachment import adapter_tensors

ENCODERS = {kind: encoder_folder(kind) for kind in ("cumo", "siglip")}
"""Made on import: once processes are joined, the library lets only the first of them write a model."""


def shared_model():
    """With tensors as after some training, and a loss of the router's own over all processes."""
    model, processor = tiny.llava()
    torch.manual_seed(1)
    yarbus.attach(model, processor, projector="full", head=CARPE(encoders=ENCODERS, balance_loss=0.5))
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor += 0.05 * torch.randn(tensor.shape) * (1 + tensor.abs().mean())
    return model.train(), processor


def gradients_of(model, forward, processor, halves):
    """Of the mean loss over two halves of a batch: one with pictures, one of words alone."""
    random = np.random.default_rng(0)
    shown = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(2)]
    model.zero_grad()
    for half in halves:
        batch = ask(processor, [] if half else shown, QUESTIONS[:2], images_per_row=0 if half else 1)
        (forward(**batch, labels=batch["input_ids"]).loss / len(halves)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
