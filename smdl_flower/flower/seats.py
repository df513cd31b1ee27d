"""Which node is which participant, for as long as a run's server app lives.

A participant's number is in its SuperNode's settings: a node may be given another's, by mistake or
on purpose. Flower authenticates nodes, not numbers. So a number belongs to the node that first sent
a valid reply under it, and a node keeps its number. Where two nodes claim a free number in the same
round nobody can tell which is right, and neither is used.
"""

from collections.abc import Mapping


class Seats:
    """Who has which number.

    Example:
        >>> seats = Seats()
        >>> seats.take({11: "000000", 12: "000001"})
        {}
        >>> seats.take({11: "000000", 13: "000001"})
        {13: 'it says that it is participant 1, who is node 12'}
    """

    def __init__(self) -> None:
        self._node_of: dict[str, int] = {}
        self._number_of: dict[int, str] = {}

    def of(self, node: int) -> str | None:
        """Return a node's number, if it has one."""
        return self._number_of.get(node)

    def take(self, claims: Mapping[int, str]) -> dict[int, str]:
        """Give each node the number it claims, or say why not.

        Args:
            claims: Node -> number, of the valid replies of one round.

        Returns:
            Node -> reason, for the nodes that get nothing.
        """
        refused = {}
        for node, number in claims.items():
            reason = self._reason(node, number, claims)
            if reason:
                refused[node] = reason
        for node, number in claims.items():
            if node not in refused:
                self._node_of[number], self._number_of[node] = node, number
        return refused

    def _reason(self, node: int, number: str, claims: Mapping[int, str]) -> str:
        seated, before = self._node_of.get(number), self._number_of.get(node)
        if seated not in (None, node):
            return f"it says that it is participant {int(number)}, who is node {seated}"
        if before not in (None, number):
            return f"it says that it is participant {int(number)}, and was {int(str(before))}"
        rivals = sorted(other for other, claim in claims.items() if claim == number)
        if seated is None and len(rivals) > 1:
            named = " and ".join(map(str, rivals))
            return f"nodes {named} all say that they are participant {int(number)}"
        return ""
