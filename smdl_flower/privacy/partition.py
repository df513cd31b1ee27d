"""The privacy partition: every tensor of a model, parameters and buffers, is labelled exactly once.

PUBLIC tensors are made without private data; participants check and freeze them and never upload
them. GUARDED tensors are all that private images touch; they leave a participant through one
channel. LOCAL (experimental, no policy uses it) never leaves, and names a PUBLIC tensor that is
released in its place. The partition protects nothing by itself: it decides where the protection
acts, and makes it affordable. The definition is ours: the paper that inspired this project speaks
of "privacy partitioning" in its abstract only, and was withdrawn.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from smdl_flower import models, weights
from smdl_flower.config import PrivacyConfig
from smdl_flower.errors import ConfigError, PrivacyError
from smdl_flower.weights import Weights

FORMAT = "smdl-partition/1"


class Label(StrEnum):
    """What may happen to a tensor."""

    PUBLIC = "public"
    GUARDED = "guarded"
    LOCAL = "local"


@dataclass(frozen=True)
class LabelledTensor:
    """One tensor of a model and what may happen to it.

    Attributes:
        name: Key in the state_dict.
        label: What may happen to it.
        shape: Of the tensor.
        sha256: Of a PUBLIC tensor (:func:`smdl_flower.weights.digest` of it alone), else empty.
        substitute: PUBLIC tensor that is released in place of a LOCAL one, else empty.
    """

    name: str
    label: Label
    shape: tuple[int, ...]
    sha256: str = ""
    substitute: str = ""


@dataclass(frozen=True)
class PrivacyPartition:
    """A total, disjoint labelling of a model's tensors, in the order of their names.

    Raises:
        PrivacyError: A tensor is labelled twice or out of order; a PUBLIC one has no digest, or
            another one has; a LOCAL one has no PUBLIC substitute of its shape.

    Example:
        >>> values = {"front": np.ones((2, 2), np.float32), "head": np.ones(2, np.float32)}
        >>> partition = PrivacyPartition.label(values, public={"front"})
        >>> partition.names(Label.GUARDED), partition.select({**values, "loss": 3.0}).keys()
        (('head',), dict_keys(['head']))
        >>> PrivacyPartition.from_json(partition.to_json()) == partition
        True
    """

    tensors: tuple[LabelledTensor, ...]

    def __post_init__(self) -> None:
        names = [t.name for t in self.tensors]
        if names != sorted(set(names)):
            raise PrivacyError("the privacy partition must name each tensor once, in order")
        by_name = {t.name: t for t in self.tensors}
        for tensor in self.tensors:
            if bool(tensor.sha256) != (tensor.label is Label.PUBLIC):
                raise PrivacyError(f"{tensor.name}: PUBLIC tensors, and no others, have a digest")
            stand_in = by_name.get(tensor.substitute)
            fits = stand_in and (stand_in.label, stand_in.shape) == (Label.PUBLIC, tensor.shape)
            if tensor.label is Label.LOCAL and not fits:
                raise PrivacyError(
                    f"{tensor.name}: a LOCAL tensor needs a PUBLIC substitute of its shape"
                )
            if tensor.label is not Label.LOCAL and tensor.substitute:
                raise PrivacyError(f"{tensor.name}: only a LOCAL tensor has a substitute")

    @classmethod
    def label(
        cls, values: Weights, *, public: set[str], local: Mapping[str, str] | None = None
    ) -> "PrivacyPartition":
        """Return the partition with these PUBLIC and LOCAL tensors; all others are GUARDED.

        Args:
            values: All tensors of the model.
            public: Names of those that were made without private data.
            local: Name -> name of the substitute.

        Raises:
            PrivacyError: A name is no tensor of the model, or has two labels.
        """
        stay = dict(local or {})
        unknown = sorted((public | set(stay)) - set(values))
        if unknown or public & set(stay):
            raise PrivacyError(
                f"the privacy partition labels {unknown or sorted(public & set(stay))}: expected "
                "tensors of the model, with one label each"
            )
        return cls(tuple(_labelled(name, values, public, stay) for name in sorted(values)))

    @classmethod
    def from_json(cls, document: Any) -> "PrivacyPartition":
        """Read back what :meth:`to_json` returned.

        Raises:
            PrivacyError: It is no partition, or of an unknown version.
        """
        try:
            if document["format"] != FORMAT or set(document) != {"format", "tensors"}:
                raise ValueError(document["format"])
            entries = [
                LabelledTensor(**{**t, "label": Label(t["label"]), "shape": tuple(t["shape"])})
                for t in document["tensors"]
            ]
            return cls(tuple(entries))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise PrivacyError(f"not a privacy partition of format {FORMAT}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the partition as plain values: names, labels, shapes, digests, substitutes."""
        tensors = [
            {**vars(t), "label": t.label.value, "shape": list(t.shape)} for t in self.tensors
        ]
        return {"format": FORMAT, "tensors": tensors}

    def sha256(self) -> str:
        """Return the commitment to labels, shapes and PUBLIC values, hexadecimal."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def names(self, label: Label) -> tuple[str, ...]:
        """Return the names of the tensors with a label."""
        return tuple(t.name for t in self.tensors if t.label is label)

    def select(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the GUARDED tensors, the only ones that leave, by an allow-list.

        Raises:
            PrivacyError: One is missing: the model is not the one that was partitioned.
        """
        allowed = self.names(Label.GUARDED)
        missing = [name for name in allowed if name not in tensors]
        if missing:
            raise PrivacyError(f"the model lacks tensors of its privacy partition: {missing[:3]}")
        return {name: tensors[name] for name in allowed}

    def verify(self, values: Weights) -> None:
        """Check that a model has these tensors, and the PUBLIC ones with these values.

        Raises:
            PrivacyError: It has others; nothing may be trained with them.
        """
        found = {name: array.shape for name, array in values.items()}
        expected = {t.name: t.shape for t in self.tensors}
        if found != expected:
            different = sorted(set(found.items()) ^ set(expected.items()))[:3]
            raise PrivacyError(f"the model has other tensors than its partition: {different}")
        for tensor in self.tensors:
            if tensor.sha256 and _digest(tensor.name, values) != tensor.sha256:
                raise PrivacyError(
                    f"PUBLIC tensor {tensor.name} is not the one that was committed to; do not "
                    "train with it"
                )

    def join(self, guarded: Weights, public: Weights) -> Weights:
        """Return the released model: PUBLIC, aggregated GUARDED, and substitutes of LOCAL tensors.

        Args:
            guarded: All GUARDED tensors and nothing else.
            public: Has the PUBLIC tensors; others in it are not used.
        """
        values = {}
        for tensor in self.tensors:
            source = guarded if tensor.label is Label.GUARDED else public
            values[tensor.name] = source[tensor.substitute or tensor.name]
        return values

    def freeze(self, model: nn.Module) -> None:
        """Let GUARDED parameters be trained and no others."""
        trained = set(self.names(Label.GUARDED)) | set(self.names(Label.LOCAL))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)


