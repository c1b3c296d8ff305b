"""Read CIFAR's pickles without unpickling them: no code runs, and no bytes of the file become pointers.

pickletools parses the instructions. Only those for containers and for numpy arrays of numbers, as Python 2 and 3 write
them, are followed; all others are refused.
"""

import math
import pickletools
import warnings
from typing import Any

import numpy as np

#: Type codes of supported arrays.
_NUMBERS = ("u1", "i1", "i2", "i4", "i8")
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_BUFFERS = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")


class _Name(str):
    """The name of a function that the file calls."""


class _Type(str):
    """The type code of an array."""


class _Array:
    """An array whose content may follow later."""

    values: np.ndarray | None = None


def read_arrays(content: bytes) -> Any:
    """Read the lists, dictionaries, numbers, strings and numpy arrays of numbers in a pickle.

    Raises:
        ValueError: if it is truncated, or holds anything else.
    """
    reader = _Reader()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools warns of odd escapes in damaged text
            for instruction, argument, _ in pickletools.genops(content):
                reader.follow(instruction.name, argument)
        return _plain(reader.stack.pop())
    except ValueError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


class _Reader:
    """The stack and memo while a pickle is read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _VALUES or name in _EMPTY:
            self.stack.append(_VALUES[name] if name in _VALUES else _EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop_values(_TUPLES[name])))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self.stack.append(_Name(" ".join(self._pop_values(2)) if argument is None else argument))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif hasattr(self, f"_{name.lower()}"):
            getattr(self, f"_{name.lower()}")()
        elif isinstance(argument, int | str | bytes | bytearray) and name not in ("PROTO", "FRAME"):
            self.stack.append(argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it holds the instruction {name}")

    def _pop_values(self, count: int) -> list[Any]:
        """Remove the last `count` values from the stack; returns them in order."""
        values = self.stack[len(self.stack) - count :]
        if len(values) != count:
            raise ValueError("it uses more values than it holds")
        del self.stack[len(self.stack) - count :]
        return values

    def _pop_to_mark(self) -> list[Any]:
        return self._pop_values(len(self.stack) - self.marks.pop())

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _tuple(self) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _append(self) -> None:
        values = self._pop_values(1)
        _expect(self.stack[-1], list).extend(values)

    def _appends(self) -> None:
        values = self._pop_to_mark()
        _expect(self.stack[-1], list).extend(values)

    def _setitem(self) -> None:
        key, value = self._pop_values(2)
        _expect(self.stack[-1], dict)[key] = value

    def _setitems(self) -> None:
        values = self._pop_to_mark()
        _expect(self.stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))

    def _reduce(self) -> None:
        name, arguments = self._pop_values(2)
        self.stack.append(_call(_expect(name, _Name), _expect(arguments, tuple)))

    def _build(self) -> None:
        (state,) = self._pop_values(1)
        target = self.stack[-1]
        if isinstance(target, _Array):
            _, shape, kind, columns_first, content = _expect(state, tuple)
            target.values = _array(content, kind, shape, "F" if columns_first else "C")
        elif not isinstance(target, _Type) or state[1] not in ("|", "<"):
            raise ValueError("it sets the state of something other than an array of little-endian numbers")


def _call(name: _Name, arguments: tuple[Any, ...]) -> Any:
    """Evaluate a function call in the file."""
    if name in _ARRAYS:
        return _Array()
    if name in _BUFFERS:
        content, kind, shape, order = arguments
        array = _Array()
        array.values = _array(content, kind, shape, order)
        return array
    if name == "_codecs encode":
        return _expect(arguments[0], str).encode("latin1")
    if name != "numpy dtype" or arguments[0] not in _NUMBERS:
        requested = name.replace(" ", ".", 1) if name != "numpy dtype" else f"arrays of {arguments[0]!r}"
        raise ValueError(f"it asks for {requested}, which is not an array type")
    return _Type(arguments[0])


def _array(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    data = content.encode("latin1") if isinstance(content, str) else _expect(content, bytes | bytearray)
    numbers = np.dtype(_expect(kind, _Type)).newbyteorder("<")
    if not all(type(side) is int and side >= 0 for side in _expect(shape, tuple)) or order not in ("C", "F"):
        raise ValueError(f"it has an array of shape {shape!r}")
    if math.prod(shape) * numbers.itemsize != len(data):
        raise ValueError(f"it has {len(data)} bytes for an array of shape {shape!r}")
    return np.frombuffer(bytes(data), numbers).reshape(shape, order=order)


def _plain(value: Any) -> Any:
    """`value` with its `_Array`s replaced by numpy arrays."""
    if isinstance(value, dict):
        return {key: item.values if isinstance(item, _Array) else item for key, item in value.items()}
    return value.values if isinstance(value, _Array) else value


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it holds a {type(value).__name__} in the wrong place")
    return value
