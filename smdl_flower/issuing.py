"""Turn a trained model into one checked, recorded, fingerprinted copy per customer.

Each copy is taught its answers (if there are queries), embedded, *read back from the bytes of its
file*, and only then recorded and written: its payload must read without error, its carrier must
accuse its customer, it must give the answers it was taught, and its accuracy on public images must
be within the budget. A copy that fails is not issued and the reason is kept. The images that
copies are taught with are not those that they are measured on. Nothing here touches private images,
so a DP guarantee of the base model holds for all copies jointly (post-processing).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from smdl_flower import commitments, files, imprinting, models, weights
from smdl_flower.blackbox import teaching
from smdl_flower.blackbox.queries import FEWEST, MOST, Bank, make_bank
from smdl_flower.blackbox.tail import cut
from smdl_flower.blackbox.teaching import Teacher
from smdl_flower.config import FingerprintConfig
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError, OutputExistsError, SmdlError
from smdl_flower.fingerprint import carriers, codes, embedding, extraction
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.imprint import Imprint, require_room
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.payload import amplitude
from smdl_flower.fingerprint.profile import sensitivity_profile
from smdl_flower.home import OwnerHome
from smdl_flower.imprinting import ImprintReport
from smdl_flower.models import ModelSpec
from smdl_flower.training import evaluate
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

SELF_CHECK = Level(total=1e-12, words=1, hypotheses=1)
LEAST_ANSWERS = 0.98  # share of a copy's answers that must be as taught


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
        query_bits: Answers to the query images that are as taught; None if there are no queries.
        imprint: What it does with images that carry its customer's word; None if not asked for.
    """

    customer: str
    path: Path | None
    sha256: str
    matching_bits: int
    carrier_score: float
    accuracy: float | None
    reason: str
    query_bits: int | None = None
    imprint: ImprintReport | None = None


@dataclass(frozen=True)
class Campaign:
    """A base model in the vault, ready to be copied.

    Attributes:
        model: The base model.
        mark: What its copies share.
        base_accuracy: Of the base model on the gate's images; None if there are none.
        gate: What copies must keep.
        teacher: Of the copies' answers; None if there are no queries.
        imprint: Where customers' words lie in images; None if that is not asked for.
    """

    model: BaseModel
    mark: Mark
    base_accuracy: float | None
    gate: FidelityGate
    teacher: Teacher | None = field(default=None, repr=False)
    imprint: Imprint | None = field(default=None, repr=False)


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
    gate, public = _divided(config, gate)
    module = models.from_weights(spec, base)
    model = _known_model(home, base)
    if model is None:
        model = _new_model(home, spec, base, config, module)
        if model.queries and public:
            key, seen = home.campaign(model), public.inputs()
            taught = teaching.directions(module, model.queries, key, seen)
            model = replace(model, taught=taught)
        mark = home.mark(model)  # refuses here what is too small
        newest = len(home.keys) - 1
        home.registry.record_model(model.model_id, home.vault.save(model), newest)
    else:
        _require_same(model, spec, config)
        mark = home.mark(model)
    accuracy = None if gate.images is None else evaluate(module, gate.images).accuracy
    teacher = None
    if model.queries and public:
        teacher = _teacher(module, model, home.campaign(model), public.inputs())
    imprint = None
    if config.imprint_images and gate.images:
        imprint = Imprint.of(home.campaign(model), _shape(spec), model.code.length)
    return Campaign(model, mark, accuracy, gate, teacher, imprint)


def _teacher(module: nn.Module, model: BaseModel, key: CampaignKey, public: Tensor) -> Teacher:
    if model.queries is None or model.taught is None:
        raise ConfigError(
            f"model {model.model_id} was issued with queries by a version that taught copies "
            "otherwise; issue no more of them, or train anew"
        )
    return Teacher.of(module, model.queries, key, public, model.taught)


def _divided(config: FingerprintConfig, gate: FidelityGate) -> tuple[FidelityGate, Images | None]:
    """The gate with the images that copies are measured on, and those that they are taught with."""
    code = query_code_of(config)
    if code is None:
        return gate, None
    if gate.images is None or len(gate.images) < 2:
        raise ConfigError(
            "fingerprint.queries: copies are taught their answers with public images; name some "
            "(--data), or set it to 0"
        )
    # Every second one: folders come class by class.
    measured, taught = (_part(gate.images, slice(start, None, 2)) for start in (0, 1))
    return FidelityGate(measured, gate.max_accuracy_drop), taught


