"""What replies depend on, as short hashes: the model, what it is shown, and each question.

Replies of two models in one folder would be a score of neither, so the runner writes these hashes
beside the replies and refuses to go on when one differs.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from yarbus.core.errors import DataError
from yarbus.data.collate import prompt_batch
from yarbus.data.sample import Sample, Turn
from yarbus.data.stored import Picture
from yarbus.models.pretrained import config_hash

LENGTH = 16
"""Hexadecimal digits kept of a hash."""


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:LENGTH]


def model_fingerprint(model: torch.nn.Module) -> str:
    """Hash of every tensor of the model, whichever of them an adapter brought."""
    return _hash_tensors(model.state_dict())


def function_fingerprint(model: Any) -> str:
    """Hash of every tensor of the model and of what its config says is computed with them."""
    return sha256(f"{model_fingerprint(model)} {config_hash(model.config)}".encode()).hexdigest()[:LENGTH]


def prompt_fingerprint(processor: Any) -> str:
    """Hash of what the model is shown for one fixed picture and question.

    It covers tokenizer, chat template, image processing and the context path at once, and does not
    depend on any file of the benchmark.
    """
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "probe.png"
        Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(picture)
        turns = (Turn("user", "<image>\nHow many circles are there?"), Turn("assistant", "2"))
        probe = Sample(id="probe", images=(picture,), turns=turns, task=None, group=None, source="probe", where="probe")
        batch = prompt_batch(processor, [probe])
    return _hash_tensors({name: value for name, value in batch.items() if isinstance(value, torch.Tensor)})


class SampleHashes:
    """Hash of a question: its turns and the contents of its pictures. Each picture is read once."""

    def __init__(self) -> None:
        self._pictures: dict[Picture, str] = {}

    def _picture(self, path: Picture) -> str:
        if path not in self._pictures:
            try:
                self._pictures[path] = sha256(path.read_bytes()).hexdigest()
            except (OSError, DataError):  # asking this sample fails later, by name; mended, it has another hash
                self._pictures[path] = "missing"
        return self._pictures[path]

    def __call__(self, sample: Sample) -> str:
        digest = sha256()
        for part in (sample.task or "", *(f"{turn.role}\0{turn.text}" for turn in sample.turns)):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\n\0")
        for path in sample.images:
            digest.update(self._picture(path).encode())
        return digest.hexdigest()[:LENGTH]


def hash_of_questions(hashes: Iterable[tuple[str, str]]) -> str:
    """Hash of a whole benchmark from ``(sample id, sample hash)``, in whatever order they come."""
    lines = sorted(f"{name} {sample_hash}" for name, sample_hash in hashes)
    return sha256("\n".join(lines).encode()).hexdigest()[:LENGTH]


def questions_hash(samples: Sequence[Sample]) -> str:
    """Hash of questions, answers and pictures as they are now: what scores.json calls ``data``."""
    sample_hash = SampleHashes()
    return hash_of_questions((sample.id, sample_hash(sample)) for sample in samples)
