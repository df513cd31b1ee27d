"""``smdl attack`` writes what an attack gives, of whatever shape, and measures that."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smdl_flower import models, weights
from smdl_flower.attacks import catalogue
from smdl_flower.cli.main import app
from smdl_flower.models import ModelSpec

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("remove-channels", ["fraction=0.25"]),
        ("factorise", []),
        ("rename", ["seed=4"]),
        ("obfuscate", ["share=0.2", "level=0.5"]),
    ],
)
def test_an_attack_that_changes_shapes_or_names_is_measured_and_written(
    tmp_path: Path, name: str, settings: list[str]
) -> None:
    copy, out = tmp_path / "copy.safetensors", tmp_path / "out.safetensors"
    arrays = models.to_weights(models.build(SPEC, seed=0))
    weights.write(copy, arrays, SPEC.to_metadata())
    options = [word for setting in settings for word in ("--set", setting)]
    arguments = ["attack", name, str(copy), "--out", str(out), "--data", "digits", "--json"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["attack"] == name
    assert 0 <= document["accuracy"] <= 1
    expected = catalogue.run(
        name, [arrays], SPEC, {k: float(v) if "." in v else int(v) for k, v in _pairs(settings)}
    )
    assert weights.digest(weights.read(out).weights) == weights.digest(expected.weights)


def _pairs(settings: list[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (setting.partition("=") for setting in settings)]
