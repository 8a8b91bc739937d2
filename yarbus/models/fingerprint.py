"""What tells one base model from another of the same shape."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLES = 256
"""Numbers read from each tensor, evenly spaced."""
COLUMNS = 65_537
"""Whole numbers that ``checksum`` adds up side by side; prime, so that it divides no tensor's width."""


def sample(tensor: Tensor) -> Tensor:
    """Up to ``SAMPLES`` numbers of a tensor, evenly spaced, as they are, on the CPU."""
    flat = tensor.detach().reshape(-1)
    index = torch.linspace(0, max(flat.numel() - 1, 0), min(SAMPLES, flat.numel()), dtype=torch.float64)
    return flat[index.round().long().to(flat.device)].cpu()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and evenly sampled values, the same for one model in fp32 or bf16.

    Sampling keeps it cheap for billions of parameters: two models that differ in any trained tensor differ here
    with practical certainty, since training moves whole tensors. On the meta device it is empty.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.device.type == "meta":
            return ""
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        # Rounded, so that an fp32 base and its bf16 copy are one base. An fp16 copy of it is not: it rounded otherwise.
        digest.update(sample(tensor).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def checksum(tensor: Tensor) -> int:
    """A number from every bit of a tensor: where it is the same, so are they, but for a chance.

    The bits are read as whole numbers, eight bytes each, and weighted by where they stand: a number that went up by
    the least step does not make up for another that went down. It costs one pass at the speed of the memory.
    """
    octets = tensor.detach().reshape(-1).view(torch.uint8)
    missing = -octets.numel() % 8
    if missing or octets.storage_offset() % 8:
        octets = torch.cat([octets, octets.new_zeros(missing)])
    words = octets.view(torch.int64)
    rest = words.numel() % COLUMNS
    weights = torch.arange(1, 2 * COLUMNS, 2, device=words.device)
    columns = words[: words.numel() - rest].view(-1, COLUMNS).sum(dim=0)
    columns[:rest] += words[words.numel() - rest :]
    return int((columns * weights).sum())
