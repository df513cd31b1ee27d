"""Scenario files and Flower run configs: flat, kebab-case keys <-> frozen, checked sections.

Flower allows only flat scalars in a run config and reports any mistake as "Invalid run
configuration". Here every wrong key and value is named. Defaults live in one place,
``[tool.flwr.app.config]`` of pyproject.toml; a scenario overrides what it studies.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smdl_flower import sealing
from smdl_flower.errors import ConfigError

Scalar = str | int | float | bool
FlatConfig = Mapping[str, Scalar]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """Keys of a run config that belong together; frozen, with no key unknown and none missing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


_Section = TypeVar("_Section", bound=Section)


def checked(section: type[_Section], values: Mapping[str, Any]) -> _Section:
    """Return a section with these values, by key or by field name.

    Raises:
        ConfigError: With every wrong key and value, in one line.

    Example:
        >>> class Volume(Section):
        ...     mode: Literal["quiet"]
        >>> checked(Volume, {"mode": "loud"})
        Traceback (most recent call last):
        ...
        smdl_flower.errors.ConfigError: mode: 'loud' is not allowed; expected 'quiet'
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(detail) for detail in error.errors())) from None


class DataConfig(Section):
    """Which images, and how they are dealt to the participants."""

    source: str = Field(alias="data")
    directory: str = Field(alias="data-dir")
    image_size: int = Field(alias="image-size", ge=0, le=1024)
    sharding: Literal["iid", "dirichlet"] = Field(alias="sharding")
    dirichlet_alpha: Positive = Field(alias="dirichlet-alpha")
    participants: int = Field(alias="num-participants", ge=1, le=10_000)

    @classmethod
    def of_one_party(cls, source: str, directory: str, image_size: int) -> "DataConfig":
        """Return the settings to read a source that belongs to one party as a whole.

        Raises:
            ConfigError: A value is not allowed.
        """
        values = {"source": source, "directory": directory, "image_size": image_size}
        undealt = {"sharding": "iid", "dirichlet_alpha": 1.0, "participants": 1}
        return checked(cls, values | undealt)


class TrainingConfig(Section):
    """One participant's local training in one round."""

    epochs: Count = Field(alias="local-epochs")
    batch_size: Count = Field(alias="batch-size")
    learning_rate: Positive = Field(alias="learning-rate")
    schedule: Literal["constant", "cosine"] = Field(alias="lr-schedule")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(alias="momentum")
    weight_decay: NotNegative = Field(alias="weight-decay")
    augment: Literal["none", "shift", "shift-flip"] = Field(alias="augment")


class FederationConfig(Section):
    """Rounds, the wrapped Flower strategy and what it needs."""

    rounds: Count = Field(alias="num-server-rounds")
    min_replies: Count = Field(alias="min-replies")
    min_images: Count = Field(alias="min-images")
    max_weight: Annotated[float, Field(gt=0.0, le=1.0)] = Field(alias="max-weight")
    timeout: Positive = Field(alias="round-timeout")
    connect_timeout: Positive = Field(alias="connect-timeout")
    fraction_train: Annotated[float, Field(gt=0.0, le=1.0)] = Field(alias="fraction-train")
    fraction_evaluate: Fraction = Field(alias="fraction-evaluate")
    strategy: str = Field(alias="strategy")
    proximal_mu: NotNegative = Field(alias="proximal-mu")
    server_learning_rate: Positive = Field(alias="server-learning-rate")
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(alias="server-momentum")
    malicious_nodes: int = Field(alias="num-malicious-nodes", ge=0)
    trim_fraction: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(alias="trim-fraction")
    resume_from: str = Field(alias="resume-from")


