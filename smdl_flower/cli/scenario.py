"""``smdl simulate`` and ``smdl scenario``."""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import config, report
from smdl_flower.cli import progress, tables
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    SetOption,
    console,
    print_json,
    require_unattended,
    resolve_home,
)
from smdl_flower.config import RunConfig, Scalar
from smdl_flower.flower import launching, strategies
from smdl_flower.flower.launching import Engine, Launch
from smdl_flower.flower.run_folder import new_name

app = typer.Typer(help="Check scenario files.", no_args_is_help=True, rich_markup_mode=None)

ScenarioArgument = Annotated[Path, typer.Argument(help="Scenario file (TOML).")]


def simulate(
    scenario: ScenarioArgument,
    assignments: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder.  [default: runs/<scenario>-<utc>]")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Flower's simulation engine, or all in one process.")
    ] = "flower",
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a whole federation on this machine and issue fingerprinted copies."""
    flat, run = load(scenario, assignments)
    config.require_dealt(run)
    if run.fingerprint.where == "server":  # a wrong passphrase is noticed before hours of training
        passphrase_file = require_unattended(home, passphrase_file)
    plan = Launch(
        app=config.find_app(scenario.parent),
        scenario=scenario,
        flat=flat,
        folder=out or Path("runs") / new_name(run.scenario),
        home=resolve_home(home),
        passphrase_file=passphrase_file,
    )
    launching.prepare(plan)
    try:
        with progress.of_run(plan.folder, run.federation.rounds, quiet=as_json):
            folder = launching.launch(plan, engine)
    finally:
        if (plan.folder / "resolved.json").exists():  # the run began, however it ended
            report.write_run_report(plan.folder)
    outcome = folder.outcome() or {}
    if as_json:
        print_json({**outcome, "run": str(folder.path)})
        return
    tables.print_run(outcome)
    console.print(f"Run folder: {folder.path} (report.html, copies/, metrics.jsonl)")


def write_report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
) -> None:
    """Write the page about a run: at the server of a federation, or of a run that was cut off."""
    console.print(f"{report.write_run_report(run)}", soft_wrap=True)


@app.command("check")
def check(
    scenario: ScenarioArgument, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Say every wrong key and value of a scenario file."""
    flat, run = load(scenario, assignments)
    if as_json:
        print_json({"format": "smdl-scenario/1", "scenario": run.scenario, "config": flat})
    else:
        console.print(f"{scenario}: ok")


def load(scenario: Path, assignments: list[str] | None) -> tuple[dict[str, Scalar], RunConfig]:
    """Return a scenario's whole run config, flat and checked.

    Raises:
        ConfigError: With every wrong key and value.
    """
    overrides = config.load_scenario(scenario)
    defaults = config.load_defaults(config.find_app(scenario.parent))
    flat = config.merge(defaults, overrides, tuple(assignments or ()))
    if flat.get("resume-from"):
        flat["resume-from"] = str(Path(str(flat["resume-from"])).expanduser().resolve())
    if flat.get("data-dir"):
        flat["data-dir"] = str(Path(str(flat["data-dir"])).expanduser().resolve())
    run = config.parse(flat)
    strategies.check(run)
    return flat, run
