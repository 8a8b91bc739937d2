"""A long gradient in a few numbers that keep its angles: the count-sketch.

Element i of a vector is added, with sign s(i), to number h(i) of the sketch; h and s are fixed hash functions. The map
is linear, and ``E <S x, S y> = <x, y>`` with variance ``(|x|^2 |y|^2 + <x, y>^2) / dim`` at most: a cosine moves by
about ``sqrt(2 / dim)`` or less, 0.006 at 65,536. No table of indices is kept: hashes are computed chunk by chunk, in
integer arithmetic that is the same on every device.
"""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 2**15
"""Elements at a time on a CPU: their hashes stay in its cache."""
ACCELERATOR_CHUNK = 2**22
"""And elsewhere, where what counts is the number of kernels."""
_LOW_32 = 2**32 - 1


def _signed(number: int) -> int:
    """The 64 bits of an unsigned number as torch's int64 has them."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def key_of(*parts: str) -> int:
    """A 64-bit number for these words; other words give an unrelated one."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _mixed(numbers: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    """The end of SplitMix64 (Steele et al., 2014), in place: each bit of the result hangs on all bits of the number."""
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # A shift of int64 copies the sign into the bits it frees; those of the original are zero.
        shifted = (numbers >> bits).bitwise_and_(2 ** (64 - bits) - 1)
        numbers.bitwise_xor_(shifted).mul_(_signed(factor))
    return numbers


def hashes(key: int, start: int, stop: int, device: torch.device | str = "cpu") -> Int[Tensor, " elements"]:
    """64 random-looking bits for each of the numbers from ``start`` to ``stop``: SplitMix64."""
    return _mixed(torch.arange(start, stop, device=device).mul_(_GOLDEN).add_(key))  # int64 wraps round, as 64 bits do


def hashed(numbers: Int[Tensor, "*axes"], keys: Int[Tensor, "*other"] | int) -> Int[Tensor, "*both"]:
    """64 random-looking bits for each number under its key; keys and numbers are broadcast."""
    return _mixed(numbers.long() * _GOLDEN + keys)


def count_sketch(
    values: Float[Tensor, "*axes"], key: int, dim: int, chunk: int | None = None
) -> Float[Tensor, " {dim}"]:
    """The sketch of a tensor's elements in fp32, on its device. ``key`` chooses the hash functions."""
    flat = values.detach().reshape(-1)
    sketch = torch.zeros(dim, device=flat.device)
    chunk = chunk or (CHUNK if flat.device.type == "cpu" else ACCELERATOR_CHUNK)
    for start in range(0, len(flat), chunk):
        stop = min(start + chunk, len(flat))
        mixed = hashes(key, start, stop, flat.device)
        part = flat[start:stop].float()
        # The low half scaled to 0 .. dim - 1; the sign is another bit.
        buckets = (mixed & _LOW_32).mul_(dim).bitwise_right_shift_(32)
        sketch.index_add_(0, buckets, torch.where(mixed < 0, -part, part))
    return sketch