class FingerprintConfig(Section):
    """The mark of the copies and the fidelity each must keep."""

    where: Literal["server", "offline"] = Field(alias="fingerprint.where")
    code_length: int = Field(alias="fingerprint.code-length", ge=32, le=8192)
    code: Literal["flat", "nuida", "arcsine"] = Field(alias="fingerprint.code")
    code_coalition: int = Field(alias="fingerprint.code-coalition", ge=2, le=50)
    strength: Annotated[float, Field(gt=0.0, le=1.0)] = Field(alias="fingerprint.strength")
    max_accuracy_drop: Fraction = Field(alias="fingerprint.max-accuracy-drop")
    queries: int = Field(alias="fingerprint.queries", ge=0, le=8192)
    query_pools: int = Field(alias="fingerprint.query-pools", ge=1, le=16)
    imprint_images: bool = Field(alias="fingerprint.imprint-images")
    demo_customers: int = Field(alias="demo-customers", ge=0, le=10_000)


class MarkingConfig(Section):
    """The marks of the models that are sent in training."""

    enabled: bool = Field(alias="fingerprint.mark-training")
    strength: Annotated[float, Field(gt=0.0, le=1.0)] = Field(alias="fingerprint.training-strength")


class DeliveryConfig(Section):
    """How models leave the server: copies to their customers, or the base model to an issuer."""

    enabled: bool = Field(alias="fingerprint.deliver")
    seal_to: str = Field(alias="fingerprint.seal-to")


class PrivacyConfig(Section):
    """What leaves a participant, through which channel, and what may be spent on it."""

    policy: Literal["full", "public-front"] = Field(alias="privacy.policy")
    channel: Literal["clear", "dp"] = Field(alias="privacy.channel")
    public_weights: str = Field(alias="privacy.public-weights")
    public_weights_sha256: str = Field(
        alias="privacy.public-weights-sha256", pattern=r"^([0-9a-f]{64})?$"
    )
    epsilon: Positive = Field(alias="privacy.epsilon")
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(alias="privacy.delta")
    shard_size: int = Field(alias="privacy.shard-size", ge=0, le=100_000_000)
    max_grad_norm: Positive = Field(alias="privacy.max-grad-norm")
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(alias="privacy.sample-rate")
    spare_rounds: int = Field(alias="privacy.spare-rounds", ge=0, le=1_000_000)
    averaging: Literal["none", "tail", "ema"] = Field(alias="privacy.averaging")
    rng: Literal["os", "seeded"] = Field(alias="privacy.rng")


class RunConfig(Section):
    """A whole run config, checked.

    Example:
        >>> config = parse(load_defaults(example_app_dir()))
        >>> config.fingerprint.code_length
        304
        >>> parse({**load_defaults(example_app_dir()), "sede": 8})
        Traceback (most recent call last):
        ...
        smdl_flower.errors.ConfigError: sede: unknown key; did you mean seed?
    """

    scenario: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: Seed
    model: str = Field(min_length=1)
    data: DataConfig
    training: TrainingConfig
    federation: FederationConfig
    fingerprint: FingerprintConfig
    marking: MarkingConfig
    delivery: DeliveryConfig
    privacy: PrivacyConfig


_SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "training": TrainingConfig,
    "federation": FederationConfig,
    "fingerprint": FingerprintConfig,
    "marking": MarkingConfig,
    "delivery": DeliveryConfig,
    "privacy": PrivacyConfig,
}
_OWN_KEYS = ("scenario", "seed", "model")


def known_keys() -> tuple[str, ...]:
    """Return every key a run config may and must have, sorted."""
    aliases = [f.alias or "" for s in _SECTIONS.values() for f in s.model_fields.values()]
    return tuple(sorted([*_OWN_KEYS, *aliases]))