def partition(config: PrivacyConfig, model: nn.Module) -> PrivacyPartition:
    """Return the partition of a model that the run config asks for.

    Raises:
        PrivacyError: The model has state outside of its state_dict.
        ConfigError: Policy ``public-front``, and the model has no front, or nothing else.

    Example:
        >>> from smdl_flower import config
        >>> flat = config.load_defaults(config.example_app_dir())
        >>> run = config.parse({**flat, "privacy.policy": "public-front"})
        >>> model = models.build(models.ModelSpec("cnn", 1, 10, 28), seed=0)
        >>> partition(run.privacy, model).names(Label.GUARDED)
        ('head.bias', 'head.weight', 'hidden.bias', 'hidden.weight')
    """
    values = models.to_weights(model)
    _require_complete(model, values)
    if config.policy == "full":
        return PrivacyPartition.label(values, public=set())
    front = models.front_of(model)
    public = {name for name in values if front and name.startswith(front)}
    if not public or len(public) == len(values):
        raise ConfigError(
            "privacy.policy: public-front needs a model with a front that others train behind; "
            "expected scatter-linear, cnn, or a factory whose module says public_front = 'NAME.'"
        )
    return PrivacyPartition.label(values, public=public)


def bring_public_weights(config: PrivacyConfig, model: nn.Module) -> Weights:
    """Return a fresh model's weights, with the public front that the run config names, if any.

    The file is read where the run starts; participants check what they are sent by its digest.

    Raises:
        ConfigError: The file lacks a tensor of the front, or its front has another digest.
    """
    values = models.to_weights(model)
    if not config.public_weights:
        return values
    names = partition(config, model).names(Label.PUBLIC)
    path = Path(config.public_weights).expanduser()
    brought = weights.read(path).weights
    unfit = [n for n in names if n not in brought or brought[n].shape != values[n].shape]
    if unfit:
        raise ConfigError(
            f"privacy.public-weights: {path} has no {unfit[0]} of shape {values[unfit[0]].shape}; "
            "it must have all tensors of the model's front"
        )
    front = {name: brought[name] for name in names}
    if weights.digest(front) != config.public_weights_sha256:
        raise ConfigError(
            f"privacy.public-weights: the front in {path} has digest {weights.digest(front)}, not "
            "privacy.public-weights-sha256; if it is the right file, set that to this"
        )
    return {**values, **front}


def require_same_public(
    config: PrivacyConfig, split: PrivacyPartition, received: Weights, own: Weights
) -> None:
    """Check that PUBLIC tensors are what the run config promised, not merely what was sent.

    Args:
        config: May name the digest of public weights that somebody brought.
        split: The partition of the model.
        received: The model as received.
        own: The same architecture, built here from public data and the run's seed.

    Raises:
        PrivacyError: They differ: they may have been fitted to private data, or to spy.
    """
    names = split.names(Label.PUBLIC)
    if config.public_weights_sha256:
        found = weights.digest({name: received[name] for name in names})
        same = found == config.public_weights_sha256
    else:  # other processors round differently: 1e-4 of the largest value
        same = all(
            np.abs(received[n] - own[n]).max(initial=0) <= 1e-4 * np.abs(own[n]).max(initial=0)
            for n in names
        )
    if not same:
        raise PrivacyError(
            "the PUBLIC tensors are not those of the run config (built here, or "
            "privacy.public-weights-sha256); do not train with them"
        )


def _require_complete(model: nn.Module, values: Weights) -> None:
    parameters = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    buffers = [n for n, _ in model.named_buffers(remove_duplicate=False)]
    outside = sorted(set(parameters + buffers) ^ set(values))
    if outside:
        raise PrivacyError(
            f"{outside[:3]}: every parameter and buffer must be in the state_dict and nothing "
            "else; what is outside of it cannot be labelled"
        )


def _labelled(
    name: str, values: Weights, public: set[str], local: Mapping[str, str]
) -> LabelledTensor:
    shape = values[name].shape
    if name in public:
        return LabelledTensor(name, Label.PUBLIC, shape, sha256=_digest(name, values))
    if name in local:
        return LabelledTensor(name, Label.LOCAL, shape, substitute=local[name])
    return LabelledTensor(name, Label.GUARDED, shape)


def _digest(name: str, values: Weights) -> str:
    return weights.digest({name: values[name]})
