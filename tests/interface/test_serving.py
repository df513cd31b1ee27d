"""A served copy tells what it was told to tell, in three protocols, and stands hostile requests."""

import asyncio
import json
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import torch
from starlette.applications import Starlette

from smdl_flower import models
from smdl_flower.errors import SuspectFileError
from smdl_flower.interface import pixels, serving
from smdl_flower.interface.kserve import Kserve
from smdl_flower.interface.obstacles import Obstacle, through
from smdl_flower.interface.pixels import Scale
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.protocols import Language
from smdl_flower.interface.serving import MOST_BYTES, Kind, Served, Telling
from smdl_flower.interface.torchserve import Torchserve
from smdl_flower.models import ModelSpec

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
WEIGHTS = models.to_weights(models.build(SPEC, seed=3))
IMAGES = np.random.default_rng(5).integers(0, 256, (3, 1, 8, 8), np.uint8)
LANGUAGES: dict[str, Language] = {
    "smdl": Plain(),
    "kserve": Kserve(),
    "torchserve": Torchserve(),
}


@dataclass(frozen=True)
class Caller:
    """Calls an application without a network."""

    app: Starlette

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._call("GET", path, b""))

    def post(self, path: str, content: bytes = b"", kind: str = "") -> httpx.Response:
        return asyncio.run(self._call("POST", path, content, {"Content-Type": kind}))

    async def _call(self, method: str, path: str, content: bytes, headers=None) -> httpx.Response:
        inside = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=inside, base_url="http://served") as caller:
            return await caller.request(method, path, content=content, headers=headers)


def client(kind: Kind = Kind.PROBABILITIES, **how) -> Caller:
    return Caller(serving.application(Served(SPEC, WEIGHTS, Telling(kind, **how))))


def told(server: Caller, protocol: str):
    language = LANGUAGES[protocol]
    batches = [IMAGES[i : i + 1] for i in range(3)] if protocol == "torchserve" else [IMAGES]
    found = []
    for batch in batches:
        body = language.request(batch)
        response = server.post(serving.PATHS[protocol], body.content, body.kind)
        assert response.status_code == 200, response.text
        found.append(language.answers(response.json(), len(batch)))
    return found[0] if len(found) == 1 else np.concatenate([np.asarray(f) for f in found])


def logits():
    with torch.no_grad():
        return models.from_weights(SPEC, WEIGHTS)(
            torch.from_numpy(pixels.scaled(IMAGES, Scale.SIGNED))
        ).double()


@pytest.mark.parametrize("protocol", LANGUAGES)
def test_each_protocol_tells_what_the_model_says(protocol):
    expected = logits().softmax(1).numpy()
    assert np.abs(told(client(), protocol) - expected).max() < 1e-6
    rounded = told(client(digits=2), protocol)
    assert (rounded == expected.round(2)).all()
    assert np.abs(told(client(Kind.LOGITS), protocol) - logits().numpy()).max() < 1e-5
    labels = told(client(Kind.LABELS), protocol)
    assert labels.dtype == np.int64
    assert labels.tolist() == expected.argmax(1).tolist()


def test_noise_is_new_each_time_and_as_large_as_was_said():
    server = client(Kind.LOGITS, noise=0.5)
    told_twice = np.concatenate([told(server, "kserve") for _ in range(40)])
    errors = told_twice - np.tile(logits().numpy(), (40, 1))
    # 1,200 draws: the deviation of their deviation is 0.5 / sqrt(2 x 1,200), five of it.
    assert abs(errors.std() - 0.5) < 5 * 0.5 / (2 * errors.size) ** 0.5
    assert len(np.unique(errors.round(9))) == errors.size


def test_obstacles_stand_in_front_of_the_model():
    seen = through([Obstacle.SHIFT], pixels.scaled(IMAGES, Scale.SIGNED))
    with torch.no_grad():
        expected = models.from_weights(SPEC, WEIGHTS)(torch.from_numpy(seen)).numpy()
    found = told(client(Kind.LOGITS, obstacles=(Obstacle.SHIFT,)), "smdl")
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - logits().numpy()).max() > 1e-3


def test_the_likeliest_classes_are_told_the_likeliest_first():
    found = told(client(Kind.TOP_K, top=3, digits=3), "smdl")
    shares = logits().softmax(1).numpy()
    for row, likeliest in zip(shares, found, strict=True):
        assert list(likeliest) == np.argsort(-row)[:3].tolist()
        assert all(p == round(row[label], 3) for label, p in likeliest.items())
    one = client(Kind.TOP_K, top=2).post(serving.PATHS["torchserve"], content=pixels.png(IMAGES[0]))
    assert list(one.json()) == [str(label) for label in np.argsort(-shares[0])[:2]]


def test_the_open_inference_protocol_has_no_likeliest_classes():
    body = Kserve().request(IMAGES)
    response = client(Kind.TOP_K).post(serving.PATHS["kserve"], content=body.content)
    assert response.status_code == 400
    assert "top-k" in response.json()["error"]


@pytest.mark.parametrize("path", serving.PATHS.values())
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 50_000,
        b'{"images": []}',
        b'{"images": ["xx"]}',
        b'{"images": "abc"}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 1, 8, 8], "data": []}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}',
        b"\x89PNG\r\n\x1a\n" + bytes(50),
    ],
)
def test_a_request_that_is_none_is_refused_with_a_reason(path, body):
    response = client().post(path, content=body)
    assert response.status_code == 400
    assert response.json()["error"]


@pytest.mark.parametrize("path", serving.PATHS.values())
def test_a_request_is_cut_off_at_a_size(path):
    response = client().post(path, content=bytes(MOST_BYTES + 1))
    assert response.status_code == 400
    assert "8,388,608" in response.json()["error"]


def test_images_are_limited_in_number_and_must_have_the_models_size():
    many = Kserve(Scale.UINT8).request(np.zeros((65, 1, 8, 8), np.uint8))
    assert "65 images" in client().post(serving.PATHS["kserve"], content=many.content).text
    large = Plain().request(np.zeros((1, 1, 9, 9), np.uint8))
    assert "(9, 9)" in client().post(serving.PATHS["smdl"], content=large.content).text


def test_servers_of_these_protocols_say_that_they_are_ready():
    server = client()
    assert server.get("/ping").json() == {"status": "Healthy"}
    assert server.get("/v2/health/ready").status_code == 200
    assert server.get("/v2/models/model").json()["inputs"][0]["shape"] == [-1, 1, 8, 8]
    assert server.get(serving.PATHS["smdl"]).status_code == 405
    assert server.post("/elsewhere").status_code == 404


def test_a_model_that_computes_no_number_is_no_answer():
    broken = {name: np.full_like(value, 3e38) for name, value in WEIGHTS.items()}
    server = Caller(serving.application(Served(SPEC, broken, Telling())))
    body = Plain().request(IMAGES)
    assert server.post(serving.PATHS["smdl"], content=body.content).status_code == 500


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(SuspectFileError, match="do not fit"):
        Served(SPEC, {**WEIGHTS, "head.bias": np.zeros(11, np.float32)}, Telling())


def test_what_is_served_is_json_of_plain_numbers():
    response = client().post(serving.PATHS["smdl"], content=Plain().request(IMAGES).content)
    document = json.loads(response.content)
    assert set(document) == {"format", "probabilities"}