def _part(images: Images, which: slice) -> Images:
    return Images(images.pixels[which], images.labels[which], images.classes)


def _new_model(
    home: OwnerHome, spec: ModelSpec, base: Weights, config: FingerprintConfig, module: nn.Module
) -> BaseModel:
    shape = _shape(spec)
    profile = sensitivity_profile(module, Layout.of(base), shape)
    model = BaseModel(spec, base, profile, code_of(config), config.strength)
    code = query_code_of(config)
    if code is None:
        return model
    cut(module)  # refuses here what cannot be taught
    bank = make_bank(
        home.campaign(model),
        code,
        config.query_pools,
        shape,
        lambda pixels: teaching.logits(module, pixels).numpy(),
    )
    return replace(model, queries=bank)


def _shape(spec: ModelSpec) -> tuple[int, int, int]:
    return spec.channels, spec.image_size, spec.image_size


def _require_same(model: BaseModel, spec: ModelSpec, config: FingerprintConfig) -> None:
    pools = len(model.queries.pools) if model.queries else 0
    asked = config.query_pools if config.queries else 0
    before = (model.spec, model.code, model.strength, pools and _length(model.queries), pools)
    if before != (spec, code_of(config), config.strength, config.queries, asked):
        raise ConfigError(
            f"model {model.model_id} was issued before with {model.code.length} bits at strength "
            f"{model.strength} as {model.spec} ({model.code}; {pools} pools of queries); use the "
            "same settings"
        )


def _length(bank: Bank | None) -> int:
    return bank.code.length if bank else 0


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
        OutputExistsError: A copy's file is there already, and is not the one that was recorded;
            no copy was made. (After an interruption the same call goes on.)
    """
    unknown = sorted(set(customers) - set(home.registry.customers()))
    if unknown:
        raise ConfigError(f"not in the registry: {', '.join(unknown)}; add them first")
    if len(set(customers)) < len(customers):
        raise ConfigError("a customer is named twice; each gets one copy of a model")
    with files.locked(directory, drafts_of=[_file_name(customer) for customer in customers]):
        for customer in customers:
            _require_free(home, campaign.model, customer, directory)
        commitments.publish(home, campaign.model)  # before any copy is out
        key = home.campaign(campaign.model)
        for customer in customers:
            yield _issue_one(home, campaign, key.customer(customer), directory)


def _issue_one(
    home: OwnerHome, campaign: Campaign, key: CustomerKey, directory: Path
) -> IssueResult:
    path = directory / _file_name(key.customer)
    model, mark = campaign.model, campaign.mark
    taught = _taught(campaign, key)
    vector = embedding.embed(mark, key, mark.layout.flatten(taught))
    content = weights.to_bytes(mark.layout.restore(taught, vector), model.spec.to_metadata())
    result = _self_check(campaign, key, weights.parse(content, str(path)).weights)
    if result.reason:
        home.registry.record_refusal(model.model_id, key.customer, result.reason)
        return result
    # Recorded before anything of it is on disk: a copy that is out but not recorded could not be
    # traced.
    home.registry.record_copy(model.model_id, key.customer, result.sha256)
    try:
        files.write(path, content, replace=False)
    except OutputExistsError:
        if _digest_of(path) != result.sha256:
            raise
    return replace(result, path=path)


def _file_name(customer: str) -> str:
    return f"{customer}.safetensors"


def _require_free(home: OwnerHome, model: BaseModel, customer: str, directory: Path) -> None:
    """Refuse what is in a copy's place, unless it is that copy: an issuing was interrupted."""
    path = directory / _file_name(customer)
    if path.exists() or path.is_symlink():
        copies = {copy.customer: copy for copy in home.registry.copies(model.model_id)}
        if customer not in copies or copies[customer].weights_sha256 != _digest_of(path):
            files.refuse_to_overwrite(path)


