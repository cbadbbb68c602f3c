"""Candidates: which there are, their first weights, what they cost and do."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.cost import count_flops, count_parameters
from slicewise.encoder.candidates import Proposal, Scales, Workshop, kept_whole, propose
from slicewise.encoder.damage import Observations
from slicewise.encoder.plan import choose
from slicewise.encoder.refit import refit
from slicewise.encoder.sliced import (
    Block,
    SlicedEncoder,
    Span,
    assemble,
    original_encoder,
    partition,
    teacher_slice,
)
from slicewise.errors import ArgumentError
from slicewise.students.bert_layer import BertLayer
from slicewise.students.linear import Linear
from slicewise.students.low_rank import LowRank
from slicewise.students.nothing import Nothing
from slicewise.students.reduction import reduce_attention, reduce_feed_forward
from slicewise.teacher import minilm
from tests.slicewise.encoder.encoders import loud_original, many_texts


@pytest.fixture(scope="module")
def original() -> SlicedEncoder:
    return loud_original()


@pytest.fixture(scope="module")
def observed(original: SlicedEncoder) -> Observations:
    return Observations(original, many_texts(200))


@pytest.fixture(scope="module")
def scales(original: SlicedEncoder) -> Scales:
    return Scales(Observations(original, many_texts(260)[200:]), seq_length=16)


@pytest.fixture
def workshop(observed: Observations) -> Workshop:
    return Workshop(observed)


def test_any_of_a_slices_layers_are_proposed_whole_and_narrower(original: SlicedEncoder) -> None:
    others = [(LowRank, {"rank": 4}), (Linear, {})]
    names = [
        proposal.name
        for proposal in propose(original, Span(1, 2), [0.5, 48], [4, 0.25], others=others)
    ]
    assert names[0] == "layers 1, 2, 4 heads, 48 neurons"
    assert names[-3:] == ["low_rank, rank 4", "linear", "nothing"]
    assert len(names) == len(set(names)) == 3 * 4 + 3
    for layers in ("layers 1, 2", "layer 1", "layer 2"):
        assert f"{layers}, 1 head, 24 neurons" in names


@settings(max_examples=10, deadline=None)
@given(num_layers=st.integers(1, 9))
def test_of_long_slices_not_every_choice_is_proposed(num_layers: int) -> None:
    original = loud_original(num_layers, hidden_size=8, intermediate_size=8, num_attention_heads=1)
    proposals = propose(original, Span(0, num_layers), [1.0], [1.0])
    layers = [proposal.layers for proposal in proposals]
    assert layers[0] == tuple(range(num_layers))
    assert layers[-1] == ()
    assert len(layers) == len(set(layers)) <= 6 * num_layers + 1
    assert all(list(kept) == sorted(set(kept)) for kept in layers)
    assert {len(kept) for kept in layers} == set(range(num_layers + 1))


@pytest.mark.parametrize(
    ("neurons", "heads", "name"),
    [([49], [4], "neurons=49"), ([1.5], [4], r"neurons=1\.5"), ([48], [0], "heads=0")],
)
def test_more_than_there_is_is_refused(
    neurons: list[float], heads: list[float], name: str, original: SlicedEncoder
) -> None:
    with pytest.raises(ArgumentError, match=f"{name}: allowed: 1 to"):
        propose(original, Span(0, 1), neurons, heads)


def test_the_slice_itself_is_the_slice_to_the_bit(
    original: SlicedEncoder, workshop: Workshop
) -> None:
    for span in (Span(1, 1), Span(1, 2)):
        block = workshop.build(kept_whole(original, span))
        teacher = teacher_slice(original, span)
        for batch in workshop.observed.entering(1):
            assert torch.equal(block(*batch[:2]), teacher(*batch[:2]))


def test_each_is_what_it_is_called(original: SlicedEncoder, workshop: Workshop) -> None:
    others = [(LowRank, {"rank": 4}), (Linear, {})]
    for span in (Span(0, 1), Span(1, 2)):
        for proposal in propose(original, span, [0.25, 0.5], [0.5, 1.0], others):
            block = workshop.build(proposal)
            assert type(block.module) is proposal.family
            assert block.span == span
            assert block.layers == proposal.layers
            assert not any(part.training for part in block.modules())
            config = block.module.config
            assert dict(proposal.arguments).items() <= config.items()
            if proposal.layers:
                assert config["num_layers"] == len(proposal.layers)


@pytest.mark.parametrize("layers", [(0,), (1,)], ids=lambda layers: f"layer {layers[0]} of two")
def test_work_that_is_shared_changes_nothing(
    layers: tuple[int, ...], original: SlicedEncoder, workshop: Workshop
) -> None:
    """In any order: as if each had been reduced, and refitted, by itself.

    But for how far the covariance of more numbers is shrunk.
    """
    span = Span(0, 2)
    proposals = [
        proposal
        for proposal in propose(original, span, [0.5, 0.25, 1.0], [0.5, 1.0])
        if proposal.layers == layers
    ]
    for proposal in [*proposals, *reversed(proposals)]:
        teacher = teacher_slice(original, span)
        sizes = {**BertLayer.sizes_from(teacher), "num_layers": 1, **dict(proposal.arguments)}
        alone = Block(BertLayer(**sizes).eval(), span, layers)
        (layer,) = alone.module.encoder
        own, seen = Workshop(workshop.observed)._layer(layers[0])
        reduce_attention(own.attention, layer.attention, seen)
        reduce_feed_forward(own.feed_forward, layer.feed_forward, seen)
        refit([alone], workshop.observed)
        ours, theirs = (
            workshop.observed.damage(block).text_l1 for block in (workshop.build(proposal), alone)
        )
        assert ours == pytest.approx(theirs, rel=0.01, abs=1e-6)


def test_wider_does_less_damage(
    original: SlicedEncoder, workshop: Workshop, scales: Scales
) -> None:
    span = Span(1, 1)
    damages = [
        scales.measure(workshop.build(proposal)).damage.damage
        for proposal in propose(original, span, [48, 24, 6], [4])
    ]
    assert damages == sorted(damages)
    assert damages[0] == pytest.approx(0, abs=1e-6)
    assert damages[1] < 0.5 * damages[-1]


def test_costs_are_those_of_the_student(
    original: SlicedEncoder, workshop: Workshop, scales: Scales
) -> None:
    half = propose(original, Span(1, 1), [24], [4])[1]
    block = workshop.build(half)
    measures = scales.measure(block)
    assert measures.parameters == count_parameters(block)
    assert measures.flops == count_flops(block, 1, 16, 24)
    assert measures.latency_ms > 0
    # Of one shape, whatever the slice: timed once.
    again = scales.measure(workshop.build(propose(original, Span(2, 1), [24], [4])[1]))
    assert again[:3] == measures[:3]
    candidate = scales.candidate(half, measures)
    assert candidate.costs["megabytes"] == pytest.approx(4e-6 * measures.parameters)
    assert candidate.name == half.name
    nothing = scales.measure(workshop.build(Proposal(Span(1, 1), Nothing)))
    assert nothing[:2] == (0, 0)


def test_what_a_plain_model_can_hold_says_its_neurons(
    original: SlicedEncoder, workshop: Workshop, scales: Scales
) -> None:
    span = Span(0, 1)
    expected = {
        "layer 0, 4 heads, 48 neurons": 48,
        "layer 0, 4 heads, 12 neurons": 12,
        "layer 0, 2 heads, 48 neurons": None,
        "layer 0, 2 heads, 12 neurons": None,
        "low_rank, rank 4": None,
        "nothing": 0,
    }
    proposals = propose(original, span, [48, 12], [4, 2], [(LowRank, {"rank": 4})])
    found = {
        proposal.name: scales.candidate(proposal, scales.measure(workshop.build(proposal))).neurons
        for proposal in proposals
    }
    assert found == expected


def test_the_teacher_is_left_as_it_was(original: SlicedEncoder, workshop: Workshop) -> None:
    before = copy.deepcopy(original.state_dict())
    for proposal in propose(original, Span(0, 2), [0.5], [0.5]):
        workshop.build(proposal)
    assert all(torch.equal(t, before[name]) for name, t in original.state_dict().items())


def test_from_candidates_to_a_plan_that_is_what_was_predicted(
    original: SlicedEncoder, workshop: Workshop, scales: Scales
) -> None:
    spans = partition(4, 1)
    proposals = [propose(original, span, [1.0, 0.5, 0.25], [1.0, 0.5]) for span in spans]
    library = [
        [scales.candidate(p, scales.measure(workshop.build(p))) for p in slice_]
        for slice_ in proposals
    ]
    whole = sum(slice_[0].costs["parameters"] for slice_ in library)
    (plan,) = choose(library, {"parameters": 0.5 * whole})
    by_name = [{p.name: p for p in slice_} for slice_ in proposals]
    blocks = [
        workshop.build(names[candidate.name])
        for names, candidate in zip(by_name, plan.candidates, strict=True)
    ]
    encoder = assemble(original, blocks)
    assert count_parameters(encoder.blocks) == plan.cost("parameters") <= 0.5 * whole
    measured = scales.observed.damage_of(encoder).damage
    assert measured < 3 * plan.damage
    # Better than the same layer in the place of every other.
    dropped = [
        workshop.build(kept_whole(original, span)) if k % 2 else Block(Nothing(24), span)
        for k, span in enumerate(spans)
    ]
    assert measured < scales.observed.damage_of(assemble(original, dropped)).damage


def test_on_real_weights_which_layer_is_kept_decides() -> None:
    """As measured by hand: of layers 0 and 1 the first, of layers 4 and 5 the last."""
    original = original_encoder(minilm(0, 1))
    workshop = Workshop(Observations(original, many_texts(300), 32))
    scales = Scales(Observations(original, many_texts(340)[300:], 32))
    for span, better in ((Span(0, 2), 0), (Span(4, 2), 5)):
        damages = {
            proposal.layers: scales.observed.damage(workshop.build(proposal)).damage
            for proposal in propose(original, span, [1.0], [1.0])
            if len(proposal.layers) == 1
        }
        assert min(damages, key=lambda layers: damages[layers]) == (better,)