def parse(flat: FlatConfig) -> RunConfig:
    """Check a complete flat run config.

    Raises:
        ConfigError: With every unknown or missing key and every wrong value, one per line.
    """
    problems = _unknown_keys(flat)
    nested: dict[str, Any] = {key: flat[key] for key in _OWN_KEYS if key in flat}
    for name, section in _SECTIONS.items():
        aliases = [field.alias or "" for field in section.model_fields.values()]
        nested[name] = {alias: flat[alias] for alias in aliases if alias in flat}
    try:
        config = RunConfig.model_validate(nested)
    except ValidationError as error:
        problems += [_describe(detail) for detail in error.errors()]
        raise ConfigError("\n".join(problems)) from None
    problems += _contradictions(config)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def require_dealt(config: RunConfig) -> None:
    """Refuse a run whose images nobody can deal to simulated participants.

    Raises:
        ConfigError: Each participant is to bring a folder of its own.
    """
    if config.data.source == "imagefolder" and not config.data.directory:
        raise ConfigError(
            "data-dir: needed to simulate with data = 'imagefolder'; say --set data-dir=PATH (in a "
            "real federation each participant names its own folder: smdl deploy)"
        )


def load_scenario(path: Path) -> dict[str, Scalar]:
    """Read a scenario file: the flat overrides of one experiment.

    Raises:
        ConfigError: It is missing, no TOML, or holds a list (Flower allows scalars only) or a key
            in two spellings.
    """
    try:
        return _flatten(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or beyond Python's limits
        raise ConfigError(f"{path}: not TOML ({error})") from None


def load_defaults(app_directory: Path) -> dict[str, Scalar]:
    """Read ``[tool.flwr.app.config]`` of the Flower app in ``app_directory``."""
    document = tomllib.loads((app_directory / "pyproject.toml").read_text(encoding="utf-8"))
    return _flatten(document["tool"]["flwr"]["app"]["config"], "pyproject.toml")


def find_app(start: Path) -> Path:
    """Return the nearest directory at or above ``start`` that holds the Flower app.

    Raises:
        ConfigError: There is none.
    """
    for directory in (start.resolve(), *start.resolve().parents):
        project = directory / "pyproject.toml"
        if project.is_file() and "[tool.flwr.app.config]" in project.read_text(encoding="utf-8"):
            return directory
    raise ConfigError(
        f"no pyproject.toml with [tool.flwr.app.config] in {start} or above; a scenario belongs "
        "into a checkout of smdl-flower, next to server_app/ and client_app/"
    )


def example_app_dir() -> Path:
    """Return the checkout this module lies in: the app whose defaults the examples use."""
    return find_app(Path(__file__).parent)


def merge(
    defaults: FlatConfig, scenario: FlatConfig, assignments: tuple[str, ...] = ()
) -> dict[str, Scalar]:
    """Return defaults overridden by a scenario, then by ``key=value`` assignments.

    Raises:
        ConfigError: An assignment is not of the form ``key=value``.

    Example:
        >>> merge({"seed": 7, "model": "cnn"}, {"seed": 8}, ("model=resnet8",))
        {'seed': 8, 'model': 'resnet8'}
    """
    return {**defaults, **scenario, **parse_assignments(assignments)}


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Scalar]:
    """Parse ``key=value`` words; a value that is no TOML scalar is taken as text.

    Raises:
        ConfigError: A word is not of the form ``key=value``.
    """
    parsed: dict[str, Scalar] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment}: expected key=value, for example seed=8")
        parsed[key.strip()] = _scalar(text.strip())
    return parsed


def _scalar(text: str) -> Scalar:
    if "\n" in text:  # a second line would be another key
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or beyond Python's limits
        return text
    return value if _is_scalar(value) else text


def _is_scalar(value: Any) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63  # as TOML says, and no more reaches a participant
    return isinstance(value, (str, float, bool))


