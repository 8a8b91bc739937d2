"""An InternVL: tiles of 28 pixels whose four patches become one token."""

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE, finished, llava_tokenizer
from yarbus.models.image_only import ImageOnlyInternVLProcessor

NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<image>",
    "video_token": "<video>",
}


def internvl(**vision):
    tokenizer = llava_tokenizer("<img>", "</img>", "<video>", **NAMED)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=28,
            patch_size=14, layer_scale_init_value=1.0, use_mask_token=True, **vision,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, eos_token_id=2, pad_token_id=0,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = finished(InternVLForConditionalGeneration(config))
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    processor = ImageOnlyInternVLProcessor(images, tokenizer, image_seq_length=1, chat_template=LLAVA_TEMPLATE)
    return model, processor
