"""A Gemma3 with a SigLIP tower that has a pooling head: 16 patches of a picture become four tokens."""

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor, Gemma3TextConfig
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE
from tests.tiny.parts import lively, word_tokenizer


def gemma3():
    tokenizer = word_tokenizer(
        ["<pad>", "<unk>", "<eos>", "<bos>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"],
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left",
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    config = Gemma3Config(
        vision_config=dict(  # noqa: C408
            model_type="siglip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4, image_size=28, patch_size=7,
        ),
        text_config=Gemma3TextConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=3, head_dim=12,
            num_attention_heads=4, num_key_value_heads=2, query_pre_attn_scalar=12, sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            pad_token_id=0, eos_token_id=2, bos_token_id=3,
        ),
        mm_tokens_per_image=4, image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(Gemma3ForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 28, "width": 28}), tokenizer, image_seq_length=4,
        chat_template=LLAVA_TEMPLATE.replace("<image>", "<start_of_image>"),
    )  # fmt: skip
    return model, processor
