"""Turn a trained model into one checked, recorded, fingerprinted copy per customer.

Each copy is embedded, written, *read back from the file*, and only then recorded and moved into
place: its payload must read without error, its carrier must accuse its customer, and its accuracy
on public images must be within the budget. A copy that fails is not issued and the reason is kept.
Nothing here touches private images, so a DP guarantee of the base model holds for all copies
jointly (post-processing).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smdl_flower import files, models, weights
from smdl_flower.config import FingerprintConfig
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError, SmdlError
from smdl_flower.fingerprint import carriers, codes, embedding, extraction
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import CustomerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.payload import amplitude
from smdl_flower.fingerprint.profile import sensitivity_profile
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.training import evaluate
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

SELF_CHECK = Level(total=1e-12, words=1, hypotheses=1)


@dataclass(frozen=True)
class FidelityGate:
    """What a copy must still be able to do.

    Attributes:
        images: Public labelled images; None if the owner chose not to check.
        max_accuracy_drop: Largest allowed loss against the base model, 0 to 1.
    """

    images: Images | None
    max_accuracy_drop: float


@dataclass(frozen=True)
class IssueResult:
    """What became of one customer's copy.

    Attributes:
        customer: Who it is for.
        path: The copy; None if it was not issued.
        sha256: Digest of its weights; empty if it was not issued.
        matching_bits: Payload bits read back right from the file.
        carrier_score: z of the customer's own carrier.
        accuracy: On the gate's images; None if there are none.
        reason: Why it was not issued; empty if it was.
    """

    customer: str
    path: Path | None
    sha256: str
    matching_bits: int
    carrier_score: float
    accuracy: float | None
    reason: str


@dataclass(frozen=True)
class Campaign:
    """A base model in the vault, ready to be copied.

    Attributes:
        model: The base model.
        mark: What its copies share.
        base_accuracy: Of the base model on the gate's images; None if there are none.
        gate: What copies must keep.
    """

    model: BaseModel
    mark: Mark
    base_accuracy: float | None
    gate: FidelityGate


def open_campaign(
    home: OwnerHome,
    spec: ModelSpec,
    base: Weights,
    config: FingerprintConfig,
    gate: FidelityGate,
) -> Campaign:
    """Fix a base model: from now on its campaign key and its copies are determined.

    Opening it again with the same settings finds it as it was.

    Raises:
        CapacityError: The model is too small for the code length; nothing was stored.
        ConfigError: It was opened before with other settings, or has NaN or infinite values.
    """
    if not all(np.isfinite(array).all() for array in base.values()):
        raise ConfigError("the model has values that are NaN or infinite; train it anew")
    module = models.from_weights(spec, base)
    model = _known_model(home, base)
    if model is None:
        shape = (spec.channels, spec.image_size, spec.image_size)
        profile = sensitivity_profile(module, Layout.of(base), shape)
        model = BaseModel(spec, base, profile, code_of(config), config.strength)
        mark = model.mark(home.key)  # refuses here what is too small
        home.registry.record_model(model.model_id, home.vault.save(model))
    elif (model.spec, model.code, model.strength) != (spec, code_of(config), config.strength):
        raise ConfigError(
            f"model {model.model_id} was issued before with {model.code.length} bits at strength "
            f"{model.strength} as {model.spec} ({model.code}); use the same settings"
        )
    else:
        mark = model.mark(home.key)
    accuracy = None if gate.images is None else evaluate(module, gate.images).accuracy
    return Campaign(model, mark, accuracy, gate)


def issue(
    home: OwnerHome, campaign: Campaign, customers: Sequence[str], directory: Path
) -> Iterator[IssueResult]:
    """Make, check, record and store one copy per customer, yielding each result as it comes.

    Args:
        home: Of the owner.
        campaign: From :func:`open_campaign`.
        customers: Registered names.
        directory: Where ``<customer>.safetensors`` goes.

    Raises:
        ConfigError: A customer is not registered, or named twice; no copy was made.
        OutputExistsError: A copy's file is there already; no copy was made.
    """
    unknown = sorted(set(customers) - set(home.registry.customers()))
    if unknown:
        raise ConfigError(f"not in the registry: {', '.join(unknown)}; add them first")
    if len(set(customers)) < len(customers):
        raise ConfigError("a customer is named twice; each gets one copy of a model")
    for customer in customers:
        files.refuse_to_overwrite(directory / f"{customer}.safetensors")
    key = campaign.model.key(home.key)
    for customer in customers:
        yield _issue_one(home, campaign, key.customer(customer), directory)


def _issue_one(
    home: OwnerHome, campaign: Campaign, key: CustomerKey, directory: Path
) -> IssueResult:
    path = directory / f"{key.customer}.safetensors"
    draft = directory / f".{key.customer}.draft.safetensors"
    model, mark = campaign.model, campaign.mark
    vector = embedding.embed(mark, key)
    copy = mark.layout.restore(model.weights, vector)
    try:
        weights.write(draft, copy, model.spec.to_metadata(), replace=True)
        result = _self_check(campaign, key, weights.read(draft).weights)
        if result.reason:
            home.registry.record_refusal(model.model_id, key.customer, result.reason)
            return result
        # Recorded first: a copy that is out but not recorded could not be traced.
        home.registry.record_copy(model.model_id, key.customer, result.sha256)
        files.move_new(draft, path)
        return IssueResult(**{**vars(result), "path": path})
    finally:
        draft.unlink(missing_ok=True)


def _self_check(campaign: Campaign, key: CustomerKey, copy: Weights) -> IssueResult:
    model, mark = campaign.model, campaign.mark
    reading = extraction.read(mark, copy)
    word = codes.codeword(key, mark.biases)
    matching = int((reading.bits == word).sum())
    score = carriers.score(key, reading.direction)
    accuracy, reason = None, ""
    if campaign.gate.images is not None:
        module = models.from_weights(model.spec, copy)
        accuracy = evaluate(module, campaign.gate.images).accuracy
        drop = (campaign.base_accuracy or 0.0) - accuracy
        if drop > campaign.gate.max_accuracy_drop:
            reason = (
                f"accuracy {accuracy:.2%} is {drop:.2%} below the base model's, more than "
                f"fingerprint.max-accuracy-drop {campaign.gate.max_accuracy_drop:.2%}"
            )
    if matching < len(word):
        reason = f"only {matching} of {len(word)} payload bits read back"
    elif score < SELF_CHECK.carrier_threshold():
        reason = f"carrier score {score:.1f} does not prove the customer"
    digest = "" if reason else weights.digest(copy)
    return IssueResult(key.customer, None, digest, matching, score, accuracy, reason)


def _known_model(home: OwnerHome, base: Weights) -> BaseModel | None:
    model_id = weights.digest(base)[:16]
    manifest = home.registry.models().get(model_id)
    return None if manifest is None else home.vault.load(model_id, manifest)


def code_of(config: FingerprintConfig) -> Code:
    """Return the code that a run config asks for."""
    return Code(config.code_length, config.code, config.code_coalition)


def require_capacity(spec: ModelSpec, config: FingerprintConfig) -> None:
    """Refuse a model that is too small for its fingerprint, before anybody trains it.

    Raises:
        CapacityError: With the largest code length that would fit.
    """
    untrained = models.to_weights(models.build(spec, seed=0))
    amplitude(Layout.of(untrained).size, config.code_length, config.strength**2 / 2)


def require_issued(results: Sequence[IssueResult]) -> None:
    """Raise :class:`SmdlError` if copies were asked for and none was issued."""
    if results and not any(result.path for result in results):
        raise SmdlError(f"no copy was issued; for example: {results[0].reason}")
