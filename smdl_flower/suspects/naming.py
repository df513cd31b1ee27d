"""Which tensors of a file are the model's, and what they are called.

A file may hold one state dict, a module, or a checkpoint: the model beside the optimiser's
moments, averages of the model, counters. Optimisers are told by their form, wrappers by their
names. One model is chosen by rules that look at names alone, before anything is compared: choosing
by score would be a test that the bound does not count.
"""

from collections.abc import Iterable
from typing import Any

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.foreign import Foreign
from smdl_flower.suspects.tensors import StoredTensor

Tensors = dict[str, StoredTensor]

TENSORS = 20_000
_DEPTH = 100
_NODES = 2_000_000
_LONGEST_NAME = 1000
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network")
_MERGED = ("_parameters", "_buffers", "_modules", "")  # where a module keeps what bears its name
_COMPILED = "_orig_mod."


class Naming:
    """One search for the model in what a file holds.

    Attributes:
        remarks: What a reader of the verdict should know.
    """

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._known: dict[int, Tensors] = {}
        self._left = _NODES

    def tensors(self, tree: Any) -> Tensors:
        """Return the model's tensors by name.

        Raises:
            SuspectFileError: There is none, too many, two models, or nested too deeply.

        Example:
            >>> one = StoredTensor(memoryview(bytes(4)), "F32", (1,))
            >>> optimizer = {"state": {0: {"exp_avg": one}}, "param_groups": []}
            >>> list(Naming().tensors({"model": {"w": one}, "optimizer": optimizer}))
            ['w']
        """
        found = {n.replace(_COMPILED, ""): t for n, t in self._below(tree, False, 0).items()}
        if not found:
            raise SuspectFileError("holds no tensor that has a name")
        return found

    def _below(self, value: Any, in_module: bool, depth: int) -> Tensors:
        if isinstance(value, StoredTensor):
            return {"": value}
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            raise SuspectFileError("values nested too deeply, or too many")
        if not isinstance(value, dict | list | tuple | Foreign) or _is_optimiser(value):
            return {}
        if id(value) not in self._known:
            self._known[id(value)] = {}  # while it is looked at: a value may hold itself
            self._known[id(value)] = self._inside(value, in_module, depth)
        return self._known[id(value)]  # looked at once, if held a million times

    def _inside(self, value: Any, in_module: bool, depth: int) -> Tensors:
        module = in_module or isinstance(value, Foreign)
        parts = {}
        for key, child in _children(value):
            found = self._below(child, module, depth + 1)
            if found:
                parts[key] = found
        whole = module or not isinstance(value, dict)
        return _joined(parts) if whole else self._chosen(parts)

    def _chosen(self, parts: dict[str, Tensors]) -> Tensors:
        """The model among the entries of a dict."""
        nested = [key for key, tensors in parts.items() if "" not in tensors]
        if len(parts) == len(nested) == 1:
            return parts[nested[0]]
        wrapped = [key for key in nested if key in _WRAPPERS]
        if len(wrapped) > 1:
            raise SuspectFileError(
                f"holds several models ({_listed(wrapped)}); save the one in question by itself"
            )
        if not wrapped:
            return _joined(parts)
        others = [k for k in parts if k not in wrapped and _is_weights(parts[k])]
        if others:
            self.remarks.append(
                f"the tensors under {wrapped[0]!r} were examined, not those under {_listed(others)}"
            )
        return parts[wrapped[0]]


def _children(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((str(key), child) for key, child in value.items())
    if isinstance(value, Foreign):
        state = value.state if isinstance(value.state, dict) else {"": value.state}
        return _children({**value.entries, **state})
    return ((str(i), child) for i, child in enumerate(value))


def _is_optimiser(value: Any) -> bool:
    return isinstance(value, dict) and "state" in value and "param_groups" in value


def _is_weights(tensors: Tensors) -> bool:
    return any(tensor.is_float for tensor in tensors.values())


def _joined(parts: dict[str, Tensors]) -> Tensors:
    joined: Tensors = {}
    for key, tensors in parts.items():
        for name, tensor in tensors.items():
            full = ".".join(p for p in (key if key not in _MERGED else "", name) if p)
            if len(full) > _LONGEST_NAME:
                raise SuspectFileError(f"a tensor with a name of {len(full):,} characters")
            if full in joined:
                raise SuspectFileError(f"two tensors called {full[:80]!r}")
            joined[full] = tensor
    if len(joined) > TENSORS:
        raise SuspectFileError(f"more than {TENSORS:,} tensors")
    return joined


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:40]) for name in list(names)[:5])
