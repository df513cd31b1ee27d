"""Which dimensions of a model's tensors count the same hidden channels.

Reordering the units of one layer is invisible only if every tensor that produces or reads them is
reordered too; the *wiring* says which ones those are. It is found by symbolic tracing (torch.fx) of
the module, one rule per kind of layer, so it holds for sequential and residual networks alike:
additions tie the channels of both terms, a normalisation keeps them, and a linear layer behind a
flattened feature map reads a block of columns per channel. The same idea is the "permutation
specification" of Git Re-Basin (Ainsworth et al., 2209.04836), written there by hand.

Order and scale differ: a normalisation's output has its own scale but its input's channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.fx
from torch import nn

from smdl_flower.errors import NotComparableError

_Value = tuple[int, int] | None  # space and scale of an activation; None: no activation

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_UNCHANGED = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softmax, nn.LogSoftmax),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity, nn.Upsample),
)
_UNCHANGED_NAMES = frozenset(
    [
        "relu",
        "relu_",
        "relu6",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "tanh",
        "sigmoid",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "softplus",
        "softmax",
        "log_softmax",
        "max_pool1d",
        "max_pool2d",
        "avg_pool1d",
        "avg_pool2d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "boolean_dispatch",
        "fn",
        "dropout",
        "stochastic_depth",
        "flatten",
        "view",
        "reshape",
        "contiguous",
        "mean",
        "amax",
        "squeeze",
        "clone",
        "detach",
        "float",
    ]
)
_SUMS = frozenset({"add", "iadd", "add_", "sub"})
_PRODUCTS = frozenset({"mul", "imul", "mul_"})
_NO_ACTIVATION = frozenset({"size", "getattr", "getitem", "dim"})


@dataclass(frozen=True)
class Side:
    """One dimension of one tensor that counts hidden channels.

    Attributes:
        tensor: Name in the state_dict.
        axis: 0 or 1.
        space: Which channels.
        scale: Which activations: tensors that make them carry their scale, readers its inverse.
        makes: Whether the tensor makes these activations; otherwise it reads them.
    """

    tensor: str
    axis: int
    space: int
    scale: int
    makes: bool


@dataclass(frozen=True)
class Wiring:
    """The channel spaces of a model, numbered from input to output.

    Attributes:
        sides: In the order in which an image meets them.
        sizes: Channels of each space.
        pinned: Spaces whose order is given from outside: the image's channels.

    Example:
        >>> from smdl_flower.models import ModelSpec, build
        >>> wiring = Wiring.of(build(ModelSpec("cnn", 1, 10, 28), seed=0))
        >>> wiring.sizes
        {0: 1, 1: 24, 2: 48, 3: 64, 4: 160, 5: 10}
        >>> [(s.tensor, s.axis) for s in wiring.sides if s.space == 3]
        [('features.6.weight', 0), ('features.6.bias', 0), ('hidden.weight', 1)]
    """

    sides: tuple[Side, ...]
    sizes: dict[int, int]
    pinned: frozenset[int]

    @classmethod
    def of(cls, module: nn.Module) -> "Wiring":
        """Trace a module.

        Raises:
            NotComparableError: It cannot be traced, or has a layer that no rule covers.
        """
        try:
            graph = torch.fx.symbolic_trace(module).graph
        except Exception as error:  # whatever the forward method of a model that is not ours does
            raise NotComparableError(f"the model cannot be traced ({error!r:.200})") from None
        flow = _Flow(dict(module.named_modules()))
        for node in graph.nodes:
            flow.visit(node)
        return flow.wiring()

    def of_space(self, space: int) -> tuple[Side, ...]:
        """Return the sides that count a space's channels."""
        return tuple(s for s in self.sides if s.space == space)

    def space_of(self, tensor: str, axis: int) -> int | None:
        """Return the space that a tensor's dimension counts, if any."""
        return next((s.space for s in self.sides if (s.tensor, s.axis) == (tensor, axis)), None)


