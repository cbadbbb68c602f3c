"""The article's recipe as a Hydra application, for the official sweeper to drive.

As the article's students are searched for elsewhere: each trial loads the teacher, trains, and
validates once at the end.
"""

from __future__ import annotations

import hydra
import torch
from article import recipe
from omegaconf import DictConfig
from torch.nn import functional as F

from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import minilm

TRAIN_BATCHES, VALID_BATCHES = 30, 5
SIZE = (32, 128, 384)


@hydra.main(config_path=None)
def main(config: DictConfig) -> float:
    torch.manual_seed(0)
    teacher = minilm()
    student = ApproximateAttention(SIZE[-1], qkv_layers=config.qkv_layers)
    for _ in recipe(teacher, student, TRAIN_BATCHES, SIZE):
        pass
    student.eval()
    losses = []
    with torch.no_grad():
        for _ in range(VALID_BATCHES):
            x_BTH = torch.randn(SIZE)
            losses.append(F.l1_loss(student(x_BTH), teacher(x_BTH)).item())
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
