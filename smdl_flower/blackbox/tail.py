"""The last layers of a network, to be taught alone, and a frozen body that runs once per image.

The last layer but one is taught in few directions: its weights change by ``amounts @ basis.T``, so
that of its input no more than the products with the basis is needed, and what it gives without the
change. Both are kept; a step of training then costs little more than the layers after it. (Low-rank
adapters with one factor frozen: Zhang et al. 2023, LoRA-FA; here so that it is known where copies
of the same base model may differ.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from smdl_flower.errors import ConfigError
from smdl_flower.weights import Weights

_CHUNK = 100


@dataclass(frozen=True)
class Features:
    """What the body makes of images.

    Attributes:
        projected: Input of the taught layer in the directions of the basis, ``(n, r)`` or
            ``(n, r, h, w)``; last for a linear layer of sequences.
        passed: All that the head takes: the taught layer's output, as it is without a change, and
            what bypasses the layer.
    """

    projected: Tensor = field(repr=False)
    passed: tuple[Tensor, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.projected)

    def __getitem__(self, which: Tensor) -> "Features":
        # Plain indexing does the same and takes several times as long.
        passed = tuple(values.index_select(0, which) for values in self.passed)
        return Features(self.projected.index_select(0, which), passed)

    @classmethod
    def together(cls, parts: Sequence["Features"]) -> "Features":
        """Return the features of all parts' images, one part after the other."""
        passed = zip(*(part.passed for part in parts), strict=True)
        return cls(torch.cat([p.projected for p in parts]), tuple(torch.cat(v) for v in passed))


