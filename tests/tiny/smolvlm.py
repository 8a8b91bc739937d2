"""A SmolVLM: tiles as Idefics3's, in a model and a processor of its own."""

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.tiny.idefics3 import SPECIALS, parts
from tests.tiny.llava import LLAVA_TEMPLATE
from tests.tiny.parts import lively, word_tokenizer
from yarbus.models.pil_smolvlm import PilSmolVLMProcessor


def smolvlm():
    tokenizer = word_tokenizer(SPECIALS, pad_token="<pad>", eos_token="</s>", padding_side="left")
    processor = PilSmolVLMProcessor(
        SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer, image_seq_len=4, chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    vision, language = parts(tokenizer)
    config = SmolVLMConfig(
        vision_config=vision, text_config=language, scale_factor=2, image_token_id=processor.image_token_id
    )
    torch.manual_seed(0)
    model = lively(SmolVLMForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model, processor
