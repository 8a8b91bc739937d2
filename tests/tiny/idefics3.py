"""An Idefics3 with tiles of 28 pixels: a square picture is cut into four beside an overview, a slim one into two."""

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE
from tests.tiny.parts import lively, word_tokenizer

SPECIALS = [
    "<pad>", "<unk>", "</s>", "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
]  # fmt: skip


def parts(tokenizer):
    """Settings of the vision half and config of the language half, which SmolVLM shares."""
    vision = dict(  # noqa: C408
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=28, patch_size=7
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    return vision, language


def idefics3():
    tokenizer = word_tokenizer(SPECIALS, pad_token="<pad>", eos_token="</s>", padding_side="left")
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer, image_seq_len=4, chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    vision, language = parts(tokenizer)
    config = Idefics3Config(
        vision_config=vision, text_config=language, scale_factor=2, image_token_id=processor.image_token_id
    )
    torch.manual_seed(0)
    model = lively(Idefics3ForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model, processor