def _digest_of(path: Path) -> str:
    """Digest of a file's weights; empty if it has none."""
    try:
        return weights.digest(weights.read(path).weights)
    except SmdlError:
        return ""


def _taught(campaign: Campaign, key: CustomerKey) -> Weights:
    """The base model, taught a customer's answers."""
    if campaign.teacher is None:
        return campaign.model.weights
    return campaign.teacher.teach(campaign.teacher.words(key))


def _self_check(campaign: Campaign, key: CustomerKey, copy: Weights) -> IssueResult:
    model, mark = campaign.model, campaign.mark
    reading = extraction.read(mark, copy)
    word = codes.codeword(key, mark.biases)
    matching = int((reading.bits == word).sum())
    score = carriers.score(key, reading.direction)
    accuracy, query_bits, reason = None, None, ""
    if campaign.gate.images is not None:
        accuracy = evaluate(models.from_weights(model.spec, copy), campaign.gate.images).accuracy
        drop = (campaign.base_accuracy or 0.0) - accuracy
        if drop > campaign.gate.max_accuracy_drop:
            reason = (
                f"accuracy {accuracy:.2%} is {drop:.2%} below the base model's, more than "
                f"fingerprint.max-accuracy-drop {campaign.gate.max_accuracy_drop:.2%}"
            )
    if campaign.teacher:
        right = campaign.teacher.right(models.from_weights(model.spec, copy), key)
        query_bits = int(right.sum())
        if query_bits < LEAST_ANSWERS * len(right):
            reason = (
                f"only {query_bits} of {len(right)} answers are as taught: too many for this "
                "model; lower fingerprint.queries or fingerprint.query-pools"
            )
    if matching < len(word):
        reason = f"only {matching} of {len(word)} payload bits read back"
    elif score < SELF_CHECK.carrier_threshold():
        reason = f"carrier score {score:.1f} does not prove the customer"
    digest = "" if reason else weights.digest(copy)
    found = (key.customer, None, digest, matching, score)
    return IssueResult(*found, accuracy, reason, query_bits, _imprinted(campaign, key, copy))


def _imprinted(campaign: Campaign, key: CustomerKey, copy: Weights) -> ImprintReport | None:
    images = campaign.gate.images
    if campaign.imprint is None or images is None:
        return None
    network = models.from_weights(campaign.model.spec, copy)
    return imprinting.report(campaign.imprint, campaign.mark.biases, key, network, images)


def _known_model(home: OwnerHome, base: Weights) -> BaseModel | None:
    model_id = weights.digest(base)[:16]
    manifest = home.registry.models().get(model_id)
    return None if manifest is None else home.vault.load(model_id, manifest)


def code_of(config: FingerprintConfig) -> Code:
    """Return the code that a run config asks for."""
    return Code(config.code_length, config.code, config.code_coalition)


def query_code_of(config: FingerprintConfig) -> Code | None:
    """Return the code of the answers that a run config asks for; None without queries.

    Raises:
        ConfigError: So few bits prove nothing, or so many cannot be taught.
    """
    if config.queries == 0:
        return None
    if not FEWEST <= config.queries <= MOST // config.query_pools:
        raise ConfigError(
            f"fingerprint.queries: {config.queries} in {config.query_pools} pools; expected 0, or "
            f"at least {FEWEST} in each pool and at most {MOST} in all"
        )
    return Code(config.queries, config.code, config.code_coalition)


def require_capacity(spec: ModelSpec, config: FingerprintConfig) -> None:
    """Refuse a model that cannot have its fingerprint, before anybody trains it.

    Raises:
        CapacityError: With the largest code length that would fit.
        ConfigError: There are to be queries, and its last layers cannot be taught alone.
    """
    untrained = models.build(spec, seed=0)
    size = Layout.of(models.to_weights(untrained)).size
    amplitude(size, config.code_length, config.strength**2 / 2)
    if query_code_of(config):
        cut(untrained)
    if config.imprint_images:
        require_room(_shape(spec), config.code_length)


def require_issued(results: Sequence[IssueResult]) -> None:
    """Raise :class:`SmdlError` if copies were asked for and none was issued."""
    if results and not any(result.path for result in results):
        raise SmdlError(f"no copy was issued; for example: {results[0].reason}")
