"""lmms-eval for tests: the real package where it is installed, and a stand-in of its interface everywhere.

The stand-in has what the interface of lmms-eval 0.7.3 promises a chat model and nothing else: the base class with its
rank, ``task_dict`` and argument string; requests whose ``args`` are (context, messages of a row, settings, row, task,
split); the manifest of a model. It was written from that interface, not copied; where lmms-eval is installed the same
tests run on both, so that it cannot drift unseen.
"""

import sys
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

OURS = "yarbus.studies.lmms_eval_model"


class StandInModel:
    """``lmms_eval.api.model.lmms``"""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    @classmethod
    def create_from_arg_string(cls, text: str, more: dict[str, Any] | None = None) -> Any:
        told = dict(part.split("=", 1) for part in text.split(",") if part)
        return cls(**told, **{name: value for name, value in (more or {}).items() if value is not None})

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size


@dataclass
class StandInRequest:
    """``lmms_eval.api.instance.Instance``"""

    request_type: str
    arguments: tuple
    idx: int
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def args(self) -> tuple:
        return self.arguments


@dataclass(frozen=True)
class StandInManifest:
    """``lmms_eval.models.registry_v2.ModelManifest``"""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


STAND_IN = {
    "lmms_eval": {},
    "lmms_eval.api": {},
    "lmms_eval.api.model": {"lmms": StandInModel},
    "lmms_eval.api.instance": {"Instance": StandInRequest},
    "lmms_eval.models": {},
    "lmms_eval.models.registry_v2": {"ModelManifest": StandInManifest},
}


def take_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on ``import lmms_eval`` fails, as where it is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lmms_eval", None)


def put_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on ``import lmms_eval`` finds the stand-in."""
    take_away(monkeypatch)
    for name, content in STAND_IN.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def opened() -> SimpleNamespace:
    """Our model as this process's lmms-eval sees it, imported anew: its base class is whichever is in place."""
    sys.modules.pop(OURS, None)
    return SimpleNamespace(
        Yarbus=import_module(OURS).Yarbus,
        Instance=import_module("lmms_eval.api.instance").Instance,
        base=import_module("lmms_eval.api.model").lmms,
    )


def requests_of(harness: Any, model: Any, docs: list[dict[str, Any]], settings: Any, task: str = "toy") -> list[Any]:
    """A request for each doc: ``{"parts": [...]}`` is what the user says, ``{"messages": [...]}`` a conversation.

    ``settings``: of all docs, or a list with those of each.
    """

    def to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
        return doc.get("messages") or [{"role": "user", "content": doc["parts"]}]

    model.task_dict[task] = {"test": docs}
    each = settings if isinstance(settings, list) else [settings] * len(docs)
    return [
        harness.Instance(
            request_type="generate_until",
            arguments=(f"context {row}", to_messages, each[row], row, task, "test"),
            idx=0,
            metadata={"task": task, "doc_id": row, "repeats": 1},
        )
        for row in range(len(docs))
    ]
