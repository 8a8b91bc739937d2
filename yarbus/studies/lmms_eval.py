"""The door through which lmms-eval finds us: ``lmms-eval --model yarbus``. The model itself is ``lmms_eval_model``.

lmms-eval (0.6 and later) calls ``manifest`` through the entry-point group ``lmms_eval.models``. It does so while it is
being imported itself, so this file imports nothing of it but on that call, and nothing heavy ever.
"""

from typing import Any


def manifest() -> Any:
    """The ``ModelManifest`` that registers the model by the name ``yarbus``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="yarbus", chat_class_path="yarbus.studies.lmms_eval_model.Yarbus")
