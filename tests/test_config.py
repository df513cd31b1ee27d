"""Run configs: every key known, every wrong value named, no contradiction kept silent."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import config, sealing
from smdl_flower.config import RunConfig, Scalar
from smdl_flower.errors import ConfigError
from smdl_flower.sealing import SealingKey

CHECKOUT = config.example_app_dir()
DEFAULTS = config.load_defaults(CHECKOUT)
SCENARIOS = sorted((CHECKOUT / "scenarios").glob("*.toml"))
TEXT_KEYS = sorted(key for key, value in DEFAULTS.items() if isinstance(value, str))
TRUTH_KEYS = sorted(key for key, value in DEFAULTS.items() if isinstance(value, bool))
NUMBER_KEYS = sorted(set(DEFAULTS) - set(TEXT_KEYS) - set(TRUTH_KEYS))
NAN, INF = float("nan"), float("inf")


def refusal(flat: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(flat)
    return str(caught.value)


def flatten(parsed: RunConfig) -> dict[str, Scalar]:
    nested = parsed.model_dump(by_alias=True)
    flat: dict[str, Scalar] = {}
    for key, value in nested.items():
        flat.update(value if isinstance(value, dict) else {key: value})
    return flat


def test_the_keys_of_pyproject_are_exactly_the_known_keys() -> None:
    assert tuple(sorted(DEFAULTS)) == config.known_keys()


def test_the_defaults_survive_a_round_trip_through_the_sections() -> None:
    assert flatten(config.parse(DEFAULTS)) == DEFAULTS


def test_there_are_scenarios_to_check() -> None:
    assert len(SCENARIOS) >= 4


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_in_the_checkout_parses(path: Path) -> None:
    scenario = config.load_scenario(path)
    needed = ("data-dir=/images",) if scenario["data"] == "imagefolder" else ()
    parsed = config.parse(config.merge(DEFAULTS, scenario, needed))
    assert flatten(parsed) == DEFAULTS | scenario | ({"data-dir": "/images"} if needed else {})


@pytest.mark.parametrize("key", config.known_keys())
def test_a_missing_key_is_named(key: str) -> None:
    flat = {name: value for name, value in DEFAULTS.items() if name != key}
    assert refusal(flat).startswith(f"{key}: missing")


@pytest.mark.parametrize("key", TEXT_KEYS)
@pytest.mark.parametrize("value", [3, 0.5, True])
def test_a_number_where_text_belongs_is_named(key: str, value: Scalar) -> None:
    assert refusal(DEFAULTS | {key: value}).startswith(f"{key}: {value!r} is not allowed")


@pytest.mark.parametrize("key", NUMBER_KEYS)
@pytest.mark.parametrize("value", ["3", True, NAN, INF, -INF, -1], ids=str)
def test_text_a_truth_value_or_no_finite_number_is_named(key: str, value: Scalar) -> None:
    assert refusal(DEFAULTS | {key: value}).startswith(f"{key}: {value!r} is not allowed")


@pytest.mark.parametrize("key", TRUTH_KEYS)
@pytest.mark.parametrize("value", ["true", 1, 0.0], ids=str)
def test_text_or_a_number_where_a_truth_value_belongs_is_named(key: str, value: Scalar) -> None:
    assert refusal(DEFAULTS | {key: value}).startswith(f"{key}: {value!r} is not allowed")


SEAL_TO = sealing.to_text(SealingKey(bytes(32)).public)
OFFLINE = DEFAULTS | {
    "fingerprint.where": "offline",
    "fingerprint.mark-training": False,
    "fingerprint.seal-to": SEAL_TO,
}


def test_an_offline_run_must_say_for_whom_its_model_is_sealed() -> None:
    assert config.parse(OFFLINE).delivery.seal_to == SEAL_TO
    assert "smdl sealing-key prints it" in refusal(OFFLINE | {"fingerprint.seal-to": ""})
    wrong = SEAL_TO[:5] + ("0" if SEAL_TO[5] != "0" else "1") + SEAL_TO[6:]
    assert "is no sealing key" in refusal(OFFLINE | {"fingerprint.seal-to": wrong})
    on_server = DEFAULTS | {"fingerprint.seal-to": SEAL_TO}
    assert "used with fingerprint.where = 'offline' only" in refusal(on_server)


def test_marks_in_training_without_a_key_on_the_server_are_refused_with_the_reason() -> None:
    offline = DEFAULTS | {"fingerprint.where": "offline", "fingerprint.seal-to": SEAL_TO}
    assert "fingerprint.mark-training: true needs the master key" in refusal(offline)
    assert not config.parse(offline | {"fingerprint.mark-training": False}).marking.enabled


def test_delivering_what_is_issued_elsewhere_is_refused_with_the_reason() -> None:
    offline = OFFLINE | {"fingerprint.mark-training": False}
    assert "fingerprint.deliver: true needs the copies on the server" in refusal(
        offline | {"fingerprint.deliver": True}
    )


WRONG_VALUES: list[tuple[str, Scalar]] = [
    ("scenario", ""),
    ("scenario", "../../etc"),
    ("scenario", "two words"),
    ("scenario", "x" * 65),
    ("scenario", "line\n"),
    ("seed", 2**32),
    ("seed", 1.5),
    ("model", ""),
    ("image-size", 1025),
    ("sharding", "IID"),
    ("dirichlet-alpha", 0.0),
    ("num-participants", 0),
    ("num-participants", 10_001),
    ("local-epochs", 0),
    ("batch-size", 0),
    ("learning-rate", 0.0),
    ("lr-schedule", "linear"),
    ("momentum", 1.0),
    ("augment", "flip"),
    ("num-server-rounds", 0),
    ("min-replies", 0),
    ("round-timeout", 0.0),
    ("fraction-train", 0.0),
    ("fraction-train", 1.01),
    ("fraction-evaluate", 1.01),
    ("server-learning-rate", 0),
    ("server-momentum", 1.0),
    ("trim-fraction", 0.5),
    ("fingerprint.where", "client"),
    ("fingerprint.code-length", 31),
    ("fingerprint.code-length", 8193),
    ("fingerprint.strength", 0.0),
    ("fingerprint.strength", 1.5),
    ("fingerprint.max-accuracy-drop", 1.5),
    ("demo-customers", 10_001),
    ("privacy.policy", "none"),
    ("privacy.channel", "masked"),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_a_value_out_of_its_range_is_named(key: str, value: Scalar) -> None:
    assert refusal(DEFAULTS | {key: value}).startswith(f"{key}: {value!r} is not allowed")


GOOD_EDGES: list[tuple[str, Scalar]] = [
    ("seed", 0),
    ("seed", 2**32 - 1),
    ("image-size", 1024),
    ("learning-rate", 1),
    ("momentum", 0.0),
    ("weight-decay", 0),
    ("fraction-evaluate", 1.0),
    ("fingerprint.code-length", 32),
    ("fingerprint.strength", 1.0),
    ("demo-customers", 0),
    ("scenario", "a" * 64),
]


@pytest.mark.parametrize(("key", "value"), GOOD_EDGES)
def test_a_value_at_the_edge_of_its_range_is_kept(key: str, value: Scalar) -> None:
    assert flatten(config.parse(DEFAULTS | {key: value}))[key] == value


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, None])
@pytest.mark.parametrize("key", ["seed", "model", "momentum"])
def test_a_value_that_is_no_scalar_is_named(key: str, value: object) -> None:
    assert refusal({**DEFAULTS, key: value}).startswith(f"{key}: {value!r} is not allowed")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("sede", "seed"),
        ("min_replies", "min-replies"),
        ("code-length", "fingerprint.code-length"),
        ("batchsize", "batch-size"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(wrong: str, right: str) -> None:
    assert refusal(DEFAULTS | {wrong: 1}) == f"{wrong}: unknown key; did you mean {right}?"


def test_a_field_name_of_the_code_is_no_key() -> None:
    assert "epochs: unknown key" in refusal(DEFAULTS | {"epochs": 1})


def test_an_unknown_key_like_no_other_points_to_the_documentation() -> None:
    assert "docs/configuration.md" in refusal(DEFAULTS | {"zzzzqqqq": 1})


def test_all_mistakes_are_named_at_once_one_a_line() -> None:
    flat = DEFAULTS | {"sede": 8, "batch-size": "many", "momentum": 2.0, "privacy.policy": "none"}
    del flat["data"]
    lines = refusal(flat).splitlines()
    named = sorted(line.split(":")[0] for line in lines)
    assert named == ["batch-size", "data", "momentum", "privacy.policy", "sede"]


def test_an_unknown_key_and_a_contradiction_are_both_named() -> None:
    lines = refusal(DEFAULTS | {"sede": 8, "min-replies": 6}).splitlines()
    assert [line.split(":")[0] for line in lines] == ["sede", "min-replies"]


@pytest.mark.parametrize(
    ("participants", "fraction", "replies", "kept"),
    [
        (5, 1.0, 5, True),
        (5, 1.0, 6, False),
        (10, 0.5, 5, True),
        (10, 0.5, 6, False),
        (10, 0.59, 6, False),
        (10, 0.01, 1, True),
        (10, 0.01, 2, False),
    ],
)
def test_more_replies_than_participants_asked_is_a_contradiction(
    participants: int, fraction: float, replies: int, kept: bool
) -> None:
    flat = DEFAULTS | {
        "num-participants": participants,
        "fraction-train": fraction,
        "min-replies": replies,
    }
    if kept:
        assert config.parse(flat).federation.min_replies == replies
    else:
        assert refusal(flat).startswith(f"min-replies: {replies} is more than")


def test_an_image_folder_needs_its_directory_in_a_simulation_only() -> None:
    federation = config.parse(DEFAULTS | {"data": "imagefolder"})
    with pytest.raises(ConfigError, match="data-dir: needed to simulate"):
        config.require_dealt(federation)
    simulated = config.parse(DEFAULTS | {"data": "imagefolder", "data-dir": "/images"})
    config.require_dealt(simulated)
    assert simulated.data.directory == "/images"


def test_a_parsed_config_cannot_be_changed() -> None:
    parsed = config.parse(DEFAULTS)
    with pytest.raises(ValueError, match="frozen"):
        parsed.data.participants = 9  # type: ignore[misc]  # the point of the test


def test_one_party_gets_the_whole_source() -> None:
    whole = config.DataConfig.of_one_party("digits", "/d", 8)
    assert (whole.source, whole.directory, whole.image_size) == ("digits", "/d", 8)
    assert whole.participants == 1


# ---------------------------------------------------------------------------------- scenario files


def test_tables_of_a_scenario_become_dotted_keys(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('seed = 8\n[fingerprint]\nwhere = "offline"\n[a.b]\nc = true\n')
    assert config.load_scenario(path) == {"seed": 8, "fingerprint.where": "offline", "a.b.c": True}


@pytest.mark.parametrize(
    ("text", "key", "kind"),
    [
        ("seed = [1, 2]", "seed", "list"),
        ("[fingerprint]\nlengths = [304]", "fingerprint.lengths", "list"),
        ("[[runs]]\nseed = 1", "runs", "list"),
        ("when = 2024-01-01", "when", "date"),
        ("at = 07:30:00", "at", "time"),
    ],
)
def test_a_scenario_with_anything_but_scalars_is_refused(
    tmp_path: Path, text: str, key: str, kind: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"s\.toml: {key} is a {kind}"):
        config.load_scenario(path)


@pytest.mark.parametrize("content", [b"seed = ", b"seed 8", b"\xff\xfe", b"seed=1\nseed=2"])
def test_a_scenario_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"s\.toml: not TOML"):
        config.load_scenario(path)


def test_a_missing_scenario_and_a_directory_are_refused_with_their_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file"):
        config.load_scenario(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        config.load_scenario(tmp_path)


def test_the_app_is_found_from_below_and_not_from_elsewhere(tmp_path: Path) -> None:
    below = tmp_path / "app" / "scenarios" / "deep"
    below.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no pyproject\.toml with"):
        config.find_app(below)
    (tmp_path / "app" / "scenarios" / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "app" / "pyproject.toml").write_text("[tool.flwr.app.config]\nseed = 3\n")
    assert config.find_app(below) == tmp_path / "app"
    assert config.load_defaults(config.find_app(below)) == {"seed": 3}


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000])
def test_a_value_that_breaks_the_toml_reader_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(f"seed = {text}")
    with pytest.raises(ConfigError):
        config.load_scenario(tmp_path / "s.toml")
    with pytest.raises(ConfigError):
        config.parse({**DEFAULTS, **config.parse_assignments((f"seed={text}",))})


def test_a_key_given_twice_in_two_spellings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('"fingerprint.where" = "server"\n[fingerprint]\nwhere = "offline"\n')
    with pytest.raises(ConfigError, match=r"fingerprint\.where"):
        config.load_scenario(path)


# ------------------------------------------------------------------------------------- assignments


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("seed=8", "seed", 8),
        ("momentum = 0.5", "momentum", 0.5),
        ("x=true", "x", True),
        ("model=resnet8", "model", "resnet8"),
        ('model="7"', "model", "7"),
        ("model=my.module:make", "model", "my.module:make"),
        ("data-dir=/a=b/c", "data-dir", "/a=b/c"),
        ("data-dir=", "data-dir", ""),
        ("fingerprint.code-length=640", "fingerprint.code-length", 640),
        ("x=[1, 2]", "x", "[1, 2]"),
        ("x=2024-01-01", "x", "2024-01-01"),
    ],
)
def test_an_assignment_is_read_as_toml_or_else_as_text(word: str, key: str, value: Scalar) -> None:
    parsed = config.parse_assignments((word,))
    assert parsed == {key: value}
    assert type(parsed[key]) is type(value)


@pytest.mark.parametrize("word", ["seed", "=8", "  =8", ""])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        config.parse_assignments(("seed=1", word))


@given(st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)))
def test_any_scalar_written_as_toml_comes_back_from_an_assignment(value: Scalar) -> None:
    text = str(value).lower()
    assert tomllib.loads(f"v = {text}")["v"] == value
    assert config.parse_assignments((f"key={text}",)) == {"key": value}


def test_an_assignment_wins_over_the_scenario_and_the_scenario_over_the_defaults() -> None:
    defaults: dict[str, Scalar] = {"a": 1, "b": 1, "c": 1}
    merged = config.merge(defaults, {"b": 2, "c": 2}, ("c=3", "c=4"))
    assert merged == {"a": 1, "b": 2, "c": 4}
    assert defaults == {"a": 1, "b": 1, "c": 1}


def test_an_assignment_of_several_lines_is_text_not_its_first_line() -> None:
    assert config.parse_assignments(("seed=8\nmodel='x'",)) == {"seed": "8\nmodel='x'"}


def test_an_integer_that_reaches_no_participant_is_refused(tmp_path: Path) -> None:
    huge = "0x" + "f" * 5000  # no limit of Python holds for a power of two
    (tmp_path / "s.toml").write_text(f"seed = {huge}")
    with pytest.raises(ConfigError, match=r"seed is a int; .* 64 bits"):
        config.load_scenario(tmp_path / "s.toml")
    message = refusal(DEFAULTS | config.parse_assignments((f"seed={huge}",)))
    assert message.startswith("seed: '0xfff")
    assert len(message) < 200


def test_a_checked_section_names_every_wrong_value_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^policy: 'half' .*; channel: 'loud' .*$"):
        config.checked(config.PrivacyConfig, {"policy": "half", "channel": "loud"})
