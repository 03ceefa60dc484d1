"""`TupleSizes`: how large the tuples of a pickle are, found without executing it.

A tuple may contain another one many times, at the cost of two bytes each. Such a pickle of a few hundred
bytes describes more values than can ever be visited, and visits all of them where a tuple is hashed: as a key
of a dictionary.
"""

import pickletools
from itertools import takewhile

_MARK = -1  # on the stack, below the values that an operation takes together
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}  # values that an operation takes


class TupleSizes:
    """The stack and the memo of an unpickler, with the size of each value: 1 unless it is a tuple.

    The size of a tuple is the number of values that are visited to hash it.
    """

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[object, int] = {}

    def after(self, opcode: pickletools.OpcodeInfo, argument: object) -> int:
        """Follow an operation, and return the size of the value that is then on top of the stack."""
        name = opcode.name
        if name == "MARK":
            self._stack.append(_MARK)
        elif name == "DUP":
            self._stack.append(self._top)
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top
        elif name.endswith("PUT"):
            self._memo[_index(argument)] = self._top
        elif name.endswith("GET"):
            self._stack.append(self._memo.get(_index(argument), 1))
        elif name == "TUPLE":
            self._stack.append(1 + sum(self._taken_to_mark()))
        elif name in _TUPLES:
            self._stack.append(1 + sum(self._taken(_TUPLES[name])))
        else:
            self._follow(opcode)
        return self._top

    @property
    def _top(self) -> int:
        return self._stack[-1] if self._stack else 1

    def _follow(self, opcode: pickletools.OpcodeInfo) -> None:
        """Take and leave as many values as an operation does whose values are not tuples."""
        before = [kind.name for kind in opcode.stack_before]
        if "mark" in before:
            self._taken_to_mark()
        self._taken(len(list(takewhile(lambda kind: kind != "mark", before))))
        self._stack += [1] * len(opcode.stack_after)

    def _taken(self, count: int) -> list[int]:
        taken = self._stack[len(self._stack) - count :] if count else []
        del self._stack[max(0, len(self._stack) - count) :]
        return taken

    def _taken_to_mark(self) -> list[int]:
        taken = []
        while self._stack and (size := self._stack.pop()) != _MARK:
            taken.append(size)
        return taken


def _index(argument: object) -> int:
    """Return a place in the memo, which operations of protocol 0 give as text."""
    return int(str(argument))
