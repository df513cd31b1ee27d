"""The run under test: its home, base model, issued copies and test images, checked."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smdl_flower import models, verifying, weights
from smdl_flower.config import DataConfig, checked
from smdl_flower.data import Images, load_test
from smdl_flower.errors import ConfigError
from smdl_flower.fingerprint.alignment import align
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.home import OwnerHome
from smdl_flower.training import evaluate
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights


@dataclass(frozen=True)
class Copy:
    """A customer's copy as it was issued."""

    customer: str
    path: Path
    weights: Weights
    accuracy: float


class Subject:
    """An opened run; a copy is read and measured once, when it is first asked for.

    Attributes:
        home: Of the owner.
        model: The base model of the run's copies.
        scenario: Of the run.
        data: Where its images came from.
        images: Test images of the run's source.
        sha256: Of the run's files, to tell it from another.
    """

    def __init__(self, home: OwnerHome, run: Path) -> None:
        """Open a completed run.

        Raises:
            ConfigError: It is none, it issued no copies, or they are not of this home.
        """
        outcome, resolved = read_json(run / "run.json"), read_json(run / "resolved.json")
        if outcome.get("status") != "completed" or not outcome.get("model_id"):
            raise ConfigError(f"{run}: the run issued no copies; a bench needs a completed run")
        self.home = home
        self.model = _base_model(home, outcome["model_id"])
        self.scenario, self.data = _asked(resolved)
        self.images: Images = load_test(self.data)
        self.sha256 = _sha256(run / "run.json", run / "resolved.json")
        self._files = {c["customer"]: run / c["path"] for c in outcome["copies"] if c["path"]}
        records = home.registry.copies(self.model.model_id)
        self._digests = {record.customer: record.weights_sha256 for record in records}
        self._copies: dict[str, Copy] = {}
        self._bits: dict[str, str] = {}

    @property
    def customers(self) -> tuple[str, ...]:
        """All who were issued a copy, in the order of the run."""
        return tuple(self._files)

    def copy(self, customer: str) -> Copy:
        """Return a customer's copy.

        Raises:
            ConfigError: The file is not the copy that was issued.
        """
        if customer not in self._copies:
            path = self._files[customer]
            content = weights.read(path).weights
            if weights.digest(content) != self._digests.get(customer):
                raise ConfigError(f"{path} is not the copy that was issued; restore it")
            self._copies[customer] = Copy(customer, path, content, self.accuracy_of(content))
        return self._copies[customer]

    def issued_bits(self, customer: str) -> str:
        """Return the bits read in a customer's copy as it was issued: all were right then."""
        if customer not in self._bits:
            verdict = verifying.verify(self.home, self._files[customer])
            self._bits[customer] = verdict.payload.bits
        return self._bits[customer]

    @functools.cached_property
    def mark(self) -> Mark:
        """What the copies share."""
        return self.home.mark(self.model)

    def in_base_form(self, suspect: Weights, alignment: str) -> Weights:
        """Return a suspect with the base model's names and shapes.

        Args:
            suspect: Any weights that could be compared.
            alignment: How the verdict says that they were.
        """
        if alignment == "none":
            return suspect
        return align(models.build(self.model.spec, seed=0), self.model.weights, suspect).weights

    def accuracy_of(self, content: Weights) -> float:
        """Return the accuracy of weights of this run's architecture on the test images."""
        return evaluate(models.from_weights(self.model.spec, content), self.images).accuracy


def _base_model(home: OwnerHome, model_id: str) -> BaseModel:
    for model in home.base_models():
        if model.model_id == model_id:
            return model
    raise ConfigError(f"base model {model_id} of this run is not in {home.path}; give its --home")


def _asked(resolved: dict[str, Any]) -> tuple[str, DataConfig]:
    """Scenario and data of a run; its other keys may be those of an older version."""
    config = resolved.get("config", {})
    keys = {field.alias for field in DataConfig.model_fields.values()}
    data = checked(DataConfig, {key: value for key, value in config.items() if key in keys})
    return str(config.get("scenario", "")), data


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a run folder.

    Raises:
        ConfigError: The file is missing or holds none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ConfigError(f"{path}: missing or unreadable; give a completed run's folder") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: no JSON object; give a completed run's folder")
    return document


def _sha256(*paths: Path) -> str:
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in paths)).hexdigest()
