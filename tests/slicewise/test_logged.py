"""A value that was logged before is in Lightning's book as if it had been logged anew."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from slicewise.logged import log_value


class _Logs(lightning.LightningModule):
    """Logs what it is given, in one way or the other."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again
        self.weight = nn.Parameter(torch.ones(()))

    def _log(self, name: str, value: Tensor, **options: Any) -> None:
        if self.again:
            log_value(self, name, value, **options)
        else:
            self.log(name, value, batch_size=1, **options)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.weight * batch[0]).mean()
        self._log("train", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen = batch[0].sum() * self.weight.detach()

    def on_validation_epoch_end(self) -> None:
        self._log("valid", self.seen, prog_bar=True)
        self._log("other", 2 * self.seen)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _Book(lightning.Callback):
    """What Lightning knows after each batch, validation and epoch."""

    def __init__(self) -> None:
        self.pages: list[dict[str, dict[str, float]]] = []

    def _page(self, trainer: lightning.Trainer) -> None:
        names = ("callback_metrics", "progress_bar_metrics", "logged_metrics")
        books = {name: getattr(trainer, name) for name in names}
        self.pages.append({n: {k: float(v) for k, v in book.items()} for n, book in books.items()})

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._page(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._page(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._page(trainer)


def _book(again: bool, folder: Any) -> list[dict[str, dict[str, float]]]:
    book = _Book()
    trainer = lightning.Trainer(
        max_epochs=3,
        val_check_interval=2,
        accelerator="cpu",
        logger=False,
        callbacks=[book],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        default_root_dir=folder,
    )
    rows = TensorDataset(torch.arange(6.0).view(6, 1))
    trainer.fit(_Logs(again), DataLoader(rows), DataLoader(rows))
    return book.pages


@pytest.mark.filterwarnings("ignore")
def test_it_is_in_the_book_as_if_it_had_been_logged_anew(tmp_path: Any) -> None:
    anew, again = _book(False, tmp_path), _book(True, tmp_path)
    assert len(anew) > 20
    assert len({page["callback_metrics"].get("train") for page in anew}) > 6
    assert len({page["callback_metrics"].get("valid") for page in anew}) > 6
    assert again == anew


@pytest.mark.filterwarnings("ignore")
def test_lightning_is_asked_to_log_it_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    log = lightning.LightningModule.log

    def counted(self: Any, name: str, *arguments: Any, **options: Any) -> None:
        asked.append(name)
        log(self, name, *arguments, **options)

    monkeypatch.setattr(lightning.LightningModule, "log", counted)
    _book(True, tmp_path)
    assert sorted(asked) == ["other", "train", "valid"]
