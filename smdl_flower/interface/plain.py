"""Our own protocol: PNG files in, and what is told of them out (docs/formats.md, smdl-ask/1)."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import SuspectAnswersError
from smdl_flower.interface import documents, pixels
from smdl_flower.interface.documents import ClassNames
from smdl_flower.interface.pixels import Pixels, Scale
from smdl_flower.interface.protocols import Body, Said

FORMAT = "smdl-ask/1"
_KINDS = ("labels", "top", "probabilities", "logits")


@dataclass(frozen=True)
class Plain:
    """The protocol.

    Attributes:
        names: Class names, if the server tells those.

    Example:
        >>> said = {"format": "smdl-ask/1", "top": [{"3": 0.9, "5": 0.1}]}
        >>> Plain().answers(said, 1)
        [{3: 0.9, 5: 0.1}]
    """

    names: ClassNames | None = None

    def request(self, images: Pixels) -> Body:
        """Return a document with base64 of PNG files."""
        document = {"format": FORMAT, "images": [pixels.to_text(image) for image in images]}
        return Body(json.dumps(document).encode())

    def answers(self, document: Any, count: int) -> Said:
        """Return labels, probabilities, logits, or the likeliest classes."""
        if documents.member(document, "format") != FORMAT:
            raise SuspectAnswersError(f"expected a document of format {FORMAT}")
        told = [kind for kind in _KINDS if kind in document]
        if len(told) != 1:
            raise SuspectAnswersError(f"expected one of {', '.join(_KINDS)}, not {len(told)}")
        value = document[told[0]]
        if told == ["labels"]:
            return documents.labels(value, count, self.names)
        if told == ["top"]:
            return documents.top(value, count, self.names)
        return documents.scores(value, count)

    def images(self, body: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return the images of a document."""
        texts = documents.member(documents.parse(body), "images")
        if not isinstance(texts, list) or not texts:
            raise SuspectAnswersError("expected a list of images")
        unpacked = np.stack([pixels.from_text(text, shape) for text in texts])
        return pixels.scaled(unpacked, Scale.SIGNED)

    def reply(self, said: Said) -> Any:
        """Return a document that says which kind of answers it holds."""
        if isinstance(said, list):
            return {"format": FORMAT, "top": [{str(k): p for k, p in row.items()} for row in said]}
        kind = "labels" if said.ndim == 1 else _kind_of_scores(said)
        return {"format": FORMAT, kind: said.tolist()}


def _kind_of_scores(values: NDArray[Any]) -> str:
    return "probabilities" if ((values >= 0) & (values <= 1)).all() else "logits"
