"""What tells one base model from another of the same shape."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLES = 256
"""Numbers read from each tensor, evenly spaced."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and evenly sampled values, the same for one model in fp32, fp16 or bf16.

    Sampling keeps it cheap for billions of parameters: two models that differ in any trained tensor differ here
    with practical certainty, since training moves whole tensors. On the meta device it is empty.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.device.type == "meta":
            return ""
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        flat = tensor.reshape(-1)
        index = torch.linspace(0, max(flat.numel() - 1, 0), min(SAMPLES, flat.numel()), dtype=torch.float64)
        values = flat[index.round().long().to(flat.device)]
        # fp16 and bf16 copies of one fp32 model agree on 8 significant bits only up to rounding; bf16 is the coarsest.
        digest.update(values.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
