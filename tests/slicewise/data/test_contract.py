"""What holds for every data module, whoever wrote it."""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback, LightningModule, Trainer

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.data.mixed import MixedDataModule
from slicewise.data.noise import NoiseDataModule
from slicewise.data.text import TextDataModule
from slicewise.data.tokens import TokensDataModule
from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice, random_bert

OWN_PACKAGE = Path(__file__).parents[2] / "own_family"


def _own() -> type[HiddenStatesDataModule]:
    """Of a package that is on the path only while it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OWN_PACKAGE)
        module: type[HiddenStatesDataModule] = importlib.import_module("my_package.data").Uniform
        return module


CPU = torch.device("cpu")
MODULES: dict[str, type[HiddenStatesDataModule]] = {
    "noise": NoiseDataModule,
    "tokens": TokensDataModule,
    "text": TextDataModule,
    "mixed": MixedDataModule,
    "own": _own(),
}
# Those that learn what a teacher knows, and those that read texts.
ENTERING, READING = ("tokens", "text", "mixed"), ("text", "mixed")
SIZES = {
    "hidden_size": 24,
    "batch_size": 3,
    "seq_length": 6,
    "train_batches": 4,
    "valid_batches": 2,
    "seed": 0,
}
splits = st.sampled_from([Split.TRAIN, Split.VALID])
numbers = st.integers(0, 10**6)


def _teacher(**sizes: int) -> TeacherSlice:
    """One layer, and one below it, 24 wide."""
    geometry = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return random_bert(first_layer=1, num_layers=1, hidden_size=24, **{**geometry, **sizes})


@pytest.fixture(scope="session")
def teacher() -> TeacherSlice:
    return _teacher()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(f"Sentence {n} is {'very ' * (n % 5)}short." for n in range(200)))
    return path


@pytest.fixture(params=MODULES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


New = Callable[..., HiddenStatesDataModule]


@pytest.fixture
def new(kind: str, teacher: TeacherSlice, text_file: Path) -> New:
    """Makes a data module for 24-wide teachers; small, unless told."""

    def make(**arguments: Any) -> HiddenStatesDataModule:
        offered = {**SIZES, "teacher": teacher, "files": [str(text_file)], **arguments}
        module = MODULES[kind]
        taken = inspect.signature(module).parameters
        return module(**{name: value for name, value in offered.items() if name in taken})

    return make


def _equal(one: Batch, other: Batch) -> bool:
    if one.attention_mask is None or other.attention_mask is None:
        return one.attention_mask is other.attention_mask and torch.equal(one[0], other[0])
    return torch.equal(one[1], other[1]) and torch.equal(one[0], other[0])  # type: ignore[arg-type]


def _batch(data: HiddenStatesDataModule, split: Split, number: int) -> Batch:
    return data.make_batch(BatchIndex(split, number), CPU)


# A batch


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(split=splits, number=numbers, before=st.lists(st.tuples(splits, numbers), max_size=3))
def test_batch_is_a_function_of_its_index(
    new: New, split: Split, number: int, before: list[tuple[Split, int]]
) -> None:
    """Whatever object makes it, after whatever others, wherever the global generator is."""
    one, other = new(), new()
    for index in before:
        _batch(other, *index)
    torch.manual_seed(number)
    state = torch.get_rng_state()
    made = _batch(other, split, number)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(number + 1)
    assert _equal(made, _batch(one, split, number))
    assert _equal(made, _batch(other, split, number))


def test_batches_of_a_stream_are_those_made_alone(new: New) -> None:
    """What a module prepares while the step before runs is no other batch."""
    data = new()
    for number in (0, 1, 2, 4, 3):
        assert _equal(_batch(data, Split.TRAIN, number), _batch(new(), Split.TRAIN, number))


def test_batches_differ_by_number_split_and_seed(new: New) -> None:
    batches = [
        _batch(new(seed=seed), split, number)
        for seed in (0, 1)
        for split in (Split.TRAIN, Split.VALID)
        for number in range(4)
    ]
    assert not any(_equal(one, other) for one, other in itertools.combinations(batches, 2))


def test_form_of_a_batch(new: New) -> None:
    data = new(batch_size=5, seq_length=7)
    for split, number in itertools.product((Split.TRAIN, Split.VALID), range(3)):
        x_BTH, mask, origin = _batch(data, split, number)
        assert x_BTH.shape == (5, 7, 24) == data.size
        assert x_BTH.dtype == torch.float32
        assert x_BTH.device == CPU
        assert x_BTH.isfinite().all()
        assert not x_BTH.requires_grad
        assert origin == BatchIndex(split, number)
        if mask is None:
            continue
        assert mask.shape == (5, 1, 1, 7)
        assert mask.dtype == torch.float32
        # Nothing of it is infinite in half precision, and a padding token has no weight at all.
        assert mask.half().isfinite().all()
        assert ((mask == 0) | (mask.half().exp() == 0)).all()
        # A row of padding alone would have no attention, and no loss.
        assert (mask == 0).any(-1).all()
        # A mask that hides nothing is none: attention without one is faster.
        assert (mask != 0).any()


# The stream


def test_ranks_take_turns(new: New, new_trainer: Callable[..., Trainer]) -> None:
    data = new(train_batches=6, valid_batches=4)
    data.trainer = new_trainer(devices=2, strategy="ddp_spawn")
    train, valid = data.train_dataloader(), data.val_dataloader()
    assert (train.rank, train.world_size, len(train)) == (0, 2, 3)
    assert [index.number for index in valid] == [0, 2]  # type: ignore[union-attr]
    train.rank = valid.rank = 1
    assert [next(iter(train)).number for _ in range(3)] == [1, 3, 5]  # type: ignore[union-attr]
    assert [index.number for index in valid] == [1, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["train_batches", "valid_batches"])
def test_every_rank_needs_a_batch(name: str, new: New, new_trainer: Callable[..., Trainer]) -> None:
    data = new(**{name: 1})
    data.trainer = new_trainer(devices=2, strategy="ddp_spawn")
    with pytest.raises(ArgumentError, match="at least one for each of 2 ranks") as caught:
        [data.train_dataloader(), data.val_dataloader()]
    assert caught.value.name == name


def test_a_stream_goes_on_where_it_stopped(new: New) -> None:
    stopped = new()
    stream = iter(stopped.train_dataloader())
    for _ in range(3):
        next(stream)
    state = stopped.state_dict()
    # As every checkpoint so far has it.
    assert state == {"batches": 3}
    resumed = new()
    resumed.load_state_dict(state)
    assert next(iter(resumed.train_dataloader())) == BatchIndex(Split.TRAIN, 3)
    assert new().state_dict() == {}


class _Recorder(Callback):
    """Keeps the batches that reach the module."""

    def __init__(self) -> None:
        self.train: list[Batch] = []
        self.valid: list[Batch] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.train.append(batch)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.valid.append(batch)


def _all_equal(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(map(_equal, found, expected))


def test_a_fit_trains_on_the_stream_and_validates_on_the_same(
    new: New, new_trainer: Callable[..., Trainer], new_distiller: Callable[..., Distiller]
) -> None:
    recorder = _Recorder()
    trainer = new_trainer(max_epochs=2, callbacks=[recorder])
    trainer.fit(new_distiller(), datamodule=new(train_batches=3, valid_batches=2))
    expected = new()
    assert _all_equal(recorder.train, [_batch(expected, Split.TRAIN, n) for n in range(6)])
    assert _all_equal(recorder.valid, 2 * [_batch(expected, Split.VALID, n) for n in range(2)])
    assert trainer.callback_metrics["valid_l1"].isfinite()


def test_a_fit_goes_on_where_it_stopped(
    new: New,
    new_trainer: Callable[..., Trainer],
    new_distiller: Callable[..., Distiller],
    tmp_path: Path,
) -> None:
    recorder, path = _Recorder(), tmp_path / "stopped.ckpt"
    stopped = new_trainer(max_steps=3, max_epochs=-1)
    stopped.fit(new_distiller(), datamodule=new())
    stopped.save_checkpoint(path)
    resumed = new_trainer(max_steps=7, max_epochs=-1, callbacks=[recorder])
    resumed.fit(new_distiller(), datamodule=new(), ckpt_path=path, weights_only=True)
    expected = new()
    assert _all_equal(recorder.train, [_batch(expected, Split.TRAIN, n) for n in range(3, 7)])


# The digest


def test_digest_is_the_same_for_the_same_batches(new: New, text_file: Path, tmp_path: Path) -> None:
    """Sizes and seed are named besides; where texts lie, and what else is loaded, is no matter."""
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text_file.read_bytes())
    one = new()
    assert isinstance(one.digest(), str)
    _batch(one, Split.VALID, 0)
    others = [new(), new(teacher=_teacher()), new(files=str(copy))]
    others += [new(seed=4), new(batch_size=2, train_batches=7, valid_batches=5)]
    # The layers above the slice, and the slice itself, have no part in what enters it.
    other = _teacher()
    for parameter in (*other.parameters(), *other.whole().above.parameters()):
        parameter.add_(1)
    others.append(new(teacher=other))
    assert {other.digest() for other in others} == {one.digest()}


@pytest.mark.parametrize("kind", ENTERING, indirect=True)
@pytest.mark.parametrize(
    "changed",
    [
        # Other weights.
        {"seed": 1},
        # The same weights, put to another use.
        {"num_attention_heads": 4},
    ],
)
def test_digest_names_what_the_teacher_does(new: New, changed: dict[str, int]) -> None:
    one, other = new(), new(teacher=_teacher(**changed))
    assert not _equal(_batch(one, Split.TRAIN, 1), _batch(other, Split.TRAIN, 1))
    assert one.digest() != other.digest()


@pytest.mark.parametrize("kind", ENTERING, indirect=True)
def test_digest_names_what_the_tokenizer_does(new: New) -> None:
    other_teacher = _teacher()
    tokenizer: Any = other_teacher.whole().tokenizer
    tokenizer.word_ids = range(1000, 4096)
    one, other = new(), new(teacher=other_teacher)
    assert not _equal(_batch(one, Split.TRAIN, 1), _batch(other, Split.TRAIN, 1))
    assert one.digest() != other.digest()


@pytest.mark.parametrize("kind", READING, indirect=True)
def test_digest_names_the_texts(new: New, text_file: Path, tmp_path: Path) -> None:
    texts = text_file.read_text().splitlines()
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    digests = {new(files=str(path)).digest()}
    path.write_text("\n".join(texts[:-1]))
    digests.add(new(files=str(path)).digest())
    path.write_text("\n".join(reversed(texts)))
    digests.add(new(files=str(path)).digest())
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("mixed", {"text_share": 0.25}), ("text", {"max_texts": 150}), ("own", {"high": 2.0})],
    indirect=["kind"],
)
def test_digest_names_the_arguments(new: New, arguments: dict[str, Any]) -> None:
    assert new(**arguments).digest() != new().digest()


def test_modules_that_make_other_batches_have_other_digests(
    teacher: TeacherSlice, text_file: Path
) -> None:
    digests = {
        NoiseDataModule(24).digest(),
        TokensDataModule(teacher).digest(),
        TextDataModule(teacher, files=str(text_file)).digest(),
        MixedDataModule(teacher, files=str(text_file), text_share=1).digest(),
        MixedDataModule(teacher, files=str(text_file), text_share=0).digest(),
    }
    assert len(digests) == 5


# The arguments


@pytest.mark.parametrize("size", [0, -3])
@pytest.mark.parametrize("name", ["batch_size", "seq_length", "train_batches", "valid_batches"])
def test_error_names_the_size(name: str, size: int, new: New) -> None:
    with pytest.raises(ArgumentError) as caught:
        new(**{name: size})
    assert str(caught.value) == f"{name}={size}: allowed: an integer of at least 1"


@pytest.mark.parametrize("seq_length", [2, 513])
@pytest.mark.parametrize("kind", ENTERING, indirect=True)
def test_length_that_the_model_has_no_place_for(seq_length: int, new: New) -> None:
    with pytest.raises(ArgumentError) as caught:
        new(seq_length=seq_length)
    assert str(caught.value) == f"seq_length={seq_length}: allowed: 3 to 512"


def test_arguments_are_named_and_typed(kind: str) -> None:
    """By them a configuration is checked, and a reader finds out what there is."""
    parameters = inspect.signature(MODULES[kind]).parameters
    hints = typing.get_type_hints(MODULES[kind].__init__)
    assert parameters.keys() <= hints.keys()
    assert {"batch_size", "seq_length", "train_batches", "valid_batches", "seed"} <= {*parameters}
    for parameter in parameters.values():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        live = parameter.name in ("teacher", "hidden_size")
        assert (parameter.default is parameter.empty) is live
        assert not isinstance(parameter.default, float) or math.isfinite(parameter.default)