class _Sets:
    """Numbers that may turn out to mean the same (union-find)."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def new(self) -> int:
        self._parents.append(len(self._parents))
        return self.last

    @property
    def last(self) -> int:
        return len(self._parents) - 1

    def root(self, number: int) -> int:
        while self._parents[number] != number:
            number = self._parents[number]
        return number

    def join(self, one: int, other: int) -> int:
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
        return low


class _Flow:
    """What is known while following an image through the graph."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules
        self._spaces, self._scales = _Sets(), _Sets()
        self._sizes: dict[int, int] = {}
        self._values: dict[Any, _Value] = {}
        self._sides: dict[tuple[str, int], Side] = {}
        self._pinned: set[int] = set()

    def visit(self, node: Any) -> None:
        inputs = [v for v in (self._values.get(n) for n in node.all_input_nodes) if v is not None]
        if node.op == "placeholder":
            value: _Value = (self._spaces.new(), self._scales.new())
            self._pinned.add(self._spaces.last)
        elif node.op == "call_module":
            value = self._through_module(node.target, inputs)
        elif node.op in ("call_function", "call_method"):
            value = self._through_function(node.target, inputs)
        else:
            value = None  # the output, or a constant that some function will use
        self._values[node] = value

    def wiring(self) -> Wiring:
        roots = sorted({self._spaces.root(s.space) for s in self._sides.values()})
        numbers = {root: number for number, root in enumerate(roots)}
        sides = tuple(
            Side(
                *(s.tensor, s.axis, numbers[self._spaces.root(s.space)]),
                *(self._scales.root(s.scale), s.makes),
            )
            for s in self._sides.values()
        )
        sizes: dict[int, int] = {}
        for space, size in self._sizes.items():
            number = numbers.get(self._spaces.root(space))
            if number is not None and sizes.setdefault(number, size) != size:
                raise NotComparableError("the model adds feature maps of different width")
        pinned = frozenset(numbers[p] for p in map(self._spaces.root, self._pinned) if p in numbers)
        return Wiring(sides, dict(sorted(sizes.items())), pinned)

    def _through_module(self, name: str, inputs: list[tuple[int, int]]) -> _Value:
        module = self._modules[name]
        if len(inputs) != 1:
            raise NotComparableError(f"{name}: {len(inputs)} inputs are not supported")
        space, scale = inputs[0]
        if isinstance(module, _UNCHANGED):
            return space, scale
        if isinstance(module, _NORMS):
            return self._made(name, space, self._scales.new())
        if isinstance(module, nn.Linear):
            return self._weighted(name, inputs[0], module.in_features, module.out_features)
        if isinstance(module, _CONVOLUTIONS):
            if module.groups == module.in_channels == module.out_channels > 1:  # one per channel
                return self._made(name, space, self._scales.new())
            if module.groups == 1:
                return self._weighted(name, inputs[0], module.in_channels, module.out_channels)
        raise NotComparableError(f"{name}: no rule for a {type(module).__name__} like this")

    def _through_function(
        self, target: str | Callable[..., Any], inputs: list[tuple[int, int]]
    ) -> _Value:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if not inputs or name in _NO_ACTIVATION:
            return None
        if name in _UNCHANGED_NAMES or (len(inputs) == 1 and name in _SUMS | _PRODUCTS):
            return inputs[0]
        if len(inputs) == 2 and name in _SUMS | _PRODUCTS:
            (space, scale), (other_space, other_scale) = inputs
            space = self._spaces.join(space, other_space)
            return space, self._scales.join(scale, other_scale) if name in _SUMS else scale
        raise NotComparableError(f"no rule for the function {name}")

    def _weighted(self, name: str, value: tuple[int, int], inputs: int, outputs: int) -> _Value:
        """A layer that reads all channels and makes new ones."""
        space, scale = value
        width = self._sizes.setdefault(self._spaces.root(space), inputs)
        if inputs % width:
            raise NotComparableError(f"{name}: {inputs} inputs from {width} channels")
        self._add(Side(f"{name}.weight", 1, space, scale, makes=False))
        made = self._spaces.new()
        self._sizes[made] = outputs
        return self._made(name, made, self._scales.new())

    def _made(self, name: str, space: int, scale: int) -> _Value:
        for part in ("weight", "bias"):
            if getattr(self._modules[name], part, None) is not None:
                self._add(Side(f"{name}.{part}", 0, space, scale, makes=True))
        return space, scale

    def _add(self, side: Side) -> None:
        known = self._sides.setdefault((side.tensor, side.axis), side)  # a layer used twice
        self._spaces.join(known.space, side.space)
        self._scales.join(known.scale, side.scale)
