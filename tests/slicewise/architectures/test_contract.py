"""What holds for every architecture, on small random checkpoints of transformers' own classes.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from slicewise.architecture import find_architecture
from slicewise.cost import count_parameters
from slicewise.data.batch import Batch
from slicewise.encoder.candidates import Workshop, propose
from slicewise.encoder.damage import Observations
from slicewise.encoder.export import export_model
from slicewise.encoder.folder import load_model
from slicewise.encoder.sliced import Span, assemble, keep_slice, original_encoder, partition
from slicewise.students.base import Student
from slicewise.students.bert_layer import BertLayer
from slicewise.students.linear import Linear
from slicewise.students.low_rank import LowRank
from slicewise.students.original import Original
from slicewise.teacher import TeacherSlice
from slicewise.whole import additive_mask
from tests.slicewise.architectures.checkpoints import (
    ALL,
    HIDDEN_SIZE,
    NAMES,
    WORDS,
    model_of,
    slice_of,
)

T = 14
LENGTHS = (14, 9, 3)
TEXTS = [" ".join(WORDS[(7 * n + k) % 60] for k in range(3 + n % 9)) for n in range(40)]

any_architecture = pytest.mark.parametrize("name", ALL)
each_architecture = pytest.mark.parametrize("name", NAMES)


def _ids() -> Tensor:
    return torch.randint(4, 64, (len(LENGTHS), T), generator=torch.Generator().manual_seed(1))


def _keep(padded: bool) -> Tensor:
    lengths_B = torch.tensor(LENGTHS if padded else [T] * len(LENGTHS))
    return torch.arange(T) < lengths_B[:, None]


def _batch(teacher_name: str) -> Batch:
    """What enters the second layer, padded."""
    keep_BT = _keep(padded=True)
    with torch.no_grad():
        states = model_of(teacher_name)(
            input_ids=_ids(), attention_mask=keep_BT.long(), output_hidden_states=True
        ).hidden_states
    return Batch(states[1], additive_mask(keep_BT))


def _assert_close(output_BTH: Tensor, expected_BTH: Tensor, batch: Batch, atol: float) -> None:
    keep_BT = batch.real_tokens()
    assert keep_BT is not None
    torch.testing.assert_close(output_BTH[keep_BT], expected_BTH[keep_BT], atol=atol, rtol=0)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@any_architecture
def test_each_layer_returns_the_models_own_next_states(name: str, padded: bool) -> None:
    model, keep_BT = model_of(name), _keep(padded)
    with torch.no_grad():
        output = model(input_ids=_ids(), attention_mask=keep_BT.long(), output_hidden_states=True)
    architecture = find_architecture(model.config.model_type)
    assert architecture is not None
    states = list(output.hidden_states)
    for layer in range(4):
        teacher = slice_of(name, layer, 1)
        y_BTH = teacher(states[layer], additive_mask(keep_BT))
        expected_BTH = states[layer + 1]
        if layer == 3:
            y_BTH, expected_BTH = architecture.final(model)(y_BTH), output.last_hidden_state
        torch.testing.assert_close(y_BTH[keep_BT], expected_BTH[keep_BT], atol=1e-5, rtol=0)


@any_architecture
def test_a_slice_of_several_and_the_model_around_it(name: str) -> None:
    teacher = slice_of(name, 1, 2)
    whole = teacher.whole()
    ids_BT, keep_BT = _ids(), _keep(padded=True)
    mask = additive_mask(keep_BT)
    y_BTH = whole.above(teacher(whole.enter(ids_BT, keep_BT), mask), mask)
    with torch.no_grad():
        expected_BTH = model_of(name)(input_ids=ids_BT, attention_mask=keep_BT.long())[0]
    final_BTH = whole.final(y_BTH)
    torch.testing.assert_close(final_BTH[keep_BT], expected_BTH[keep_BT], atol=1e-5, rtol=0)


def _keeping_all(family: type[Student], teacher: TeacherSlice) -> Student:
    student = family(**family.sizes_from(teacher)).eval()
    student.start_from(teacher)
    return student


@pytest.mark.parametrize("family", [BertLayer, LowRank, Original])
@any_architecture
def test_a_student_that_keeps_everything_is_the_slice(name: str, family: type[Student]) -> None:
    teacher, batch = slice_of(name, 1, 3), _batch(name)
    student = _keeping_all(family, teacher)
    json.dumps(student.config)
    output_BTH = student(batch.hidden_states, batch.attention_mask)
    # Full rank takes two rounded products for one.
    atol = 1e-4 if family is LowRank else 1e-5
    _assert_close(output_BTH, teacher(batch.hidden_states, batch.attention_mask), batch, atol)
    if family is not LowRank:
        assert count_parameters(student) == count_parameters(teacher)


@each_architecture
def test_pruned_heads_and_neurons_stay_near_the_slice(name: str) -> None:
    teacher, batch = slice_of(name, 1, 2), _batch(name)
    sizes = BertLayer.sizes_from(teacher)
    expected_BTH = teacher(batch.hidden_states, batch.attention_mask)
    losses = []
    # Two of three heads: they do not divide the hidden size, nor three layers' worth of neurons.
    for narrower in ({}, {"num_attention_heads": 2, "intermediate_size": 29}):
        student = BertLayer(**{**sizes, **narrower}).eval()
        random_BTH = student(batch.hidden_states, batch.attention_mask)
        student.start_from(teacher, [batch])
        output_BTH = student(batch.hidden_states, batch.attention_mask)
        keep_BT = batch.real_tokens()
        losses.append((output_BTH - expected_BTH)[keep_BT].abs().mean())
        assert losses[-1] < 0.7 * (random_BTH - expected_BTH)[keep_BT].abs().mean()
    assert losses[0] < 1e-5 < losses[1]


@each_architecture
def test_the_last_layer_in_the_place_of_two(name: str) -> None:
    """Layers of different kinds in one slice: the student is of the kind that it is made of."""
    teacher, batch = slice_of(name, 2, 2), _batch(name)
    student = BertLayer(**{**BertLayer.sizes_from(teacher), "num_layers": 1}).eval()
    student.start_from(teacher, keep="last")
    last = slice_of(name, 3, 1)
    expected_BTH = last(batch.hidden_states, batch.attention_mask)
    output_BTH = student(batch.hidden_states, batch.attention_mask)
    _assert_close(output_BTH, expected_BTH, batch, 1e-5)
    again = BertLayer(**json.loads(json.dumps(student.config))).eval()
    again.load_state_dict(student.state_dict())
    _assert_close(again(batch.hidden_states, batch.attention_mask), expected_BTH, batch, 1e-5)


@each_architecture
def test_an_affine_map_needs_no_adapter(name: str) -> None:
    teacher, batch = slice_of(name, 1, 2), _batch(name)
    student = Linear(HIDDEN_SIZE)
    student.start_from(teacher, [batch])
    assert student(batch.hidden_states).isfinite().all()


@pytest.fixture
def observed() -> Callable[[str], Observations]:
    return lambda name: Observations(original_encoder(slice_of(name, 0, 1)), TEXTS)


@each_architecture
def test_half_of_it_exports_and_loads_as_a_plain_model(
    name: str, tmp_path: Path, observed: Callable[[str], Observations]
) -> None:
    """Three of four layers, of fewer neurons."""
    seen = observed(name)
    original = seen.original
    workshop = Workshop(seen)
    # Where one layer runs in all places, weights are shared within a slice alone.
    tied = keep_slice(original, Span(0, 4)).module.encoder.is_tied  # type: ignore[union-attr]
    spans = partition(4, 4) if tied else partition(4, 2)
    wanted = [(0, 1), (2,)] if not tied else [(0, 1, 2)]
    blocks = []
    for span, layers in zip(spans, wanted, strict=True):
        (half,) = [
            one
            for one in propose(original, span, neurons=[10], heads=[3])
            if one.layers == layers and ("intermediate_size", 10) in one.arguments
        ]
        blocks.append(workshop.build(half))
    encoder = assemble(original, blocks)
    kept = [keep_slice(original, span) for span in spans]
    assert count_parameters(encoder.blocks) < 0.7 * count_parameters(
        assemble(original, kept).blocks
    )
    assert export_model(encoder, tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model").train(False)
    assert type(model) is type(model_of(name))
    assert model.config.num_hidden_layers == 3
    ids_BT, keep_BT = encoder.tokenize(TEXTS[:6], 12)
    with torch.no_grad():
        expected_BTH = encoder(ids_BT, keep_BT)
        output_BTH = model(input_ids=ids_BT, attention_mask=keep_BT.long()).last_hidden_state
    torch.testing.assert_close(output_BTH[keep_BT], expected_BTH[keep_BT], atol=1e-5, rtol=0)
    again = load_model(tmp_path / "model").encode(TEXTS[:6])
    torch.testing.assert_close(again, encoder.encode(TEXTS[:6]), atol=1e-5, rtol=0)


@each_architecture
def test_a_mixture_is_saved_and_loaded(
    name: str, tmp_path: Path, observed: Callable[[str], Observations]
) -> None:
    seen = observed(name)
    original, workshop = seen.original, Workshop(seen)
    first, second = partition(4, 2)
    (narrow,) = [
        one
        for one in propose(original, first, neurons=[17], heads=[2])
        if one.layers == (1,) and ("num_attention_heads", 2) in one.arguments
    ]
    encoder = assemble(original, [workshop.build(narrow), keep_slice(original, second)])
    assert not export_model(encoder, tmp_path / "model")
    expected_NH = encoder.encode(TEXTS[:6])
    again = load_model(tmp_path / "model")
    torch.testing.assert_close(again.encode(TEXTS[:6]), expected_NH, atol=1e-5, rtol=0)
    # Once more, as it was loaded: what the config says of all layers is still there.
    assert not export_model(again, tmp_path / "again")
    model = AutoModel.from_pretrained(tmp_path / "again").train(False)
    ids_BT, keep_BT = encoder.tokenize(TEXTS[:6], 12)
    with torch.no_grad():
        output_BTH = model(input_ids=ids_BT, attention_mask=keep_BT.long()).last_hidden_state
        expected_BTH = encoder(ids_BT, keep_BT)
    torch.testing.assert_close(output_BTH[keep_BT], expected_BTH[keep_BT], atol=1e-5, rtol=0)
