"""A copy saved in any format, half of its weights pruned, is traced to its customer alone."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from smdl_flower import models, verifying
from smdl_flower.errors import NotComparableError
from smdl_flower.models import ModelSpec
from tests.suspects import protobuf

WHO = "clinic-c"
IMAGE = torch.zeros(1, 1, 28, 28)
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch: quantised tensors are deprecated
    pytest.mark.usefixtures("issue_results"),
]


@pytest.fixture(scope="session")
def stolen(spec: ModelSpec, copies) -> nn.Module:
    """The copy of one customer, the smallest half of each layer's weights set to zero."""
    module = models.from_weights(spec, copies[WHO])
    with torch.no_grad():
        for tensor in module.parameters():
            if tensor.ndim > 1:
                tensor[tensor.abs() < tensor.abs().median()] = 0
    return module


def checkpoint(module: nn.Module, prefix: str) -> dict[str, object]:
    state = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    moments = {i: {"exp_avg": torch.randn_like(t)} for i, t in enumerate(state.values())}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 7, "state_dict": state, "optimizer": optimizer, "ema": state}


def traced(module: nn.Module, path: Path) -> None:
    torch.jit.trace(module, IMAGE).save(str(path))


def scripted(module: nn.Module, path: Path) -> None:
    """Of ``cnn`` itself TorchScript's compiler understands too little."""
    features, hidden, head = module.children()
    model = nn.Sequential(features, nn.Flatten(), hidden, nn.ReLU(), head)
    torch.jit.script(model).save(str(path))


def frozen(module: nn.Module, path: Path) -> None:
    torch.jit.freeze(torch.jit.trace(module, IMAGE)).save(str(path))


def exported(module: nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(module, (IMAGE,)), path)


