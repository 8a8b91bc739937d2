"""A LlavaOnevision: a picture alone in its row has tiles, pictures side by side have none; large grids are shrunk."""

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE, SIZES, finished, llama, llava_tokenizer
from yarbus.models.image_only import ImageOnlyLlavaOnevisionProcessor

GRIDS = [[28, 28], [28, 56], [56, 28], [56, 56], [28, 112]]
ASPECT_RATIO = "anyres_max_2"
"""Two tiles' worth of tokens at most: a grid of four is shrunk."""


def llava_onevision():
    tokenizer = llava_tokenizer("<video>")
    ids = {word: tokenizer.convert_tokens_to_ids(f"<{word}>") for word in ("image", "video")}
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**SIZES, intermediate_size=64),
        text_config=llama(tokenizer),
        image_token_index=ids["image"],
        video_token_index=ids["video"],
        vision_aspect_ratio=ASPECT_RATIO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=GRIDS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = finished(LlavaOnevisionForConditionalGeneration(config))
    images = LlavaOnevisionImageProcessorPil(size={"height": 28, "width": 28}, image_grid_pinpoints=GRIDS)
    processor = ImageOnlyLlavaOnevisionProcessor(
        images, tokenizer, num_image_tokens=4, vision_feature_select_strategy="full",
        vision_aspect_ratio=ASPECT_RATIO, chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return model, processor
