"""What may stand in the place of a slice: first weights solved for, costs and damage measured.

Shapes: B batch, T tokens, H hidden size, F intermediate size, J neurons kept.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from slicewise.cost import count_flops, count_parameters, latency_ms
from slicewise.encoder.damage import Damage, Observations
from slicewise.encoder.plan import Candidate
from slicewise.encoder.refit import refit
from slicewise.encoder.sliced import Block, SlicedEncoder, Span, student_of, teacher_slice
from slicewise.errors import ArgumentError
from slicewise.layers import EncoderLayer
from slicewise.students.base import Student
from slicewise.students.bert_layer import BertLayer
from slicewise.students.keep import some_choices
from slicewise.students.layers import Geometry, read_layers
from slicewise.students.nothing import Nothing
from slicewise.students.reduction import (
    LayerMoments,
    Moments,
    fit_output,
    important_neurons,
    layer_moments,
    output_moments,
    reduce_attention,
    reduce_feed_forward,
)
from slicewise.teacher import TeacherSlice

_BYTES = 4
# Times that a latency is measured.
_ROUNDS = 4
# Choices of so many of a slice's layers that are all proposed.
_FEW = 6


@dataclass(frozen=True)
class Proposal:
    """A student that a slice might get.

    Attributes:
        span: The slice.
        family: The class of the student.
        arguments: Of its constructor, besides what the slice says itself; JSON values.
        layers: Those of the original's layers that it is made of; empty where the family has its
            own way.
    """

    span: Span
    family: type[Student]
    arguments: tuple[tuple[str, Any], ...] = ()
    layers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Says what it is, and is its own among the proposals of a slice.

        Example:
            >>> sizes = {"num_attention_heads": 6, "intermediate_size": 64}
            >>> Proposal(Span(0, 2), BertLayer, tuple(sizes.items()), (1,)).name
            'layer 1, 6 heads, 64 neurons'
        """
        if self.family is Nothing:
            return "nothing"
        units = {"num_attention_heads": "head", "intermediate_size": "neuron"}
        words = [
            f"{value} {units[key]}{'s' * (value != 1)}" if key in units else f"{key} {value}"
            for key, value in self.arguments
        ]
        kept = ", ".join(map(str, self.layers))
        what = (
            f"{'layer' if len(self.layers) == 1 else 'layers'} {kept}"
            if self.layers
            else self.family.__module__.rpartition(".")[2]
        )
        return ", ".join([what, *words])

    @property
    def code(self) -> str:
        """In short; its own among all proposals of an encoder that is cut into slices once.

        Example:
            >>> sizes = {"num_attention_heads": 6, "intermediate_size": 64}
            >>> Proposal(Span(0, 2), BertLayer, tuple(sizes.items()), (1,)).code
            'L1/6h/64n'
            >>> Proposal(Span(2, 2), Nothing).code
            'drop2-3'
        """
        span = "-".join(map(str, dict.fromkeys((self.span.first_layer, self.span.end - 1))))
        if self.family is Nothing:
            return f"drop{span}"
        units = {"num_attention_heads": "{}h", "intermediate_size": "{}n"}
        words = [units.get(key, f"{key}={{}}").format(value) for key, value in self.arguments]
        if self.layers:
            what = f"L{'+'.join(map(str, self.layers))}"
        else:
            what = f"{self.family.__module__.rpartition('.')[2]}{span}"
        return "/".join([what, *words])


def kept_whole(original: SlicedEncoder, span: Span) -> Proposal:
    """The slice itself.

    Args:
        original: As `original_encoder` returns it.
        span: The slice.
    """
    geometry = Geometry.of(teacher_slice(original, span))
    return _of_layers(span, span.layers, geometry.num_attention_heads, geometry.intermediate_size)


