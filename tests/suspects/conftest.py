"""A small model saved by the real libraries, and a way to read it inside this process.

Reading in this process is what the child does; that the child has limits is in test_reading.py.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from smdl_flower.suspects import converting
from smdl_flower.suspects.converting import Converted

MOST = 64 << 20


class Net(nn.Module):
    """A network that TorchScript, export and ONNX all take."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden = nn.Linear(4 * 9, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(  # type: ignore[no-any-return]
            torch.relu(self.hidden(torch.flatten(self.features(images), 1)))
        )


@pytest.fixture(scope="session")
def net() -> nn.Module:
    torch.manual_seed(5)
    return Net().eval()


@pytest.fixture(scope="session")
def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.state_dict())


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., bytes]:
    """What ``torch.save`` writes of a value."""

    def save(value: object, *, zipped: bool = True) -> bytes:
        torch.save(value, tmp_path / "saved", _use_new_zipfile_serialization=zipped)
        return (tmp_path / "saved").read_bytes()

    return save


def f4(values: object) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


def f2(values: object) -> np.ndarray[Any, np.dtype[np.float16]]:
    return np.array(values, np.float16)


def i1(values: object) -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.array(values, np.int8)


def read(*contents: bytes) -> Converted:
    return converting.convert([memoryview(content) for content in contents], MOST)


def same(weights: dict[str, np.ndarray], state: dict[str, torch.Tensor]) -> bool:
    """Whether weights are a model's, bit by bit as float32."""
    return set(weights) == set(state) and all(
        weights[n].tobytes() == t.float().numpy().tobytes() and weights[n].shape == t.shape
        for n, t in state.items()
    )


def rezipped(
    content: bytes,
    path: Path,
    changes: Mapping[str, bytes | None] | None = None,
    method: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """An archive packed anew, with entries changed (by the end of a name) or left out (None)."""
    path.write_bytes(content)
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(path.with_suffix(".new"), "w", method) as new,
    ):
        for name in old.namelist():
            end = next((e for e in changes or () if name.endswith(e)), None)
            changed = old.read(name) if end is None else (changes or {})[end]
            if changed is not None:
                new.writestr(name, changed)
    return path.with_suffix(".new").read_bytes()
