"""Which questions to ask a suspect, given who knows which already.

Whoever is asked a pool knows its images, may pass them on and prepare for them. The registry keeps
who that is; here that becomes a choice and a warning.
"""

from collections.abc import Sequence

from smdl_flower.entries import AskedRecord


def choose_pool(before: Sequence[AskedRecord], pools: int, suspect: str) -> int:
    """Return the number of the pool to ask.

    The one that this suspect knows already, since then nothing more is disclosed; else the first
    that nobody knows; else the first.

    Args:
        before: Who was asked which pool of the model.
        pools: How many there are.
        suspect: Name of the suspect.

    Example:
        >>> before = [AskedRecord("m", 1, "https://a.example")]
        >>> choose_pool(before, 2, "https://a.example"), choose_pool(before, 2, "another")
        (1, 2)
    """
    own = [record.pool for record in before if record.suspect == suspect]
    return (own[-1:] or _unknown(before, pools) or [1])[0]


def remarks(before: Sequence[AskedRecord], asked: AskedRecord, pools: int) -> tuple[str, ...]:
    """Return what a reader of the verdict should know of who knows the pool.

    Args:
        before: Who was asked which pool of the model before.
        asked: Who is asked which now.
        pools: How many there are.
    """
    pool = asked.pool
    others = {r.suspect for r in before if r.pool == pool and r.suspect != asked.suspect}
    # Not their names: a verdict is shown to others (docs/decisions/0005).
    warning = f"pool {pool} was asked of {len(others)} other suspect(s) before, who know it"
    left = _unknown([*before, asked], pools)
    proposal = (
        f"pool {pool} is disclosed to this suspect now; ask another one pool {left[0]}"
        if left
        else f"{_all_of(pools)} disclosed now; whoever was asked one can prepare for it"
    )
    return (*([warning] if others else []), proposal)


def _all_of(pools: int) -> str:
    return "the only pool is" if pools == 1 else f"all {pools} pools are"


def _unknown(known: Sequence[AskedRecord], pools: int) -> list[int]:
    numbers = {record.pool for record in known}
    return [number for number in range(1, pools + 1) if number not in numbers]