def propose(
    original: SlicedEncoder,
    span: Span,
    neurons: Iterable[int | float] = (1.0, 0.67, 0.5, 0.33, 0.17, 0.08),
    heads: Iterable[int | float] = (1.0, 0.5, 0.33, 0.17),
    others: Iterable[tuple[type[Student], Mapping[str, Any]]] = (),
) -> list[Proposal]:
    """The students that a slice might get: some of its layers, whole or narrower; nothing.

    Args:
        original: As `original_encoder` returns it.
        span: The slice.
        neurons: Of each layer kept; numbers, or shares up to 1.0 of what the original has.
        heads: Likewise.
        others: Other families, each with arguments of its constructor.

    Returns:
        The slice itself first, nothing last.

    Raises:
        ArgumentError: More neurons or heads than the original has, or less than one.

    Example:
        >>> from slicewise.encoder.sliced import original_encoder, partition
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> for proposal in propose(original, Span(0, 2), neurons=[48, 12], heads=[2]):
        ...     print(proposal.name)
        layers 0, 1, 2 heads, 48 neurons
        layers 0, 1, 2 heads, 12 neurons
        layer 0, 2 heads, 48 neurons
        layer 0, 2 heads, 12 neurons
        layer 1, 2 heads, 48 neurons
        layer 1, 2 heads, 12 neurons
        nothing
    """
    geometry = Geometry.of(teacher_slice(original, span))
    widths = _sizes("neurons", neurons, geometry.intermediate_size)
    head_counts = _sizes("heads", heads, geometry.num_attention_heads)
    whole = kept_whole(original, span)
    kept = [
        _of_layers(span, layers, head_count, width)
        for layers in _choices(span)
        for head_count in head_counts
        for width in widths
    ]
    other = [
        Proposal(span, family, tuple(sorted(arguments.items()))) for family, arguments in others
    ]
    return list(dict.fromkeys([whole, *kept, *other, Proposal(span, Nothing)]))


