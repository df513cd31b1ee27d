"""Settings of a run whose server needs no owner's home: its model is sealed for somebody else."""

from smdl_flower import sealing
from smdl_flower.config import Scalar
from smdl_flower.sealing import SealingKey

OWNER = SealingKey(bytes(range(32)))
OFFLINE: dict[str, Scalar] = {
    "fingerprint.where": "offline",
    "fingerprint.mark-training": False,
    "fingerprint.seal-to": sealing.to_text(OWNER.public),
}
