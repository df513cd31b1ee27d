"""``smdl deploy``: a real federation, from its keys to its runs."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import own_images, report
from smdl_flower.cli import progress, tables
from smdl_flower.cli.options import (
    JsonOption,
    SetOption,
    console,
    messages,
    print_json,
    resolve_home,
)
from smdl_flower.cli.scenario import ScenarioArgument, load
from smdl_flower.config import find_app
from smdl_flower.deployment import checking, folders, running
from smdl_flower.deployment.certificates import DAYS
from smdl_flower.flower.run_folder import RunFolder
from smdl_flower.own_images import Inspection

UNHEALTHY = 2

app = typer.Typer(
    help="Set up and run a real federation.", no_args_is_help=True, rich_markup_mode=None
)

FolderArgument = Annotated[Path, typer.Argument(help="Folder made by smdl deploy init.")]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", help="HOST:PORT of the server itself, if participants reach it through a proxy."
    ),
]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="New folder of the federation.")],
    server: Annotated[
        str, typer.Option("--server", help="Name or address by which participants reach it.")
    ],
    participants: Annotated[
        list[str], typer.Option("--participant", help="Institution. May be repeated.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the server.")] = 8000,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Validity of certificates.")] = DAYS,
    as_json: JsonOption = False,
) -> None:
    """Make certificates, keys, scripts, and a folder to hand to each institution."""
    federation = folders.create(folder, server, participants, port=port, days=days)
    if as_json:
        print_json(_document(federation, []))
        return
    console.print(f"Federation at {federation.address}: {len(participants)} participants")
    console.print(f"Next: read {federation.owner / 'README.md'}")


@app.command("check")
def check(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Say what is missing, expired or open to others. Exit code 2 if anything is."""
    federation = folders.load(folder)
    found = checking.problems(federation)
    if as_json:
        print_json(_document(federation, found))
    else:
        for problem in found:
            console.print(problem, markup=False, highlight=False)
        console.print(f"{folder}: {len(found) or 'no'} problem{'s' if len(found) > 1 else ''}")
    raise typer.Exit(UNHEALTHY if found else 0)


@app.command("register")
def register(folder: FolderArgument, at: AtOption = None) -> None:
    """Admit the participants' keys at the running server."""
    new = running.register(folders.load(folder), at=at)
    console.print(f"Admitted: {', '.join(new)}" if new else "All participants were admitted before")


@app.command("run")
def run(
    scenario: ScenarioArgument,
    folder: Annotated[Path, typer.Option("--federation", help="Folder of the federation.")],
    assignments: SetOption = None,
    at: AtOption = None,
    patience: Annotated[
        float, typer.Option("--wait", min=0.0, help="Seconds to wait for enough participants.")
    ] = 60.0,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="The server's home, if it is on this machine; for the report."),
    ] = None,
) -> None:
    """Run a scenario at the participants and wait for its end."""
    flat, config = load(scenario, assignments)
    federation = folders.load(folder)
    begun = time.time()
    try:
        with progress.of_rounds(config.federation.rounds) as round_done:
            app = find_app(scenario.parent)
            watch = running.Watch(begun=_say_who_is_missing, round_done=round_done)
            running.run(federation, app, flat, at=at, watch=watch, patience=patience)
    finally:
        found = _run_folder(resolve_home(home), config.scenario, begun)
        if found:
            page = report.write_run_report(found.path)
            messages.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    if found is None:
        console.print(
            "The run is complete; its folder is in runs/ of the owner's home on the server, and "
            "smdl report FOLDER writes its page there"
        )
        return
    tables.print_run(found.outcome() or {})
    console.print(f"Run folder: {found.path}")


def _run_folder(home: Path, scenario: str, begun: float) -> RunFolder | None:
    """The folder of the run that has just ended, if this is the server and its home."""
    folders = (home / "runs").glob(f"{scenario}-*/run.json")
    recent = [path for path in folders if path.stat().st_mtime >= begun]
    return RunFolder(max(recent, key=lambda p: p.stat().st_mtime).parent) if recent else None


@app.command("clean")
def clean(folder: FolderArgument) -> None:
    """Remove what Flower stored at the stopped server: models, run history, admitted keys."""
    removed = running.clean(folders.load(folder))
    console.print("Removed" if removed else "There was nothing to remove")


@app.command("data")
def data(
    folder: Annotated[Path, typer.Argument(help="Folder of images, one sub-folder per class.")],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Classes of the federation, separated by commas."),
    ] = None,
    least: Annotated[int, typer.Option("--min-images", min=1, help="Fewest images.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Check an institution's own images before it joins. Exit code 2 if any cannot be used.

    Every image is opened. Nothing is sent anywhere.
    """
    names = [name.strip() for name in classes.split(",")] if classes is not None else None
    found = own_images.inspect(folder, names, least=least)
    found.problems += own_images.unreadable(found)
    if as_json:
        print_json(_data_document(found, names))
    else:
        tables.print_images(found, names)
    raise typer.Exit(UNHEALTHY if found.problems else 0)


def _data_document(found: Inspection, classes: list[str] | None) -> dict[str, object]:
    return {
        "format": "smdl-data/1",
        "folder": str(found.root),
        "images": {name: len(paths) for name, paths in found.paths.items()},
        "absent": [name for name in classes or () if name not in found.paths],
        "ignored": len(found.ignored),
        "problems": [asdict(problem) for problem in found.problems],
    }


def _say_who_is_missing(names: list[str]) -> None:
    if names:
        messages.print(f"Not connected: {', '.join(names)}", markup=False, highlight=False)


def _document(federation: folders.Federation, problems: list[str]) -> dict[str, object]:
    return {
        "format": "smdl-deploy/1",
        "folder": str(federation.folder),
        "address": federation.address,
        "participants": list(federation.participants),
        "problems": problems,
    }
