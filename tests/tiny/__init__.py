"""Small random models and processors for tests, offline: one file per family or kind of tower.

A builder takes nothing and returns (model, processor), the same at every call. ``FAMILIES`` are the two on which
every method is tested in ``make test``; ``EVERY`` are all.
"""

from importlib.util import find_spec

from tests.tiny.gemma3 import gemma3
from tests.tiny.idefics3 import idefics3
from tests.tiny.internvl import internvl
from tests.tiny.llava import llava
from tests.tiny.llava_dino import llava_dinov2, llava_dinov2_registers, llava_dinov3
from tests.tiny.llava_next import llava_next
from tests.tiny.llava_onevision import llava_onevision
from tests.tiny.llava_pixtral import llava_pixtral
from tests.tiny.llava_siglip import llava_siglip
from tests.tiny.mistral3 import mistral3
from tests.tiny.mllama import mllama
from tests.tiny.paligemma import paligemma
from tests.tiny.parts import text_encoder_folder, word_tokenizer
from tests.tiny.qwen2_5_vl import qwen
from tests.tiny.qwen2_vl import qwen2_vl
from tests.tiny.qwen3_vl import qwen3_vl
from tests.tiny.smolvlm import smolvlm

__all__ = ["EVERY", "FAMILIES", "llava", "qwen", "text_encoder_folder", "word_tokenizer"]

FAMILIES = {"llava": llava, "qwen2_5_vl": qwen}
EVERY = {
    **FAMILIES,
    "gemma3": gemma3,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava_dinov2": llava_dinov2,
    "llava_dinov2_registers": llava_dinov2_registers,
    "llava_dinov3": llava_dinov3,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "llava_pixtral": llava_pixtral,
    "llava_siglip": llava_siglip,
    "mistral3": mistral3,
    "mllama": mllama,
    "paligemma": paligemma,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
}
if find_spec("transformers.models.molmo2") is not None:  # since 5.23
    from tests.tiny.molmo2 import molmo2

    EVERY["molmo2"] = molmo2
