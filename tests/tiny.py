"""Small random models and processors for tests: a Llava with a CLIP tower and a Qwen2.5-VL, offline."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from yarbus.models.processor import ImageOnlyQwen2_5_VLProcessor

WORDS = [
    "what",
    "digit",
    "is",
    "red",
    "blue",
    "green",
    "where",
    "the",
    "a",
    "one",
    "two",
    "three",
    "four",
    "five",
    "left",
    "right",
    "top",
    "bottom",
    "yes",
    "no",
    "there",
    "?",
    ".",
    ",",
    "USER",
    ":",
    "ASSISTANT",
    "user",
    "assistant",
    "describe",
    "picture",
    "and",
    "colour",
    "which",
]

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def word_tokenizer(specials: list[str], **roles: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*specials, *WORDS]))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=specials[1]))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=specials[1],
        additional_special_tokens=[word for word in specials if word not in roles.values() and word != specials[1]],
        **roles,
    )


def text_encoder_folder(folder, dim: int = 16):
    """A random BERT of width ``dim`` and its tokenizer, as a folder."""
    tokenizer = word_tokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=dim, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _lively(model):
    """Random weights large enough that images and questions move the logits."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.0 / parameter.shape[-1] ** 0.5))
    return model.eval()


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
    model = _lively(LlavaForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return model, processor


def qwen():
    specials = [
        "<|endoftext|>", "<|unk|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>",
        "<|image_pad|>", "<|video_pad|>",
    ]  # fmt: skip
    tokenizer = word_tokenizer(specials, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="left")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in specials}
    config = Qwen2_5_VLConfig(
        vision_config=dict(  # noqa: C408
            depth=4, hidden_size=32, intermediate_size=48, num_heads=4, out_hidden_size=48, patch_size=7,
            window_size=28, fullatt_block_indexes=[1, 3], spatial_merge_size=2, temporal_patch_size=2,
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
    model = _lively(Qwen2_5_VLForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    processor = ImageOnlyQwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(patch_size=7, merge_size=2, temporal_patch_size=2, min_pixels=784, max_pixels=3136),
        tokenizer, chat_template=QWEN_TEMPLATE,
    )  # fmt: skip
    return model, processor


FAMILIES = {"llava": llava, "qwen2_5_vl": qwen}