class Workshop:
    """Builds candidates: what they have in common is computed once.

    The importance of heads and neurons, and all least squares, come from what the original makes of
    some texts. Where heads or layers are missing, each of a candidate's layers is fitted to what
    those before it return (see `slicewise.encoder.refit`).

    Args:
        observed: What the original makes of some texts; some ten tokens for each neuron of a
            layer.

    Example:
        >>> from slicewise.encoder.sliced import original_encoder
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> workshop = Workshop(Observations(original, [f"Text number {n}." for n in range(64)]))
        >>> half = propose(original, Span(0, 1), neurons=[24], heads=[2])[1]
        >>> block = workshop.build(half)
        >>> count_parameters(block)
        3696
    """

    def __init__(self, observed: Observations) -> None:
        self.observed = observed
        self.original = observed.original
        self._own: dict[int, EncoderLayer] = {}
        self._moments: dict[int, LayerMoments] = {}
        # Of one layer with some heads and all its neurons: what every width is a part of.
        self._wide: tuple[tuple[object, ...], tuple[EncoderLayer, Moments]] | None = None

    def build(self, proposal: Proposal) -> Block:
        """The student with its first weights, in eval mode, on the original's device.

        Args:
            proposal: Of `propose`.

        Raises:
            ArgumentError: The family cannot be built so.
        """
        span = proposal.span
        teacher = teacher_slice(self.original, span)
        student = _new_student(teacher, proposal).to(self._device())
        block = Block(student, span, proposal.layers).eval()
        entering = self.observed.entering(span.first_layer)
        if not isinstance(student, BertLayer) or not proposal.layers:
            student.start_from(teacher, entering)
        elif student.encoder.is_tied:
            # What runs several times cannot be fitted to each of the layers that it stands for.
            kept = [layer - span.first_layer for layer in proposal.layers]
            student.start_from(teacher, entering, keep=kept)
        elif len(proposal.layers) == 1 and not self._is_fitted_by_itself(proposal):
            self._fill_one(student, proposal)
        else:
            for layer, number in zip(student.encoder, proposal.layers, strict=True):
                own, seen = self._layer(number)
                reduce_attention(own.attention, layer.attention, seen)
                reduce_feed_forward(own.feed_forward, layer.feed_forward, seen)
            if not self._is_fitted_by_itself(proposal):
                refit([block], self.observed)
        return block

    def _is_fitted_by_itself(self, proposal: Proposal) -> bool:
        """Whether its neurons are all that is missing: those left are fitted to the others."""
        heads = kept_whole(self.original, proposal.span).arguments[0]
        return proposal.layers == (proposal.span.first_layer,) == proposal.span.layers and (
            heads in proposal.arguments
        )

    @torch.no_grad()
    def _fill_one(self, student: BertLayer, proposal: Proposal) -> None:
        """As `refit` would, with the work that all widths of a layer share done once."""
        (layer,), (number,), span = student.encoder, proposal.layers, proposal.span
        own, seen = self._layer(number)
        key = (span, number, layer.attention.num_attention_heads)
        followed, _ = self._layer(span.end - 1)
        if self._wide is None or self._wide[0] != key:
            reduce_attention(own.attention, layer.attention, seen)
            wide = EncoderLayer(copy.deepcopy(layer.attention), own.feed_forward)
            inputs = self.observed.entering(span.first_layer)
            entering = self.observed.entering(span.end - 1)
            moments = output_moments(wide, inputs, followed, entering)
            self._wide = (key, (wide, moments))
        wide, moments = self._wide[1]
        layer.attention.load_state_dict(wide.attention.state_dict())
        reduce_feed_forward(own.feed_forward, layer.feed_forward, seen)
        kept = layer.feed_forward.intermediate.out_features
        keep_J = important_neurons(own.feed_forward, seen, kept)
        sums_H = torch.arange(own.feed_forward.intermediate.out_features, len(moments.mean_I))
        norm = followed.feed_forward.norm
        fit_output(layer.feed_forward, norm, moments.of(torch.cat([keep_J, sums_H])))

    def _layer(self, number: int) -> tuple[EncoderLayer, LayerMoments]:
        """A layer of the original, and the moments in it."""
        if number not in self._own:
            encoder = read_layers(teacher_slice(self.original, Span(number, 1)), 1)
            (self._own[number],) = encoder
            (self._moments[number],) = layer_moments(encoder, self.observed.entering(number))
        return self._own[number], self._moments[number]

    def _device(self) -> torch.device:
        return self.observed.batches[0].keep.device


class Measures(NamedTuple):
    """What a candidate costs and does.

    Attributes:
        parameters: Of the student.
        flops: Of one text of `seq_length` tokens.
        latency_ms: Of one such text, on the device: the least of several medians.
        damage: To the model with only this slice replaced, on text.
    """

    parameters: int
    flops: int
    latency_ms: float
    damage: Damage


class Scales:
    """Measures candidates; those of one shape are timed once.

    Args:
        observed: What the original makes of other texts than the candidates were built on.
        seq_length: T, of FLOPs and latency.
    """

    def __init__(self, observed: Observations, seq_length: int = 64) -> None:
        self.observed = observed
        self.seq_length = seq_length
        self._costs: dict[str, tuple[int, int, float]] = {}

    def measure(self, block: Block) -> Measures:
        """Costs and damage of a candidate.

        Args:
            block: As `Workshop.build` returns it.
        """
        return Measures(*self._cost(block), self.observed.damage(block))

    def candidate(self, proposal: Proposal, measures: Measures) -> Candidate:
        """What a plan needs to know."""
        costs = {
            "parameters": measures.parameters,
            "flops": measures.flops,
            "latency_ms": measures.latency_ms,
            "megabytes": measures.parameters * _BYTES / 1e6,
        }
        return Candidate(
            proposal.span,
            proposal.name,
            measures.damage.damage,
            costs,
            plain_neurons(self.observed.original, proposal),
        )

    def _cost(self, block: Block) -> tuple[int, int, float]:
        student = student_of(block)
        key = json.dumps([type(student).__name__, student.config], sort_keys=True)
        if key not in self._costs:
            hidden_size = self.observed.original.hidden_size
            self._costs[key] = (
                count_parameters(student),
                count_flops(student, 1, self.seq_length, hidden_size),
                # The least of several: a machine that is busy for a moment makes none slower.
                min(
                    latency_ms(student, hidden_size, self.seq_length, runs=7, warm_up_runs=2)
                    for _ in range(_ROUNDS)
                ),
            )
        return self._costs[key]


