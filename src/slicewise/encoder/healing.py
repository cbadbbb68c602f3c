"""Healing: the encoder that was put together learns to return what the original does.

Shapes: B batch, T tokens, H hidden size, K real tokens of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slicewise.data.batch import BatchIndex
from slicewise.data.entering import EnteringDataModule
from slicewise.data.hidden_states import BatchIndices
from slicewise.encoder.refit import targets_of
from slicewise.encoder.sliced import SlicedEncoder
from slicewise.errors import ArgumentError
from slicewise.targets import TargetStore

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]

# Groups are as long as a multiple of it: kernels are made, and kept, for each shape anew.
_LENGTHS = 8

# What an encoder shares with the original, in the names of a checkpoint.
_SHARED = "encoder.embeddings."


class TextBatch(NamedTuple):
    """Token ids of one batch, in groups of about one length.

    Attributes:
        groups: Each the ids (B, T) and which are real tokens, (B, T); all texts of the batch
            together.
        origin: Which batch it is.
    """

    groups: tuple[tuple[Tensor, Tensor], ...]
    origin: BatchIndex

    @property
    def num_texts(self) -> int:
        """In all groups."""
        return sum(len(keep_BT) for _, keep_BT in self.groups)

    @property
    def num_tokens(self) -> int:
        """Real ones, in all groups."""
        return sum(int(keep_BT.sum()) for _, keep_BT in self.groups)


class TextBatchDataModule(LightningDataModule):
    """The tokens of a data module that reads text, instead of the hidden states that it makes.

    Texts of a batch differ in length, and most of a batch would be padding. So its rows are sorted
    by length and handed over in groups, each about as long as its longest row: the same texts, the
    same loss, a fraction of the work.

    Args:
        texts: Says which tokens are in a batch.
        groups: How many groups to a batch; 1 leaves them together.

    Raises:
        ArgumentError: `groups` is not positive, or more than the rows of a batch.

    Example:
        >>> from slicewise.data.batch import Split
        >>> from slicewise.data.text import TextDataModule
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> texts = TextDataModule(teacher, batch_size=4, seq_length=32)
        >>> data = TextBatchDataModule(texts, groups=2)
        >>> batch = data.make_batch(BatchIndex(Split.TRAIN, 0), torch.device("cpu"))
        >>> [len(ids_BT) for ids_BT, _ in batch.groups], batch.num_texts
        ([2, 2], 4)
    """

    def __init__(self, texts: EnteringDataModule, groups: int = 4) -> None:
        super().__init__()
        if not 1 <= groups <= texts.batch_size:
            raise ArgumentError("groups", groups, f"1 to {texts.batch_size}, the batch size")
        self.texts = texts
        self.groups = groups

    def make_batch(self, index: BatchIndex, device: torch.device) -> TextBatch:
        """The batch of that name: a function of the seed and the index alone.

        Args:
            index: Which.
            device: Where it is to be.
        """
        ids_BT, keep_BT = self.texts.token_ids(index)
        lengths_B = keep_BT.sum(1)
        rows = lengths_B.argsort(stable=True).tensor_split(self.groups)
        groups = []
        for some in rows:
            length = -(-int(lengths_B[some].max()) // _LENGTHS) * _LENGTHS
            x_BT, real_BT = ids_BT[some, :length], keep_BT[some, :length]
            groups.append((x_BT.to(device), real_BT.to(device)))
        return TextBatch(tuple(groups), index)

    def train_dataloader(self) -> BatchIndices:
        self.texts.trainer = self.trainer
        return self.texts.train_dataloader()

    def val_dataloader(self) -> BatchIndices:
        self.texts.trainer = self.trainer
        return self.texts.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        return self.texts.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.texts.load_state_dict(state_dict)

    def transfer_batch_to_device(
        self, batch: BatchIndex, device: torch.device, dataloader_idx: int
    ) -> TextBatch:
        """Makes the batch where it is needed, instead of moving it there."""
        return self.make_batch(batch, device)


class GroupTarget(NamedTuple):
    """What the original makes of one group of texts.

    Attributes:
        states: Of real tokens alone, (K, H), by the layer that they enter.
        embeddings: (B, H).
    """

    states: dict[int, Tensor]
    embeddings: Tensor


class OriginalSide:
    """What the original makes of the batches of a fit: computed, or read where it is known.

    Args:
        original: As `original_encoder` returns it.
        layers: Whose entering hidden states are wanted; one more than the last layer stands for
            the final ones.
        store: Where the targets of each batch are kept for other fits; None: nowhere. They lie
            there in 16 bits.
    """

    def __init__(
        self, original: SlicedEncoder, layers: Sequence[int], store: TargetStore | None = None
    ) -> None:
        self.original = original
        self.layers = sorted(set(layers))
        self.store = store

    def __call__(self, batch: TextBatch) -> list[GroupTarget]:
        """The targets of each group, on the batch's device."""
        rows = None if self.store is None else self.store.read(batch.origin)
        if rows is not None:
            return self._unpacked(batch, rows.to(batch.groups[0][0].device))
        targets = self.compute(batch)
        if self.store is not None:
            packed = [
                rows for target in targets for rows in (*target.states.values(), target.embeddings)
            ]
            self.store.write(batch.origin, torch.cat(packed).half().cpu())
        return targets

    @torch.no_grad()
    def compute(self, batch: TextBatch) -> list[GroupTarget]:
        """Asks the original."""
        targets = []
        for ids_BT, keep_BT in batch.groups:
            states = self.original.states(self.original.enter(ids_BT, keep_BT), keep_BT)
            embeddings_BH = self.original.embed(states[-1].float(), keep_BT)
            entering = {layer: states[layer][keep_BT].float() for layer in self.layers}
            targets.append(GroupTarget(entering, embeddings_BH))
        return targets

    def _unpacked(self, batch: TextBatch, rows: Tensor) -> list[GroupTarget]:
        sizes = [
            size
            for _, keep_BT in batch.groups
            for size in (*[int(keep_BT.sum())] * len(self.layers), len(keep_BT))
        ]
        parts = iter(torch.split(rows.float(), sizes))
        return [
            GroupTarget({layer: next(parts) for layer in self.layers}, next(parts))
            for _ in batch.groups
        ]


