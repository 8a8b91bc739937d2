"""A Llava with a Pixtral tower: pictures of any size packed into one row, as ``[1, total, dim]``."""

from transformers import PixtralVisionConfig
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE, llava_model, llava_tokenizer
from yarbus.models.pil_pixtral import PilPixtralProcessor


def pixtral_images() -> PixtralImageProcessorPil:
    return PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14})


def pixtral_tower() -> PixtralVisionConfig:
    return PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14
    )


def llava_pixtral(**settings):
    tokenizer = llava_tokenizer("[IMG_BREAK]", "[IMG_END]")
    defaults = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    model = llava_model(pixtral_tower(), tokenizer, **{**defaults, **settings})
    processor = PilPixtralProcessor(
        pixtral_images(), tokenizer, patch_size=14, image_token="<image>", chat_template=LLAVA_TEMPLATE
    )
    return model, processor
