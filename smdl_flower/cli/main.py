"""All commands, and how an error becomes one line and an exit code."""

import logging
import signal
import sys
import traceback
from typing import Annotated

import click
import typer

from smdl_flower import __version__
from smdl_flower.cli import (
    attack,
    bench,
    customer,
    deploy,
    examine,
    judge,
    keeping,
    keys,
    owner,
    privacy,
    scenario,
    serve,
    sign,
)
from smdl_flower.errors import SmdlError

INTERNAL_ERROR = 1
UNUSABLE_FILE = 2
INTERRUPTED = 130
TERMINATED = 143

app = typer.Typer(
    name="smdl",
    help="Fingerprint a federated model per customer, and trace leaked copies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("init")(owner.init)
app.add_typer(customer.app, name="customer")
app.command("simulate")(scenario.simulate)
app.command("report")(scenario.write_report)
app.add_typer(scenario.app, name="scenario")
app.command("issue")(owner.issue)
app.command("sealing-key")(owner.sealing_key)
app.add_typer(keys.app, name="key")
app.command("sign")(sign.sign)
app.command("backup")(keeping.back_up)
app.command("restore")(keeping.restore)
app.command("check")(keeping.check)
app.command("verify")(examine.verify)
app.command("judge")(judge.judge)
app.command("commitments")(judge.list_commitments)
app.command("attack")(attack.attack)
app.command("serve")(serve.serve)
app.command("bench")(bench.bench)
app.command("privacy")(privacy.privacy)
app.add_typer(deploy.app, name="deploy")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show log messages, and tracebacks of errors.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    context.obj = {"debug": debug}
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr)
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run ``smdl`` and leave with its exit code; a crash is 1, which is never a verdict."""
    # As an exception, so that a simulation's SuperLink is stopped and drafts are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        code = app(arguments, prog_name="smdl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _fail(*_explained(error))
    return code if isinstance(code, int) else 0


def _explained(error: Exception) -> tuple[str, int]:
    """One line for people, and the exit code."""
    if isinstance(error, SmdlError):
        return str(error), error.exit_code
    if isinstance(error, OSError):  # a full disk, a name below a file, a missing permission
        return f"{error.filename or 'input or output'}: {error.strerror}", UNUSABLE_FILE
    what = f"internal error: {type(error).__name__}: {error}"
    return f"{what}; run smdl --debug ... and report it", INTERNAL_ERROR


def _fail(message: str, code: int) -> int:
    # Names in a suspect are its maker's text: no control characters reach the terminal.
    safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    typer.echo(f"smdl: {safe}", err=True)
    return code
