"""What every small model is made of: a vocabulary of words, a tokenizer, weights that move the logits."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

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


def lively(model):
    """Random weights large enough that images and questions move the logits."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.0 / parameter.shape[-1] ** 0.5))
    return model.eval()
