"""A Llava with a SigLIP tower: no class token, a pooling head that runs for nothing."""

from transformers import SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.tiny.llava import SIZES, llava_with


def llava_siglip(**settings):
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    return llava_with(SiglipVisionConfig(**SIZES, intermediate_size=64), images, 0, "full", **settings)
