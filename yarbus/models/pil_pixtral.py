"""Pixtral's processor without torchvision: the library's own cannot even be imported without it."""

from collections.abc import Mapping
from typing import Any, no_type_check

from transformers.processing_utils import ProcessorMixin


class PilPixtralProcessor(ProcessorMixin):
    """Text and images for towers of the kind of Pixtral (Llava with one, Mistral3), saved as ``PixtralProcessor``.

    An image becomes a line of image tokens for each row of merged patches; lines end with a break token, the last one
    with an end token.
    """

    patch_size: int
    spatial_merge_size: int
    image_token: str
    image_break_token: str
    image_end_token: str

    @no_type_check  # the library reads the argument names off __code__, which a checking wrapper would hide
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: Any = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token, self.image_break_token = image_token, image_break_token
        self.image_end_token = image_end_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    @property
    def token_px(self) -> int:
        """Side of the square of pixels that one image token stands for."""
        return self.patch_size * self.spatial_merge_size

    @property
    def image_token_ids(self) -> list[int]:
        """Every token that belongs to an image."""
        tokens = (self.image_token, self.image_break_token, self.image_end_token)
        return [self.tokenizer.convert_tokens_to_ids(token) for token in tokens]

    def _process_images(self, images: Any, **kwargs: Any) -> Any:
        # Sizes are rounded to whole image tokens, not only to whole patches.
        return super()._process_images(images, **{**kwargs, "patch_size": self.token_px})

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs: Any) -> str:
        """What stands in the text for one image."""
        height, width = (int(side) // self.token_px for side in image_inputs["image_sizes"][image_idx])
        line = self.image_token * width
        return self.image_break_token.join([line] * height) + self.image_end_token

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]

    def to_dict(self) -> dict[str, Any]:
        # Saved under the library's name: a machine with torchvision opens the folder with AutoProcessor.
        return {**super().to_dict(), "processor_class": "PixtralProcessor"}
