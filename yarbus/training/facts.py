"""What a checkpoint depends on besides its own files: the data, the base, the weights its stage began from.

Each is a hash that goes into the manifest and is compared before a resume.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from yarbus.core.errors import DataError, MismatchError
from yarbus.data.sample import Sample
from yarbus.training.checkpoint import read_manifest

WORDS = {"stage": "stage", "base": "base model", "starts_from": "set of starting weights"}


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and every byte: equal only for bit-equal weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def samples_hash(samples: Sequence[Sample]) -> str:
    """sha256 over what the samples say, in order (pictures by name, not by content), and how questions are worded."""
    digest = hashlib.sha256()
    wordings = {}
    for sample in samples:
        turns = [(turn.role, turn.text) for turn in sample.turns]
        digest.update(repr((sample.id, [image.name for image in sample.images], turns)).encode())
        if sample.wording is not None:
            wordings[id(sample.wording)] = sample.wording
    for wording in wordings.values():
        digest.update(repr((wording.templates, wording.names)).encode())
    return digest.hexdigest()


def check_facts(folder: Path, facts: Mapping[str, str]) -> None:
    """Raises where a checkpoint was written on other data, another base or other starting weights."""
    recorded = read_manifest(folder).facts
    changed = [key for key, value in facts.items() if recorded.get(key) != value]
    if "data" in changed:
        raise DataError("the data changed since this run began", where=folder, fix="restore it, or start another run")
    for key in changed:
        raise MismatchError(
            f"the run began with another {WORDS[key]}",
            where=folder,
            why=f"{str(recorded.get(key))[:16]} then, {facts[key][:16]} now",
            fix="restore it, or start another run",
        )
