"""Fixtures that every room's tests may use."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import: a wrong name must fail at once, not after retries

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory) -> str:
    """Folder of a random BERT of width 16 with its tokenizer."""
    return str(tiny.text_encoder_folder(tmp_path_factory.mktemp("text_encoder")))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Eight random pictures of 28 x 28."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(8)]
