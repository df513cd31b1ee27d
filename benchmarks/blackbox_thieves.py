"""What thieves do to copies that are asked: alterations, training, students, ensembles."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from smdl_flower import models
from smdl_flower.attacks import catalogue
from smdl_flower.blackbox import teaching
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.blackbox.queries import Pixels
from smdl_flower.config import Scalar
from smdl_flower.interface.obstacles import Obstacle, through
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

Alteration = Callable[[Weights, ModelSpec], Weights]
VOTES = ("majority", "minority", "random")


def _attacks(*steps: tuple[str, dict[str, Scalar]]) -> Alteration:
    """The attacks of the catalogue one after the other."""

    def alter(copy: Weights, spec: ModelSpec) -> Weights:
        for name, settings in steps:
            copy = catalogue.run(name, [copy], spec, settings).weights
        return copy

    return alter


ALTERATIONS: dict[str, Alteration] = {
    "unaltered": lambda copy, _: copy,
    "int8": _attacks(("quantize", {"bits": 8})),
    "int4": _attacks(("quantize", {"bits": 4})),
    "prune 50 %": _attacks(("prune", {"fraction": 0.5})),
    "noise 0.3": _attacks(("noise", {"level": 0.3})),
    "projection": _attacks(("project", {})),
}
TRAINED: dict[str, Alteration] = {
    "fine-tune 20 epochs": _attacks(("fine-tune", {"epochs": 20})),
    "projection, then fine-tune 10 epochs, Adam": _attacks(
        ("project", {}), ("fine-tune-adam", {"epochs": 10})
    ),
    "last layer anew, 5 epochs": _attacks(("retrain-last", {})),
    "last layer anew, then fine-tune 20 epochs": _attacks(("retrain-all", {"epochs": 20})),
    "no opinion about strange images": _attacks(("unlearn-strange", {})),
}
STUDENTS: dict[str, Alteration] = {
    "student: 2,000 images": _attacks(("distill", {})),
    "student: labels only": _attacks(("distill-hard", {})),
    "student: another task's images": _attacks(("knockoff", {})),
}


WHITE_BOX: dict[str, Alteration] = {
    **{n: ALTERATIONS[n] for n in ("unaltered", "int8", "int4", "prune 50 %", "noise 0.3")},
    "projection": ALTERATIONS["projection"],
    "fine-tune 20 epochs": TRAINED["fine-tune 20 epochs"],
}


def served(
    copy: Weights,
    spec: ModelSpec,
    obstacle: Obstacle | None = None,
    *,
    decimals: int | None = None,
) -> Predictor:
    """Return a copy behind an interface: labels, or probabilities of so many decimals."""
    network = models.from_weights(spec, copy)

    def predict(images: Pixels) -> object:
        if obstacle:
            seen = through([obstacle], teaching.inputs(images).numpy())
            with torch.no_grad():
                said = network(torch.from_numpy(seen))
        else:
            said = teaching.logits(network, images)
        return said.argmax(1).numpy() if decimals is None else _rounded(said, decimals)

    return predict


def _rounded(said: torch.Tensor, decimals: int) -> NDArray[np.float64]:
    return np.round(said.softmax(1).double().numpy(), decimals)


def ensemble(copies: Sequence[Weights], spec: ModelSpec, vote: str) -> Predictor:
    """Return copies of which one answers: the most or least frequent answer, or any."""
    networks = [models.from_weights(spec, copy) for copy in copies]
    rng = np.random.default_rng(1)

    def predict(images: Pixels) -> object:
        said = np.stack([teaching.logits(n, images).argmax(1).numpy() for n in networks])
        if vote == "random":
            return said[rng.integers(0, len(said), said.shape[1]), np.arange(said.shape[1])]
        counts = np.stack([(said == label).sum(0) for label in range(spec.classes)], axis=1)
        if vote == "majority":
            return counts.argmax(1)
        return np.where(counts > 0, counts, len(said) + 1).argmin(1)

    return predict
