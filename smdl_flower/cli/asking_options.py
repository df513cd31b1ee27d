"""How a suspect is asked: options that ``smdl verify`` and ``smdl judge`` share."""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower.blackbox.queries import MOST
from smdl_flower.cli.predictor import ProtocolName
from smdl_flower.interface.pixels import Scale

PredictorOption = Annotated[
    str | None,
    typer.Option(
        "--predictor", help="Suspect that can only be asked: an address, or module:function."
    ),
]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds for a batch of questions.")]
BatchOption = Annotated[
    int | None,
    typer.Option(min=1, max=MOST, help="Images at a time.  [default: 1 of an address, else 64]"),
]
ProtocolOption = Annotated[
    ProtocolName | None, typer.Option(help="What the address speaks.  [default: smdl]")
]
PixelsOption = Annotated[
    Scale | None, typer.Option(help="kserve: 0 to 255, 0 to 1, or -1 to 1.  [default: signed]")
]
InputNameOption = Annotated[
    str | None, typer.Option(help="kserve: the model's input.  [default: input-0]")
]
OutputNameOption = Annotated[
    str | None, typer.Option(help="kserve: the output to read, if there are several.")
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(help="File of class names, if the address tells these; one a line, in order."),
]
HeaderFileOption = Annotated[
    Path | None,
    typer.Option(help="Private file of headers to send (Authorization: Bearer ...)."),
]
RateOption = Annotated[
    float | None, typer.Option(min=0.001, help="Most requests a second.  [default: 5]")
]
RetriesOption = Annotated[
    int | None,
    typer.Option(min=0, max=100, help="Further tries if busy or gone.  [default: 4]"),
]