def check_weights(hidden_weight: float, cosine_weight: float) -> None:
    """Refuses weights of the loss that nothing could be learned by.

    Args:
        hidden_weight, cosine_weight: As of `Healer`.

    Raises:
        ArgumentError: A weight is negative, or both are zero.

    Example:
        >>> try:
        ...     check_weights(0, 0)
        ... except ArgumentError as error:
        ...     print(error)
        cosine_weight=0: allowed: a positive number, as hidden_weight is 0
    """
    for name, weight in (("hidden_weight", hidden_weight), ("cosine_weight", cosine_weight)):
        if not weight >= 0:
            raise ArgumentError(name, weight, "a number of at least 0")
    if not hidden_weight and not cosine_weight:
        raise ArgumentError("cosine_weight", 0, "a positive number, as hidden_weight is 0")


class Healer(LightningModule):
    """Trains an encoder's blocks to return what the original returns, on text.

    The loss is one minus the cosine of the embeddings, and the L1 distance of the hidden states
    where one block hands over to the next: the original's layers there are what each block was made
    to follow. Logs `train_loss` for each step, and for each validation `valid_loss`, `valid_l1`,
    and `valid_damage`, which is one minus the cosine.

    Args:
        original: Frozen; it moves with the fit from device to device, but is no part of the module.
        encoder: What learns; its embeddings stay as they are.
        optimizer: Called with the blocks' parameters; AdamW unless given.
        scheduler: Called with the optimizer and `total_steps=`; a constant rate unless given.
        hidden_weight: Of the hidden states' L1, averaged over the borders of the blocks.
        cosine_weight: Of one minus the embeddings' cosine.
        targets: Gives the original's side of a batch; by asking the original unless given.

    Raises:
        ArgumentError: A weight is negative, or both are zero; or nothing in the encoder can learn.
    """

    def __init__(
        self,
        original: SlicedEncoder,
        encoder: SlicedEncoder,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        hidden_weight: float = 1.0,
        cosine_weight: float = 1.0,
        targets: OriginalSide | None = None,
    ) -> None:
        super().__init__()
        check_weights(hidden_weight, cosine_weight)
        # In a tuple, where nn.Module does not look for submodules.
        self._outside = (original,)
        self.encoder = encoder
        self.encoder.embeddings.requires_grad_(False)
        self.borders = targets_of(encoder.block_list)
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ArgumentError("encoder", "frozen", "an encoder with blocks that can learn")
        self.optimizer_factory = optimizer or _default_optimizer
        self.scheduler_factory = scheduler
        self.hidden_weight = hidden_weight
        self.cosine_weight = cosine_weight
        wanted = [layer for layer in self.borders if layer is not None]
        self.targets = targets or OriginalSide(original, wanted)

    @property
    def original(self) -> SlicedEncoder:
        return self._outside[0]

    def forward(self, input_ids: Tensor, keep: Tensor) -> Tensor:
        """Ids (B, T) and which are real tokens to embeddings (B, H)."""
        return self.encoder.pooling(self.encoder(input_ids, keep), keep)

    def setup(self, stage: str) -> None:
        self.original.to(self.trainer.strategy.root_device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The embeddings are the original's, and most of a small encoder.
        checkpoint["state_dict"] = {
            name: tensor
            for name, tensor in checkpoint["state_dict"].items()
            if not name.startswith(_SHARED)
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {
            name: tensor for name, tensor in self.state_dict().items() if name.startswith(_SHARED)
        }

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        loss, _, _ = self._losses(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=batch.num_texts)
        return loss

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        loss, cosine, l1 = self._losses(batch)
        values = {"valid_loss": loss, "valid_damage": 1 - cosine, "valid_l1": l1}
        for name, value in values.items():
            shown = name == "valid_damage"
            self.log(name, value, prog_bar=shown, sync_dist=True, batch_size=batch.num_texts)

    def configure_optimizers(self) -> Any:
        learning = [p for p in self.encoder.parameters() if p.requires_grad]
        optimizer = self.optimizer_factory(learning)
        # As in `slicewise.distiller`: Lightning would not clip for a fused one.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if self.scheduler_factory is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.scheduler_factory(optimizer, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _losses(self, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the mean cosine, and the mean L1 over borders, tokens and dimensions."""
        cosine = l1 = torch.zeros((), device=self.device)
        for (ids_BT, keep_BT), target in zip(batch.groups, self.targets(batch), strict=True):
            _, *states = self.encoder.states(self.encoder.enter(ids_BT, keep_BT), keep_BT)
            pooled_BH = self.encoder.embed(states[-1].float(), keep_BT)
            cosine = cosine + F.cosine_similarity(pooled_BH, target.embeddings).sum()
            for x_BTH, layer in zip(states, self.borders, strict=True):
                if layer is not None and self.hidden_weight:
                    difference_KH = x_BTH[keep_BT].float() - target.states[layer]
                    l1 = l1 + difference_KH.abs().mean(-1).sum()
        num_borders = sum(layer is not None for layer in self.borders)
        cosine, l1 = cosine / batch.num_texts, l1 / (batch.num_tokens * num_borders)
        loss = self.cosine_weight * (1 - cosine) + self.hidden_weight * l1
        return loss, cosine, l1


def _default_optimizer(parameters: Iterable[Parameter]) -> Optimizer:
    return AdamW(parameters, lr=1e-3, weight_decay=1e-2)
