"""Healing: the encoder nears the original; groups, caches and interruptions change nothing."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim import AdamW

from slicewise.data.batch import BatchIndex, Split
from slicewise.data.text import TextDataModule
from slicewise.encoder.damage import Observations
from slicewise.encoder.healing import Healer, OriginalSide, TextBatchDataModule
from slicewise.encoder.sliced import (
    Block,
    SlicedEncoder,
    Span,
    assemble,
    keep_slice,
    original_encoder,
    partition,
    teacher_slice,
)
from slicewise.errors import ArgumentError
from slicewise.muon import MuonWithAdamW
from slicewise.schedules import cosine
from slicewise.students.bert_layer import BertLayer
from slicewise.students.nothing import Nothing
from slicewise.targets import TargetStore
from slicewise.teacher import TeacherSlice, random_bert
from tests.slicewise.encoder.encoders import TEXTS, many_texts

CPU = torch.device("cpu")
SIZES = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.fixture(scope="module")
def teacher() -> TeacherSlice:
    """Of four layers whose weights matter."""
    teacher = random_bert(num_layers=4, num_hidden_layers=4, **SIZES)
    generator = torch.Generator().manual_seed(3)
    for parameter in teacher.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return teacher


@pytest.fixture(scope="module")
def original(teacher: TeacherSlice) -> SlicedEncoder:
    return original_encoder(teacher)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(many_texts(400)))
    return str(path)


@pytest.fixture
def data(teacher: TeacherSlice, file: str) -> TextBatchDataModule:
    return _data(teacher, file)


def _data(teacher: TeacherSlice, file: str, groups: int = 3) -> TextBatchDataModule:
    texts = TextDataModule(teacher, 16, 12, 8, 2, files=[file])
    return TextBatchDataModule(texts, groups)


def _smaller(original: SlicedEncoder) -> SlicedEncoder:
    """Half of the neurons in two layers, one layer dropped, one kept."""
    spans = partition(4, 1)
    blocks: list[Block] = []
    for span in spans[:2]:
        teacher = teacher_slice(original, span)
        student = BertLayer(**{**BertLayer.sizes_from(teacher), "intermediate_size": 24})
        student.start_from(teacher)
        blocks.append(Block(student, span, span.layers))
    blocks += [Block(Nothing(24), spans[2]), keep_slice(original, spans[3])]
    return assemble(original, blocks)


def _trainer(**arguments: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
    }
    return Trainer(**{**quiet, **arguments})


def test_it_nears_the_original(original: SlicedEncoder, data: TextBatchDataModule) -> None:
    encoder = _smaller(original)
    held_out = Observations(original, TEXTS)
    before = held_out.damage_of(encoder).damage
    embeddings = copy.deepcopy(encoder.embeddings.state_dict())
    healer = Healer(original, encoder, partial(MuonWithAdamW, lr=5e-3), cosine)
    trainer = _trainer(max_steps=100)
    trainer.fit(healer, data)
    assert held_out.damage_of(encoder).damage < 0.5 * before
    assert trainer.callback_metrics["valid_damage"] < before
    # Neither the original nor what both share.
    theirs = encoder.embeddings.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in embeddings.items())
    assert not any(parameter.requires_grad for parameter in original.parameters())
    assert not any(name.startswith("_outside") for name, _ in healer.named_parameters())


@pytest.mark.parametrize("hidden_weight", [0.0, 1.0])
def test_what_keeps_everything_loses_nothing(
    hidden_weight: float, original: SlicedEncoder, data: TextBatchDataModule
) -> None:
    kept = assemble(original, [keep_slice(original, span) for span in partition(4, 2)])
    healer = Healer(original, kept, hidden_weight=hidden_weight)
    metrics = _trainer().validate(healer, data, verbose=False)[0]
    assert metrics["valid_loss"] == pytest.approx(0, abs=1e-5)
    assert metrics["valid_damage"] == pytest.approx(0, abs=1e-5)


def test_the_loss_is_that_of_the_texts_one_by_one(
    original: SlicedEncoder, data: TextBatchDataModule
) -> None:
    encoder = _smaller(original).eval()
    healer = Healer(original, encoder, hidden_weight=0.3, cosine_weight=2.0)
    ids_BT, keep_BT = data.texts.token_ids(BatchIndex(Split.TRAIN, 1))
    cosines, distances, tokens = [], [], 0
    with torch.no_grad():
        for ids_T, keep_T in zip(ids_BT, keep_BT, strict=True):
            ids_1T, keep_1T = ids_T[keep_T][None], keep_T[keep_T][None]
            entered = original.enter(ids_1T, keep_1T)
            theirs = original.states(entered, keep_1T)
            ours = encoder.states(entered, keep_1T)
            one, other = (original.pooling(s[-1], keep_1T) for s in (ours, theirs))
            cosines.append(torch.cosine_similarity(one, other).item())
            # After the first layer; after the second, which goes to the last; after that.
            pairs = ((ours[1], theirs[1]), (ours[2], theirs[3]), (ours[4], theirs[4]))
            distances += [(a - b).abs().mean(-1).sum().item() for a, b in pairs]
            tokens += keep_1T.shape[1]
        expected = 2.0 * (1 - sum(cosines) / 16) + 0.3 * sum(distances) / (3 * tokens)
        loss, _, _ = healer._losses(data.make_batch(BatchIndex(Split.TRAIN, 1), CPU))
    assert healer.borders == [1, 3, None, 4]
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def _gradients(healer: Healer, data: TextBatchDataModule, number: int) -> list[Tensor]:
    loss, _, _ = healer._losses(data.make_batch(BatchIndex(Split.TRAIN, number), CPU))
    learning = [p for p in healer.encoder.parameters() if p.requires_grad]
    return [*torch.autograd.grad(loss, learning), loss.detach()]


def test_groups_change_the_work_and_not_the_gradients(
    teacher: TeacherSlice, original: SlicedEncoder, file: str
) -> None:
    healer = Healer(original, _smaller(original))
    whole, *grouped = (_data(teacher, file, groups) for groups in (1, 4, 16))
    expected = _gradients(healer, whole, 3)
    sizes = []
    for data in (whole, *grouped):
        batch = data.make_batch(BatchIndex(Split.TRAIN, 3), CPU)
        sizes.append(sum(ids_BT.numel() for ids_BT, _ in batch.groups))
        for one, other in zip(_gradients(healer, data, 3), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    # One by one, each is as long as it has to be: few lengths, for which kernels are made once.
    for ids_1T, keep_1T in batch.groups:
        length, needed = ids_1T.shape[1], int(keep_1T.sum())
        assert length in (8, 12)
        assert needed <= length < needed + 8
    with pytest.raises(ArgumentError, match="groups=17: allowed: 1 to 16"):
        _data(teacher, file, 17)


def test_the_originals_side_is_read_where_it_is_known(
    original: SlicedEncoder, data: TextBatchDataModule, tmp_path: Path
) -> None:
    store = TargetStore(tmp_path, "name", 10**8)
    side = OriginalSide(original, [4, 1, 3, 1], store)
    batch = data.make_batch(BatchIndex(Split.TRAIN, 0), CPU)
    computed = side(batch)
    assert len(list(store.folder.iterdir())) == 1
    again = OriginalSide(original, [1, 3, 4], store)
    again.compute = None  # type: ignore[method-assign, assignment]
    for one, other in zip(again(batch), computed, strict=True):
        assert one.states.keys() == other.states.keys() == {1, 3, 4}
        for layer, rows_KH in one.states.items():
            torch.testing.assert_close(rows_KH, other.states[layer], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(one.embeddings, other.embeddings, atol=1e-3, rtol=1e-3)


class _Stop(lightning.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def test_a_fit_that_went_on_is_one_that_never_stopped(
    teacher: TeacherSlice, original: SlicedEncoder, file: str, tmp_path: Path
) -> None:
    def fit(path: Path | None, **arguments: Any) -> tuple[Trainer, SlicedEncoder]:
        encoder = _smaller(original)
        healer = Healer(original, encoder, partial(AdamW, lr=1e-2), cosine)
        trainer = _trainer(max_steps=20, limit_val_batches=0, **arguments)
        trainer.fit(healer, _data(teacher, file), ckpt_path=path)
        return trainer, encoder

    _, expected = fit(None)
    trainer, stopped = fit(None, callbacks=[_Stop(9)])
    assert trainer.global_step == 9
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    saved = torch.load(tmp_path / "fit.ckpt", weights_only=True)["state_dict"]
    assert saved
    assert not any("embeddings" in name for name in saved)
    trainer, resumed = fit(tmp_path / "fit.ckpt")
    assert trainer.global_step == 20
    theirs = expected.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in resumed.state_dict().items())
    assert any(not torch.equal(t, theirs[name]) for name, t in stopped.state_dict().items())


def test_in_bfloat16_it_heals_as_well(original: SlicedEncoder, data: TextBatchDataModule) -> None:
    """With a fused optimizer and clipping, as `optimizer=adamw` has them."""
    encoder = _smaller(original)
    healer = Healer(original, encoder, partial(AdamW, lr=5e-3, fused=True), cosine)
    trainer = _trainer(max_steps=60, precision="bf16-mixed", gradient_clip_val=1.0)
    before = trainer.validate(healer, data, verbose=False)[0]["valid_damage"]
    trainer.fit(healer, data)
    assert trainer.callback_metrics["valid_damage"] < 0.6 * before
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_weight": -1.0}, r"hidden_weight=-1\.0"),
        ({"cosine_weight": float("nan")}, "cosine_weight=nan"),
        ({"hidden_weight": 0, "cosine_weight": 0}, "cosine_weight=0"),
    ],
)
def test_weights_that_say_nothing_are_refused(
    arguments: dict[str, float], message: str, original: SlicedEncoder
) -> None:
    with pytest.raises(ArgumentError, match=message):
        Healer(original, _smaller(original), **arguments)


def test_where_nothing_is_left_nothing_can_heal(original: SlicedEncoder) -> None:
    dropped = assemble(original, [Block(Nothing(24), Span(0, 4))])
    with pytest.raises(ArgumentError, match="an encoder with blocks that can learn"):
        Healer(original, dropped)
