"""What went wrong with single participants while a run went on: for the log and the report."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Incident:
    """Something about one node's reply, or its silence.

    Attributes:
        round: From 1.
        node: Flower's id: what Flower authenticates.
        name: That the owner registered the node under; None in a simulation.
        participant: Six digits, as the node says; None if it never said.
        reason: What it is.
        used: Whether the reply went into the model nevertheless.
    """

    round: int
    node: int
    name: str | None
    participant: str | None
    reason: str
    used: bool = False

    @property
    def who(self) -> str:
        """The node, for people."""
        return who(self.node, self.name)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Incident":
        """Return what :meth:`to_json` wrote."""
        return cls(**{**document, "node": int(document["node"])})

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the id as text, since it exceeds what many readers can hold."""
        return {**asdict(self), "node": str(self.node)}


def who(node: int, name: str | None) -> str:
    """Return a node as people are told of it.

    Example:
        >>> who(7, "clinic-b"), who(7, None)
        ('node 7 (clinic-b)', 'node 7')
    """
    return f"node {node} ({name})" if name else f"node {node}"


def grouped(incidents: Iterable[Incident]) -> list[dict[str, Any]]:
    """Return one entry for what happened to a node in several rounds.

    Example:
        >>> twice = [Incident(number, 7, None, None, "silent") for number in (1, 3)]
        >>> [(entry["node"], entry["rounds"]) for entry in grouped(twice)]
        [('7', [1, 3])]
    """
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for incident in incidents:
        document = incident.to_json()
        number = document.pop("round")
        entry = entries.setdefault(tuple(document.values()), {**document, "rounds": []})
        entry["rounds"].append(number)
    return list(entries.values())