def onnx(module: nn.Module, path: Path) -> None:
    """By PyTorch's exporter, kept from asking for the onnx package once the file is made."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils  # noqa: PLC0415

    features, hidden, head = module.children()
    layers = nn.Sequential(*list(features.children())[:-1], nn.MaxPool2d(2), nn.Flatten())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda content, _: content)
        model = nn.Sequential(layers, hidden, nn.ReLU(), head)
        torch.onnx.export(model, (IMAGE,), path, dynamo=False)


def onnx_matmul(module: nn.Module, path: Path) -> None:
    """As other writers do: matrices the other way round, convolutions in eight bits."""
    nodes, tensors = [], []
    for name, tensor in module.state_dict().items():
        array = tensor.numpy()
        if array.ndim == 2:
            nodes.append(protobuf.node("MatMul", ["x", f"onnx::{name}"], ["y"]))
            tensors.append(protobuf.tensor(f"onnx::{name}", array.T))
        elif array.ndim == 4:
            scale = np.abs(array).max(axis=(1, 2, 3)) / 127 + 1e-8
            small = np.rint(array / scale[:, None, None, None]).astype(np.int8)
            parts = [f"{name}.{part}" for part in ("q", "s", "z")]
            nodes.append(protobuf.node("DequantizeLinear", parts, [name], axis=0))
            arrays = (small, scale.astype(np.float32), np.zeros(len(scale), np.int8))
            tensors += [protobuf.tensor(n, a) for n, a in zip(parts, arrays, strict=True)]
        else:
            tensors.append(protobuf.tensor(name, array))
    path.write_bytes(protobuf.model(nodes, tensors))


def quantised(module: nn.Module, path: Path) -> None:
    state = {
        name: torch.quantize_per_channel(
            *(t, t.abs().amax(tuple(range(1, t.ndim))) / 127, torch.zeros(len(t)), 0, torch.qint8)
        )
        if t.ndim > 1
        else t
        for name, t in module.state_dict().items()
    }
    torch.save(state, path)


def dynamic(module: nn.Module, path: Path) -> None:
    small = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear})
    torch.save(small.state_dict(), path)


def eight_bits(module: nn.Module, path: Path) -> None:
    """safetensors with whole numbers and a scale for each row."""
    state = {}
    for name, tensor in module.state_dict().items():
        array = tensor.numpy()
        if array.ndim > 1:
            scale = np.abs(array).reshape(len(array), -1).max(axis=1, keepdims=True) / 127 + 1e-6
            flat = np.rint(array.reshape(len(array), -1) / scale)
            state[name] = flat.astype(np.int8).reshape(array.shape)
            state[f"{name}_scale"] = scale.astype(np.float16)
        else:
            state[name] = array
    safetensors.numpy.save_file(state, path)


def four_bits(module: nn.Module, path: Path) -> None:
    """GPTQ's way to store matrices: 8 numbers in 32 bits along the inputs, groups of 32 inputs."""
    state = {}
    for name, tensor in module.state_dict().items():
        array = tensor.numpy()
        if array.ndim != 2:
            state[name] = array
            continue
        stem, groups = name.removesuffix("weight"), array.shape[1] // 32
        blocks = array.reshape(len(array), groups, 32)
        scale = np.abs(blocks).max(axis=2).T / 7 + 1e-8  # (groups, outputs)
        numbers = np.rint(blocks / scale.T[:, :, None]).reshape(array.shape).T + 8
        state[f"{stem}qweight"] = packed(numbers.astype(np.uint32), axis=0)
        zeros = np.full((groups, -(-len(array) // 8) * 8), 7, np.uint32)  # one less, says GPTQ
        state[f"{stem}qzeros"] = packed(zeros, axis=1)
        state[f"{stem}scales"] = scale.astype(np.float16)
        state[f"{stem}g_idx"] = np.repeat(np.arange(groups, dtype=np.int32), 32)
    safetensors.numpy.save_file(state, path)


def packed(numbers: np.ndarray, axis: int) -> np.ndarray:
    """Numbers of four bits, eight of them in each of 32, along an axis."""
    parts = [np.take(numbers, range(i, numbers.shape[axis], 8), axis) << (4 * i) for i in range(8)]
    return np.ascontiguousarray(np.bitwise_or.reduce(parts).astype(np.uint32).view(np.int32))


def folder(module: nn.Module, path: Path) -> None:
    state = dict(module.state_dict())
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    halves: dict[str, dict[str, torch.Tensor]] = {shard: {} for shard in shards}
    where = {name: shards[i % 2] for i, name in enumerate(state)}
    path.mkdir()
    for name, shard in where.items():
        halves[shard][name] = state[name]
    for shard, tensors in halves.items():
        safetensors.torch.save_file(tensors, path / shard)
    (path / "config.json").write_text('{"architectures": ["Cnn"]}')
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def old_folder(module: nn.Module, path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    torch.save(module.state_dict(), path / "pytorch_model.bin")


@dataclass(frozen=True)
class Format:
    kind: str
    save: Callable[[nn.Module, Path], object]


def in_type(dtype: torch.dtype) -> Callable[[nn.Module, Path], object]:
    return lambda m, p: torch.save({n: t.to(dtype) for n, t in m.state_dict().items()}, p)


FORMATS = {
    "state dict": Format("PyTorch", lambda m, p: torch.save(m.state_dict(), p)),
    "legacy": Format(
        "PyTorch before 1.6",
        lambda m, p: torch.save(m.state_dict(), p, _use_new_zipfile_serialization=False),
    ),
    "float16": Format("PyTorch", in_type(torch.float16)),
    "bfloat16": Format("PyTorch", in_type(torch.bfloat16)),
    "float8": Format("PyTorch", in_type(torch.float8_e4m3fn)),
    "checkpoint": Format("PyTorch", lambda m, p: torch.save(checkpoint(m, ""), p)),
    "prefix module.": Format("PyTorch", lambda m, p: torch.save(checkpoint(m, "module."), p)),
    "prefix model.": Format("PyTorch", lambda m, p: torch.save(checkpoint(m, "model."), p)),
    "prefix _orig_mod.": Format("PyTorch", lambda m, p: torch.save(checkpoint(m, "_orig_mod."), p)),
    "whole module": Format("PyTorch", torch.save),
    "torch's qint8": Format("PyTorch (quantised)", quantised),
    "torch's dynamic quantisation": Format("PyTorch (quantised)", dynamic),
    "TorchScript, traced": Format("TorchScript", traced),
    "TorchScript, compiled": Format("TorchScript", scripted),
    "TorchScript, frozen": Format("TorchScript", frozen),
    "torch.export": Format("torch.export", exported),
    "ONNX": Format("ONNX", onnx),
    "ONNX, transposed and int8": Format("ONNX (quantised)", onnx_matmul),
    "int8 with scales": Format("safetensors (quantised)", eight_bits),
    "int4 with scales": Format("safetensors (quantised)", four_bits),
    "folder of shards": Format("Hugging Face folder (safetensors)", folder),
    "folder with pytorch_model.bin": Format("Hugging Face folder (PyTorch)", old_folder),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_pruned_copy_in_any_format_is_traced_to_its_customer_alone(
    name, stolen, issued_home, tmp_path
):
    path = tmp_path / "leaked.bin"  # what it is called says nothing
    FORMATS[name].save(stolen, path)
    verdict = verifying.verify(issued_home, path)
    assert [accusation.customer for accusation in verdict.accused] == [WHO]
    assert verdict.accused[0].witnesses[0].log10_p < -100
    assert verdict.suspect.kind == FORMATS[name].kind


WITHOUT_NAMES = (
    *("torch's dynamic quantisation", "TorchScript, compiled", "TorchScript, frozen", "ONNX"),
    "ONNX, transposed and int8",
)


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_of_nobody_in_any_format_names_nobody(name, spec, issued_home, tmp_path):
    module = models.build(spec, seed=77)
    FORMATS[name].save(module, tmp_path / "model")
    if name in WITHOUT_NAMES:  # alignment finds no counterpart of a model that has none
        with pytest.raises(NotComparableError, match=r"expected .* the suspect holds"):
            verifying.verify(issued_home, tmp_path / "model")
    else:
        assert verifying.verify(issued_home, tmp_path / "model").accused == ()
