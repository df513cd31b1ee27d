"""The last layers of a network, to be trained alone, and a frozen body whose output is kept.

A network is cut where a single tensor carries everything from what lies before to what lies after.
The body then runs once for each image, not once for each step and customer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from smdl_flower.errors import ConfigError

LEAST_WEIGHTS = 20_000
LEAST_MATRICES = 2
_CHUNK = 200


@dataclass(frozen=True)
class Tail:
    """A network in two pieces.

    Attributes:
        body: Images -> features.
        head: Features -> logits.
        parameters: Of the head, by their names in the network; those the body shares left out.
    """

    body: nn.Module = field(repr=False)
    head: nn.Module = field(repr=False)
    parameters: Mapping[str, Tensor] = field(repr=False)

    @torch.no_grad()
    def features(self, inputs: Tensor) -> Tensor:
        """Return what the body makes of inputs ``(n, ...)``, in pieces."""
        return torch.cat([self.body(piece) for piece in inputs.split(_CHUNK)])

    def logits(self, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """Return what the head with other parameters makes of features, ``(n, classes)``."""
        output: Tensor = torch.func.functional_call(self.head, dict(parameters), (features,))
        return output


def cut(network: nn.Module) -> Tail:
    """Cut a network before its last layers.

    The tail is the shortest that holds two weight tensors of two or more dimensions and 20,000
    weights in all such (one layer that is linear in its features cannot tell hundreds of images
    apart without harm); if none has so many, the longest.

    Raises:
        ConfigError: torch.fx cannot trace the network, or it has no weights.

    Example:
        >>> layers = nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 80), nn.ReLU(), nn.Linear(80, 4)
        >>> tail = cut(nn.Sequential(*layers))
        >>> list(tail.parameters)
        ['2.weight', '2.bias', '4.weight', '4.bias']
    """
    try:
        traced = fx.symbolic_trace(network.eval())
    except Exception as error:  # whatever tracing a module of somebody else may raise
        raise ConfigError(
            f"fingerprint.queries: this model cannot be traced by torch.fx ({error!r}), so that "
            "its last layers cannot be taught; set it to 0"
        ) from None
    nodes = list(traced.graph.nodes)
    places = list(_places(nodes))
    chosen = next((p for p in places if _suffices(traced, nodes, p)), places[-1])
    tail = Tail(
        body=_piece(traced, nodes[: chosen + 1], None, nodes[chosen]),
        head=_piece(traced, nodes[chosen + 1 : -1], nodes[chosen], nodes[-1].args[0]),
        parameters=_parameters(traced, nodes, chosen),
    )
    if not tail.parameters:
        raise ConfigError("fingerprint.queries: the model has no weights of its own to be taught")
    return tail


def _places(nodes: list[fx.Node]) -> Iterator[int]:
    """Where only one value crosses, the last place first: positions of the nodes that give it."""
    where = {node: i for i, node in enumerate(nodes)}
    # How far each value reaches; constants can be had on both sides.
    reach = [
        -1 if node.op == "get_attr" else max((where[u] for u in node.users), default=-1)
        for node in nodes
    ]
    for place in reversed(range(len(nodes) - 1)):
        crossing = [i for i in range(place + 1) if reach[i] > place]
        if crossing == [place]:
            yield place


def _suffices(traced: fx.GraphModule, nodes: list[fx.Node], place: int) -> bool:
    matrices = [p for p in _parameters(traced, nodes, place).values() if p.dim() >= 2]
    weights = sum(p.numel() for p in matrices)
    return len(matrices) >= LEAST_MATRICES and weights >= LEAST_WEIGHTS


def _parameters(traced: fx.GraphModule, nodes: list[fx.Node], place: int) -> dict[str, Tensor]:
    before = {id(p) for p in _used(traced, nodes[: place + 1]).values()}
    after = _used(traced, nodes[place + 1 :])
    return {name: p for name, p in after.items() if id(p) not in before}


def _used(traced: fx.GraphModule, nodes: list[fx.Node]) -> dict[str, Tensor]:
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
    traced: fx.GraphModule, nodes: list[fx.Node], source: fx.Node | None, result: Any
) -> nn.Module:
    """The nodes as a module of their own; ``source`` is the value that it is given."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    if source is not None:
        copied[source] = graph.placeholder("features")
    for node in nodes:
        for constant in node.all_input_nodes:
            if constant.op == "get_attr" and constant not in copied:
                copied[constant] = graph.node_copy(constant)
        if node not in copied:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(fx.map_arg(result, copied.__getitem__))
    return fx.GraphModule(traced, graph)
