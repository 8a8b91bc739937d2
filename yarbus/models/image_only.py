"""Processors of the library without their video half, which cannot be built without torchvision.

``ImageOnly<Name>`` is there for every processor ``<Name>`` of transformers that takes a ``video_processor``, made when
it is asked for: ``from yarbus.models.image_only import ImageOnlyInternVLProcessor``.
"""

import inspect
from functools import cache
from typing import Any

import transformers

from yarbus.core.errors import DataError

PREFIX = "ImageOnly"


@cache
def image_only(cls: Any) -> type:
    """The processor class ``cls`` for images and text alone; a video given to it raises ``DataError``.

    The library finds a processor's parts by the names in ``__init__``: leaving one out leaves the part out.
    """
    parameters = inspect.signature(cls.__init__).parameters.values()
    catch_all = inspect.Parameter.VAR_KEYWORD
    kept = [one for one in parameters if one.name != "video_processor" and one.kind is not catch_all]
    signature = inspect.Signature(kept)
    names = [one.name for one in kept][1:]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes the class's
        given = signature.bind(self, *args, **kwargs).arguments
        cls.__init__(**given, video_processor=None)

    def __call__(self: Any, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> Any:  # noqa: N807
        if videos is not None:
            raise DataError(
                "videos are not supported",
                why="this processor was built without torchvision",
                fix="pass frames as images",
            )
        return cls.__call__(self, images=images, text=text, **kwargs)

    def to_dict(self: Any) -> dict[str, Any]:
        # Saved under the library's name: a machine with torchvision opens the folder with AutoProcessor.
        return {**cls.to_dict(self), "processor_class": cls.__name__}

    def validate_init_kwargs(processor_config: Any, valid_kwargs: Any) -> Any:
        # from_pretrained reads the names it may pass off the code of __init__, which here has none.
        return cls.validate_init_kwargs(processor_config, names)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    own = {
        "__module__": __name__,
        "__doc__": f"{cls.__name__} without its video half.",
        "__init__": __init__,
        "__call__": __call__,
        "to_dict": to_dict,
        "validate_init_kwargs": staticmethod(validate_init_kwargs),
    }
    return type(f"{PREFIX}{cls.__name__}", (cls,), own)


def __getattr__(name: str) -> type:
    """``ImageOnly<Name>``, also for a pickle that opens in a process that has not made it yet."""
    plain = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if plain is None or "video_processor" not in inspect.signature(plain.__init__).parameters:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return image_only(plain)
