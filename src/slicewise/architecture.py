"""What slicewise has to know of an architecture, and where it finds who knows it.

An adapter is one small file that is named as transformers names the architecture (its config's
`model_type`, with _ for -). Ours lie in `slicewise.architectures`; yours lies in a package of your
own, which names it by an entry point of that group (docs/architectures.md). No other file knows an
architecture's name.

Shapes: B batch, T tokens, H hidden size, F intermediate size.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.metadata
import importlib.util
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from slicewise.errors import SlicewiseError
from slicewise.layers import EncoderLayer, NewLinear, new_layer

# The package that ours lie in, and the group of entry points that name others.
GROUP = "slicewise.architectures"


class OtherShape(SlicewiseError):
    """A layer that runs in a slice, but that no student can be made of."""


class Handed(nn.Module):
    """A layer of a model together with what the model hands it besides the hidden states.

    A subclass has a `forward`: (B, T, H), and an additive mask (B, 1, 1, T) or None, to (B, T, H).

    Args:
        layer: The model's own.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


class Architecture(ABC):
    """How an architecture's layers are found, run in a slice, read and written.

    An instance, called `architecture`, is all that an adapter's file has to offer. What is not
    overridden is as in BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805): layers that
    take hidden states and a mask, norms after the blocks, biases.

    Attributes:
        title: What people call it.
        stack: The name of the list of layers in a model.
        parts: Where a layer of ours (`slicewise.layers.EncoderLayer`) finds its linear maps and
            norms in one of theirs.
        neurons_key, activation_key: What its config calls them.

    Example:
        An adapter for a model whose layers are of BERT's shape, under names of their own:

        >>> class Mine(Architecture):
        ...     title = "Mine"
        ...     stack = "tower.blocks"
        ...     parts = {
        ...         "attention.query": "q", "attention.key": "k", "attention.value": "v",
        ...         "attention.dense": "o", "attention.norm": "norm_1",
        ...         "feed_forward.intermediate": "up", "feed_forward.output": "down",
        ...         "feed_forward.norm": "norm_2"}
        >>> architecture = Mine()
    """

    title: ClassVar[str]
    stack: ClassVar[str]
    parts: ClassVar[Mapping[str, str]]
    neurons_key: ClassVar[str] = "intermediate_size"
    activation_key: ClassVar[str] = "hidden_act"

    # Of a whole model

    def layer_names(self, model: PreTrainedModel) -> list[str]:
        """The layers' names as modules of the model, in the order in which they run."""
        return [f"{self.stack}.{number}" for number in range(len(self._stack_of(model)))]

    def shared_names(self, model: PreTrainedModel) -> list[str]:
        """The names of modules that all layers use and none has to itself."""
        return []

    def run(self, model: PreTrainedModel, number: int, layer: nn.Module) -> nn.Module:
        """A layer as it runs in a slice: `(hidden_states, attention_mask)` to hidden states.

        Args:
            model: What the layer is of.
            number: Of the layer, from 0.
            layer: The module itself; itself is what runs, unless it has to be handed more.
        """
        return layer

    def shortened(self, config: PreTrainedConfig, num_layers: int) -> PreTrainedConfig:
        """The config of the same model without what lies above its first layers."""
        return self.with_layers(config, range(num_layers))

    def with_layers(self, config: PreTrainedConfig, numbers: Sequence[int]) -> PreTrainedConfig:
        """The config of a model that has some of the layers; a copy.

        Args:
            config: Of a model with all of them.
            numbers: Which; one for each layer that is left.
        """
        config = copy.deepcopy(config)
        config.num_hidden_layers = len(numbers)
        return config

    def take_layers_out(self, model: PreTrainedModel) -> nn.Module:
        """Changes a model so that it returns what would enter its first layer.

        Returns:
            What follows the last layer, (B, T, H) to (B, T, H); in BERT nothing does.
        """
        holder, _, name = self.stack.rpartition(".")
        setattr(model.get_submodule(holder), name, nn.ModuleList())
        return nn.Identity()

    def final(self, model: PreTrainedModel) -> nn.Module:
        """What follows the last layer, of a model that still has its layers."""
        return nn.Identity()

    def num_positions(self, model: PreTrainedModel) -> int:
        """How many tokens the model has positions for."""
        positions = model.get_submodule("embeddings.position_embeddings")
        assert isinstance(positions, nn.Embedding)
        # Some count from the one after the padding's.
        taken = 0 if positions.padding_idx is None else positions.padding_idx + 1
        return positions.num_embeddings - taken

    # Of a layer

    def kind(self, config: PreTrainedConfig, number: int) -> dict[str, Any] | None:
        """What tells a layer of ours apart from one of BERT's shape, besides its sizes; as JSON.

        Layers with an equal entry `tied` are one and the same, run several times.

        Args:
            config: Of the model.
            number: Of the layer, from 0.

        Returns:
            None where nothing does.

        Raises:
            OtherShape: No layer of ours computes what this one does.
        """
        return None

    def new_layer(
        self, sizes: Mapping[str, Any], kind: Mapping[str, Any], linear: NewLinear = nn.Linear
    ) -> EncoderLayer:
        """A layer of ours, of this architecture.

        Args:
            sizes: As `slicewise.layers.new_layer` takes them.
            kind: As `kind` returns it.
            linear: Makes a projection.
        """
        return new_layer(sizes, linear)

    def parts_of(self, layer: nn.Module) -> dict[str, nn.Module | Tensor]:
        """What is in a layer of theirs, by the names that it has in one of ours.

        Raises:
            OtherShape: It lacks some of it.
        """
        modules = dict(own(layer).named_modules())
        missing = [name for name in self.parts.values() if name not in modules]
        if missing:
            raise OtherShape(f"a layer of {self.title} without {missing[0]}")
        return {ours: modules[theirs] for ours, theirs in self.parts.items()}

    @torch.no_grad()
    def write(self, ours: EncoderLayer, layer: nn.Module) -> None:
        """Gives a layer of theirs the weights of one of ours, of the same sizes."""
        for name, part in self.parts_of(layer).items():
            if isinstance(part, nn.Module):
                part.load_state_dict(ours.get_submodule(name).state_dict())

    def why_not_plain(
        self, config: PreTrainedConfig, kinds: Sequence[Mapping[str, Any] | None]
    ) -> str:
        """What keeps a model of this architecture from having such layers; empty if nothing does.

        Args:
            config: Of the original.
            kinds: Of all layers that are left, first to last.
        """
        return ""

    def _stack_of(self, model: PreTrainedModel) -> nn.ModuleList:
        layers = model.get_submodule(self.stack)
        assert isinstance(layers, nn.ModuleList)
        return layers


