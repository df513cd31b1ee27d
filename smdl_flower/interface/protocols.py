"""What is common to the protocols: a request's body, the answers of a model, and both directions.

Each protocol is one module with one class. ``request`` and ``answers`` are for who asks; ``images``
and ``reply`` for who serves.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smdl_flower.interface.documents import Labels, Scores, Top
from smdl_flower.interface.pixels import Pixels

JSON = "application/json"
Said = Labels | Scores | Top


@dataclass(frozen=True)
class Body:
    """What is posted.

    Attributes:
        content: A JSON document, or a file.
        kind: Its media type.
    """

    content: bytes = field(repr=False)
    kind: str = JSON


class Language(Protocol):
    """A protocol of asking, from both sides."""

    def request(self, images: Pixels) -> Body:
        """Return what is posted to ask about images ``(n, channels, height, width)``."""

    def answers(self, document: Any, count: int) -> Said:
        """Return what a server's JSON document says of ``count`` images.

        Raises:
            SuspectAnswersError: It says something else.
        """

    def images(self, body: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return the images of a request, as copies take them, ``(n, *shape)`` in [-1, 1].

        Raises:
            SmdlError: The request is not of this protocol.
        """

    def reply(self, said: Said) -> Any:
        """Return a model's answers as a JSON document."""
