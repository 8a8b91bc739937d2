"""SmolVLM's processor without torchvision and num2words: the library's own needs both for its video half."""

from typing import Any, no_type_check

from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
from transformers.processing_utils import ProcessorMixin

from yarbus.core.errors import DataError


class PilSmolVLMProcessor(SmolVLMProcessor):
    """SmolVLM's processor for text and images alone, saved as ``SmolVLMProcessor``; a video raises ``DataError``."""

    @no_type_check  # the library reads the argument names off __code__, which a checking wrapper would hide
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_len: int = 169,
        chat_template: Any = None,
    ) -> None:
        # Past the parent, which wants num2words to write how many frames a video has.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_len = image_seq_len
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.end_of_utterance_token = getattr(tokenizer, "end_of_utterance_token", "<end_of_utterance>")

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> Any:
        if videos is not None:
            raise DataError(
                "videos are not supported",
                why="this processor was built without torchvision",
                fix="pass frames as images",
            )
        return super().__call__(images=images, text=text, **kwargs)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As every processor's: the parent asks its video half how many frames a video has."""
        return ProcessorMixin.apply_chat_template(self, conversation, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        # Saved under the library's name: a machine with torchvision opens the folder with AutoProcessor.
        return {**super().to_dict(), "processor_class": "SmolVLMProcessor"}