def own(layer: nn.Module) -> nn.Module:
    """The model's own layer, of one that runs in a slice."""
    return layer.layer if isinstance(layer, Handed) else layer


@dataclass(frozen=True)
class Origin:
    """Where a layer is from; it goes with the layer, into whatever slice.

    Attributes:
        architecture: The adapter of its model.
        config: Of the model.
        number: Of the layer, from 0.
    """

    architecture: Architecture
    config: PreTrainedConfig
    number: int

    def __deepcopy__(self, memo: object) -> Origin:
        return self

    def kind(self) -> dict[str, Any] | None:
        """As `Architecture.kind`."""
        return self.architecture.kind(self.config, self.number)


def layers_of(model: PreTrainedModel, architecture: Architecture) -> list[nn.Module]:
    """The layers of a model as they run in a slice, each with its origin."""
    layers = []
    for number, name in enumerate(architecture.layer_names(model)):
        layer = architecture.run(model, number, model.get_submodule(name))
        layer.origin = Origin(architecture, model.config, number)  # type: ignore[assignment]
        layers.append(layer)
    return layers


def origin_of(layer: nn.Module) -> Origin | None:
    """Where a layer is from; None of one that no adapter has found."""
    origin = vars(layer).get("origin")
    return origin if isinstance(origin, Origin) else None


