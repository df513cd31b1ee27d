"""``smdl attack``: alter copies as a thief would."""

from pathlib import Path
from typing import Annotated, Any

import typer

from smdl_flower import files, weights
from smdl_flower.attacks import catalogue
from smdl_flower.cli.options import JsonOption, SetOption, console, print_json
from smdl_flower.config import DataConfig, parse_assignments
from smdl_flower.data import Images, load_test
from smdl_flower.models import ModelSpec
from smdl_flower.training import evaluate, require_fit


def attack(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(catalogue.ATTACKS)}.")],
    copies: Annotated[list[Path], typer.Argument(help="Copies the thief has.")],
    out: Annotated[Path, typer.Option("--out", help="Where the altered model goes.")],
    assignments: SetOption = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="What the model is, instead of what the copy says."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Test images to measure the accuracy kept on.")
    ] = None,
    data_dir: Annotated[str, typer.Option(help="Folder of those images.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Alter copies as a thief would, knowing no key and no other customer's copy."""
    files.refuse_to_overwrite(out)
    read = [weights.read(path) for path in copies]
    spec = ModelSpec.from_metadata(read[0].metadata, arch)
    images = _images(spec, data, data_dir) if data else None
    options = parse_assignments(tuple(assignments or ()))
    stolen = catalogue.run(name, [file.weights for file in read], spec, options)
    accuracy = evaluate(stolen.model, images).accuracy if images else None
    weights.write(out, stolen.weights, spec.to_metadata())
    document: dict[str, Any] = {
        "format": "smdl-attack/1",
        "attack": name,
        "out": str(out),
        "accuracy": accuracy,
    }
    if as_json:
        print_json(document)
        return
    kept = "" if accuracy is None else f", accuracy {accuracy:.1%}"
    console.print(f"{name}: wrote {out}{kept}")


def _images(spec: ModelSpec, data: str, directory: str) -> Images:
    images = load_test(DataConfig.of_one_party(data, directory, spec.image_size))
    require_fit(images, spec)
    return images