@dataclass(frozen=True)
class Tail:
    """A network in three pieces.

    Attributes:
        name: Of the taught layer, in the network.
        layer: The layer itself: linear, or a convolution.
        body: Images -> the layer's input, and all that the head takes.
        head: All that :attr:`Features.passed` holds -> logits.
        output: Which of these is the layer's output.
        parameters: Of the head, by their names in the network; those the body shares left out.
    """

    name: str
    layer: nn.Linear | nn.Conv2d = field(repr=False)
    body: nn.Module = field(repr=False)
    head: nn.Module = field(repr=False)
    output: int = field(repr=False)
    parameters: Mapping[str, Tensor] = field(repr=False)

    @property
    def weight(self) -> Tensor:
        """The taught layer's weights, a row for each output, ``(out, columns)``."""
        return self.layer.weight.detach().flatten(1)

    @torch.no_grad()
    def energy(self, images: Tensor) -> Tensor:
        """Return the sum of ``x x^T`` over all inputs x of the taught layer, double precision.

        Args:
            images: As the model sees them, ``(n, ...)``.

        Returns:
            ``(columns, columns)``.
        """
        total = torch.zeros(self.weight.shape[1], self.weight.shape[1], dtype=torch.float64)
        for piece in images.split(_CHUNK):
            columns = self._columns(self.body(piece)[0])
            total += (columns.T @ columns).double()
        return total

    @torch.no_grad()
    def features(self, images: Tensor, basis: Tensor) -> Features:
        """Return what the body makes of images ``(n, ...)``, with a basis ``(columns, r)``.

        Raises:
            ConfigError: The head takes values that are no batches of numbers.
        """
        parts = []
        for piece in images.split(_CHUNK):
            taken, *passed = self.body(piece)
            if not all(isinstance(p, Tensor) and len(p) == len(piece) for p in passed):
                raise ConfigError(
                    "fingerprint.queries: this model passes more than batches of numbers to its "
                    "last layers, so that they cannot be taught; set it to 0"
                )
            parts.append(Features(self._projected(taken, basis), tuple(passed)))
        return Features.together(parts)

    def logits(self, change: "Change", features: Features) -> Tensor:
        """Return what the network says with other last layers, ``(n, classes)``."""
        passed = list(features.passed)
        passed[self.output] = passed[self.output] + self._moved(change, features.projected)
        said: Tensor = torch.func.functional_call(self.head, dict(change.head), tuple(passed))
        return said

    def unchanged(self, directions: int) -> "Change":
        """Return no change."""
        head = {name: p.detach().clone() for name, p in self.parameters.items()}
        return Change(torch.zeros(len(self.weight), directions), self._bias(), head)

    def changed(self, base: Weights, change: "Change", basis: Tensor) -> Weights:
        """Return those tensors of a network that a change replaces."""
        name = f"{self.name}.weight"
        added = (change.amounts @ basis.T).numpy().reshape(base[name].shape)
        tensors = {key: p.numpy() for key, p in change.head.items()}
        if change.bias is not None:
            tensors[f"{self.name}.bias"] = change.bias.numpy()
        return {name: base[name] + added, **tensors}

    def _bias(self) -> Tensor | None:
        return None if self.layer.bias is None else self.layer.bias.detach().clone()

    def _columns(self, taken: Tensor) -> Tensor:
        """Inputs of the layer, one for each place that it looks at, ``(places, columns)``."""
        if isinstance(self.layer, nn.Linear):
            return taken.flatten(0, -2)
        places = functional.unfold(
            taken,
            self.layer.kernel_size,
            self.layer.dilation,
            cast(tuple[int, int], self.layer.padding),
            self.layer.stride,
        )
        return places.transpose(1, 2).flatten(0, 1)

    def _projected(self, taken: Tensor, basis: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return taken @ basis
        kernels = basis.T.reshape(-1, *self.layer.weight.shape[1:])
        padding = cast(tuple[int, int], self.layer.padding)
        return functional.conv2d(
            taken, kernels, None, self.layer.stride, padding, self.layer.dilation
        )

    def _moved(self, change: "Change", projected: Tensor) -> Tensor:
        """What the layer's output gains by a change."""
        before = self._bias()
        shift = None if before is None or change.bias is None else change.bias - before
        if isinstance(self.layer, nn.Linear):
            return functional.linear(projected, change.amounts, shift)
        return functional.conv2d(projected, change.amounts[:, :, None, None], shift)


@dataclass(frozen=True)
class Change:
    """What teaching changes.

    Attributes:
        amounts: Of the taught layer's weights in the directions of the basis, ``(out, r)``.
        bias: Of that layer, the new one; None if it has none.
        head: New parameters of the head, by their names in the network.
    """

    amounts: Tensor = field(repr=False)
    bias: Tensor | None = field(repr=False)
    head: Mapping[str, Tensor] = field(repr=False)

    def layer(self) -> list[Tensor]:
        """Return what is trained of the taught layer."""
        return [self.amounts, *([] if self.bias is None else [self.bias])]

    def trainable(self) -> "Change":
        """Return a copy that can be trained."""
        return self._each(lambda tensor: tensor.clone().requires_grad_())

    def detached(self) -> "Change":
        """Return the change as it is, to be trained no more."""
        return self._each(torch.Tensor.detach)

    def _each(self, treat: Callable[[Tensor], Tensor]) -> "Change":
        bias = None if self.bias is None else treat(self.bias)
        return Change(treat(self.amounts), bias, {n: treat(p) for n, p in self.head.items()})


def cut(network: nn.Module) -> Tail:
    """Cut a network at its last layer but one.

    The last layer alone, linear in its features, cannot tell hundreds of images apart without harm.
    A network with one layer is taught in that.

    Raises:
        ConfigError: torch.fx cannot trace the network, or it has no such layer.

    Example:
        >>> layers = nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 80), nn.ReLU(), nn.Linear(80, 4)
        >>> tail = cut(nn.Sequential(*layers))
        >>> tail.name, list(tail.parameters)
        ('2', ['4.weight', '4.bias'])
    """
    try:
        traced = fx.symbolic_trace(network.eval())
    except Exception as error:  # whatever tracing a module of somebody else may raise
        raise ConfigError(
            f"fingerprint.queries: this model cannot be traced by torch.fx ({error!r}), so that "
            "its last layers cannot be taught; set it to 0"
        ) from None
    nodes = list(traced.graph.nodes)
    layers = list(_layers(traced, nodes))[-2:]
    if not layers:
        raise ConfigError(
            "fingerprint.queries: the model has no linear or convolutional layer that could be "
            "taught; set it to 0"
        )
    place = layers[0]
    node = nodes[place]
    passed = _passed(nodes, place)
    taken = node.args[0] if node.args else node.kwargs["input"]
    return Tail(
        name=str(node.target),
        layer=cast(nn.Linear | nn.Conv2d, traced.get_submodule(str(node.target))),
        body=_piece(traced, nodes[: place + 1], (), (taken, *passed)),
        head=_piece(traced, nodes[place + 1 : -1], passed, nodes[-1].args[0]),
        output=passed.index(node),
        parameters=_own_parameters(traced, nodes, place),
    )


def _layers(traced: fx.GraphModule, nodes: Sequence[fx.Node]) -> Iterator[int]:
    """Where a layer with a weight matrix is run that is run once: positions of nodes."""
    targets = [node.target for node in nodes if node.op == "call_module"]
    for place, node in enumerate(nodes):
        if node.op == "call_module" and targets.count(node.target) == 1:
            module = traced.get_submodule(str(node.target))
            if isinstance(module, nn.Linear) or (
                isinstance(module, nn.Conv2d)
                and module.groups == 1
                and module.padding_mode == "zeros"
                and not isinstance(module.padding, str)
            ):
                yield place


def _passed(nodes: Sequence[fx.Node], place: int) -> tuple[fx.Node, ...]:
    """The values from up to a place that are used after it; constants can be had on both sides."""
    where = {node: i for i, node in enumerate(nodes)}
    return tuple(
        node
        for node in nodes[: place + 1]
        if node.op != "get_attr" and any(where[user] > place for user in node.users)
    )


def _own_parameters(
    traced: fx.GraphModule, nodes: Sequence[fx.Node], place: int
) -> dict[str, Tensor]:
    before = {id(p) for p in _used(traced, nodes[: place + 1]).values()}
    after = _used(traced, nodes[place + 1 :])
    return {name: p for name, p in after.items() if id(p) not in before}


def _used(traced: fx.GraphModule, nodes: Sequence[fx.Node]) -> dict[str, Tensor]:
    """Parameters that some nodes use, by name."""
    known = dict(traced.named_parameters())
    used: dict[str, Tensor] = {}
    for node in nodes:
        # A constant is used where it is read, not where the graph happens to fetch it.
        names = [n.target for n in node.all_input_nodes if n.op == "get_attr"]
        if node.op == "call_module":
            names += [n for n in known if n.startswith(f"{node.target}.")]
        used |= {str(name): known[str(name)] for name in names if name in known}
    return used


def _piece(
    traced: fx.GraphModule, nodes: Sequence[fx.Node], sources: tuple[fx.Node, ...], result: Any
) -> nn.Module:
    """The nodes as a module of their own; ``sources`` are the values that it is given."""
    graph = fx.Graph()
    copied = {source: graph.placeholder(f"passed_{i}") for i, source in enumerate(sources)}
    for node in nodes:
        for constant in node.all_input_nodes:
            if constant.op == "get_attr" and constant not in copied:
                copied[constant] = graph.node_copy(constant)
        if node not in copied:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(fx.map_arg(result, copied.__getitem__))
    return fx.GraphModule(traced, graph)
