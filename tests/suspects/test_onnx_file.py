"""ONNX without its package: initializers, constants, scales, and nothing outside the file."""

import numpy as np
import pytest
import torch

from smdl_flower.errors import SuspectFileError
from tests.suspects import protobuf
from tests.suspects.conftest import f4, i1, read
from tests.suspects.protobuf import constant, field, graph, model, node, tensor, varint

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def weights_of(nodes, tensors):
    return {n: a.tolist() for n, a in read(model(nodes, tensors)).weights.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_pytorch_exports_is_read(net, state, tmp_path, monkeypatch):
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils  # noqa: PLC0415

    # The exporter asks for the onnx package only once the file is made.
    monkeypatch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda content, _: content)
    torch.onnx.export(net, (torch.zeros(1, 1, 8, 8),), tmp_path / "m", dynamo=False)
    converted = read((tmp_path / "m").read_bytes())
    assert converted.kind == "ONNX"
    for name, expected in state.items():
        assert converted.weights[name].tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (field(4, W.tobytes()), 1, W),
        (b"".join(field(4, float(x)) for x in W.flat), 1, W),
        (field(10, W.astype("<f8").tobytes()), 11, W),
        (field(9, W.astype("<f2").tobytes()), 10, W),
        (b"".join(field(5, int(x)) for x in W.astype("<f2").view("<u2").flat), 10, W),
        (field(5, b"".join(varint(int(x)) for x in W.astype("<f2").view("<u2").flat)), 10, W),
        (field(5, b"".join(varint(-n) for n in range(6))), 3, -W),
        (field(5, b"".join(varint(n) for n in range(6))), 2, W),
        (field(5, bytes([0x10, 0x32, 0x54])), 21, W),
        (field(9, bytes([0xF0, 0xDE, 0xBC])), 22, -W),
        (field(9, (W.view("<u4") >> 16).astype("<u2").tobytes()), 16, W),
    ],
    ids=[
        *("float_data", "float_data unpacked", "double_data", "raw half", "half in int32"),
        *("half in packed int32", "int8", "uint8", "uint4", "int4", "bfloat16"),
    ],
)
def test_values_are_read_from_whichever_field_holds_them(data, kind, expected):
    message = field(1, 2) + field(1, 3) + field(2, kind) + field(8, "w") + data
    assert weights_of([], [message]) == {"w": expected.tolist()}


def test_packed_sizes_are_read():
    message = field(1, varint(2) + varint(3)) + field(2, 1) + field(8, "w") + field(9, W.tobytes())
    assert weights_of([], [message]) == {"w": W.tolist()}


def test_constants_and_graphs_in_graphs_are_read():
    inner = field(5, field(1, "then_branch") + field(6, graph([], [tensor("inner", W)])))
    nodes = [constant("c", tensor("", W)), field(4, "If") + inner]
    assert weights_of(nodes, []) == {"c": W.tolist(), "inner": W.tolist()}


def test_matrices_that_are_multiplied_from_the_right_are_turned():
    nodes = [node("MatMul", ["x", "a"], ["y"]), node("Gemm", ["x", "b"], ["y"])]
    nodes += [node("Gemm", ["x", "c"], ["y"], transB=1), node("Add", ["x", "d"], ["y"])]
    found = weights_of(nodes, [tensor(name, W) for name in "abcd"])
    assert found == {"a": W.T.tolist(), "b": W.T.tolist(), "c": W.tolist(), "d": W.tolist()}


def test_quantised_weights_get_their_scales_before_they_are_turned():
    numbers = W.astype(np.int8)
    scale, zero = f4([1, 10, 100]), i1([0, 1, 2])
    meant = (W - zero) * scale
    tensors = [tensor("q", numbers), tensor("s", scale), tensor("z", zero)]
    nodes = [node("DequantizeLinear", ["q", "s", "z"], ["w"])]  # axis 1, if not said
    assert weights_of(nodes, tensors) == {"w": meant.tolist()}
    nodes.append(node("MatMul", ["x", "w"], ["y"]))
    assert weights_of(nodes, tensors) == {"w": meant.T.tolist()}
    one = [tensor("q", numbers), tensor("s", f4(0.5).reshape(()))]
    assert weights_of([node("DequantizeLinear", ["q", "s"], ["w"])], one) == {"w": (W / 2).tolist()}


