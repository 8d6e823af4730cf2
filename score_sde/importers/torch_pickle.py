"""The data in a pickle of PyTorch, without Python's pickle module.

A pickle is a program. Here it has few instructions. It may build dicts, lists, tuples, sets,
numbers and text. It may build records of PyTorch's tensors, with the place of their numbers, and
records of the fields of TorchScript's modules. Nothing is imported, called or set. A name in a
pickle stands for a record without code and without attributes. Every instruction is read and
checked before it builds one object.
"""

import dataclasses
import io
import mmap
import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

from score_sde.internal.guarded import is_shape, shortened

MOST_INSTRUCTIONS = 2_000_000
# Dicts, lists, sets and records, and items copied between them. One takes a hundred times the bytes of
# its instruction.
MOST_CONTAINERS = 300_000

# numpy's type for each kind of numbers of a tensor.
DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A global of the pickle."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """The numbers of one or several tensors, by their key in the file."""

    kind: str
    key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: the place of its numbers in a storage. The size of the storage is not known yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Module:
    """An object of TorchScript. Its fields are kept, and its code is not run."""

    fields: dict[str, Any]


def read_pickle(stream: io.BytesIO | mmap.mmap) -> tuple[Any, dict[str, str]]:
    """(the content of the pickle at the stream's position, the kind of each storage by its key).

    Afterwards the stream is at the end of the pickle. The stream must be in memory or mapped there,
    because a pickle may ask to read more bytes than there are.

    Raises: ValueError, with a reason as part of a sentence, for a pickle that is cut or asks for
      more than data. A damaged pickle may raise other exceptions too.
    """
    machine = _Machine()
    for number, (instruction, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
        if number >= MOST_INSTRUCTIONS:
            raise ValueError(f"a pickle of more than {MOST_INSTRUCTIONS:,} instructions")
        if instruction.name == "STOP":
            return machine.pop(), machine.kinds
        machine.run(instruction.name, argument)
    raise ValueError("a pickle without an end")


class _Machine:
    """A stack with marks in it, and a memory of values that are used again."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memory: dict[int, Any] = {}
        self.kinds: dict[str, str] = {}
        self._containers = 0

    def run(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _OTHERS:
            _OTHERS[name](self, argument)
        else:
            raise ValueError(f"its pickle has the instruction {name}, which no file of weights has")

    def pop(self) -> Any:
        """The top value above the last mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("a pickle that takes more values than it stored")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self.pop()
        self._stack.append(value)
        return value

    def _above_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("a pickle that takes more values than it stored")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _contain(self, container: Any, items: int = 0) -> Any:
        """Counts a new container, and the items that are copied into it from another container."""
        self._containers += 1 + items
        if self._containers > MOST_CONTAINERS:
            raise ValueError(f"a pickle of more than {MOST_CONTAINERS:,} dicts, lists and sets")
        return container

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _set(self, pairs: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(pairs) % 2:
            raise ValueError("a pickle that sets an item of an object that is not a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_as_key(key)] = value

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ValueError("a pickle that appends to an object that is not a list")
        target.extend(values)

    def _add(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not set:
            raise ValueError("a pickle that adds to an object that is not a set")
        target.update(map(_as_key, values))

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _dict(self, _: Any) -> None:
        pairs = self._above_mark()
        self._push(self._contain({}))
        self._set(pairs)

    def _tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self._push(tuple(reversed(values)))

    def _put(self, index: int | None) -> None:
        index = len(self._memory) if index is None else index
        if not 0 <= index < MOST_INSTRUCTIONS:
            raise ValueError(f"a pickle that remembers a value as number {index:,}")
        self._memory[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memory:
            raise ValueError("a pickle that uses a value that it has not made")
        self._push(self._memory[index])

    def _pop_one(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()  # as in Python's pickle, this also pops a mark
        else:
            self.pop()

    def _pop_mark(self, _: Any) -> None:
        self._above_mark()

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a pickle with a name that is not a text")
        self._push(_known(module, name))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(_known(module, name))

    def _storage(self, _: Any) -> None:
        match self.pop():
            case ("storage", Name(_, kind), str(key), *_, view) if kind in DTYPES and not isinstance(view, tuple):
                self.kinds.setdefault(key, kind)
                self._push(Storage(kind, key))
            case _:
                raise ValueError("a pickle that refers to an object that is not a tensor's numbers")

    def _reduce(self, _: Any) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or type(arguments) is not tuple:
            raise ValueError("a pickle that calls an object that is not a function")
        value = _called(called, arguments)
        made = (called.module, called.name) in _COLLECTIONS or isinstance(value, Module)
        self._push(self._contain(value, 0 if isinstance(value, Module) else len(value)) if made else value)

    def _build(self, _: Any) -> None:
        state, target = self.pop(), self._top()
        if isinstance(target, Module):
            fields = state if type(state) is dict else {"state": state}
            target.fields.update(self._contain(fields, len(fields)))
        elif type(target) is not dict:  # attributes of an OrderedDict, such as _metadata, are not weights
            raise ValueError("a pickle that sets attributes of an object without attributes")


def _known(module: str, name: str) -> Name:
    """Raises ValueError for anything but PyTorch's tensors, TorchScript's modules, and collections."""
    if (
        (module, name) in _COLLECTIONS
        or module.split(".")[0] == "__torch__"
        or (module.split(".")[0] == "torch" and (name in DTYPES or name in _TENSORS or name in _PARAMETERS))
        or (module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"))
    ):
        return Name(module, name)
    raise ValueError(
        f"its pickle asks for {shortened(f'{module}.{name}')}, which is not data; it is not a file of weights"
    )


_COLLECTIONS = {("collections", "OrderedDict")}
_COLLECTIONS |= {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}
_TENSORS = ("_rebuild_tensor_v2", "_rebuild_tensor")
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")


def _called(called: Name, arguments: tuple) -> Any:
    """The result of a call of PyTorch, as a record."""
    if (called.module, called.name) in _COLLECTIONS:
        values = arguments[0] if arguments else []
        if len(arguments) > 1 or not isinstance(values, list):
            raise ValueError(f"a pickle that calls {called.name} with arguments that it does not take")
        if called.name == "OrderedDict" and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in values):
            return {_as_key(key): value for key, value in values}
        if called.name == "OrderedDict":
            raise ValueError("an OrderedDict of items that are not pairs")
        return set(map(_as_key, values))
    if called.module.startswith("__torch__"):
        return Module({})
    if called.name in _TENSORS and len(arguments) >= 4:
        return _tensor(*arguments[:4])
    if called.name in _PARAMETERS and arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if called.name == "restore_type_tag" and len(arguments) == 2:
        return arguments[0]
    if called.name.startswith("build_"):
        return arguments[0] if len(arguments) == 1 else arguments
    raise ValueError(f"a pickle that calls {called.name} with arguments that it does not take")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    numbers = ((offset,), size, stride)
    if not isinstance(storage, Storage) or not all(type(part) is tuple and is_shape(part) for part in numbers):
        raise ValueError("a tensor without a storage, or with a shape, stride or offset that no tensor has")
    if len(size) != len(stride):
        raise ValueError(f"a tensor of {len(size)} axes with {len(stride)} strides")
    return Tensor(storage, offset, size, stride)


def _as_key(key: Any) -> Any:
    """A key of a dict or an element of a set.

    It is a text where its hash could be chosen to equal other hashes.

    Raises: ValueError for a key that does not occur in files of weights.
    """
    if isinstance(key, str | float | None) or (isinstance(key, int) and abs(key) < 2**60):
        return key
    if _is_short(key) or (isinstance(key, tuple) and len(key) <= 8 and all(map(_is_short, key))):
        return str(key)
    raise ValueError(f"a key of a dict or set that is a long {type(key).__name__}")


def _is_short(part: Any) -> bool:
    if isinstance(part, str | bytes):
        return len(part) <= 100
    return abs(part) < 2**128 if isinstance(part, int) else isinstance(part, float | None)


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OTHERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine._marks.append(len(machine._stack)),
    "POP": _Machine._pop_one,
    "POP_MARK": _Machine._pop_mark,
    "DUP": lambda machine, _: machine._push(machine._top()),
    "EMPTY_DICT": lambda machine, _: machine._push(machine._contain({})),
    "EMPTY_LIST": lambda machine, _: machine._push(machine._contain([])),
    "EMPTY_SET": lambda machine, _: machine._push(machine._contain(set())),
    "DICT": _Machine._dict,
    "LIST": lambda machine, _: machine._push(machine._contain(machine._above_mark())),
    "FROZENSET": lambda machine, _: machine._push(machine._contain(set(map(_as_key, machine._above_mark())))),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._above_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "SETITEM": _Machine._setitem,
    "SETITEMS": lambda machine, _: machine._set(machine._above_mark()),
    "APPEND": lambda machine, _: machine._extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._above_mark()),
    "ADDITEMS": lambda machine, _: machine._add(machine._above_mark()),
    "PUT": _Machine._put, "BINPUT": _Machine._put, "LONG_BINPUT": _Machine._put, "MEMOIZE": _Machine._put,
    "GET": _Machine._get, "BINGET": _Machine._get, "LONG_BINGET": _Machine._get,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "BINPERSID": _Machine._storage,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "BUILD": _Machine._build,
}  # fmt: skip
