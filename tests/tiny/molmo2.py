"""A Molmo2: a picture is an overview and one crop, or two crops side by side where it is wider than high.

The library has no way to make these tensors without torchvision, so ``Crops`` makes them by hand, in the layout of its
image processor; ``CropProcessor`` writes the text as its processor does, without a separator between lines.
"""

from typing import Any, ClassVar, no_type_check

import numpy as np
import torch
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BatchFeature,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PreTrainedConfig,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ProcessorMixin

from tests.tiny.llava import LLAVA_TEMPLATE
from tests.tiny.parts import lively, word_tokenizer

CROP, PATCH, POOL = 28, 7, 2
PATCHES = (CROP // PATCH) ** 2


def patches_of(crop: np.ndarray) -> torch.Tensor:
    """[patches, numbers of a patch] of [height, width, 3]."""
    side = CROP // PATCH
    cut = torch.from_numpy(crop).reshape(side, PATCH, side, PATCH, 3).transpose(1, 2)
    return cut.reshape(PATCHES, PATCH * PATCH * 3)


def pooled(num_crops: int, first: int) -> torch.Tensor:
    """[tokens, patches of a token] of crops side by side, as numbers of patches, in reading order."""
    side = CROP // PATCH
    grid = first + torch.arange(num_crops * PATCHES).reshape(num_crops, side, side).transpose(0, 1).flatten(1)
    rows, columns = side // POOL, num_crops * side // POOL
    return grid.reshape(rows, POOL, columns, POOL).transpose(1, 2).reshape(rows * columns, POOL * POOL)


class Crops(BaseImageProcessor):
    model_input_names: ClassVar = ["pixel_values", "image_token_pooling", "image_grids", "image_num_crops"]

    def __call__(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        crops, pooling, grids, counts = [], [], [], []
        for image in make_flat_list_of_images(images):
            num = 2 if image.width > image.height else 1
            wide = np.asarray(image.resize((CROP * num, CROP)), dtype=np.float32) / 127.5 - 1
            overview = np.asarray(image.resize((CROP, CROP)), dtype=np.float32) / 127.5 - 1
            first = len(crops) * PATCHES
            crops += [patches_of(np.ascontiguousarray(one)) for one in (overview, *np.split(wide, num, axis=1))]
            pooling += [pooled(1, first), pooled(num, first + PATCHES)]
            side = CROP // PATCH // POOL
            grids.append([side, side, side, side * num])
            counts.append(1 + num)
        return BatchFeature({
            "pixel_values": torch.stack(crops), "image_token_pooling": torch.cat(pooling),
            "image_grids": torch.tensor(grids), "image_num_crops": torch.tensor(counts),
        })  # fmt: skip


class CropProcessor(ProcessorMixin):
    return_mm_token_type_ids = True

    @no_type_check
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = "<|image|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.image_token_ids = tokenizer.convert_tokens_to_ids(
            ["<im_patch>", "<low_res_im_start>", "<im_start>", "<im_end>"]
        )

    def replace_image_token(self, image_inputs, image_idx, **kwargs):
        coarse_rows, coarse_columns, rows, columns = image_inputs["image_grids"][image_idx].tolist()
        coarse, fine = ("<im_patch>" * (coarse_rows * coarse_columns), "<im_patch>" * (rows * columns))
        return f"<low_res_im_start>{coarse}<im_end><im_start>{fine}<im_end>"


class CropConfig(PreTrainedConfig):
    """The library finds a class by its name once it is registered for some config."""

    model_type = "crops"


AutoImageProcessor.register(CropConfig, Crops, exist_ok=True)
AutoProcessor.register(CropConfig, CropProcessor, exist_ok=True)


def molmo2():
    tokenizer = word_tokenizer(
        ["<pad>", "<unk>", "</s>", "<|image|>", "<im_patch>", "<im_start>", "<low_res_im_start>", "<im_end>"],
        pad_token="<pad>", eos_token="</s>", padding_side="left",
    )  # fmt: skip
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.get_vocab()}
    processor = CropProcessor(Crops(), tokenizer, chat_template=LLAVA_TEMPLATE.replace("<image>", "<|image|>"))
    config = Molmo2Config(
        vision_config=dict(  # noqa: C408
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            head_dim=8, image_size=[CROP, CROP], patch_size=PATCH,
        ),
        adapter_config=dict(  # noqa: C408
            vision_feature_layer=[2, 0], hidden_size=32, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
            intermediate_size=64, text_hidden_size=48,
        ),
        text_config=dict(  # noqa: C408
            hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=len(tokenizer),
            additional_vocab_size=0, num_hidden_layers=2, intermediate_size=64, pad_token_id=0, eos_token_id=2,
            bos_token_id=None,
        ),
        image_patch_id=ids["<im_patch>"], image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"], image_end_token_id=ids["<im_end>"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = lively(Molmo2ForConditionalGeneration(config))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model, processor
