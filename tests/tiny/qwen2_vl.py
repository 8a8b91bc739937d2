"""A Qwen2-VL with packed pictures of 28 to 56 pixels a side, whose tower is narrower than what it hands on."""

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny.parts import lively, word_tokenizer
from tests.tiny.qwen2_5_vl import QWEN_TEMPLATE
from yarbus.models.image_only import ImageOnlyQwen2VLProcessor

SPECIALS = [
    "<|endoftext|>", "<|unk|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip


def qwen2_vl():
    tokenizer = word_tokenizer(SPECIALS, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="left")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIALS}
    config = Qwen2VLConfig(
        vision_config=dict(  # noqa: C408
            depth=4, embed_dim=32, hidden_size=48, mlp_ratio=2, num_heads=4, patch_size=7, spatial_merge_size=2,
            temporal_patch_size=2,
        ),
        text_config=dict(  # noqa: C408
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, eos_token_id=2, pad_token_id=0,
            rope_parameters={"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0},
        ),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(Qwen2VLForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    processor = ImageOnlyQwen2VLProcessor(
        Qwen2VLImageProcessorPil(patch_size=7, merge_size=2, temporal_patch_size=2, min_pixels=784, max_pixels=3136),
        tokenizer, chat_template=QWEN_TEMPLATE,
    )  # fmt: skip
    return model, processor
