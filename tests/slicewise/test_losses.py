"""Losses: what they are on padded batches, and a fit by each.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from slicewise.data.noise import NoiseDataModule
from slicewise.distiller import Distiller
from slicewise.losses import Loss, cosine, l1_and_cosine, l1_loss, mse, smooth_l1
from slicewise.validation import losses_by

LOSSES: list[Loss] = [l1_loss, mse, smooth_l1, cosine, l1_and_cosine]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def _pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 5, 8, generator=generator), torch.randn(3, 5, 8, generator=generator)


@every_loss
def test_padding_does_not_count(loss: Loss) -> None:
    prediction_BTH, target_BTH = _pair()
    keep_BT = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    spoiled_BTH = prediction_BTH.masked_fill(~keep_BT[..., None], 9.0)
    found = loss(spoiled_BTH, target_BTH, keep_BT)
    # Every token has the same weight: as if all of them were one row.
    expected = loss(prediction_BTH[keep_BT][None], target_BTH[keep_BT][None], None)
    torch.testing.assert_close(found, expected)
    everything = torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(
        loss(prediction_BTH, target_BTH, everything), loss(prediction_BTH, target_BTH, None)
    )


@every_loss
def test_nothing_is_lost_where_nothing_differs(loss: Loss) -> None:
    target_BTH = _pair()[1]
    assert loss(target_BTH, target_BTH, None).abs() < 1e-6


@every_loss
def test_a_fit_lowers_what_it_learns_by_and_measures_both(
    loss: Loss,
    new_distiller: Callable[..., Distiller],
    new_data: Callable[..., NoiseDataModule],
    new_trainer: Callable[..., Trainer],
) -> None:
    distiller, data = new_distiller(loss=functools.partial(loss)), new_data(train_batches=60)
    trainer = new_trainer()
    name = "valid_l1" if loss is l1_loss else "valid_loss"
    trainer.validate(distiller, datamodule=data, verbose=False)
    before = trainer.callback_metrics[name].item()
    trainer.fit(distiller, datamodule=data)
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert found[name] < 0.9 * before
    train_name = "train_l1" if loss is l1_loss else "train_loss"
    assert set(found) == {train_name, *losses_by(distiller.loss)}
    assert found["valid_l1"] > 0
