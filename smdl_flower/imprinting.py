"""What a copy does with images that carry its customer's word: accuracy kept, bits read back."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from smdl_flower.data import Images
from smdl_flower.fingerprint import codes, imprint
from smdl_flower.fingerprint.codes import Biases
from smdl_flower.fingerprint.imprint import Imprint
from smdl_flower.fingerprint.keys import CustomerKey
from smdl_flower.training import evaluate

LABEL = "imprint/codeword"  # a word of its own: images are seen by others than the copy's owner


@dataclass(frozen=True)
class ImprintReport:
    """Images with an invisible word in them.

    Attributes:
        images: How many.
        bits: Of the word.
        bits_read: Share that is read back right from the images, 0 to 1.
        psnr_mean: Of the images, in dB.
        psnr_least: Of the one that was changed most, in dB.
        accuracy: Of the copy on them, 0 to 1.
    """

    images: int
    bits: int
    bits_read: float
    psnr_mean: float
    psnr_least: float
    accuracy: float


def report(
    place: Imprint, biases: Biases, key: CustomerKey, network: nn.Module, images: Images
) -> ImprintReport:
    """Put a customer's word into images, read it back, and ask the copy what they show.

    Args:
        place: Where words lie.
        biases: Of the words' bits, ``(m,)``.
        key: The customer's.
        network: Its copy.
        images: Public ones.
    """
    word = codes.codeword(key, biases, LABEL)
    before = images.pixels.numpy()
    after = place.embed(before, word)
    ratios = imprint.psnr(before, after)
    marked = Images(torch.from_numpy(after), images.labels, images.classes)
    return ImprintReport(
        images=len(images),
        bits=len(word),
        bits_read=float((place.read(after) == word).mean()),
        psnr_mean=float(np.mean(ratios)),
        psnr_least=float(np.min(ratios)),
        accuracy=evaluate(network, marked).accuracy,
    )
