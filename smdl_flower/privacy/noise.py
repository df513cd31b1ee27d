"""Differentially private training at a participant: clip each image's gradient, add noise, step.

DP-SGD (Abadi et al., 1607.00133) with Opacus' per-sample gradients. Ours: noise and sampling from
:mod:`entropy`, batches for the denominator a public constant, empty batches that step, and refusal
of every model whose state the noise would not cover. Unit of privacy: one image, added or removed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from smdl_flower.config import RunConfig, TrainingConfig
from smdl_flower.errors import PrivacyError
from smdl_flower.privacy.accounting import Steps, sigma_of_run, steps_of_round
from smdl_flower.privacy.entropy import Entropy, normals, poisson_batch
from smdl_flower.representation import Examples
from smdl_flower.training import augment

# Each changes one image at a time; a mixture of images would break the clipping of each.
PER_IMAGE_AUGMENTATIONS = frozenset({"none", "shift", "shift-flip"})


@dataclass(frozen=True)
class Mechanism:
    """The noised training of one round.

    Attributes:
        steps: Noise multiplier, sampling rate and number of steps.
        max_grad_norm: Clipping norm C of an image's gradient.
        expected_batch: What a step's sum is divided by; a public constant.
    """

    steps: Steps
    max_grad_norm: float
    expected_batch: float

    @classmethod
    def of(cls, run: RunConfig) -> "Mechanism":
        """Return the mechanism that the run config asks for."""
        rate = run.privacy.sample_rate
        steps = Steps(sigma_of_run(run), rate, steps_of_round(run))
        return cls(steps, run.privacy.max_grad_norm, rate * run.privacy.shard_size)


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus has no types
    """Opacus' optimizer with noise from our entropy."""

    def __init__(self, optimizer: torch.optim.Optimizer, entropy: Entropy, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.entropy = entropy

    def add_noise(self) -> None:
        """Add noise of standard deviation sigma C to each clipped sum."""
        _add_noise(self)


class NoisyGhostOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # as above
    """The same for ghost clipping, which knows each gradient's norm without the gradient."""

    def __init__(self, optimizer: torch.optim.Optimizer, entropy: Entropy, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.entropy = entropy

    def add_noise(self) -> None:
        """Add noise of standard deviation sigma C to each clipped sum."""
        _add_noise(self)


def train(
    model: nn.Module,
    examples: Examples,
    mechanism: Mechanism,
    config: TrainingConfig,
    *,
    learning_rate: float,
    entropy: Entropy,
) -> None:
    """Train a model in place, so that its change is differentially private.

    Nothing else is returned: a loss or a count would leave without noise.

    Args:
        model: Its frozen parameters stay as they are; left in evaluation mode.
        examples: Private; may be none.
        mechanism: What the ledger was charged for.
        config: Momentum, weight decay (both act after the noise) and augmentation.
        learning_rate: Of this call.
        entropy: Source of noise, sampling and augmentation.

    Raises:
        PrivacyError: The noise would not cover all that the model learns.
    """
    require_private(model, config.augment)
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(
        trained, learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    wrapped, optimizer = _wrapped(model, sgd, mechanism, entropy)
    seed = int(entropy.uniforms(1)[0] * 2**52)
    generator = torch.Generator().manual_seed(seed)  # moves images only; no noise comes from it
    _train_mode(model)
    try:
        for _ in range(mechanism.steps.count):
            batch = poisson_batch(entropy, len(examples), mechanism.steps.sample_rate)
            optimizer.zero_grad()
            if len(batch):
                inputs = augment(examples.inputs(batch), config.augment, generator)
                _backward(wrapped, optimizer, inputs, examples.labels[batch])
            else:
                _no_gradients(trained)
            optimizer.step()
    finally:
        wrapped.remove_hooks()
        _forget(trained)
        model.eval()


def require_private(model: nn.Module, augmentation: str = "none") -> None:
    """Refuse what would make an epsilon false.

    Raises:
        PrivacyError: BatchNorm, a buffer, nothing to train, or an augmentation that mixes images.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(
            module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
        ):
            raise PrivacyError(
                f"{name or 'the model'} is a {type(module).__name__}: it mixes the images of a "
                "batch and its statistics leave without noise; use GroupNorm"
            )
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise PrivacyError(
            f"buffer {buffers[0]}: noise covers trained parameters only; make it a PUBLIC parameter"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise PrivacyError("no GUARDED parameter can be trained")
    if augmentation not in PER_IMAGE_AUGMENTATIONS:
        raise PrivacyError(f"augment: {augmentation!r} is not known to change one image at a time")


def uses_ghost_clipping(model: nn.Module) -> bool:
    """Whether the trained part is linear layers only: there ghost clipping is 40 times faster.

    Elsewhere it is slower (a ResNet-18: 1.7 times), so per-sample gradients are made.
    """
    trained = [m for m in model.modules() if _own_trained(m)]
    return bool(trained) and all(type(m) is nn.Linear for m in trained)


def _wrapped(
    model: nn.Module, sgd: torch.optim.Optimizer, mechanism: Mechanism, entropy: Entropy
) -> tuple[Any, DPOptimizer]:
    norm = mechanism.max_grad_norm
    options = {
        "noise_multiplier": mechanism.steps.sigma,
        "max_grad_norm": norm,
        "expected_batch_size": mechanism.expected_batch,
    }
    if uses_ghost_clipping(model):
        ghost = GradSampleModuleFastGradientClipping(
            model, max_grad_norm=norm, loss_reduction="sum", use_ghost_clipping=True
        )
        return ghost, NoisyGhostOptimizer(sgd, entropy, **options)
    return GradSampleModule(model, loss_reduction="sum"), NoisyOptimizer(sgd, entropy, **options)


def _backward(wrapped: Any, optimizer: DPOptimizer, inputs: Tensor, labels: Tensor) -> None:
    losses = nn.functional.cross_entropy(wrapped(inputs), labels, reduction="none")
    with warnings.catch_warnings():  # images and features need no gradients, as torch remarks
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        if isinstance(optimizer, NoisyGhostOptimizer):
            DPTensorFastGradientClipping(wrapped, optimizer, losses, "sum").backward()
            wrapped.enable_hooks()
        else:
            losses.sum().backward()


def _no_gradients(trained: Sequence[nn.Parameter]) -> None:
    """An empty batch: noise alone, as the accountant assumes."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]


def _add_noise(optimizer: NoisyOptimizer | NoisyGhostOptimizer) -> None:
    deviation = optimizer.noise_multiplier * optimizer.max_grad_norm
    for parameter in optimizer.params:
        total = parameter.summed_grad
        noise = normals(optimizer.entropy, total.shape).to(total)
        parameter.grad = (total + deviation * noise).view_as(parameter)


def _train_mode(model: nn.Module) -> None:
    """Training mode for modules that learn; a frozen front is used as it will be released."""
    model.eval()
    for module in model.modules():
        if any(p.requires_grad for p in module.parameters()):
            module.training = True


def _own_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters(recurse=False))


def _forget(trained: Sequence[nn.Parameter]) -> None:
    """Drop each image's gradients: they are as private as the images."""
    for parameter in trained:
        parameter.grad = None
        for name in ("grad_sample", "summed_grad", "_norm_sample"):
            if hasattr(parameter, name):
                delattr(parameter, name)
