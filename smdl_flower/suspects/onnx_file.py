"""ONNX: the initializers and constants of a graph, turned as PyTorch keeps them.

An ONNX file has no magic number; it is a protocol buffer with a graph. Weights in other files
(external data) are never followed: names of such files are a way out of the folder
(CVE-2022-25882, CVE-2024-27318). The graph is looked at only for what happens to a weight before
it is used: scales of quantised ones, and matrices that are stored the other way round.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import wire
from smdl_flower.suspects.tensors import Affine, StoredTensor, item_bytes, stored
from smdl_flower.suspects.torch_files import Found
from smdl_flower.suspects.wire import Value

_IR_VERSION, _GRAPH, _MODEL_FIELDS = 1, 7, 40
_NODES, _INITIALIZERS = 1, 5
_TYPES = {
    **{1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16"},
    **{11: "F64", 12: "U32", 13: "U64", 16: "BF16", 17: "F8_E4M3", 19: "F8_E5M2"},
    **{21: "U4", 22: "I4"},
}
_MOST_NODES = 1_000_000
_DEPTH = 8
# Place of the weight among a node's inputs, then of its scale and zero point.
_QUANTISED = {
    "DequantizeLinear": (0, 1, 2),
    "QLinearConv": (3, 4, 5),
    "QLinearMatMul": (3, 4, 5),
}
_COPYING = ("Identity", "Cast")


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]


Tensors = dict[str, StoredTensor]


def is_one(content: memoryview) -> bool:
    """Whether this is a protocol buffer that begins with a version and has a graph."""
    if bytes(content[:1]) != b"\x08":
        return False
    try:
        numbers = [n for n, _ in zip(wire.fields(content), range(10_000), strict=False)]
    except SuspectFileError:
        return False
    known = all(0 < number < _MODEL_FIELDS for number, _ in numbers)
    return known and any(n == _GRAPH and not isinstance(v, int) for n, v in numbers)


def read(content: memoryview) -> Found:
    """Return the weights of an ONNX model.

    Raises:
        SuspectFileError: Damaged, weights in other files, or a tensor claims more than there is.
    """
    graphs = [v for n, v in wire.fields(content) if n == _GRAPH and not isinstance(v, int)]
    if len(graphs) != 1:
        raise SuspectFileError("damaged: not one graph")
    tensors: Tensors = {}
    nodes: list[_Node] = []
    _graph(graphs[0], tensors, nodes, 0)
    used: set[str] = set()
    for node in nodes:
        _dequantise(node, tensors, used)
    for name in {_weight_turned(node, tensors) for node in nodes}:
        if name and len(tensors[name].shape) == 2:
            tensors[name] = replace(tensors[name], transposed=True)
    return Found({n: t for n, t in tensors.items() if n not in used})


def _graph(graph: memoryview, tensors: Tensors, nodes: list[_Node], depth: int) -> None:
    if depth > _DEPTH:
        raise SuspectFileError("graphs nested too deeply")
    for number, value in wire.fields(graph):
        if isinstance(value, int):
            continue
        if number == _INITIALIZERS:
            _add(tensors, *_tensor(value))
        elif number == _NODES:
            _node(value, tensors, nodes, depth)


def _node(message: memoryview, tensors: Tensors, nodes: list[_Node], depth: int) -> None:
    grouped = _grouped(message)
    inputs, outputs = (tuple(wire.text(v) for v in grouped[n]) for n in (1, 2))
    operator = wire.text(grouped[4][-1]) if grouped[4] else ""
    numbers: dict[str, int] = {}
    for attribute in _messages(grouped[5]):
        of = _grouped(attribute)
        name = wire.text(of[1][-1]) if of[1] else ""
        numbers.update((name, _signed(v)) for v in of[3] if isinstance(v, int))
        if operator == "Constant" and outputs:
            for tensor in _messages(of[5]):
                _add(tensors, outputs[0], _tensor(tensor)[1])
        for graph in _messages(of[6] + of[11]):
            _graph(graph, tensors, nodes, depth + 1)
    nodes.append(_Node(operator, inputs, outputs, numbers))
    if len(nodes) > _MOST_NODES:
        raise SuspectFileError(f"a graph of more than {_MOST_NODES:,} nodes")


def _messages(values: list[Value]) -> list[memoryview]:
    return [v for v in values if not isinstance(v, int)]


def _signed(number: int) -> int:
    return number if number < 1 << 63 else number - (1 << 64)


def _add(tensors: Tensors, name: str, tensor: StoredTensor | None) -> None:
    if tensor is None:
        return
    if name in tensors:
        raise SuspectFileError(f"two tensors called {name[:80]!r}")
    tensors[name] = tensor


def _grouped(message: memoryview) -> defaultdict[int, list[Value]]:
    grouped: defaultdict[int, list[Value]] = defaultdict(list)
    for number, value in wire.fields(message):
        grouped[number].append(value)
    return grouped


def _tensor(message: memoryview) -> tuple[str, StoredTensor | None]:
    """Name of a tensor, and the tensor if it has a type that weights have."""
    of = _grouped(message)
    name = wire.text(of[8][-1]) if of[8] else ""
    if of[13] or any(of[14]):
        raise SuspectFileError(
            f"tensor {name[:80]!r} is in another file, which is not followed; save it as one file"
        )
    kind = of[2][-1] if of[2] else 0
    dtype = _TYPES.get(kind) if isinstance(kind, int) else None
    if dtype is None:
        return name, None
    try:
        return name, stored(_data(of, dtype), dtype, wire.repeated(of[1]))
    except SuspectFileError as error:
        raise SuspectFileError(f"tensor {name[:80]!r} {error}") from None


def _data(of: defaultdict[int, list[Value]], dtype: str) -> memoryview:
    """The values of a tensor, in whichever of its fields they are."""
    if of[9]:
        raw = of[9][-1]
        return memoryview(b"") if isinstance(raw, int) else raw
    if dtype in ("F32", "F64"):
        return wire.fixed(of[4] if dtype == "F32" else of[10])
    number = {"I64": 7, "U64": 11, "U32": 11}.get(dtype, 5)
    return wire.narrowed(wire.repeated(of[number]), item_bytes(dtype))


def _dequantise(node: _Node, tensors: Tensors, used: set[str]) -> None:
    """Give a quantised weight its meaning, under the name by which the graph goes on with it."""
    if node.operator in _COPYING and node.inputs and node.outputs:
        if node.inputs[0] in tensors and node.outputs[0] not in tensors:
            tensors[node.outputs[0]] = tensors[node.inputs[0]]
            used.add(node.inputs[0])
        return
    places = _QUANTISED.get(node.operator)
    if places is None or len(node.inputs) <= places[1]:
        return
    weight, scale, *zero = (node.inputs[p] for p in places if p < len(node.inputs))
    if weight not in tensors or scale not in tensors or tensors[weight].affine:
        return
    scales = tensors[scale].values()
    zeros = tensors[zero[0]].values() if zero and zero[0] in tensors else 0 * scales
    tensor = tensors[weight]
    axis = node.numbers.get("axis", 1) if node.operator == "DequantizeLinear" else 0
    if node.operator == "QLinearMatMul":
        axis = len(tensor.shape) - 1
    block = node.numbers.get("block_size", 0)
    meant = tensor.meaning(Affine(scales, zeros, None if scales.size == 1 else axis, block))
    used.update((scale, *zero))
    if node.operator == "DequantizeLinear" and node.outputs and node.outputs[0] not in tensors:
        tensors[node.outputs[0]] = meant
        used.add(weight)
    else:
        tensors[weight] = meant


def _weight_turned(node: _Node, tensors: Tensors) -> str | None:
    """Name of the matrix that a node multiplies with, if PyTorch would keep it transposed."""
    place = {"MatMul": 1, "MatMulInteger": 1, "Gemm": 1, "QLinearMatMul": 3}.get(node.operator)
    if place is None or len(node.inputs) <= place or node.inputs[place] not in tensors:
        return None
    return None if node.numbers.get("transB", 0) else node.inputs[place]
