"""Every error raised on purpose, each with the exit code the command line returns for it.

A message gives what was wrong, the value, what was expected, and what to do next, in one line.
"""

from typing import ClassVar


class SmdlError(Exception):
    """Base of all errors that smdl-flower raises on purpose.

    Attributes:
        exit_code: Of the command line.
        told: All that another party may be told of it: a participant's message names its files.
    """

    exit_code: ClassVar[int] = 2
    told: ClassVar[str] = "refused"


class ConfigError(SmdlError):
    """A scenario, run config or option asks for something that does not exist or cannot be kept."""

    told = "config"


class DataError(SmdlError):
    """Images or labels are missing, unreadable or too few."""

    told = "data"


class HomeError(SmdlError):
    """The owner's home is missing, already there, or the passphrase does not open it."""


class OutputExistsError(SmdlError):
    """A file that would be overwritten is already there."""


class MissingFileError(SmdlError):
    """A file that was named is not there."""


class CapacityError(SmdlError):
    """The model is too small for the fingerprint that was asked for."""


class SuspectFileError(SmdlError):
    """A model file is unsafe or unsupported and was not examined."""

    exit_code: ClassVar[int] = 3


class SuspectAnswersError(SmdlError):
    """A suspect that is asked fails, hangs, or does not answer as a classifier does."""

    exit_code: ClassVar[int] = 3


class SealError(SmdlError):
    """Something sealed was altered, cut off, or is meant for somebody or something else."""

    exit_code: ClassVar[int] = 3
    told = "seal"


class IntegrityError(SmdlError):
    """Key, registry or vault are not as the owner left them: no verdict may rest on them."""

    exit_code: ClassVar[int] = 4


class NotComparableError(SmdlError):
    """The suspect cannot be compared with any model of this owner: neither guilty nor innocent."""

    exit_code: ClassVar[int] = 11


class FederationError(SmdlError):
    """A federated run failed: too few valid replies, no model came back, or Flower reported it."""


class DeliveryError(SmdlError):
    """A copy was not handed over; the message may be sent to the other side as it is."""


class PrivacyError(SmdlError):
    """A promise about private images could not be kept: nothing was trained, nothing was sent."""

    told = "privacy"


class BudgetExhaustedError(PrivacyError):
    """More of a data set's privacy budget was asked for than is left."""

    told = "budget"
