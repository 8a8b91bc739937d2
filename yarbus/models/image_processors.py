"""Image processors by name or folder, without torchvision where there is none."""

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor
from transformers.image_processing_base import ImageProcessingMixin


def load_image_processor(path: str | Path) -> Any:
    """The image processor that a folder or a name on the hub holds."""
    try:
        return AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    except ImportError:  # before 5.23 the library chooses none by itself without torchvision
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
        name = str(settings.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
        cls = getattr(transformers, f"{name}Pil", None)
        if not name or cls is None:
            raise
        return cls.from_pretrained(path)
