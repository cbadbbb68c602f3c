"""Encoder layers with sizes of their own, which compute as those of the teacher's architecture do.

They are what several families are made of, and what a teacher's layers are read into.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), V value_dim
(all heads), W = V / N, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from slicewise.architecture import OtherShape, fill, find_architecture, origin_of, sizes_of
from slicewise.arguments import (
    check_integers,
    check_multiple,
    check_numbers,
    check_probabilities,
)
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.layers import EncoderLayer, NewLinear, new_layer

if TYPE_CHECKING:
    from slicewise.students.base import Student
    from slicewise.teacher import TeacherSlice

_SIZES = (
    "input_dim",
    "num_layers",
    "num_attention_heads",
    "attention_hidden_size",
    "value_dim",
    "intermediate_size",
)


class Encoder(nn.Module):
    """Layers one after the other.

    Args:
        sizes: What each layer is made of: `input_dim`, `num_layers`, `num_attention_heads`,
            `attention_hidden_size`, `value_dim`, `intermediate_size`, `dropout`,
            `layer_norm_eps`, `hidden_act`, and `architecture`, as `described` returns it; other
            keys are not looked at.
        linear: Makes a projection from its input and output size; `nn.Linear` unless given.

    Raises:
        ArgumentError: There is no such architecture.

    Example:
        >>> encoder = Encoder({
        ...     "input_dim": 24, "num_layers": 3, "num_attention_heads": 2,
        ...     "attention_hidden_size": 4, "value_dim": 6, "intermediate_size": 32,
        ...     "dropout": 0.0, "layer_norm_eps": 1e-12, "hidden_act": "gelu"})
        >>> len(list(encoder)), encoder(torch.randn(2, 5, 24)).shape
        (3, torch.Size([2, 5, 24]))
    """

    def __init__(self, sizes: Mapping[str, Any], linear: NewLinear = nn.Linear) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        # Which of them runs when: one that is tied runs several times.
        self.order: list[int] = []
        description, tied = sizes.get("architecture"), dict[Any, int]()
        if description is None:
            self.order = list(range(sizes["num_layers"]))
            self.layers.extend(new_layer(sizes, linear) for _ in self.order)
            return
        architecture = find_architecture(description["model_type"])
        if architecture is None:
            raise ArgumentError(
                "architecture.model_type", description["model_type"], "one that is installed"
            )
        for kind in description["layers"]:
            name = kind.get("tied")
            number = len(self.layers) if name is None else tied.setdefault(name, len(self.layers))
            if number == len(self.layers):
                self.layers.append(architecture.new_layer(sizes, kind, linear))
            self.order.append(number)

    def __iter__(self) -> Iterator[EncoderLayer]:
        """Its layers, first to last, as they run."""
        return (cast(EncoderLayer, self.layers[number]) for number in self.order)

    @property
    def is_tied(self) -> bool:
        """Whether a layer runs several times."""
        return len(self.layers) < len(self.order)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H)."""
        x_BTH = hidden_states
        for layer in self:
            x_BTH = layer(x_BTH, attention_mask)
        return x_BTH


@dataclass(frozen=True)
class Geometry:
    """The sizes of a teacher slice, by the names that students call them.

    Attributes:
        architecture: What else its layers are, as `Encoder` takes it; None of BERT's shape.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> geometry = Geometry.of(
        ...     random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32))
        >>> geometry.num_attention_heads, geometry.attention_hidden_size, geometry.hidden_act
        (2, 12, 'gelu')
    """

    input_dim: int
    num_layers: int
    num_attention_heads: int
    attention_hidden_size: int
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    architecture: dict[str, Any] | None = None

    @classmethod
    def of(cls, teacher: TeacherSlice) -> Geometry:
        """Reads them off the first layer; all layers of an encoder have the same sizes.

        Raises:
            SlicewiseError: No layer of a student's computes what the teacher's layers do.
        """
        if teacher.sublayer != "layer":
            raise _other_shape(teacher.source, "a block is no whole layer")
        try:
            sizes = sizes_of(teacher.layers[0])
            origins = [origin_of(layer) for layer in teacher.layers]
            kinds = [None if one is None else one.kind() for one in origins]
        except OtherShape as error:
            raise _other_shape(teacher.source, str(error)) from error
        first = origins[0]
        assert first is not None
        return cls(
            input_dim=teacher.hidden_size,
            num_layers=len(teacher.layers),
            architecture=described(first.config.model_type, kinds),
            **sizes,
        )

    def sizes(self, *besides: str) -> dict[str, Any]:
        """Those that a student takes from the teacher.

        Args:
            besides: Names of those that it does not.
        """
        if self.architecture is None:
            besides = (*besides, "architecture")
        return {name: value for name, value in vars(self).items() if name not in besides}


