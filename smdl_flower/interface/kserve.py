"""The Open Inference Protocol, version 2, over REST: KServe, Triton, MLServer, TorchServe, OVMS.

https://github.com/kserve/open-inference-protocol: ``POST /v2/models/NAME/infer``, tensors as JSON.
Extensions (binary tensors, Triton's classification) are not spoken.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import SuspectAnswersError
from smdl_flower.interface import documents, pixels
from smdl_flower.interface.documents import ClassNames
from smdl_flower.interface.pixels import Pixels, Scale
from smdl_flower.interface.protocols import Body, Said

INPUT = "input-0"
OUTPUT = "output-0"
_WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_REAL = ("FP16", "FP32", "FP64", "BF16")
_DEPTH = 4


@dataclass(frozen=True)
class Kserve:
    """The protocol.

    Attributes:
        scale: Of the pixels; ``uint8`` is sent as UINT8, the others as FP32.
        input_name: Of the model's input.
        output_name: Of the output to read; None is the only one.
        names: Class names, if the server tells those.

    Example:
        >>> tensor = {"name": "label", "shape": [2], "datatype": "INT64", "data": [3, 5]}
        >>> Kserve().answers({"outputs": [tensor]}, 2).tolist()
        [3, 5]
    """

    scale: Scale = Scale.SIGNED
    input_name: str = INPUT
    output_name: str | None = None
    names: ClassNames | None = None

    def request(self, images: Pixels) -> Body:
        """Return a document with one tensor, (n, channels, height, width)."""
        values = pixels.scaled(images, self.scale)
        tensor = {
            "name": self.input_name,
            "shape": list(values.shape),
            "datatype": "UINT8" if self.scale is Scale.UINT8 else "FP32",
            "data": values.reshape(-1).tolist(),
        }
        return Body(json.dumps({"inputs": [tensor]}).encode())

    def answers(self, document: Any, count: int) -> Said:
        """Return labels or scores, by the type of the output."""
        output = self._output(documents.member(document, "outputs"))
        kind, shape, flat = _tensor(output)
        if kind in _REAL and len(shape) == 2 and shape[0] == count:
            width = shape[1]
            rows = [flat[start : start + width] for start in range(0, len(flat), width or 1)]
            return documents.scores(rows, count)
        if kind in (*_WHOLE, "BYTES") and shape in ([count], [count, 1]):
            return documents.labels(flat, count, self.names)
        raise SuspectAnswersError(
            f"output of type {documents.shown(kind)} and shape {shape}; expected whole numbers or "
            f"names [{count}], or real numbers [{count}, classes]"
        )

    def _output(self, outputs: Any) -> Any:
        if not isinstance(outputs, list) or not outputs:
            raise SuspectAnswersError("expected a list of outputs")
        names = [documents.member(output, "name") for output in outputs]
        if self.output_name is None and len(outputs) == 1:
            return outputs[0]
        if self.output_name not in names:
            known = ", ".join(documents.shown(name) for name in names[:8])
            raise SuspectAnswersError(f"outputs are {known}; choose one with --output-name")
        return outputs[names.index(self.output_name)]

    def images(self, body: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return the images of the only tensor; FP32 must be on scale ``signed``."""
        (tensor,) = documents.items(documents.member(documents.parse(body), "inputs"), 1)
        kind, found, flat = _tensor(tensor)
        if len(found) != 4 or tuple(found[1:]) != shape or not flat:
            raise SuspectAnswersError(f"a tensor of shape {found}; expected [n, *{list(shape)}]")
        values = np.array([documents.number(x) for x in flat], np.float64).reshape(found)
        least, most = {"UINT8": (0, 255), "FP32": (-1, 1)}.get(kind, (1, 0))
        if not ((values >= least) & (values <= most)).all():
            raise SuspectAnswersError("expected UINT8 from 0 to 255, or FP32 from -1 to 1")
        if kind == "UINT8":
            return pixels.scaled(values.astype(np.uint8), Scale.SIGNED)
        return values.astype(np.float32)

    def reply(self, said: Said) -> Any:
        """Return a document with one tensor; the likeliest classes have no form of their own."""
        if isinstance(said, list):
            raise SuspectAnswersError("the Open Inference Protocol knows no top-k answers")
        kind = "INT64" if said.ndim == 1 else "FP32"
        tensor = {"name": OUTPUT, "shape": list(said.shape), "datatype": kind}
        return {"model_name": "model", "outputs": [{**tensor, "data": said.reshape(-1).tolist()}]}


def _tensor(tensor: Any) -> tuple[Any, list[int], list[Any]]:
    """Type, shape and values, which may be nested or not."""
    kind, shape = (documents.member(tensor, key) for key in ("datatype", "shape"))
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise SuspectAnswersError(f"expected the shape of a tensor, not {documents.shown(shape)}")
    if len(shape) > _DEPTH:
        raise SuspectAnswersError(f"a tensor of {len(shape)} dimensions; expected at most {_DEPTH}")
    values = _flat(documents.member(tensor, "data"), _DEPTH)
    if len(values) != math.prod(shape):
        raise SuspectAnswersError(f"{len(values)} values of a tensor of shape {shape}")
    return kind if isinstance(kind, str) else None, shape, values


def _flat(values: Any, depth: int) -> list[Any]:
    if not isinstance(values, list) or depth == 0:
        raise SuspectAnswersError("expected the values of a tensor as a list")
    if not any(isinstance(value, list) for value in values):
        return values
    return [x for value in values for x in _flat(value, depth - 1)]
