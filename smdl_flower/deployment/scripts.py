"""Scripts and one-page instructions that go into the folders of a federation.

The scripts switch off what Flower would ask the internet for, start in an empty directory (Flower
imports apps from where it was started), and keep every file private.
"""

from collections.abc import Sequence

import jinja2

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("smdl_flower.deployment"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - shell and Markdown; all values are checked names
)


def server_start(port: int) -> str:
    """Return the script that starts the SuperLink."""
    return _TEMPLATES.get_template("server-start.sh").render(port=port)


def participant_start(address: str, name: str, number: int, participants: Sequence[str]) -> str:
    """Return the script that starts a participant's SuperNode."""
    return _TEMPLATES.get_template("participant-start.sh").render(
        address=address, name=name, number=number, participants=participants
    )


def participant_readme(name: str) -> str:
    """Return a participant's page of instructions."""
    return _TEMPLATES.get_template("participant-README.md").render(name=name)


def owner_readme(participants: Sequence[str]) -> str:
    """Return the owner's page of instructions."""
    return _TEMPLATES.get_template("owner-README.md").render(participants=participants)