def sizes_of(layer: nn.Module) -> dict[str, Any]:
    """The sizes of a layer that has an origin, by the names that students call them.

    Raises:
        OtherShape: No layer of ours has such sizes, or such an activation.
    """
    origin = origin_of(layer)
    if origin is None:
        raise OtherShape("of no architecture that is known")
    architecture, config = origin.architecture, origin.config
    hidden_act = getattr(config, architecture.activation_key)
    if hidden_act not in ACT2FN:
        raise OtherShape(f"{architecture.activation_key}={hidden_act}")
    parts: dict[str, Any] = architecture.parts_of(layer)
    heads: int = config.num_attention_heads
    return {
        "num_attention_heads": heads,
        "attention_hidden_size": parts["attention.query"].out_features // heads,
        "intermediate_size": parts["feed_forward.intermediate"].out_features,
        "layer_norm_eps": parts["feed_forward.norm"].eps,
        "hidden_act": hidden_act,
    }


def fill(ours: EncoderLayer, layer: nn.Module) -> None:
    """Gives a layer of ours the weights of one of theirs, of the same sizes: copies."""
    origin = origin_of(layer)
    assert origin is not None
    for name, part in origin.architecture.parts_of(layer).items():
        if isinstance(part, nn.Module):
            ours.set_submodule(name, copy.deepcopy(part), strict=True)
        else:
            place, _, last = name.rpartition(".")
            setattr(ours.get_submodule(place), last, part.clone())


def read_layer(layer: nn.Module, hidden_size: int) -> EncoderLayer:
    """A layer of theirs as one of ours: a copy, frozen, in eval mode.

    Args:
        layer: As `layers_of` returns it.
        hidden_size: H.

    Raises:
        OtherShape: No layer of ours computes what this one does.
    """
    sizes = {**sizes_of(layer), "input_dim": hidden_size, "dropout": 0.0}
    sizes["value_dim"] = sizes["num_attention_heads"] * sizes["attention_hidden_size"]
    origin = origin_of(layer)
    assert origin is not None
    kind = origin.kind()
    if kind is None:
        ours = new_layer(sizes)
    else:
        ours = origin.architecture.new_layer(sizes, kind)
    fill(ours, layer)
    return ours.requires_grad_(False).eval()


@functools.cache
def find_architecture(model_type: str) -> Architecture | None:
    """The adapter of an architecture; None where there is none.

    Args:
        model_type: As transformers calls it.

    Raises:
        SlicewiseError: Its file offers no adapter.

    Example:
        >>> find_architecture("no such model") is None
        True
    """
    name = model_type.replace("-", "_")
    if name in _own_names():
        found = getattr(importlib.import_module(f"{GROUP}.{name}"), "architecture", None)
        where = f"{GROUP}.{name}"
    else:
        entries = importlib.metadata.entry_points(group=GROUP)
        entry = next((e for e in entries if e.name.replace("-", "_") == name), None)
        if entry is None:
            return None
        found, where = entry.load(), entry.value
    if not isinstance(found, Architecture):
        raise SlicewiseError(f"{where} is no adapter: an instance of {Architecture.__name__}")
    return found


def known_architectures() -> list[str]:
    """The names of all adapters: transformers' `model_type`, with _ for -."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return sorted({*_own_names(), *(entry.name.replace("-", "_") for entry in entries)})


def architecture_list() -> str:
    """The titles of all architectures that have an adapter, for a message.

    Example:
        >>> "ELECTRA" in architecture_list()
        True
    """
    found = (find_architecture(name) for name in known_architectures())
    return ", ".join(one.title for one in found if one is not None)


@functools.cache
def _own_names() -> frozenset[str]:
    folder = Path(__file__).with_name(GROUP.rpartition(".")[2])
    return frozenset(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
