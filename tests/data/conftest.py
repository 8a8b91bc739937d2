"""Two tiny processors, one per way of standing for a picture, and pictures on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)

WORDS = (
    "what is this where which digit one two three four five a the left right of yes no USER ASSISTANT user assistant"
)
LLAVA_TEMPLATE = (  # as llava-hf/llava-1.5-7b-hf writes it: pictures first, no end marker
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' '}}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(specials: list[str], **named: str) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<unk>", *specials, *WORDS.split(), ".", ",", ":", "?", "!"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=specials,
        padding_side="left",
        **named,
    )


class ImageOnlyQwenProcessor(Qwen2_5_VLProcessor):
    """Without torchvision there is no video processor to hand over."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = "<|image_pad|>", None
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = None
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


@pytest.fixture
def llava_processor() -> LlavaProcessor:
    """4 image tokens a picture."""
    images = CLIPImageProcessor(
        size={"height": 16, "width": 16}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(["</s>", "<image>"], eos_token="</s>"),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


@pytest.fixture
def qwen_processor() -> ImageOnlyQwenProcessor:
    """As many image tokens as the picture is large."""
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 4096})
    specials = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    return ImageOnlyQwenProcessor(images, tokenizer(specials, eos_token="<|im_end|>"), chat_template=QWEN_TEMPLATE)


@pytest.fixture(params=["llava", "qwen"])
def processor(request: pytest.FixtureRequest):
    return request.getfixturevalue(f"{request.param}_processor")


@pytest.fixture
def picture(tmp_path: Path):
    """Writes a picture of a given size and returns its path."""

    def write(name: str = "a.png", width: int = 24, height: int = 16) -> Path:
        pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return write
