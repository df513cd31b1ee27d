"""``smdl serve``: put a copy behind an interface, to try tracing it by questions."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import weights
from smdl_flower.cli.options import messages
from smdl_flower.errors import ConfigError
from smdl_flower.interface import client, serving
from smdl_flower.interface.obstacles import Obstacle
from smdl_flower.interface.serving import Kind, Served, Telling
from smdl_flower.models import ModelSpec

_CALLERS = 32  # at once


def serve(
    copy: Annotated[Path, typer.Argument(help="Copy or stolen model, a safetensors file.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    answers: Annotated[Kind, typer.Option(help="What is told of an image.")] = Kind.PROBABILITIES,
    digits: Annotated[
        int | None, typer.Option("--round", min=0, max=15, help="Decimals of numbers told.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes that top-k tells.")] = 5,
    noise: Annotated[
        float, typer.Option(min=0, max=100, help="Deviation of noise on the numbers told.")
    ] = 0.0,
    obstacles: Annotated[
        list[Obstacle] | None,
        typer.Option("--through", help="What is done to images first. May be repeated."),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="What the model is, instead of what the file says."),
    ] = None,
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow an address that others can reach.")
    ] = False,
) -> None:
    """Answer questions over HTTP with a copy, as a thief's interface would, until interrupted.

    Speaks the three protocols of smdl verify --predictor. There is no encryption and nobody has to
    log in: it is for trying, on this machine.
    """
    if not (client.is_loopback(host) or expose):
        raise ConfigError(
            f"--host {host}: whoever reaches that address could ask the model, without a password; "
            "if that is meant, say --expose"
        )
    file = weights.read(copy)
    spec = ModelSpec.from_metadata(file.metadata, arch)
    telling = Telling(answers, digits, top, noise, tuple(obstacles or ()))
    app = serving.application(Served(spec, file.weights, telling))
    import uvicorn  # noqa: PLC0415 - only here

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=_CALLERS,
    )
    with _listening(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listener.getsockname()[1]}"
        for protocol, path in serving.PATHS.items():
            typer.echo(f"smdl verify --predictor {address}{path} --protocol {protocol}")
        messages.print("Serving until interrupted (Ctrl-C).")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
