"""How much one reply may count in an average.

FedAvg weighs a reply by the number of images that its sender says it has, and nobody can check that
number. Truncating it is the usual remedy (Portnoy, Tirosh & Hendler, arXiv 2004.04986). Here the
largest numbers are cut down until none is more than a share of all. That bounds what a lie gains,
not what its sender may already do as one participant among few: that takes a robust strategy.
"""

from collections.abc import Sequence


def truncated(examples: Sequence[float], share: float) -> list[float]:
    """Return the numbers, the largest ones cut so that none is more than a share of their sum.

    Numbers that need no cut are returned as they are. A share below an equal one cannot be kept:
    then all become equal.

    Args:
        examples: Positive.
        share: Above 0, at most 1.

    Example:
        >>> truncated([100, 120, 80], 0.5)
        [100, 120, 80]
        >>> truncated([100, 100, 100_000_000], 0.5)
        [100, 100, 200.0]
        >>> truncated([7, 3], 0.1)
        [3.0, 3]
    """
    limit = max(share, 1 / len(examples))
    largest_first = sorted(examples, reverse=True)
    for cut in range(len(examples)):
        rest = sum(largest_first[cut:])
        most = limit * rest / (1 - cut * limit)  # `cut` numbers of this size are `limit` each
        if largest_first[cut] <= most * (1 + 1e-9):
            return [most if number > most * (1 + 1e-9) else number for number in examples]
    raise AssertionError("the smallest number always fits")  # limit is at least an equal share
