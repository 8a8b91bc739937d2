"""Small random models and processors for tests, offline: one file per family or kind of tower.

A builder takes nothing and returns (model, processor), the same at every call. ``FAMILIES`` are the two on which
every method is tested in ``make test``; ``EVERY`` are all.
"""

from tests.tiny.llava import llava
from tests.tiny.parts import text_encoder_folder, word_tokenizer
from tests.tiny.qwen2_5_vl import qwen

__all__ = ["EVERY", "FAMILIES", "llava", "qwen", "text_encoder_folder", "word_tokenizer"]

FAMILIES = {"llava": llava, "qwen2_5_vl": qwen}
EVERY = {**FAMILIES}
