"""A PaliGemma with a SigLIP tower of 28 pixels. Its processor has no chat template and wants a picture in each row."""

import torch
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.tiny.parts import lively, word_tokenizer


def paligemma():
    tokenizer = word_tokenizer(
        ["<pad>", "<unk>", "<eos>", "<bos>", "<image>"],
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left",
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)  # adds a thousand words for places and masks
    config = PaliGemmaConfig(
        vision_config=dict(  # noqa: C408
            model_type="siglip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4, image_size=28, patch_size=7, vision_use_head=False,
        ),
        text_config=GemmaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, head_dim=12,
            num_attention_heads=4, num_key_value_heads=1, pad_token_id=0, eos_token_id=2, bos_token_id=3,
        ),
        image_token_index=processor.image_token_id, projection_dim=48, hidden_size=48,
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(PaliGemmaForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model, processor
