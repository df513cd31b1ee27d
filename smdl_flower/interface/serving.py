"""A copy behind an interface, as a thief would put it there: to try tracing by questions.

All three protocols are spoken at once. Who asks is not trusted either: bodies are cut off at a
size, images at their number, and nothing that is asked is written down.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smdl_flower import models
from smdl_flower.errors import SmdlError, SuspectAnswersError
from smdl_flower.interface import kserve
from smdl_flower.interface.kserve import Kserve
from smdl_flower.interface.obstacles import Obstacle, through
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.protocols import Language, Said
from smdl_flower.interface.torchserve import Torchserve
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

MOST_BYTES = 8 << 20  # of a request
MOST_IMAGES = 64
PATIENCE = 60.0  # seconds for a request to arrive
PATHS = {
    "smdl": "/ask",
    "kserve": "/v2/models/model/infer",
    "torchserve": "/predictions/model",
}


class Kind(StrEnum):
    """What is told of an image."""

    LABELS = "labels"
    TOP_K = "top-k"
    PROBABILITIES = "probabilities"
    LOGITS = "logits"


@dataclass(frozen=True)
class Telling:
    """How much a served model tells.

    Attributes:
        kind: What of an image.
        digits: Decimals that numbers are rounded to; None keeps them.
        top: Classes that ``top-k`` tells.
        noise: Deviation of what is added to each probability or logit, before rounding.
        obstacles: In front of the model, in order.
    """

    kind: Kind = Kind.PROBABILITIES
    digits: int | None = None
    top: int = 5
    noise: float = 0.0
    obstacles: tuple[Obstacle, ...] = ()


class Served:
    """A model that is asked by several at once and answers one after the other.

    Args:
        spec: What it is.
        weights: Of a copy.
        telling: How much it tells.

    Raises:
        SuspectFileError: The weights do not fit the model.

    Example:
        >>> spec = ModelSpec("cnn", channels=1, classes=10, image_size=8)
        >>> copy = models.to_weights(models.build(spec, seed=0))
        >>> served = Served(spec, copy, Telling(Kind.PROBABILITIES, digits=1))
        >>> served.answer(np.zeros((2, 1, 8, 8), np.float32)).shape
        (2, 10)
    """

    def __init__(self, spec: ModelSpec, weights: Weights, telling: Telling) -> None:
        self.spec = spec
        self._model = models.from_weights(spec, weights)
        self._telling = telling
        self._turn = threading.Lock()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.spec.channels, self.spec.image_size, self.spec.image_size

    def answer(self, images: NDArray[np.float32]) -> Any:
        """Return what is told of images ``(n, channels, height, width)`` in [-1, 1]."""
        how = self._telling
        seen = torch.from_numpy(np.ascontiguousarray(through(how.obstacles, images)))
        with self._turn, torch.inference_mode():
            logits = self._model(seen).double()
        scores = (logits if how.kind is Kind.LOGITS else logits.softmax(1)).numpy()
        if how.noise:
            scores = scores + np.random.default_rng().normal(0, how.noise, scores.shape)
        if how.kind is Kind.LABELS:
            return scores.argmax(1)
        told = scores if how.digits is None else scores.round(how.digits)
        if how.kind is not Kind.TOP_K:
            return told
        order = np.argsort(-scores, axis=1, kind="stable")[:, : how.top]
        return [
            {int(label): max(0.0, float(row[label])) for label in likeliest}
            for row, likeliest in zip(told, order, strict=True)
        ]


def application(served: Served) -> Starlette:
    """Return the server's application."""
    languages: dict[str, Language] = {
        PATHS["smdl"]: Plain(),
        PATHS["kserve"]: Kserve(),
        PATHS["torchserve"]: Torchserve(),
    }
    routes = [
        Route(path, _posted(served, language), methods=["POST"])
        for path, language in languages.items()
    ]
    # What clients of these servers look for before they ask.
    described = _description(served)
    for path, document in (
        ("/ping", {"status": "Healthy"}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/model", described),
        ("/v2/models/model/ready", {"name": "model", "ready": True}),
    ):
        routes.append(Route(path, _saying(document)))
    return Starlette(routes=routes)


Endpoint = Callable[[Request], Awaitable[Response]]


def _saying(document: dict[str, Any]) -> Endpoint:
    async def endpoint(_: Request) -> Response:
        return JSONResponse(document)

    return endpoint


def _posted(served: Served, language: Language) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(PATIENCE):
                body = await _body(request)
            said = await run_in_threadpool(_heard, served, language, body)
            return JSONResponse(said)
        except TimeoutError:
            return JSONResponse({"error": "the request took too long"}, 408)
        except SmdlError as error:
            return JSONResponse({"error": str(error)}, 400)

    return endpoint


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise SuspectAnswersError(f"a request of over {MOST_BYTES:,} bytes")
    return bytes(body)


def _heard(served: Served, language: Language, body: bytes) -> Any:
    images = language.images(body, served.shape)
    if len(images) > MOST_IMAGES:
        raise SuspectAnswersError(f"{len(images)} images; at most {MOST_IMAGES} at a time")
    said: Said = served.answer(images)
    return language.reply(said)


def _description(served: Served) -> dict[str, Any]:
    shape = [-1, *served.shape]
    inputs = [{"name": kserve.INPUT, "datatype": "FP32", "shape": shape}]
    outputs = [{"name": kserve.OUTPUT, "datatype": "FP32", "shape": [-1, served.spec.classes]}]
    return {"name": "model", "platform": "pytorch", "inputs": inputs, "outputs": outputs}