def described(model_type: str, kinds: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What layers are besides their sizes; None where they are of BERT's shape. All JSON values.

    Args:
        model_type: Of their architecture.
        kinds: Of each layer, as `slicewise.architecture.Architecture.kind` returns it.
    """
    if all(kind is None for kind in kinds):
        return None
    return {"model_type": model_type, "layers": [dict(kind or {}) for kind in kinds]}


def fitted(description: Mapping[str, Any] | None, num_layers: int) -> dict[str, Any] | None:
    """The description of so many layers.

    Args:
        description: As `described` returns it: the first of its layers are taken, and where there
            are more to be, the last of them over and over.
        num_layers: How many.
    """
    if description is None:
        return None
    kinds = list(description["layers"])
    kinds += kinds[-1:] * (num_layers - len(kinds))
    return {**description, "layers": kinds[:num_layers]}


def check_architecture(student: Student, geometry: Geometry) -> None:
    """Refuses a student of another architecture than the teacher's, whose weights it is to take.

    Raises:
        ArgumentError: With the student's architecture.
    """
    ours, theirs = (
        None if one is None else one["model_type"]
        for one in (student.config.get("architecture"), geometry.architecture)
    )
    if ours != theirs:
        raise ArgumentError(
            "architecture", ours, f"{theirs}, as the teacher is, where the weights come from it"
        )


def take_kinds(student: Student, geometry: Geometry, layers: Sequence[int]) -> None:
    """Makes a student's layers of the kinds of those that it is about to be filled from.

    Args:
        student: Has an `encoder`; it is made anew where a layer is of another kind.
        geometry: Of the teacher.
        layers: Of the slice, one for each of the student's.
    """
    if geometry.architecture is None:
        return
    kinds = [geometry.architecture["layers"][layer] for layer in layers]
    if student.config["architecture"]["layers"] == kinds:
        return
    student.config["architecture"] = {**student.config["architecture"], "layers": kinds}
    weight = next(student.parameters())
    fresh = type(student)(**student.config).to(weight)
    student.encoder = fresh.get_submodule("encoder").train(student.training)


@torch.no_grad()
def read_layers(teacher: TeacherSlice, num_layers: int) -> Encoder:
    """A copy of the teacher's first layers, frozen, in eval mode and on the teacher's device.

    Args:
        teacher: Of an architecture that has an adapter.
        num_layers: How many layers.

    Raises:
        ArgumentError: The teacher has fewer.
        SlicewiseError: No layer of a student's computes what the teacher's layers do.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> encoder = read_layers(teacher, num_layers=2)
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> torch.allclose(encoder(x_BTH), teacher(x_BTH), atol=1e-5)
        True
    """
    geometry = Geometry.of(teacher)
    if num_layers > geometry.num_layers:
        raise ArgumentError(
            "num_layers", num_layers, f"1 to {geometry.num_layers}, the layers of the teacher"
        )
    source = teacher.layers[:num_layers]
    encoder = Encoder(
        {
            **geometry.sizes(),
            "architecture": fitted(geometry.architecture, num_layers),
            "num_layers": num_layers,
            "value_dim": geometry.num_attention_heads * geometry.attention_hidden_size,
            "dropout": 0.0,
        }
    )
    for layer, ours in zip(source, encoder, strict=True):
        fill(ours, layer)
    encoder.requires_grad_(False).eval()
    device = next(encoder.parameters()).device
    encoder.to(device)
    # The names can fit where the computation does not: layer norms before the blocks, say.
    x_BTH = torch.randn(1, 4, geometry.input_dim, generator=torch.Generator().manual_seed(0))
    x_BTH = x_BTH.to(device)
    y_BTH = x_BTH
    for layer in source:
        output = layer(y_BTH, None)
        y_BTH = output[0] if isinstance(output, tuple) else output
    if not torch.allclose(encoder(x_BTH), y_BTH, atol=1e-4):
        raise _other_shape(teacher.source)
    return encoder


def check_sizes(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that no layer can be made of.

    Args:
        arguments: `dropout`, `layer_norm_eps`, `hidden_act`, and those sizes that there are.

    Raises:
        ArgumentError: A size is not positive, the heads do not divide `value_dim`, `dropout` is
            not a probability below 1, `layer_norm_eps` is negative, or transformers has no
            activation `hidden_act`.

    Example:
        >>> check_sizes(
        ...     {"num_layers": 0, "dropout": 0.0, "layer_norm_eps": 1e-12, "hidden_act": "gelu"})
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: num_layers=0: allowed: an integer of at least 1
    """
    check_integers(1, **{name: arguments[name] for name in _SIZES if name in arguments})
    check_probabilities(dropout=arguments["dropout"])
    check_numbers(0, layer_norm_eps=arguments["layer_norm_eps"])
    if arguments["hidden_act"] not in ACT2FN:
        raise ArgumentError("hidden_act", arguments["hidden_act"], ", ".join(sorted(ACT2FN)))
    if "value_dim" in arguments:
        heads = arguments["num_attention_heads"]
        check_multiple("value_dim", arguments["value_dim"], "num_attention_heads", heads)


def check_head_size(input_dim: int, num_attention_heads: int) -> None:
    """Refuses heads that do not divide the hidden size, where they share it.

    Raises:
        ArgumentError: They do not.

    Example:
        >>> check_head_size(input_dim=24, num_attention_heads=12)
    """
    if input_dim % num_attention_heads:
        divisors = [n for n in range(1, input_dim + 1) if input_dim % n == 0]
        raise ArgumentError(
            "num_attention_heads",
            num_attention_heads,
            f"a divisor of input_dim={input_dim}: {', '.join(map(str, divisors))}",
        )


def _other_shape(source: str, why: str = "") -> SlicewiseError:
    return SlicewiseError(
        f"The layers of {source} are not of a shape which this student takes sizes or weights "
        f"from{': ' if why else ''}{why}\nWithout them: student=approx"
    )
