"""Words: the tokenizers of the base and of its text encoder, its chat template and its processor."""

from string import Formatter

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from yarbus.tinyworld.scene import COLOURS, IMAGE_PX, LEANS, SIZES
from yarbus.tinyworld.tasks import LEARNED
from yarbus.tinyworld.tower import IMAGE_MEAN, IMAGE_STD

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %} "
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def vocabulary() -> list[str]:
    """Every word that a question or an answer may hold, in alphabetical order."""
    words = {*map(str, range(10)), *COLOURS, *SIZES, *LEANS, "yes", "no", "digit", "the", "user", "assistant"}
    words |= {f"{column}{row}" for column in "abcd" for row in range(1, 5)} | {":", "?", ".", ","}
    for task in LEARNED:
        for phrasing in task.phrasings + task.held_out:
            words |= {word for text, *_ in Formatter().parse(phrasing) for word in text.split()}
    return sorted(words)


def _word_level(specials: list[str], unknown: str) -> Tokenizer:
    tokens = {word: number for number, word in enumerate([*specials, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def language_tokenizer() -> PreTrainedTokenizerFast:
    """The language model's: one token a word, upper and lower case alike."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_level(["<pad>", "<unk>", "</s>", "<image>"], "<unk>"),
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def text_tokenizer() -> PreTrainedTokenizerFast:
    """The text encoder's: ``[CLS] words [SEP]``, as BERT has them."""
    tokenizer = _word_level(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """Pictures of 48 px whose 36 patches follow the ``<image>`` of the text."""
    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": IMAGE_PX, "width": IMAGE_PX},
        do_center_crop=False,
        do_convert_rgb=True,
        image_mean=[IMAGE_MEAN] * 3,
        image_std=[IMAGE_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=language_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
