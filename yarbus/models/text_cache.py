"""What a frozen text encoder makes of texts, kept on disk between runs (``models.feature_cache``).

Methods that read the pooled vector alone need one row of numbers per text; those that read token states need one more
per token. Which of the two a folder gets follows from the methods (``Method.reads_question_tokens``), since the second
is many times as large; they never stand in for each other.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from yarbus.models.feature_cache import FeatureCache

Text = tuple[int, ...]
"""Token ids with the special tokens, without padding."""
Encoded = tuple[Tensor, Tensor]
"""Token states [text_tokens, text_dim], of no token where they are not kept, and the pooled vector [text_dim]."""
FILE_BYTES = 256
"""At most what a file takes besides its numbers."""


@dataclass(frozen=True)
class TextCache:
    """Texts' states in a folder. ``encoder`` is what the numbers hang on besides the text."""

    files: FeatureCache
    has_tokens: bool
    """Whether token states are kept, or the pooled vectors alone."""

    def _key(self, encoder: str, text: Text) -> str:
        # On a GPU the precision of fp32 products is a setting of the process.
        precision = torch.get_float32_matmul_precision()
        return hashlib.sha256(repr(("text", encoder, precision, self.has_tokens, text)).encode()).hexdigest()

    def get(self, encoder: str, text: Text) -> Encoded | None:
        """What was put for this text, on the CPU; None if there is nothing whole."""
        rows = self.files.get(self._key(encoder, text))
        return None if rows is None else (rows[1:], rows[0])

    def put(self, encoder: str, text: Text, encoded: Encoded) -> None:
        """Keeps what an encoder makes of a text; a full disk raises ``CheckpointError``."""
        states, pooled = encoded
        rows = torch.cat([pooled[None], states]) if self.has_tokens else pooled[None]
        self.files.put(self._key(encoder, text), rows)

    def bytes_of(self, texts: Iterable[Text], dim: int, dtype: torch.dtype) -> int:
        """At most what these texts take."""
        rows = (1 + len(text) if self.has_tokens else 1 for text in texts)
        return sum(number * dim * dtype.itemsize + FILE_BYTES for number in rows)
