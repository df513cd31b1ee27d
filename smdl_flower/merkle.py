"""A tree of hashes: commit to many entries with one value, and open one of them.

As in RFC 6962, section 2.1: leaves and nodes are hashed with different prefixes, so that no node
can be passed off as a leaf; a tree of n leaves splits at the largest power of two below n.
"""

import hashlib
from collections.abc import Sequence

Digest = bytes
LARGEST_PROOF = 64  # hashes; a tree of 2^64 leaves needs no more


def leaf_hash(content: bytes) -> Digest:
    """Return the hash of an entry."""
    return hashlib.sha256(b"\x00" + content).digest()


def root(leaves: Sequence[Digest]) -> Digest:
    """Return the value that commits to all leaves, in their order.

    Example:
        >>> one, two = leaf_hash(b"a"), leaf_hash(b"b")
        >>> root([one]) == one, root([one, two]) == root([two, one])
        (True, False)
    """
    if not leaves:
        return hashlib.sha256(b"").digest()
    return _levels(leaves)[-1][0]


def proof(leaves: Sequence[Digest], index: int) -> list[Digest]:
    """Return the hashes that lead from one leaf to the root, from below.

    Example:
        >>> leaves = [leaf_hash(bytes([i])) for i in range(5)]
        >>> check(leaves[4], 4, 5, proof(leaves, 4)) == root(leaves)
        True
    """
    path = []
    for level in _levels(leaves)[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index //= 2
    return path


def check(leaf: Digest, index: int, count: int, path: Sequence[Digest]) -> Digest | None:
    """Return the root that a proof leads to; None if it does not fit a tree of that size.

    Args:
        leaf: Of the entry that is opened.
        index: Its place, from 0.
        count: Leaves of the tree.
        path: From :func:`proof`; may be hostile.
    """
    if not 0 <= index < count or len(path) > LARGEST_PROOF:
        return None
    left, found = list(path), leaf
    while count > 1:
        if index ^ 1 < count:
            if not left:
                return None
            sibling = left.pop(0)
            found = _node(found, sibling) if index % 2 == 0 else _node(sibling, found)
        index, count = index // 2, (count + 1) // 2
    return None if left else found


def _levels(leaves: Sequence[Digest]) -> list[list[Digest]]:
    """All levels, from the leaves to the root; who has no sibling moves up as it is."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        level = levels[-1]
        pairs = [_node(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        levels.append(pairs + level[len(level) - len(level) % 2 :])
    return levels


def _node(left: Digest, right: Digest) -> Digest:
    return hashlib.sha256(b"\x01" + left + right).digest()
