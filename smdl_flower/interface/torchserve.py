"""TorchServe's inference API: ``POST /predictions/NAME``, one image file, one JSON value.

https://pytorch.org/serve/inference_api.html. What is answered is up to the model's handler. Its
image classifier tells the likeliest classes by name or number; a label or all scores are taken too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.interface import documents, pixels
from smdl_flower.interface.documents import ClassNames
from smdl_flower.interface.pixels import Pixels, Scale
from smdl_flower.interface.protocols import Body, Said


@dataclass(frozen=True)
class Torchserve:
    """The protocol.

    Attributes:
        names: Class names, if the server tells those.

    Example:
        >>> Torchserve({"cat": 0, "dog": 1}).answers({"dog": 0.7, "cat": 0.2}, 1)
        [{1: 0.7, 0: 0.2}]
    """

    names: ClassNames | None = None

    def request(self, images: Pixels) -> Body:
        """Return one PNG file.

        Raises:
            ConfigError: There is more than one image.
        """
        if len(images) != 1:
            raise ConfigError(f"--batch-size {len(images)}: TorchServe takes one image at a time")
        return Body(pixels.png(images[0]), "image/png")

    def answers(self, document: Any, count: int) -> Said:
        """Return a label, all scores, or the likeliest classes, of one image."""
        if isinstance(document, list) and len(document) == 1:  # a batch of one
            document = document[0]
        if isinstance(document, dict):
            return documents.top([document], count, self.names)
        if isinstance(document, list):
            return documents.scores([document], count)
        return documents.labels([document], count, self.names)

    def images(self, body: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return the image of a file."""
        return pixels.scaled(pixels.from_file(body, shape)[None], Scale.SIGNED)

    def reply(self, said: Said) -> Any:
        """Return the answer to the only image."""
        if len(said) != 1:
            raise SuspectAnswersError(f"{len(said)} answers to one image")
        if isinstance(said, list):
            return {str(label): share for label, share in said[0].items()}
        return said[0].tolist()
