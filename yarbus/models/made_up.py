"""A batch that is made up, with real numbers in it, for models whose data and processor are not at hand.

Its shapes are those of ``shape_batch``. Words, questions and pixels are drawn at random: each row asks another
question, as rows of real data do, and no kernel is faster for zeros.
"""

from typing import Any

import torch
from torch import Tensor, nn

from yarbus.models.shape_batch import BatchShape, shape_batch
from yarbus.models.text_encoder import TextEncoder
from yarbus.models.vlm import VLM

_QUESTION, _PROMPT = "context_input_ids", "context_prompt_ids"


def _marks(config: Any) -> set[int]:
    """Tokens that mean something to the model, such as the one that stands for a picture."""
    texts = (config, config.get_text_config())
    named = {name: value for text in texts for name, value in text.to_dict().items() if name.endswith("_token_id")}
    return {value for value in (*named.values(), config.image_token_id) if isinstance(value, int)}


def _words(like: Tensor, number: int, generator: torch.Generator) -> Tensor:
    return torch.randint(number, like.shape, generator=generator)


def made_up_batch(model: nn.Module, shape: BatchShape, seed: int) -> dict[str, Any]:
    """The forward's keyword arguments, ``labels`` included, on the CPU; the same for the same seed."""
    vlm, generator = VLM.of(model), torch.Generator().manual_seed(seed)
    batch = shape_batch(model, shape)
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            batch[name] = torch.randn(value.shape, generator=generator)
    ids, labels, marks = batch["input_ids"], batch["labels"], _marks(vlm.config)
    vocabulary = vlm.config.get_text_config().vocab_size
    words = torch.tensor([word for word in range(vocabulary) if word not in marks])
    chosen = words[_words(ids, len(words), generator)]
    is_picture = ids == vlm.image_token_id
    begins = nn.functional.pad(is_picture, (0, 1))[:, 1:]  # what may stand before a picture tells where it is
    batch["input_ids"] = ids.where(is_picture | begins, chosen)
    batch["labels"] = labels.where(labels < 0, batch["input_ids"])
    if _PROMPT in batch:
        batch[_PROMPT] = words[_words(batch[_PROMPT], len(words), generator)]
    if _QUESTION in batch:
        encoder: TextEncoder = vlm.base_model.context_encoder
        batch[_QUESTION] = _words(batch[_QUESTION], encoder.num_words, generator)
    return batch
