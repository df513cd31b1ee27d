"""Read a pickle without executing it: its opcodes build values of ours, and nothing is imported.

A pickle is a program for a small stack machine; what makes it dangerous is that ``REDUCE`` and its
like call whatever the program names. Here a name stays a name: calling one gives a
:class:`~.foreign.Foreign`, unless the caller said what stands for it. So even a hostile file can be
read, and a thief cannot keep weights from being examined by putting a bomb beside them.
``pickletools.genops`` (standard library) splits the program into opcodes; it calls nothing either.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.foreign import Foreign, Name

STEPS = 2_000_000
_LONGEST_ITEM = 64 << 20
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = frozenset(
    {
        *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_EMPTY: Mapping[str, Callable[[], Any]] = {
    **{"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
}
_KEYS = (str, int, float, bytes, type(None))


@dataclass(frozen=True)
class Rules:
    """What a reader knows of the names in a pickle.

    Attributes:
        calls: What stands for a call, by name; given the arguments.
        persistent: What stands for a reference to something outside the pickle.
    """

    calls: Mapping[str, Callable[[tuple[Any, ...]], Any]]
    persistent: Callable[[Any], Any]


@dataclass(frozen=True)
class Unpickled:
    """What a pickle builds.

    Attributes:
        value: Of numbers, texts, lists, tuples, dicts, and what :class:`Rules` or this module make.
        called: Names that ordinary loading would have called and no rule knows, in order.
        end: Position behind the pickle.
    """

    value: Any
    called: tuple[str, ...]
    end: int


class _Cursor:
    """Bytes as ``pickletools`` wants to read them, without a copy of all of them."""

    def __init__(self, data: memoryview, start: int) -> None:
        self._data, self._at = data, start

    def read(self, count: int) -> bytes:
        if count > _LONGEST_ITEM:
            raise ValueError("an item is too long")
        piece = bytes(self._data[self._at : self._at + max(count, 0)])
        self._at += len(piece)
        return piece

    def readline(self) -> bytes:
        piece = bytes(self._data[self._at : self._at + 65536])
        line = piece[: piece.find(b"\n") + 1]
        self._at += len(line)
        return line

    def tell(self) -> int:
        return self._at


def unpickle(data: memoryview, rules: Rules, start: int = 0) -> Unpickled:
    r"""Return what the pickle at ``start`` would build, with nothing called.

    Raises:
        SuspectFileError: No pickle, a damaged one, or one of too many steps.

    Example:
        >>> bomb = memoryview(b"cposix\nsystem\n(S'touch canary'\ntR.")
        >>> unpickle(bomb, Rules({}, lambda reference: None)).called
        ('posix.system',)
    """
    machine = _Machine(rules)
    cursor = _Cursor(data, start)
    try:
        with warnings.catch_warnings():
            # Of texts with escapes that Python would not write.
            warnings.filterwarnings("ignore", "invalid (octal )?escape", DeprecationWarning)
            for step, (opcode, argument, _) in enumerate(_opcodes(cursor)):
                if step >= STEPS:
                    raise SuspectFileError(f"a pickle of more than {STEPS:,} steps")
                machine.run(opcode.name, argument)
        value = machine.pop()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # All of them mean that the program does not fit together; nothing but its own values is
        # touched, so there is nothing to tell apart.
        raise SuspectFileError(f"a damaged pickle ({type(error).__name__})") from None
    return Unpickled(value, tuple(machine.called), cursor.tell())


def _opcodes(cursor: _Cursor) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    return pickletools.genops(cursor)  # type: ignore[arg-type]  # it needs read, readline and tell


class _Machine:
    """The stack machine, with calls that only leave a note."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.called: dict[str, None] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise SuspectFileError(f"a pickle with the step {name}, which none of a model has")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value was expected")
        return value

    def marked(self) -> list[Any]:
        """Take everything down to the last mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                taken = self.stack[i + 1 :]
                del self.stack[i:]
                return taken
        raise ValueError("no mark")

    def tuple_of(self, count: int) -> None:
        parts = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(parts)))

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def drop(self, _: Any) -> None:
        self.stack.pop()

    def drop_marked(self, _: Any) -> None:
        self.marked()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: Any) -> None:
        self._memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self._memo[int(index)])

    def tuple_marked(self, _: Any) -> None:
        self.stack.append(tuple(self.marked()))

    def list_marked(self, _: Any) -> None:
        self.stack.append(self.marked())

    def dict_marked(self, _: Any) -> None:
        flat = self.marked()
        self.stack.append({})
        self._update(flat)

    def append(self, _: Any) -> None:
        value = self.pop()
        self._extend([value])

    def append_marked(self, _: Any) -> None:
        self._extend(self.marked())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Foreign):
            target.entries.update(enumerate(values, len(target.entries)))
        else:
            raise TypeError("appended to no list")

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._update([key, value])

    def set_marked(self, _: Any) -> None:
        self._update(self.marked())

    def _update(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Foreign) else target
        if not isinstance(entries, dict) or len(flat) % 2:
            raise TypeError("set in no dict")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, _KEYS):  # what has no name cannot be found by one
                entries[key] = value

    def name(self, argument: Any) -> None:
        self.stack.append(Name(".".join(str(argument).split(" ", 1))))

    def name_from_stack(self, _: Any) -> None:
        attribute, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise TypeError("a name that is no text")
        self.stack.append(Name(f"{module}.{attribute}"))

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(self._called(function, arguments))

    def call_with_keywords(self, _: Any) -> None:
        self.pop()
        self.call(None)

    def call_marked(self, _: Any) -> None:
        function, *arguments = self.marked()
        self.stack.append(self._called(function, tuple(arguments)))

    def call_named(self, argument: Any) -> None:
        arguments = tuple(self.marked())
        self.name(argument)
        self.stack.append(self._called(self.stack.pop(), arguments))

    def _called(self, function: Any, arguments: Any) -> Any:
        name = function.text if isinstance(function, Name) else "something that it made itself"
        rule = self._rules.calls.get(name)
        if rule and isinstance(arguments, tuple):
            return rule(arguments)
        self.called[name] = None
        return Foreign(name)

    def build(self, _: Any) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Foreign):
            self.stack[-1].state = state

    def refer(self, _: Any) -> None:
        self.stack.append(self._rules.persistent(self.pop()))

    def refer_to(self, argument: Any) -> None:
        self.stack.append(self._rules.persistent(argument))


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_marked,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "TUPLE": _Machine.tuple_marked,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_marked,
    "FROZENSET": _Machine.list_marked,
    "DICT": _Machine.dict_marked,
    "APPEND": _Machine.append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.append_marked),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_marked,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "OBJ": _Machine.call_marked,
    "INST": _Machine.call_named,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
    "PERSID": _Machine.refer_to,
}
