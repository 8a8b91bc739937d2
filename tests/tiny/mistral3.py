"""A Mistral3 with a Pixtral tower: pictures of up to 56 pixels a side, four patches of 7 pixels joined into a token."""

import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from tests.tiny.llava import LLAVA_TEMPLATE
from tests.tiny.parts import lively, word_tokenizer
from yarbus.models.pil_pixtral import PilPixtralProcessor


def mistral3():
    tokenizer = word_tokenizer(
        ["<pad>", "<unk>", "</s>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        pad_token="<pad>", eos_token="</s>", padding_side="left",
    )  # fmt: skip
    processor = PilPixtralProcessor(
        PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
        tokenizer, patch_size=7, spatial_merge_size=2, chat_template=LLAVA_TEMPLATE.replace("<image>", "[IMG]"),
    )  # fmt: skip
    config = Mistral3Config(
        vision_config=PixtralVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=56,
            patch_size=7,
        ),
        text_config=MistralConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, head_dim=12,
            num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=2, bos_token_id=None,
            sliding_window=None,
        ),
        image_token_index=processor.image_token_id, spatial_merge_size=2, vision_feature_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(Mistral3ForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model, processor
