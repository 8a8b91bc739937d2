"""A LlavaNext: each picture as a whole and as a grid of tiles of 28 pixels."""

import torch
from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE, SIZES, finished, llama, llava_tokenizer

GRIDS = [[28, 56], [56, 28], [56, 56]]


def llava_next():
    tokenizer = llava_tokenizer()
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**SIZES, intermediate_size=64),
        text_config=llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRIDS,
    )
    torch.manual_seed(0)
    model = finished(LlavaNextForConditionalGeneration(config))
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=GRIDS
    )
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return model, processor
