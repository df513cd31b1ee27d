"""One value commits to all leaves; a proof opens one and no other."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import merkle

LEAVES = st.lists(st.binary(max_size=8), min_size=1, max_size=40).map(
    lambda contents: [merkle.leaf_hash(c) for c in contents]
)


def test_the_root_is_that_of_rfc_6962() -> None:
    """Recomputed by the definition: split at the largest power of two below n."""

    def defined(contents):
        if len(contents) == 1:
            return hashlib.sha256(b"\x00" + contents[0]).digest()
        split = 1
        while 2 * split < len(contents):
            split *= 2
        left, right = defined(contents[:split]), defined(contents[split:])
        return hashlib.sha256(b"\x01" + left + right).digest()

    for count in range(1, 34):
        contents = [bytes([i]) for i in range(count)]
        assert merkle.root([merkle.leaf_hash(c) for c in contents]) == defined(contents)
    assert merkle.root([]) == hashlib.sha256(b"").digest()


@given(LEAVES, st.data())
def test_every_leaf_opens(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.proof(leaves, index)
    assert merkle.check(leaves[index], index, len(leaves), path) == merkle.root(leaves)


@given(LEAVES, st.data())
def test_nothing_else_opens(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, root = merkle.proof(leaves, index), merkle.root(leaves)
    count = len(leaves)
    other = merkle.leaf_hash(b"never in the tree")
    assert merkle.check(other, index, count, path) != root
    assert merkle.check(leaves[index], index, count, [*path, other]) is None
    if path:
        assert merkle.check(leaves[index], index, count, path[:-1]) is None
        place = data.draw(st.integers(0, len(path) - 1))
        altered = [*path[:place], other, *path[place + 1 :]]
        assert merkle.check(leaves[index], index, count, altered) != root
    for wrong in (-1, count):
        assert merkle.check(leaves[index], wrong, count, path) is None


def test_a_node_is_no_leaf() -> None:
    one, two = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    forged = merkle.leaf_hash(one + two)
    assert forged != merkle.root([one, two])
