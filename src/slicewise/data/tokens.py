"""Random tokens: what enters the slice where words follow each other without sense.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from slicewise.data.batch import BatchIndex, batch_seed
from slicewise.data.entering import EnteringDataModule


class TokensDataModule(EnteringDataModule):
    """Uniformly random words through the teacher's embeddings and lower layers.

    Every row begins and ends as a text does ([CLS] and [SEP]) and is full, so there is no mask.
    No other special token is ever drawn, nor one that no text contains. Fresh for every step, and
    nearer to text than noise is, where no text can be had.

    Args:
        teacher, batch_size, seq_length, train_batches, valid_batches, seed: As in
            `EnteringDataModule`.

    Example:
        >>> import torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.data.tokens import TokensDataModule
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> data = TokensDataModule(teacher, batch_size=2, seq_length=5)
        >>> ids_BT, _ = data.token_ids(BatchIndex(Split.TRAIN, 0))
        >>> ids_BT[:, 0].tolist(), ids_BT[:, -1].tolist()  # [CLS] and [SEP] of this teacher
        ([1, 1], [2, 2])
        >>> batch = data.make_batch(BatchIndex(Split.TRAIN, 0), torch.device("cpu"))
        >>> batch.hidden_states.shape, batch.attention_mask
        (torch.Size([2, 5, 24]), None)
    """

    def token_ids(self, index: BatchIndex) -> tuple[Tensor, Tensor]:
        size_BT = (self.batch_size, self.seq_length)
        generator = torch.Generator().manual_seed(batch_seed(self.seed, *index))
        ids_BT = self._words[torch.randint(len(self._words), size_BT, generator=generator)]
        ids_BT[:, 0] = self.whole.tokenizer.first_id
        ids_BT[:, -1] = self.whole.tokenizer.last_id
        return ids_BT, torch.ones_like(ids_BT, dtype=torch.bool)

    @functools.cached_property
    def _words(self) -> Tensor:
        return torch.tensor(self.whole.tokenizer.word_ids)

    def digest(self) -> str:
        """Names the weights, and the words that are drawn from."""
        tokenizer = self.whole.tokenizer
        digest = hashlib.sha256(f"random tokens\n{self.whole.digest()}\n".encode())
        digest.update(f"{tokenizer.first_id} {tokenizer.last_id}\n".encode())
        digest.update(self._words.numpy().tobytes())
        return digest.hexdigest()
