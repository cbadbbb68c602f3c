"""How near an encoder's embeddings are to the original's, and how much faster they come.

Shapes: H hidden size, N texts.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from slicewise.encoder.sliced import SlicedEncoder
from slicewise.errors import ArgumentError, MissingResource, ResourceError

_NEAREST = 10
_FEWEST_PAIRS = 3


class Pair(NamedTuple):
    """Two texts, and how alike they are to people.

    Attributes:
        first, second: The texts.
        score: The higher the more alike; only its order counts.
    """

    first: str
    second: str
    score: float


class Neighbours(NamedTuple):
    """Whether the nearest of texts are the original's nearest.

    Attributes:
        overlap: Mean share of the original's ten nearest that are among the encoder's ten.
        ndcg: How well the encoder's ten are ordered, where the original's cosine is the gain
            (Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418).
    """

    overlap: float
    ndcg: float


class Speed(NamedTuple):
    """Texts a second, from text to embedding, medians of one run that took turns.

    Attributes:
        original, encoder: Of each.
    """

    original: float
    encoder: float

    @property
    def ratio(self) -> float:
        """How many times faster the encoder is."""
        return self.encoder / self.original


def cosine(original: SlicedEncoder, encoder: SlicedEncoder, texts: Sequence[str]) -> float:
    """The mean cosine between two encoders' embeddings of texts.

    Example:
        >>> from slicewise.encoder.sliced import original_encoder
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> round(cosine(original, original, ["A text.", "Another."]), 4)
        1.0
    """
    both = (original.encode(texts), encoder.encode(texts))
    return F.cosine_similarity(*both).mean().item()


def read_pairs(path: str | Path) -> list[Pair]:
    """Reads a .csv file: two texts and a number in each row; a first row of headings is left out.

    Raises:
        MissingResource: There is no such file.
        ResourceError: A row is no pair; names the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "pairs.csv")
        ...     _ = path.write_text('one,two,score\\n"A, b","B, a",4.5\\nA,Z,0\\nA,Y,1\\n')
        ...     read_pairs(path)[0]
        Pair(first='A, b', second='B, a', score=4.5)
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except OSError as error:
        raise MissingResource("pairs", path, f"a .csv file: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResourceError(f"{path}: no .csv file: {error}") from error
    pairs = []
    for place, (number, row) in enumerate(rows):
        score = _number(row[2]) if len(row) == 3 else None
        if score is not None:
            pairs.append(Pair(row[0].strip(), row[1].strip(), score))
        elif place > 0 or len(row) != 3:
            raise ResourceError(
                f"{path}, line {number}: two texts and a number were expected, found {row}"
            )
    if len({pair.score for pair in pairs}) < 2 or len(pairs) < _FEWEST_PAIRS:
        raise ResourceError(
            f"{path}: {len(pairs)} pairs: at least {_FEWEST_PAIRS} of different scores are needed"
        )
    return pairs


def spearman(encoder: SlicedEncoder, pairs: Sequence[Pair]) -> float:
    """The rank correlation of the cosines of pairs with their scores, as STS is reported.

    Reimers, Beyer and Gurevych 2016, https://aclanthology.org/C16-1009.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair[:2]))
    embedded = dict(zip(texts, F.normalize(encoder.encode(texts), dim=-1), strict=True))
    cosines = [float(embedded[pair.first] @ embedded[pair.second]) for pair in pairs]
    return float(spearmanr(cosines, [pair.score for pair in pairs]).statistic)


def neighbours(original_NH: Tensor, encoder_NH: Tensor, nearest: int = _NEAREST) -> Neighbours:
    """Compares the nearest of each text among all others, by two encoders' embeddings.

    Args:
        original_NH: The original's, of N texts.
        encoder_NH: The encoder's, of the same.
        nearest: How many; fewer where there are not so many texts.

    Example:
        >>> x_NH = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        >>> neighbours(x_NH, x_NH)
        Neighbours(overlap=1.0, ndcg=1.0)
    """
    if len(original_NH) < 2:
        raise ArgumentError("texts", len(original_NH), "at least 2 texts")
    nearest = min(nearest, len(original_NH) - 1)
    theirs_NN, ours_NN = _cosines(original_NH), _cosines(encoder_NH)
    best_NK, found_NK = theirs_NN.topk(nearest).indices, ours_NN.topk(nearest).indices
    overlap = (best_NK[:, :, None] == found_NK[:, None]).any(-1).double().mean().item()
    discounts_K = 1 / torch.log2(torch.arange(nearest) + 2.0)
    gains_NN = theirs_NN.clamp(min=0)
    ideal_N = (gains_NN.gather(1, best_NK) * discounts_K).sum(1)
    gained_N = (gains_NN.gather(1, found_NK) * discounts_K).sum(1)
    # A text without any neighbour: whatever is found is as good.
    ndcg_N = torch.where(ideal_N > 0, gained_N / ideal_N.clamp(min=1e-12), 1.0)
    return Neighbours(round(overlap, 6), round(ndcg_N.double().mean().item(), 6))


def speed(
    original: SlicedEncoder, encoder: SlicedEncoder, texts: Sequence[str], rounds: int = 5
) -> Speed:
    """How many texts a second each embeds, taking turns on this machine.

    Args:
        original, encoder: Where they are, with as many threads as torch has.
        texts: What they embed in each turn.
        rounds: Turns of each, after one to warm up.
    """
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(rounds + 1):
        for which, one in enumerate((original, encoder)):
            started = time.perf_counter()
            one.encode(texts)
            if turn:
                seconds[which].append(time.perf_counter() - started)
    rates = [len(texts) / statistics.median(seconds[which]) for which in (0, 1)]
    return Speed(*rates)


def _cosines(x_NH: Tensor) -> Tensor:
    """Between all pairs; of a text with itself less than with any other."""
    normal_NH = F.normalize(x_NH.float(), dim=-1)
    return (normal_NH @ normal_NH.T).fill_diagonal_(-math.inf)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
