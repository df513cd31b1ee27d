"""Base models and all that is needed to read their copies; w0 is a secret like the key.

``vault/<model_id>/`` holds ``base.safetensors`` (w0), ``profile.safetensors`` (the sensitivity
profile, stored because recomputing it elsewhere may round differently) and ``model.json``, whose
SHA-256 the registry keeps and which in turn names the digests of the other files. With black-box
fingerprints also ``queries-N.bin``, the images of each pool (another version may draw others), and
``taught.safetensors``, where copies are taught to answer.

``vault/broadcasts/`` holds the models that were sent in training, unmarked, by digest.
"""

import contextlib
import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from smdl_flower import files, weights
from smdl_flower.blackbox.queries import Bank, Pool
from smdl_flower.errors import (
    ConfigError,
    IntegrityError,
    MissingFileError,
    OutputExistsError,
    SuspectFileError,
)
from smdl_flower.fingerprint import carriers
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.fingerprint.layout import Layout, Vector
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

FORMAT = "smdl-vault/1"


@dataclass(frozen=True)
class BaseModel:
    """A base model w0 with the parameters of its copies' mark.

    Attributes:
        spec: How to build its module.
        weights: All of its tensors.
        profile: phi over its marked weights, ``(d,)``.
        code: Of the codewords.
        strength: alpha.
        carrier_length: Values of a carrier; None is what suits the model's size.
        queries: What its copies are asked; None if they are read from weights alone.
        taught: Where they are taught to answer.
    """

    spec: ModelSpec
    weights: Weights = field(repr=False)
    profile: Vector = field(repr=False)
    code: Code
    strength: float
    carrier_length: int | None = None
    queries: Bank | None = field(default=None, repr=False)
    taught: Directions | None = field(default=None, repr=False)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, hexadecimal; the salt of the campaign key."""
        return weights.digest(self.weights)

    @property
    def model_id(self) -> str:
        """A short public name: the first 16 hexadecimal digits of the digest."""
        return self.digest[:16]

    def key(self, owner: OwnerKey) -> CampaignKey:
        """Return the campaign key of this model's copies."""
        return owner.campaign(self.digest)

    def mark(self, owner: OwnerKey) -> Mark:
        """Return the mark its copies share.

        Raises:
            CapacityError: The model is too small for the code length at this strength.
        """
        mark = Mark.of(
            *(self.weights, self.profile, self.key(owner)),
            code=self.code,
            strength=self.strength,
            carrier_length=self.carrier_length,
        )
        return replace(mark, taught=self.taught)