def num_parameters(original: SlicedEncoder, proposal: Proposal) -> int:
    """Of a candidate, which is not built for it.

    Args:
        original: As `original_encoder` returns it.
        proposal: Of `propose`.

    Raises:
        ArgumentError: The family cannot be built so.
    """
    return count_parameters(_on_meta(original, proposal))


def num_flops(original: SlicedEncoder, proposal: Proposal, seq_length: int) -> int:
    """Of a candidate and one text, as `Scales` measures them; it is not built for it.

    Args:
        original, proposal: As `num_parameters` takes them.
        seq_length: T.

    Raises:
        ArgumentError: The family cannot be built so.
    """
    return count_flops(_on_meta(original, proposal), 1, seq_length, original.hidden_size)


def _on_meta(original: SlicedEncoder, proposal: Proposal) -> Student:
    """A candidate without weights: its shapes alone."""
    with torch.device("meta"):
        return _new_student(teacher_slice(original, proposal.span), proposal)


def _new_student(teacher: TeacherSlice, proposal: Proposal) -> Student:
    """As its constructor leaves it."""
    arguments = {**proposal.family.sizes_from(teacher), **dict(proposal.arguments)}
    if proposal.family is BertLayer:
        arguments["num_layers"] = len(proposal.layers)
        description = arguments.get("architecture")
        if description is not None and proposal.layers:
            kinds = description["layers"]
            first = proposal.span.first_layer
            kept = [kinds[layer - first] for layer in proposal.layers]
            arguments["architecture"] = {**description, "layers": kept}
    return proposal.family(**arguments)


def plain_neurons(original: SlicedEncoder, proposal: Proposal) -> int | None:
    """The neurons of each layer, where a plain model of the family can hold the student.

    0 where it has no layers, None where a plain model cannot hold it: as `Candidate.neurons`.
    """
    if proposal.family is Nothing:
        return 0
    if proposal.family is not BertLayer or not proposal.layers:
        return None
    arguments = dict(proposal.arguments)
    geometry = Geometry.of(teacher_slice(original, proposal.span))
    whole = {"num_attention_heads": geometry.num_attention_heads}
    narrowed = {key: value for key, value in arguments.items() if key != "intermediate_size"}
    if narrowed.items() - whole.items():
        return None
    neurons: int = arguments.get("intermediate_size", geometry.intermediate_size)
    return neurons


def _of_layers(span: Span, layers: tuple[int, ...], heads: int, neurons: int) -> Proposal:
    arguments = (("num_attention_heads", heads), ("intermediate_size", neurons))
    return Proposal(span, BertLayer, arguments, layers)


def _choices(span: Span) -> list[tuple[int, ...]]:
    """Which layers of a slice may be kept: all of them first."""
    return [
        choice
        for count in range(span.num_layers, 0, -1)
        for choice in some_choices(span.layers, count, _FEW)
    ]


def _sizes(name: str, given: Iterable[int | float], most: int) -> list[int]:
    """Numbers or shares of `most`, as numbers, the largest first, each once."""
    sizes = set()
    for size in given:
        number = max(1, round(size * most)) if isinstance(size, float) else size
        if not 1 <= number <= most:
            raise ArgumentError(name, size, f"1 to {most}, or shares up to 1.0 of it")
        sizes.add(number)
    return sorted(sizes, reverse=True)