def test_blocks_share_a_scale():
    tensors = [tensor("q", W.astype(np.int8)), tensor("s", f4([[1, 2], [3, 4]]))]
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"], axis=1, block_size=2)]
    assert weights_of(nodes, tensors) == {"w": [[0, 1, 4], [9, 12, 20]]}


def test_quantised_convolutions_and_products_get_their_scales():
    scales = [tensor("s", f4([2, 3])), tensor("z", i1([0, 0]))]
    convolution = node("QLinearConv", ["x", "xs", "xz", "q", "s", "z", "ys", "yz"], ["y"])
    found = weights_of([convolution], [tensor("q", W.astype(np.int8)), *scales])
    assert found == {"q": [[0, 2, 4], [9, 12, 15]]}
    product = node("QLinearMatMul", ["x", "xs", "xz", "q", "s", "z", "ys", "yz"], ["y"])
    found = weights_of([product], [tensor("q", W.T.astype(np.int8)), *scales])
    assert found == {"q": [[0, 2, 4], [9, 12, 15]]}


def test_a_weight_goes_by_the_name_that_the_graph_uses():
    nodes = [node("Cast", ["w16"], ["w"], to=1), node("MatMul", ["x", "w"], ["y"])]
    assert weights_of(nodes, [tensor("w16", W.astype(np.float16))]) == {"w": W.T.tolist()}


@pytest.mark.parametrize(
    "said", [field(14, 1), field(13, field(1, "location") + field(2, "../../x"))]
)
def test_weights_in_other_files_are_refused(said):
    with pytest.raises(SuspectFileError, match="is in another file, which is not followed"):
        read(model([], [field(1, 2) + field(2, 1) + field(8, "w") + said]))


@pytest.mark.parametrize(
    "message",
    [
        tensor("w", W, shape=[2**40]),
        tensor("w", W, shape=[3, 3]),
        tensor("w", W, shape=[-1]),
        tensor("w", W, kind=11),
        tensor("w", W) + b"\x80",
        field(8, "w") + field(2, 1) + varint(9 << 3 | 2) + varint(2**60),
        b"\xff" * 11,
        varint(3 << 3 | 3),
    ],
)
def test_tensors_that_lie_are_refused(message):
    with pytest.raises(SuspectFileError):
        read(model([], [message]))


def test_other_things_are_refused():
    with pytest.raises(SuspectFileError, match="no tensor"):
        read(model([], []))
    with pytest.raises(SuspectFileError, match="no tensor"):
        read(model([], [tensor("w", W, kind=8)]))  # of texts
    with pytest.raises(SuspectFileError, match="two tensors called 'w'"):
        read(model([], [tensor("w", W), tensor("w", W)]))
    with pytest.raises(SuspectFileError, match="not one graph"):
        read(model([], [tensor("w", W)]) + field(7, b""))
    with pytest.raises(SuspectFileError, match="unknown"):
        read(field(1, 8) + field(2, "no graph"))
    wrong = [tensor("q", W.astype(np.int8)), tensor("s", f4([1, 2]))]
    with pytest.raises(SuspectFileError, match="scales"):
        read(model([node("DequantizeLinear", ["q", "s"], ["w"])], wrong))


def test_graphs_nested_without_end_are_refused():
    inner = graph([], [tensor("w", W)])
    for _ in range(20):
        inner = graph([field(4, "If") + field(5, field(1, "b") + field(6, inner))], [])
    with pytest.raises(SuspectFileError, match="too deeply"):
        read(field(1, 8) + field(7, inner))


def test_the_writer_of_these_tests_writes_what_protobuf_writes():
    from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]  # noqa: PLC0415

    message = descriptor_pb2.FieldDescriptorProto(name="x", number=300)
    assert message.SerializeToString() == protobuf.field(1, "x") + protobuf.field(3, 300)