class Vault:
    """The folder of base models."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, model: BaseModel) -> str:
        """Store a base model and return the SHA-256 of its manifest, hexadecimal.

        The folder appears whole or not at all. The same model again is left as it is.

        Raises:
            ConfigError: The model is there with other settings or another profile.
        """
        layout = Layout.of(model.weights)
        profile = {t.name: model.profile[t.where].reshape(t.shape) for t in layout.tensors}
        manifest = {
            "format": FORMAT,
            "base_sha256": model.digest,
            "profile_sha256": weights.digest(profile),
            "spec": asdict(model.spec),
            "code_length": model.code.length,
            "code": model.code.kind,
            "code_coalition": model.code.coalition,
            "strength": model.strength,
            "carrier_length": model.carrier_length or carriers.length_for(layout.size),
        }
        if model.queries:
            manifest["queries"] = _queries_json(model.queries)
        taught = {model.taught.name: model.taught.basis} if model.taught else {}
        if taught:
            manifest["taught_sha256"] = weights.digest(taught)
        content = json.dumps(manifest, sort_keys=True, indent=2).encode()
        folder = self._directory / model.model_id
        try:
            with (
                files.locked(self._directory, drafts_of=[folder.name]),
                files.new_folder(folder) as draft,
            ):
                weights.write(draft / "base.safetensors", model.weights)
                weights.write(draft / "profile.safetensors", profile)
                if taught:
                    weights.write(draft / "taught.safetensors", taught)
                for pool in model.queries.pools if model.queries else ():
                    files.write(draft / _pool_file(pool.number), pool.images.tobytes())
                files.write(draft / "model.json", content)
        except OutputExistsError:
            if (folder / "model.json").read_bytes() != content:
                raise ConfigError(
                    f"{folder} holds this model with other settings, from an issuing that ran at "
                    "the same time or was interrupted; use its settings, or remove the folder if "
                    "no copy was issued"
                ) from None
        return hashlib.sha256(content).hexdigest()

    def load(self, model_id: str, manifest_sha256: str) -> BaseModel:
        """Read a base model back.

        Raises:
            IntegrityError: A file is missing or not the one that was stored.
        """
        folder = self._directory / model_id
        manifest = self._manifest(folder, manifest_sha256)
        base = _stored(folder / "base.safetensors", manifest["base_sha256"])
        profile = _stored(folder / "profile.safetensors", manifest["profile_sha256"])
        taught = {}
        if "taught_sha256" in manifest:
            taught = _stored(folder / "taught.safetensors", manifest["taught_sha256"])
        spec = ModelSpec(**manifest["spec"])
        return BaseModel(
            spec=spec,
            weights=base,
            profile=Layout.of(base).flatten(profile),
            code=_code(manifest),
            strength=manifest["strength"],
            carrier_length=manifest.get("carrier_length"),
            queries=_bank(folder, spec, manifest["queries"]) if "queries" in manifest else None,
            taught=next((Directions(*of) for of in taught.items()), None),
        )

    def keep_broadcast(self, model: Weights) -> str:
        """Store a model that is about to be sent and return its digest, hexadecimal.

        The same model again is left as it is.
        """
        digest = weights.digest(model)
        with contextlib.suppress(OutputExistsError):
            weights.write(self._broadcast(digest), model)
        return digest

    def load_broadcast(self, digest: str) -> Weights:
        """Read a model that was sent back.

        Raises:
            IntegrityError: It is missing or not the one that was stored.
        """
        return _stored(self._broadcast(digest), digest)

    def _broadcast(self, digest: str) -> Path:
        return self._directory / "broadcasts" / f"{digest}.safetensors"

    @staticmethod
    def _manifest(folder: Path, sha256: str) -> dict[str, Any]:
        try:
            content = (folder / "model.json").read_bytes()
        except OSError:
            raise IntegrityError(f"{folder}: missing; restore the vault from a backup") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise IntegrityError(f"{folder / 'model.json'}: was changed; restore it")
        manifest: dict[str, Any] = json.loads(content)
        return manifest


def _stored(path: Path, digest: str) -> Weights:
    """Read a file of the vault back."""
    try:
        found = weights.read(path).weights
    except (SuspectFileError, MissingFileError) as error:
        raise IntegrityError(f"vault: {error}; restore it from a backup") from None
    if weights.digest(found) != digest:
        raise IntegrityError(f"{path}: was changed; restore it")
    return found


def _code(manifest: dict[str, Any]) -> Code:
    """The code of a manifest; those of before there was a choice are flat."""
    if "code" not in manifest:
        return Code(manifest["code_length"])
    return Code(manifest["code_length"], manifest["code"], manifest["code_coalition"])


def _pool_file(number: int) -> str:
    return f"queries-{number}.bin"


def _queries_json(bank: Bank) -> dict[str, Any]:
    pools = [
        {
            "sha256": hashlib.sha256(pool.images.tobytes()).hexdigest(),
            "answers": ["/".join(map(str, pair)) for pair in pool.answers.tolist()],
        }
        for pool in bank.pools
    ]
    return {"code": asdict(bank.code), "pools": pools}


def _bank(folder: Path, spec: ModelSpec, manifest: dict[str, Any]) -> Bank:
    code, pools = Code(**manifest["code"]), []
    shape = (code.length, spec.channels, spec.image_size, spec.image_size)
    for number, entry in enumerate(manifest["pools"], start=1):
        path = folder / _pool_file(number)
        try:
            content = path.read_bytes()
        except OSError:
            raise IntegrityError(f"{path}: missing; restore the vault from a backup") from None
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise IntegrityError(f"{path}: was changed; restore it")
        images = np.frombuffer(content, np.uint8).reshape(shape)
        answers = np.array([pair.split("/") for pair in entry["answers"]], dtype=np.int64)
        pools.append(Pool(number, images, answers))
    return Bank(code, tuple(pools))
