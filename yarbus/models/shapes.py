"""A model that runs on shapes alone: any forward, of any size, without weights and without memory.

Floating numbers have shapes, precision and storages but no values. Whole numbers and truth values that come from whole
numbers are real, so that what a forward decides by them (which image belongs to which row, where the placeholders
stand) is decided as ever. Where floating numbers decide (the ``top_k`` experts of a router), the choice is spread
evenly; a single number that is read off them is 0.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
CHOOSING = {
    aten.argmax.default, aten.argmin.default, aten.topk.default, aten.sort.default, aten.sort.stable,
    aten.argsort.default, aten.argsort.stable, aten.max.dim, aten.min.dim, aten.multinomial.default,
}  # fmt: skip
"""Operations that make whole numbers of floating ones."""
WITHOUT_VALUES = {
    aten.empty.memory_format, aten.empty_strided.default, aten.rand.default, aten.randn.default,
    aten.randperm.default,
}  # fmt: skip


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def storage_of(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others; views of one tensor share it."""
    return tensor.untyped_storage()._cdata


def _places(index: Tensor | None) -> list[Tensor | None]:
    """A mask as the places where it is true: without values nobody could tell how many there are."""
    if index is None or isinstance(index, FakeTensor) or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    with unset_fake_temporarily():
        return list(index.nonzero(as_tuple=True))


def _evenly(indices: Tensor, choices: int) -> Tensor:
    """Whole numbers below ``choices`` in the shape of ``indices``: different along the last axis, all alike often."""
    with unset_fake_temporarily():
        last = indices.shape[-1] if indices.ndim else 1
        rows = torch.arange(indices.numel() // max(last, 1))[:, None]
        return ((rows * last + torch.arange(last)) % max(choices, 1)).reshape(indices.shape)


@dataclass
class Storage:
    """Memory that an operation took."""

    nbytes: int
    number: int
    """Storages taken before it; no two have the same, while an address is taken again."""
    copy_of: int | None = None
    """Storage of the weight that it holds in another precision."""


class Shapes(TorchDispatchMode):
    """While it is entered, operations make shapes, and ``storages`` holds what of their memory is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.storages: dict[int, Storage] = {}
        self.weights: dict[int, bool] = {}
        """Storages of parameters and buffers -> whether they train. They are not among ``storages``."""
        self.number = self.live = self.peak = 0
        """Storages so far, bytes in use, and the most that were in use since it was set to ``live``."""

    def __enter__(self) -> "Shapes":
        self.fake.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.fake.__exit__(*error)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor without values."""
        with self.fake:
            return torch.empty(shape, dtype=dtype)

    def clear(self, model: nn.Module) -> None:
        """Takes the values out of a model's tensors, on the meta device or not; it cannot be used otherwise after."""
        made: dict[int, Tensor] = {}
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:  # tied weights stay one
                        clear = self.empty(*tensor.shape, dtype=tensor.dtype)
                        if isinstance(tensor, nn.Parameter):
                            clear = nn.Parameter(clear, requires_grad=tensor.requires_grad)
                        made[id(tensor)] = clear
                        self.weights[storage_of(clear)] = clear.requires_grad
                    held[name] = made[id(tensor)]  # type: ignore[assignment]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        if func in WITHOUT_VALUES or any(isinstance(tensor, FakeTensor) for tensor in inputs):
            output = self._on_shapes(func, args, kwargs)
        else:
            with unset_fake_temporarily():
                output = func(*args, **kwargs)
        for tensor in _tensors(output):
            self._note(tensor, func, args)
        return output

    def _on_shapes(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is aten._local_scalar_dense.default:
            return 0.0 if args[0].dtype.is_floating_point else 0
        if func in INDEXING:
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        output = func(*args, **kwargs)
        if func not in CHOOSING:
            return output
        axis = kwargs.get("dim", next((arg for arg in args[1:] if isinstance(arg, int)), -1))
        if func is aten.topk.default:
            axis = args[2] if len(args) > 2 else -1
        choices = args[0].shape[axis] if args[0].ndim and axis is not None else args[0].numel()
        if isinstance(output, Tensor):
            return _evenly(output, choices)
        return (output[0], _evenly(output[1], choices))

    def _note(self, tensor: Tensor, func: Any, args: tuple) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.storages or key in self.weights:
            return
        found = Storage(storage.nbytes(), self.number)
        if func is aten._to_copy.default and storage_of(args[0]) in self.weights:
            found.copy_of = storage_of(args[0])
        self.storages[key] = found
        self.number += 1
        self.live += found.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.live -= self.storages.pop(key).nbytes
