"""Values that a fit logs again and again, by Lightning's own book of them."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
from torch import Tensor


def log_value(module: lightning.LightningModule, name: str, value: Tensor, **options: Any) -> None:
    """As `module.log`, which takes as long as a small step on a GPU: each time it copies all that
    it knows of the value's name. After the first time there is nothing to know.

    Args:
        module: Whose hook calls this.
        name: Of the value, always with the same options.
        value: A scalar.
        options: As `LightningModule.log` takes them. Nothing is summed up over ranks.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> class Largest(lightning.LightningModule):
        ...     def test_step(self, batch, batch_idx):
        ...         log_value(self, "largest", batch.max(), on_step=False, on_epoch=True)
        >>> quietly = {"logger": False, "enable_progress_bar": False}
        >>> trainer = lightning.Trainer(accelerator="cpu", enable_checkpointing=False, **quietly)
        >>> trainer.test(Largest(), DataLoader([1.0, 2.0, 4.5]), verbose=False)
        [{'largest': 2.5}]
    """
    results: Any = module.trainer._results
    connector: Any = module.trainer._logger_connector
    hook = module._current_fx_name
    key = f"{hook}.{name}"
    known = None if results is None else results.get(key)
    if known is None or known.value.device != value.device:
        module.log(name, value, batch_size=1, **options)
        return
    if connector.should_reset_tensors(hook):
        results.reset(metrics=False, fx=hook)
    results.update_metrics(key, value.detach(), 1)
    connector._current_fx = hook
