"""A Llava with a CLIP tower: two blocks of language, four of vision, 28 pixels."""

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


def llava(num_vision_blocks: int = 4):
    tokenizer = word_tokenizer(
        ["<pad>", "<unk>", "</s>", "<image>"], pad_token="<pad>", eos_token="</s>", padding_side="left"
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=num_vision_blocks, num_attention_heads=4,
            image_size=28, patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, eos_token_id=2, bos_token_id=None,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(LlavaForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return model, processor
