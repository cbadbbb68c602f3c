"""What every student family promises. A new family is here as soon as its file is.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import pickle
import typing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from slicewise.cost import count_flops, count_parameters
from slicewise.data.batch import Batch
from slicewise.errors import ArgumentError
from slicewise.students.base import Student
from slicewise.students.folder import load_student, save_student
from slicewise.teacher import TeacherSlice, random_bert
from slicewise.trust import name_of
from tests.slicewise.students.families import ALL_FAMILIES, CONFIGS, FAMILIES, Family
from tests.slicewise.teachers import loud_teacher

# Large enough for every family's configuration, and no size equal to another.
SIZES = {"hidden_size": 72, "num_attention_heads": 6, "intermediate_size": 96}
H = SIZES["hidden_size"]

every_family = pytest.mark.parametrize("family", ALL_FAMILIES, ids=str)
# Those that take weights from a teacher.
every_starting_family = pytest.mark.parametrize(
    "family", [family for family in ALL_FAMILIES if family.starts_from_teacher], ids=str
)
with_weights = pytest.mark.parametrize(
    "family", [family for family in ALL_FAMILIES if family.has_weights], ids=str
)
few = settings(max_examples=10, deadline=None)

AdditiveMask = Callable[..., Tensor]


@pytest.fixture(scope="module")
def teacher() -> TeacherSlice:
    """Two layers whose attention and neurons matter; nobody changes it."""
    return loud_teacher(**SIZES)


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _batches(number: int, hidden_size: int = H) -> list[Batch]:
    return [Batch(_noise(8, 16, hidden_size, seed=i)) for i in range(number)]


def _mask(*lengths: int, seq_length: int = 6) -> Tensor:
    """Additive, (B, 1, 1, T), of rows with so many real tokens."""
    keep_BT = torch.arange(seq_length) < torch.tensor(lengths)[:, None]
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(keep_BT.shape).masked_fill(~keep_BT, lowest)[:, None, None, :]


# Its configuration


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_its_file_has_the_constructors_arguments_and_no_others(family: Family) -> None:
    config = OmegaConf.load(CONFIGS[str(family)])
    assert config["_target_"] == name_of(family.student)
    assert set(config) - {"_target_", "init"} == set(family.parameters)
    assert config["init"] in family.student.initialisations


def test_every_file_is_a_familys() -> None:
    names = {str(family) for family in FAMILIES}
    for name, path in CONFIGS.items():
        config = OmegaConf.load(path)
        # A file with defaults is a size of another; one without a target is for families of
        # other packages.
        assert "defaults" in config or OmegaConf.is_missing(config, "_target_") or name in names


@every_family
def test_its_config_is_plain_json_and_builds_it_again(
    family: Family, teacher: TeacherSlice
) -> None:
    student = family.new(teacher)
    assert json.loads(json.dumps(student.config, allow_nan=False)) == student.config
    assert set(student.config) == set(family.parameters)
    again = family.student(**student.config)
    assert again.config == student.config
    assert count_parameters(again) == count_parameters(student)
    shapes = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in each.state_dict().items()}
        for each in (student, again)
    ]
    assert shapes[0] == shapes[1]
    for one, other in zip(student.parameters(), again.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad


@every_family
def test_its_sizes_are_the_constructors_arguments(family: Family, teacher: TeacherSlice) -> None:
    sizes = family.student.sizes_from(teacher)
    assert set(sizes) <= set(family.parameters)
    assert sizes["input_dim"] == H


@every_family
def test_a_wrong_argument_is_refused_by_its_name(family: Family, teacher: TeacherSlice) -> None:
    """By the type that the constructor says: too small a size, no number, no such name."""
    wrong = {int: [-1], float: [-1.0, math.nan], str: ["no such thing"]}
    hints = typing.get_type_hints(family.student.__init__)
    values = {
        name: value
        for name in family.parameters
        for kind in (typing.get_args(hints[name]) or (hints[name],))
        for value in wrong.get(kind, [])
    }
    assert values
    for name, value in values.items():
        with pytest.raises(ArgumentError) as caught:
            family.new(teacher, **{name: value})
        assert caught.value.name == name
        assert str(caught.value).startswith(f"{name}={value}: allowed: ")


# What it computes


@every_family
@few
@given(batch_size=st.integers(1, 3), seq_length=st.integers(1, 9), masked=st.booleans())
def test_hidden_states_keep_their_shape(
    family: Family, batch_size: int, seq_length: int, masked: bool
) -> None:
    student = family.new(random_bert(**SIZES, num_hidden_layers=2)).eval()
    x_BTH = _noise(batch_size, seq_length, H)
    mask = _mask(*[1] * batch_size, seq_length=seq_length) if masked else None
    y_BTH = student(x_BTH, mask)
    assert y_BTH.shape == x_BTH.shape
    assert y_BTH.dtype == x_BTH.dtype
    assert y_BTH.isfinite().all()


def _autocast() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


@every_family
@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("with_grad", [True, False])
def test_padding_never_influences_real_tokens(
    family: Family, precision: str, with_grad: bool, teacher: TeacherSlice
) -> None:
    """To the bit, whatever the padding holds; nor does a gradient reach it."""
    student = family.started(teacher, []).eval()
    dtype = torch.float32
    if precision == "bfloat16":
        student, dtype = student.bfloat16(), torch.bfloat16
    lengths = (1, 3, 6)
    real_BT = torch.arange(6) < torch.tensor(lengths)[:, None]
    x_BTH = _noise(3, 6, H).to(dtype)
    other_BTH = torch.where(real_BT[:, :, None], x_BTH, 100 * _noise(3, 6, H, seed=2).to(dtype))
    outputs = []
    for inputs in (x_BTH, other_BTH):
        inputs.requires_grad_(with_grad)
        with (
            torch.set_grad_enabled(with_grad),
            _autocast() if precision == "autocast" else contextlib.nullcontext(),
        ):
            outputs.append(student(inputs, _mask(*lengths))[real_BT])
    assert torch.equal(*outputs)
    if with_grad:
        outputs[1].float().pow(3).sum().backward()
        assert other_BTH.grad is not None
        assert other_BTH.grad[real_BT].any()
        assert not other_BTH.grad[~real_BT].any()


@with_weights
def test_in_bfloat16_it_computes_nearly_the_same(family: Family) -> None:
    """Output and gradients: under autocast, and with weights in bfloat16."""
    teacher = random_bert(**SIZES, num_hidden_layers=2)
    student = family.started(teacher, [], **({"dropout": 0.0} if _drops(family) else {}))
    x_BTH, mask = _noise(2, 6, H), _mask(4, 6)
    target_BTH = _noise(2, 6, H, seed=2)

    def outcome(student: Student, context: AbstractContextManager[Any]) -> list[Tensor]:
        """Output, and gradients by input and parameters, in float32."""
        dtype = next(student.parameters()).dtype
        inputs = x_BTH.detach().clone().to(dtype).requires_grad_()
        with context:
            y_BTH = student(inputs, mask)
        F.mse_loss(y_BTH.float(), target_BTH).backward()
        tensors = [inputs, *(p for p in student.parameters() if p.requires_grad)]
        return [y_BTH.detach().float(), *(tensor.grad.float() for tensor in tensors)]  # type: ignore[union-attr]

    exact = outcome(copy.deepcopy(student), contextlib.nullcontext())
    for rough in (
        outcome(copy.deepcopy(student), _autocast()),
        outcome(copy.deepcopy(student).bfloat16(), contextlib.nullcontext()),
    ):
        largest = max(tensor.norm() for tensor in exact[1:])
        for near, tensor in zip(rough, exact, strict=True):
            assert near.isfinite().all()
            # A gradient that is nothing but rounding, of a key's bias, has no direction.
            assert (near - tensor).norm() <= 0.03 * max(tensor.norm(), 0.01 * largest)


def _drops(family: Family) -> bool:
    return "dropout" in family.parameters


@pytest.mark.parametrize("family", [family for family in ALL_FAMILIES if _drops(family)], ids=str)
def test_dropout_acts_in_training_only(family: Family, teacher: TeacherSlice) -> None:
    student = family.new(teacher, dropout=0.5).eval()
    x_BTH = _noise(2, 6, H)
    assert torch.equal(student(x_BTH), student(x_BTH))
    student.train()
    assert not torch.equal(student(x_BTH), student(x_BTH))


@every_family
def test_every_parameter_that_may_learn_does(family: Family, teacher: TeacherSlice) -> None:
    student = family.new(teacher)
    assert student.is_trainable == ("random" in student.initialisations)
    if not student.is_trainable:
        assert not any(parameter.requires_grad for parameter in student.parameters())
        return
    # Not a sum: a layer norm makes the sum of its outputs a constant.
    student(_noise(2, 6, H)).pow(3).sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        # A constant added to every key leaves the softmax as it was.
        assert parameter.grad.any() or ("key" in name and name.endswith("bias")), name


@with_weights
def test_its_operations_can_be_counted(family: Family, teacher: TeacherSlice) -> None:
    student = family.new(teacher)
    one, two = (count_flops(student, batch_size, 6, H) for batch_size in (1, 2))
    assert 0 < one < two == 2 * one


# Where it goes


@every_family
def test_a_folder_keeps_it_to_the_bit(family: Family, teacher: TeacherSlice, tmp_path: Any) -> None:
    student = family.started(teacher, _batches(1))
    loaded = load_student(save_student(student, tmp_path), trusted=["my_package.*"])
    _assert_same(student, loaded)
    assert not any(module.training for module in loaded.modules())


@every_family
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda student: pickle.loads(pickle.dumps(student))]
)
def test_a_copy_is_the_same_and_another(
    family: Family, copied: Callable[[Student], Student], teacher: TeacherSlice
) -> None:
    student = family.started(teacher, [])
    again = copied(student)
    _assert_same(student, again)
    assert again.training
    before = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def _assert_same(student: Student, other: Student) -> None:
    """In class, config, weights and output."""
    assert type(other) is type(student)
    assert other.config == student.config
    state = student.state_dict()
    assert list(other.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    for one, another in zip(student.parameters(), other.parameters(), strict=True):
        assert one.requires_grad == another.requires_grad
    x_BTH, mask = _noise(2, 6, H), _mask(4, 6)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(other).eval()(x_BTH, mask), _evaluated(student, mask))


def _evaluated(student: Student, mask: Tensor) -> Tensor:
    y_BTH: Tensor = copy.deepcopy(student).eval()(_noise(2, 6, H), mask)
    return y_BTH


# Where its first weights come from


@pytest.mark.parametrize(
    "family", [family for family in ALL_FAMILIES if not family.starts_from_teacher], ids=str
)
def test_who_cannot_start_from_a_teacher_says_so(family: Family, teacher: TeacherSlice) -> None:
    assert not family.student.reproduces_teacher
    with pytest.raises(ArgumentError, match=r"^init=teacher: allowed: random$"):
        family.new(teacher).start_from(teacher)


@pytest.mark.parametrize(
    "family", [f for f in ALL_FAMILIES if f.student.reproduces_teacher], ids=str
)
@few
@given(
    heads=st.sampled_from([1, 2, 3, 4, 6]),
    # As many neurons as hidden dimensions at least, as all encoders have.
    intermediate_size=st.integers(24, 40),
    num_layers=st.integers(1, 3),
    num_batches=st.integers(0, 2),
    tokens=st.sampled_from([1, 2, 3, 16]),
    length=st.integers(1, 6),
)
def test_a_student_that_keeps_everything_is_the_teacher(
    family: Family,
    heads: int,
    intermediate_size: int,
    num_layers: int,
    num_batches: int,
    tokens: int,
    length: int,
) -> None:
    teacher = loud_teacher(
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_layers=num_layers,
    )
    student = family.student(**family.student.sizes_from(teacher)).eval()
    student.start_from(teacher, [Batch(_noise(1, tokens, 24, seed=i)) for i in range(num_batches)])
    x_BTH = _noise(2, 6, 24)
    with torch.no_grad():
        for mask in (None, _mask(length, 6)):
            torch.testing.assert_close(
                student(x_BTH, mask), teacher(x_BTH, mask), atol=1e-5, rtol=0
            )


@every_starting_family
def test_who_does_not_reproduce_a_teacher_says_so(family: Family, teacher: TeacherSlice) -> None:
    student = family.student(**family.student.sizes_from(teacher)).eval()
    student.start_from(teacher, _batches(2))
    x_BTH = _noise(2, 6, H)
    reproduces = torch.allclose(student(x_BTH), teacher(x_BTH), atol=1e-4)
    assert family.student.reproduces_teacher == reproduces


@every_starting_family
@pytest.mark.parametrize("num_batches", [0, 1])
def test_starting_changes_its_weights_and_nothing_else(
    family: Family, num_batches: int, teacher: TeacherSlice
) -> None:
    student = family.new(teacher).double()
    _in_mixed_modes(student)
    modes = [module.training for module in student.modules()]
    parameters = list(student.parameters())
    learning = [parameter.requires_grad for parameter in parameters]
    before = copy.deepcopy((student.state_dict(), teacher.state_dict()))

    student.start_from(teacher, _batches(num_batches))

    assert [module.training for module in student.modules()] == modes
    # The same tensors, which an optimizer may hold already.
    assert all(map(_is, student.parameters(), parameters))
    assert [parameter.requires_grad for parameter in parameters] == learning
    assert all(p.is_leaf and p.grad is None for p in parameters)
    assert {p.dtype for p in parameters} <= {torch.float64}
    assert _differs(student, before[0]) == family.has_weights

    assert not _differs(teacher, before[1])
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    memory = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not any(parameter.data_ptr() in memory for parameter in parameters)
    assert not any(_hooks(module) for each in (student, teacher) for module in each.modules())


def _in_mixed_modes(student: nn.Module) -> None:
    for i, module in enumerate(student.modules()):
        module.training = i % 2 == 0


def _is(one: object, other: object) -> bool:
    return one is other


def _differs(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(t, before[name]) for name, t in module.state_dict().items())


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@pytest.mark.gpu(1)
@every_starting_family
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_teacher_student_and_batches_may_be_on_any_device(
    family: Family, devices: tuple[str, str], teacher: TeacherSlice
) -> None:
    expected = family.started(teacher, _batches(1))
    student = family.new(teacher).to(devices[0])
    student.start_from(copy.deepcopy(teacher).to(devices[1]), iter(_batches(1)))
    # A family without a weight is nowhere.
    assert {parameter.device.type for parameter in student.parameters()} <= {devices[0]}
    x_BTH = _noise(2, 6, H)
    with torch.no_grad():
        output = student.eval()(x_BTH.to(devices[0])).cpu()
        torch.testing.assert_close(output, expected.eval()(x_BTH), atol=1e-3, rtol=0)


@every_starting_family
def test_batches_are_looked_at_once(family: Family, teacher: TeacherSlice) -> None:
    """So that they may come out of a generator."""

    def handed_over() -> Iterator[Batch]:
        yield from _batches(2)

    once, listed = family.new(teacher), family.new(teacher)
    once.start_from(teacher, handed_over())
    listed.start_from(teacher, _batches(2))
    assert not _differs(once, listed.state_dict())


@every_starting_family
def test_padding_does_not_count(family: Family, teacher: TeacherSlice) -> None:
    x_BTH = _noise(8, 6, H)
    other_BTH = x_BTH.clone()
    other_BTH[:, 4:] = 100.0
    students = [family.new(teacher) for _ in range(2)]
    for student, hidden_states in zip(students, (x_BTH, other_BTH), strict=True):
        student.start_from(teacher, [Batch(hidden_states, _mask(*[4] * 8))])
    with torch.no_grad():
        one, other = (student.eval()(x_BTH) for student in students)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@every_starting_family
def test_a_teacher_of_another_hidden_size_is_refused(family: Family, teacher: TeacherSlice) -> None:
    narrow = loud_teacher(num_attention_heads=6)
    with pytest.raises(ArgumentError, match=rf"^input_dim={H}: allowed: 24"):
        family.new(teacher).start_from(narrow)


def test_the_families_are_found() -> None:
    names = [str(family) for family in FAMILIES]
    assert len(names) == len(set(names))
    assert {"approx", "bert_layer", "linear", "original"} <= set(names)
    assert all(not inspect.isabstract(family.student) for family in ALL_FAMILIES)
