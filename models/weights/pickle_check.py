"""Checks the pickle of a checkpoint without running it.

torch's restricted unpickler keeps a pickle from running code, but not from taking memory:
`bytearray(8 << 30)`, a tensor larger than its storage, or a storage larger than its record. Here a
stack machine follows the same opcodes with placeholders in place of objects, and allows only the
calls that torch.save writes for containers, numbers and dense tensors.
"""

import math
import pickletools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from pickle import UnpicklingError
from typing import Any

from models.weights.errors import UnsupportedCheckpoint

MAX_TUPLE_WEIGHT = 10_000  # values, counted each time they are reached: hashing visits all of them

# Bytes of an element. A storage is written as one of these, its record, its device and its length.
_STORAGES = {
    f"torch {name}Storage": n_bytes
    for name, n_bytes in {
        "Double": 8,
        "Float": 4,
        "Half": 2,
        "BFloat16": 2,
        "Long": 8,
        "Int": 4,
        "Short": 2,
        "Char": 1,
        "Byte": 1,
        "Bool": 1,
    }.items()
}
_DTYPES = {
    f"torch {name}"
    for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
}
_ORDERED_DICT = "collections OrderedDict"
_TENSORS = {"torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2"}
_PARAMETER = "torch._utils _rebuild_parameter"
_SPARSE = {"torch._utils _rebuild_sparse_tensor", "torch.serialization _get_layout"}
_CALLS = {_ORDERED_DICT, _PARAMETER, "torch Size", "torch device", "builtins set", "_codecs encode"}
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True, eq=False)
class _Global:
    name: str


@dataclass(frozen=True, eq=False)
class _Made:
    """The result of a call."""

    name: str
    can_be_built: bool = False


@dataclass(frozen=True, eq=False)
class _Storage:
    n_elements: int


@dataclass(frozen=True, eq=False)
class _Tuple:
    items: tuple[Any, ...]
    weight: int


class _Dict:
    pass


_MARK = object()


def check_pickle(
    content: bytes, record_sizes: Mapping[str, int], allowed: Collection[type] = ()
) -> None:
    """
    Args:
        record_sizes: bytes of each record that a storage may refer to, by its key.
        allowed: further classes that may be instantiated.

    Raises:
        UnpicklingError: the pickle does something that is not allowed.
        UnsupportedCheckpoint: a tensor is sparse, or larger than its storage.
        LookupError, ValueError: the pickle is damaged.
    """
    _Machine(record_sizes, allowed).run(content)


class _Machine:
    def __init__(self, record_sizes: Mapping[str, int], allowed: Collection[type]) -> None:
        self._record_sizes = record_sizes
        self._allowed = {f"{each.__module__} {each.__qualname__}": each for each in allowed}
        self._known = {*_STORAGES, *_DTYPES, *_TENSORS, *_SPARSE, *_CALLS, *self._allowed}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> None:
        for opcode, argument, _ in pickletools.genops(content):
            self._step(opcode.name, argument)

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO":
                _require(argument == 2)
            case "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append(_Dict())
            case "EMPTY_TUPLE":
                stack.append(_make_tuple([]))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(_make_tuple(items[::-1]))
            case "TUPLE":
                stack.append(_make_tuple(self._pop_to_mark()))
            case "APPEND":
                item = stack.pop()
                self._top(list).append(item)
            case "APPENDS":
                items = self._pop_to_mark()
                self._top(list).extend(items)
            case "SETITEM":
                items = [stack.pop(), stack.pop()][::-1]
                self._set_items(items)
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                _require(argument in self._known)
                stack.append(_Global(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                _require(isinstance(called, _Global) and isinstance(arguments, _Tuple))
                stack.append(self._call(called.name, arguments.items, opcode))
            case "BUILD":
                stack.pop()
                _require(self._top(_Made).can_be_built)
            case _:
                raise UnpicklingError(f"opcode {opcode}")

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _top(self, kind: Any) -> Any:
        _require(isinstance(self._stack[-1], kind))
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._top((_Dict, _Made))
        _require(isinstance(target, _Dict) or target.name == _ORDERED_DICT)
        _require(all(isinstance(key, _SCALARS) for key in items[::2]))

    def _storage(self, reference: Any) -> _Storage:
        _require(isinstance(reference, _Tuple) and len(reference.items) == 5)
        kind, storage, key, _, n_elements = reference.items
        _require(kind == "storage" and isinstance(storage, _Global) and isinstance(key, str))
        _require(storage.name in _STORAGES and _is_count(n_elements))
        if n_elements * _STORAGES[storage.name] > self._record_sizes[key]:
            raise ValueError("a storage is larger than its record")
        return _Storage(n_elements)

    def _call(self, name: str, arguments: tuple[Any, ...], opcode: str) -> _Made:
        if name in self._allowed:
            _require(all(isinstance(argument, _SCALARS) for argument in arguments))
            is_enum = issubclass(self._allowed[name], Enum)
            return _Made(name, can_be_built=not is_enum and opcode == "NEWOBJ")
        _require(opcode == "REDUCE")
        if name in _SPARSE:
            raise UnsupportedCheckpoint(
                "A tensor in the checkpoint is sparse: save the model with dense tensors."
            )
        if name in _TENSORS:
            _check_tensor(*arguments[:4])
        elif name == _PARAMETER:
            _require(isinstance(arguments[0], _Made) and arguments[0].name in _TENSORS)
        elif name == _ORDERED_DICT:
            _require(arguments == ())
        elif name == "torch Size":
            (sizes,) = arguments
            _require(isinstance(sizes, _Tuple) and all(map(_is_count, sizes.items)))
        elif name == "torch device":
            _require(all(isinstance(argument, _SCALARS) for argument in arguments))
        elif name == "builtins set":
            (items,) = arguments
            _require(isinstance(items, list) and all(isinstance(item, _SCALARS) for item in items))
        elif name == "_codecs encode":
            text, encoding = arguments
            _require(isinstance(text, str) and encoding == "latin1")
        else:
            raise UnpicklingError(f"a call of {name}")
        return _Made(name, can_be_built=name == _ORDERED_DICT)


def _check_tensor(storage: Any, offset: Any, sizes: Any, strides: Any) -> None:
    """torch would enlarge a storage that is too small."""
    _require(isinstance(storage, _Storage) and _is_count(offset))
    _require(isinstance(sizes, _Tuple) and isinstance(strides, _Tuple))
    _require(all(map(_is_count, sizes.items)) and all(map(_is_count, strides.items)))
    pairs = list(zip(sizes.items, strides.items, strict=True))
    end = offset + 1 + sum((size - 1) * stride for size, stride in pairs)
    n_elements = math.prod(sizes.items)
    if n_elements > 0 and max(end, n_elements) > storage.n_elements:
        raise UnsupportedCheckpoint(
            "A tensor in the checkpoint is larger than its storage: save the model again."
        )


def _make_tuple(items: list[Any]) -> _Tuple:
    weight = 1 + sum(item.weight if isinstance(item, _Tuple) else 1 for item in items)
    _require(weight <= MAX_TUPLE_WEIGHT)
    return _Tuple(tuple(items), weight)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _require(condition: bool) -> None:
    if not condition:
        raise UnpicklingError("not what torch.save writes for weights")
