"""Who is asked which pool, and what a verdict says of it."""

from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.disclosure import choose_pool, remarks
from smdl_flower.entries import AskedRecord

SUSPECTS = ("https://a.example", "https://b.example", "https://c.example")


def asked(pool: int, suspect: str) -> AskedRecord:
    return AskedRecord("m", pool, suspect, "")


@given(st.integers(1, 5), st.lists(st.sampled_from(SUSPECTS), max_size=12))
def test_nobody_is_asked_a_known_pool_while_there_is_another(pools, suspects):
    before: list[AskedRecord] = []
    for suspect in suspects:
        pool = choose_pool(before, pools, suspect)
        assert 1 <= pool <= pools
        own = {r.pool for r in before if r.suspect == suspect}
        known = {r.pool for r in before}
        assert pool in own if own else pool not in known or len(known) == pools
        before.append(asked(pool, suspect))
    if len(set(suspects)) <= pools:
        holders = {(r.pool, r.suspect) for r in before}
        assert len({pool for pool, _ in holders}) == len(holders)


def test_a_suspect_that_was_asked_two_pools_goes_on_with_the_last():
    assert choose_pool([asked(1, "a"), asked(3, "a"), asked(2, "b")], 4, "a") == 3


def test_a_verdict_proposes_the_next_pool_and_counts_who_knows_this_one():
    assert remarks([], asked(1, "a"), 2) == (
        "pool 1 is disclosed to this suspect now; ask another one pool 2",
    )
    warning, proposal = remarks([asked(1, "b"), asked(1, "c"), asked(2, "b")], asked(1, "a"), 2)
    assert warning == "pool 1 was asked of 2 other suspect(s) before, who know it"
    assert proposal.startswith("all 2 pools are disclosed")
    # To be asked the same again discloses it to nobody else.
    assert len(remarks([asked(1, "a")], asked(1, "a"), 2)) == 1
