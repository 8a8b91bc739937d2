"""A Llava with a CLIP tower: two blocks of language, four of vision, 28 pixels; and what Llavas with others share."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.tiny.parts import lively, word_tokenizer

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
"""Of a tower: four patches to a picture."""


def llava_tokenizer(*specials: str, **roles: str):
    """Words, and the special tokens of a Llava; ``specials`` are further ones."""
    usual = {"pad_token": "<pad>", "eos_token": "</s>", "padding_side": "left"}
    return word_tokenizer(["<pad>", "<unk>", "</s>", "<image>", *specials], **usual, **roles)


def llama(tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip


def finished(model):
    """Lively, and told where to stop."""
    model = lively(model)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model


def llava_model(vision_config, tokenizer, **settings):
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **settings,
    )
    torch.manual_seed(0)
    return finished(LlavaForConditionalGeneration(config))


def llava_with(vision_config, image_processor, prefix_tokens: int, strategy: str = "default", **settings):
    """A Llava with any tower that has a row per image, and its processor."""
    tokenizer = llava_tokenizer()
    model = llava_model(vision_config, tokenizer, vision_feature_select_strategy=strategy, **settings)
    processor = LlavaProcessor(
        image_processor, tokenizer, patch_size=14, vision_feature_select_strategy=strategy,
        num_additional_image_tokens=prefix_tokens, chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return model, processor


def llava(num_vision_blocks: int = 4, **settings):
    vision = CLIPVisionConfig(**{**SIZES, "num_hidden_layers": num_vision_blocks}, intermediate_size=64)
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return llava_with(vision, images, prefix_tokens=1, **settings)
