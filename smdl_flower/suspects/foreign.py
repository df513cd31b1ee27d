"""What stands for the things of other modules that a pickle names: nothing is looked up."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Name:
    """Something of a module that the pickle names, and that was not looked up."""

    text: str


@dataclass(eq=False)
class Foreign:
    """What a call of something named would have given.

    Attributes:
        name: What was to be called.
        state: What its state was to be set to.
        entries: What was to be put into it, by key.
    """

    name: str
    state: Any = field(default=None, repr=False)
    entries: dict[Any, Any] = field(default_factory=dict, repr=False)
