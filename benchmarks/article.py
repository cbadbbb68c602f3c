"""The article's recipe, written plainly: what everything here is measured against.

fp32; the teacher is frozen by leaving it out of the optimizer, so that its forward pass is recorded
for a backward pass that never comes; a DataLoader's workers draw the noise sample by sample and
ship it; AdamW as torch makes it, gradients clipped to norm 1.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice, minilm

WORKERS = 2
TRAIN_BATCHES, VALID_BATCHES = 30, 5
SIZE = (32, 128, 384)


class Noise(Dataset[Tensor]):
    """Samples of (T, H), drawn when they are asked for."""

    def __init__(self, samples: int, seq_length: int, hidden_size: int) -> None:
        self.samples = samples
        self.size = (seq_length, hidden_size)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(self.size)


def recipe(
    teacher: TeacherSlice, student: nn.Module, batches: int, size: tuple[int, int, int]
) -> Iterator[float]:
    """Trains; yields the loss after each step, `batches` of them.

    Args:
        teacher: Its weights are left as they are.
        student: What learns.
        batches: Steps.
        size: (B, T, H).
    """
    batch_size, seq_length, hidden_size = size
    noise = Noise(batches * batch_size, seq_length, hidden_size)
    loader = DataLoader(noise, batch_size, num_workers=WORKERS)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=1e-4)
    device = next(student.parameters()).device
    student.train()
    for parameter in teacher.parameters():
        parameter.requires_grad_(True)
    for sample in loader:
        x_BTH = sample.to(device)
        loss = F.l1_loss(student(x_BTH), _recorded(teacher, x_BTH).detach())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        yield loss.item()
    teacher.requires_grad_(False)


def _recorded(teacher: TeacherSlice, x_BTH: Tensor) -> Tensor:
    """The teacher's output, with the graph that nobody needs."""
    for layer in teacher.layers:
        output = layer(x_BTH, None)
        x_BTH = output[0] if isinstance(output, tuple) else output
    return x_BTH


def trial(qkv_layers: int) -> float:
    """A trial of a search as searches are written elsewhere: its validation loss.

    It loads the teacher, trains, and validates once at the end.
    """
    torch.manual_seed(0)
    teacher = minilm()
    student = ApproximateAttention(SIZE[-1], qkv_layers=qkv_layers)
    for _ in recipe(teacher, student, TRAIN_BATCHES, SIZE):
        pass
    student.eval()
    losses = []
    with torch.no_grad():
        for _ in range(VALID_BATCHES):
            x_BTH = torch.randn(SIZE)
            losses.append(F.l1_loss(student(x_BTH), teacher(x_BTH)).item())
    return sum(losses) / len(losses)
