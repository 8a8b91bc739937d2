"""A Yarbus run, folder or adapter as a model of lmms-eval, so that its tasks ask the eyes as training did.

Each task's conversation goes through our own prompt batches: the question that reaches the tower is what the user says,
and a head is told the same. lmms-eval's adapters for plain models would leave both out.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from rich.console import Console

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.progress import progress_of
from yarbus.data.sample import Sample
from yarbus.evaluation.asking import Decoding, ask, reply
from yarbus.evaluation.messages import Asked, decoding_of, not_followed, sample_of
from yarbus.evaluation.runner import errors_allowed
from yarbus.methods.assemble import load_adapter
from yarbus.models.load import load_base
from yarbus.training.run import load_run

try:
    from lmms_eval.api.model import lmms
except ImportError as error:
    raise ConfigError("lmms-eval cannot be imported", why=str(error), fix="pip install 'yarbus[eval]'") from None

NAME = "yarbus in lmms-eval"
"""Begins our lines on the screen."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name not in DTYPES:
        raise ConfigError(f"unknown dtype '{name}'", where="--model_args", fix=f"use one of: {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def _batch_size(told: int | str) -> int:
    if not str(told).isdecimal() or int(told) < 1:
        why = "no batch size is searched for"
        raise ConfigError(f"batch size '{told}'", where="--batch_size", why=why, fix="give a number of 1 or more")
    return int(told)


def _load(pretrained: str, adapter: str | None, dtype: torch.dtype | None) -> tuple[Any, Any]:
    if adapter is None:
        return load_run(pretrained, dtype)
    return load_adapter(*load_base(pretrained, dtype or torch.float32), adapter)


def _refuse(kind: str, why: str) -> NoReturn:
    raise ConfigError(
        f"{kind} are not supported", where="lmms-eval", why=why, fix="choose tasks of type generate_until"
    )


def _tell(news: str) -> None:
    Console(stderr=True).print(f"{NAME}: {news}", markup=False, highlight=False, soft_wrap=True)


def _check(failed: list[tuple[str, str]], num_asked: int) -> None:
    """Raises ``DataError`` if too many questions failed."""
    if len(failed) > errors_allowed(num_asked) or len(failed) == num_asked:
        where, error = failed[-1]
        number = f"all {num_asked}" if len(failed) == num_asked else f"{len(failed)} of {num_asked}"
        raise DataError(
            f"{number} questions failed", where=where, why=error, fix="mend the rows, or choose other tasks"
        )


def _batches(asked: list[Asked], size: int) -> Iterator[tuple[Decoding, list[int]]]:
    """Indices of requests that are answered together: by one decoding, in like lengths, which pad least.

    Rows of one task stand side by side, since they have as many pictures.
    """
    by_decoding: dict[Decoding, list[int]] = defaultdict(list)
    for index, one in enumerate(asked):
        by_decoding[decoding_of(one.settings)].append(index)
    for decoding, indices in by_decoding.items():
        indices.sort(key=lambda index: (asked[index].task, len(asked[index].context)))
        for start in range(0, len(indices), size):
            yield decoding, indices[start : start + size]


class Yarbus(lmms):
    """Answers lmms-eval's ``generate_until`` requests with a model that may hear the question.

    Args:
        pretrained: a run's folder, an adapter's, a full model's, or a base by name: what ``yarbus evaluate`` takes.
        adapter: a folder that ``yarbus.save_adapter`` wrote, for the base ``pretrained``.
        device: the first accelerator, else the CPU, if left out. With several processes each has its own.
        dtype: of the weights but the text encoder's; fp32 if left out, of a full model's folder what it was saved in.
        batch_size: questions at a time.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
    ) -> None:
        super().__init__()
        precision, self.batch_size = _dtype(dtype), _batch_size(batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        is_alone = self.accelerator.num_processes == 1
        self.device = torch.device(device) if device is not None and is_alone else self.accelerator.device
        self.model, self.processor = _load(str(pretrained), adapter, precision)
        self.model.to(self.device).eval()

    def _sample(self, asked: Asked) -> Sample:
        return sample_of(asked.messages(self.task_dict[asked.task][asked.split][asked.row]), asked.where)

    def _replies(self, batch: list[Asked], decoding: Decoding) -> list[tuple[str, str | None]]:
        """(reply, error) of each."""
        found = ask(partial(self._answer, decoding), [self._sample(asked) for asked in batch])
        return [(text, error) for _, text, error in found]

    def _answer(self, decoding: Decoding, samples: list[Sample]) -> list[str]:
        return reply(self.model, self.processor, samples, decoding)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """A reply to each request, in their order.

        A question that fails (a damaged picture) is told on the screen and has an empty reply. More than one in a
        hundred of them, or two, stop the evaluation (``DataError``), as in ``yarbus evaluate``.
        """
        asked = [Asked.of(request.args) for request in requests]
        ignored = sorted({name for one in asked for name in not_followed(one.settings)})
        if ignored and self.rank == 0:
            _tell(f"generation settings without effect here: {', '.join(ignored)}")
        replies, failed = [""] * len(asked), []
        with progress_of(NAME, len(asked), self.rank == 0) as advance:
            for decoding, chosen in _batches(asked, self.batch_size):
                found = self._replies([asked[index] for index in chosen], decoding)
                for index, (text, error) in zip(chosen, found, strict=True):
                    replies[index] = text
                    if error is not None:
                        failed.append((asked[index].where, error))
                        _check(failed, len(asked))
                advance(len(chosen))
        for where, error in failed:
            _tell(f"empty reply: {where} - {error}")
        return replies

    def loglikelihood(self, requests: list[Any]) -> NoReturn:
        """Refused."""
        why = "lmms-eval asks no chat model for them, and to score a given answer instead of writing one is not built"
        _refuse("log-likelihood requests", why)

    def generate_until_multi_round(self, requests: list[Any]) -> NoReturn:
        """Refused."""
        _refuse("tasks of several rounds", "the eyes would have to be asked anew in each round, which is not built")
