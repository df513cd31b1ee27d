"""Inputs of a linear layer, computed from its gradient without any optimisation.

For y = W x + b, the gradient of one example is dW = db x^T, so x = dW_i / db_i in each row i
(Phong et al. 2018; Geiping et al. 2020, proposition 3.1). Averaged over a batch, dW is a sum of
such products; as many classes as examples, all known, make it solvable (ours).
"""

import torch
from torch import Tensor


def single_input(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """Return the one input that a gradient was computed from, exact without noise.

    The rows are combined by least squares, which is also the best estimate under Gaussian noise.

    Args:
        weight_gradient: ``(outputs, inputs)``.
        bias_gradient: ``(outputs,)``.

    Returns:
        ``(inputs,)``; zeros if the bias has no gradient: the layer saw nothing.

    Example:
        >>> x, d = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, -0.3])
        >>> single_input(torch.outer(d, x), d)
        tensor([ 1.0000, -2.0000,  0.5000])
    """
    energy = bias_gradient.square().sum()
    if energy == 0:
        return torch.zeros_like(weight_gradient[0])
    return bias_gradient @ weight_gradient / energy


def row_inputs(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """Return what each unit saw: an image of the batch where one alone made the unit active.

    Args:
        weight_gradient: Of the first layer, ``(outputs, inputs)``.
        bias_gradient: ``(outputs,)``.

    Returns:
        ``(r, inputs)``, one for each unit with a gradient, strongest first.
    """
    order = bias_gradient.abs().argsort(descending=True)
    order = order[bias_gradient[order].abs() > 1e-12]
    return weight_gradient[order] / bias_gradient[order, None]


def distinct_labels(weight_gradient: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return all inputs of a batch in which no label occurs twice, exact without noise.

    Args:
        weight_gradient: Of the last layer, mean over the batch, ``(classes, inputs)``.
        probabilities: Of the classes for each example, ``(b, classes)``; a new head knows
            nothing, so the attacker knows them: all alike.
        labels: ``(b,)``, all different.

    Returns:
        ``(b, inputs)``.
    """
    residuals = probabilities - torch.nn.functional.one_hot(labels, probabilities.shape[1])
    solution: Tensor = torch.linalg.lstsq(residuals.T / len(labels), weight_gradient).solution
    return solution