def _flatten(table: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    for key, value in _leaves(table):
        if key in flat:
            raise ConfigError(f"{where}: {key} is given twice; keep one of the two spellings")
        if not _is_scalar(value):
            raise ConfigError(
                f"{where}: {key} is a {type(value).__name__}; Flower run configs hold text, "
                "numbers of 64 bits and true/false only"
            )
        flat[key] = value
    return flat


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _unknown_keys(flat: FlatConfig) -> list[str]:
    problems = []
    for key in flat:
        if key not in known_keys():
            close = difflib.get_close_matches(key, known_keys(), n=1)
            hint = f"did you mean {close[0]}?" if close else "see docs/configuration.md"
            problems.append(f"{key}: unknown key; {hint}")
    return problems


def _describe(detail: Any) -> str:
    key = str(detail["loc"][-1])
    if detail["type"] == "missing":
        return f"{key}: missing; it needs a value in the scenario or in pyproject.toml"
    expected = str(detail["msg"]).removeprefix("Input ").replace("should be", "expected")
    return f"{key}: {_shown(detail['input'])} is not allowed; {expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _contradictions(config: RunConfig) -> list[str]:
    federation, participants = config.federation, config.data.participants
    problems = []
    if federation.min_replies > max(1, int(participants * federation.fraction_train)):
        problems.append(
            f"min-replies: {federation.min_replies} is more than the participants asked each round "
            f"({participants} x fraction-train {federation.fraction_train}); lower it"
        )
    if config.marking.enabled and config.fingerprint.where == "offline":
        problems.append(
            "fingerprint.mark-training: true needs the master key on the server, and "
            "fingerprint.where = 'offline' keeps it away; set it to false (a model leaked in "
            "training then names nobody), or issue on the server"
        )
    return problems + _offline_contradictions(config) + _privacy_contradictions(config)


def _offline_contradictions(config: RunConfig) -> list[str]:
    problems, seal_to = [], config.delivery.seal_to
    offline = config.fingerprint.where == "offline"
    if offline and not seal_to:
        problems.append(
            "fingerprint.seal-to: needed with fingerprint.where = 'offline', so that only the "
            "owner can open the base model; smdl sealing-key prints it, where the owner's home is"
        )
    if seal_to and not offline:
        problems.append("fingerprint.seal-to: used with fingerprint.where = 'offline' only")
    if seal_to:
        try:
            sealing.from_text(seal_to)
        except ConfigError as error:
            problems.append(f"fingerprint.seal-to: {error}")
    if config.delivery.enabled and offline:
        problems.append(
            "fingerprint.deliver: true needs the copies on the server, and fingerprint.where = "
            "'offline' makes them elsewhere, after the run; set it to false and hand them over "
            "yourself, or issue on the server"
        )
    return problems


def _privacy_contradictions(config: RunConfig) -> list[str]:
    privacy, problems = config.privacy, []
    if bool(privacy.public_weights) != bool(privacy.public_weights_sha256):
        problems.append(
            "privacy.public-weights: needs privacy.public-weights-sha256 beside it, and the other "
            "way round; participants check the front against it"
        )
    if privacy.public_weights and privacy.policy != "public-front":
        problems.append("privacy.public-weights: used with privacy.policy = 'public-front' only")
    if privacy.channel == "dp":
        problems += _dp_contradictions(config)
    return problems


def _dp_contradictions(config: RunConfig) -> list[str]:
    """What would make an epsilon false, so that no run begins that could not claim one."""
    privacy, problems = config.privacy, []
    if not privacy.shard_size:
        problems.append(
            "privacy.shard-size: needed with privacy.channel = 'dp': a public number of images per "
            "participant, such as what was agreed on; the exact count is private"
        )
    elif privacy.delta * privacy.shard_size >= 1.0:
        problems.append(
            f"privacy.delta: {privacy.delta} is not below 1 / privacy.shard-size; it would allow "
            "an image to be published whole"
        )
    if config.federation.fraction_evaluate > 0.0:
        problems.append(
            "fraction-evaluate: must be 0.0 with privacy.channel = 'dp'; accuracy and loss on "
            "private images would leave without noise"
        )
    if config.federation.strategy == "fedprox":
        problems.append("strategy: fedprox changes the loss that is clipped; use another with dp")
    return problems
