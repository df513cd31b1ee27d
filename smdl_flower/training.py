"""One local training loop and one evaluation, used by participants, owner and thieves alike."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smdl_flower.config import TrainingConfig
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.representation import Examples, behind_front

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """How a model does on labelled images.

    Attributes:
        accuracy: Share of images classified correctly, 0 to 1.
        loss: Mean cross-entropy, nats.
    """

    accuracy: float
    loss: float


def train(
    model: nn.Module,
    images: Examples,
    config: TrainingConfig,
    *,
    learning_rate: float,
    proximal_mu: float = 0.0,
    generator: torch.Generator,
) -> float:
    """Train a model in place by SGD on cross-entropy.

    Args:
        model: Starts from the weights it has; left in evaluation mode.
        images: At least one; or features of images, for a head.
        config: Epochs, batch size and the rest.
        learning_rate: Of this call (a schedule over rounds is the caller's).
        proximal_mu: Weight of FedProx' pull towards the starting point (Li et al. 2020, eq. 2).
        generator: Decides order and augmentation.

    Returns:
        Mean training loss of the last epoch.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters] if proximal_mu else []
    optimizer = torch.optim.SGD(
        parameters, learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    loss_function = nn.CrossEntropyLoss()
    model.train()
    total = 0.0
    for _ in range(config.epochs):
        total = 0.0
        for batch in torch.randperm(len(images), generator=generator).split(config.batch_size):
            inputs = augment(images.inputs(batch), config.augment, generator)
            optimizer.zero_grad()
            loss = loss_function(model(inputs), images.labels[batch])
            total += float(loss.detach()) * len(batch)
            for parameter, origin in zip(parameters, start, strict=False):
                loss = loss + proximal_mu / 2 * (parameter - origin).square().sum()
            loss.backward()
            optimizer.step()
    model.eval()
    return total / len(images)


def require_fit(images: Images, spec: ModelSpec) -> None:
    """Raise if a model cannot be trained or evaluated on these images.

    Raises:
        ConfigError: They have other channels or classes than the model.

    Example:
        >>> pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
        >>> images = Images(pixels, torch.tensor([0]), ("zero",))
        >>> require_fit(images, ModelSpec("cnn", channels=3, classes=1, image_size=8))
        Traceback (most recent call last):
        ...
        smdl_flower.errors.ConfigError: the images have 1 channels and 1 classes, the model 3 and 1
    """
    channels, classes = images.pixels.shape[1], len(images.classes)
    if (channels, classes) != (spec.channels, spec.classes):
        raise ConfigError(
            f"the images have {channels} channels and {classes} classes, the model {spec.channels} "
            f"and {spec.classes}"
        )


@torch.no_grad()
def evaluate(model: nn.Module, images: Images) -> Evaluation:
    """Return accuracy and loss of a model on labelled images.

    Example:
        >>> pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        >>> images = Images(pixels, torch.tensor([0, 0, 0, 1]), ("zero", "one"))
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> _ = nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)  # always says zero
        >>> evaluate(model, images).accuracy
        0.75
    """
    part, examples = behind_front(model.eval(), images)
    correct, loss = 0, 0.0
    for batch in torch.arange(len(images)).split(EVALUATION_BATCH):
        logits = part(examples.inputs(batch))
        labels = images.labels[batch]
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return Evaluation(correct / len(images), loss / len(images))


def scheduled_rate(config: TrainingConfig, server_round: int, rounds: int) -> float:
    """Return the learning rate of one federated round, the first being 1.

    Cosine: from the full rate down to a twentieth of it in the last round.
    """
    if config.schedule == "constant" or rounds == 1:
        return config.learning_rate
    angle = math.pi * (server_round - 1) / (rounds - 1)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(angle)))


def augment(inputs: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Shift each batch of images by up to 1/14 of its size and, if asked, mirror half of them."""
    if kind == "none":
        return inputs
    reach = max(1, inputs.shape[-1] // 14)
    padded = nn.functional.pad(inputs, (reach,) * 4, value=-1.0)
    offsets = torch.randint(0, 2 * reach + 1, (len(inputs), 2), generator=generator)
    size = inputs.shape[-1]
    rows = (offsets[:, :1] + torch.arange(inputs.shape[-2]))[:, None, :, None]
    columns = (offsets[:, 1:] + torch.arange(size))[:, None, None, :]
    which = torch.arange(len(inputs))[:, None, None, None]
    channel = torch.arange(inputs.shape[1])[None, :, None, None]
    shifted = padded[which, channel, rows, columns]
    if kind == "shift-flip":
        mirrored = torch.rand(len(inputs), generator=generator) < 0.5
        shifted[mirrored] = shifted[mirrored].flip(-1)
    return shifted
