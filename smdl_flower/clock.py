"""The time as documents of this package give it."""

import datetime


def now() -> str:
    """Return the time, UTC, ISO 8601, to the second.

    Example:
        >>> now()[-6:]
        '+00:00'
    """
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
