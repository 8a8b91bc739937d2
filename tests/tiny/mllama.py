"""A Mllama with three local and two global vision blocks, two of the local ones tapped, and pictures of four tiles.

Its gates are open by half: as the library begins, cross-attention would change nothing.
"""

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE
from tests.tiny.parts import lively, word_tokenizer


def mllama():
    tokenizer = word_tokenizer(
        ["<pad>", "<unk>", "</s>", "<|begin_of_text|>", "<|image|>", "<|python_tag|>"],
        pad_token="<pad>", eos_token="</s>", bos_token="<|begin_of_text|>", padding_side="left",
    )  # fmt: skip
    processor = MllamaProcessor(
        MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4),
        tokenizer, chat_template="{{ bos_token }}" + LLAVA_TEMPLATE.replace("<image>", "<|image|>"),
    )  # fmt: skip
    config = MllamaConfig(
        vision_config=dict(  # noqa: C408
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_global_layers=2, attention_heads=4,
            image_size=28, patch_size=14, intermediate_layers_indices=[0, 1], vision_output_dim=96,
        ),
        text_config=dict(  # noqa: C408
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, cross_attention_layers=[1], pad_token_id=0, eos_token_id=2,
            bos_token_id=3,
        ),
        image_token_index=processor.image_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(MllamaForConditionalGeneration(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name.rpartition(".")[2]:
                parameter.fill_(0.5)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model, processor
