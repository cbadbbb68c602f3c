"""Pairs, neighbours, speed: laws, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.encoder.evaluation import Pair, cosine, neighbours, read_pairs, spearman, speed
from slicewise.encoder.sliced import Block, assemble, partition
from slicewise.errors import ArgumentError, MissingResource, ResourceError
from slicewise.students.nothing import Nothing
from tests.slicewise.encoder.encoders import loud_original, many_texts


def test_an_encoder_is_its_own_best_match() -> None:
    original = loud_original(2)
    assert cosine(original, original, many_texts(8)) == pytest.approx(1)
    nothing = [Block(Nothing(24), span) for span in partition(2, 1)]
    assert cosine(original, assemble(original, nothing), many_texts(8)) < 0.999


def test_pairs_are_ranked_as_their_scores() -> None:
    original = loud_original(2)
    texts = many_texts(12)
    x_NH = torch.nn.functional.normalize(original.encode(texts), dim=-1)
    pairs = [Pair(texts[n], texts[n + 6], float(x_NH[n] @ x_NH[n + 6]) * 3 - 1) for n in range(6)]
    assert spearman(original, pairs) == pytest.approx(1)
    turned = [Pair(first, second, -score) for first, second, score in pairs]
    assert spearman(original, turned) == pytest.approx(-1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), texts=st.integers(2, 30), scale=st.floats(0.01, 100))
def test_neighbours_do_not_depend_on_length_or_turning(seed: int, texts: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_NH = torch.randn(texts, 6, generator=generator, dtype=torch.float64)
    turn_HH = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    same = neighbours(x_NH, scale * x_NH @ turn_HH)
    assert same.overlap == pytest.approx(1, abs=0.2)
    assert same.ndcg == pytest.approx(1, abs=1e-3)
    other = neighbours(x_NH, torch.randn(texts, 6, generator=generator, dtype=torch.float64))
    assert 0 <= other.overlap <= 1
    assert 0 <= other.ndcg <= 1 + 1e-6


def test_neighbours_by_hand() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 1.5, 1.6])
    x_NH = torch.stack([angles.cos(), angles.sin()], 1)
    swapped_NH = x_NH[[0, 3, 2, 1, 4]]
    # The nearest by the original: 1, 0, 1, 4, 3. By the other: 2, 4, 0, 2, 1.
    assert neighbours(x_NH, x_NH, nearest=1).overlap == 1
    assert neighbours(x_NH, swapped_NH, nearest=1).overlap == 0
    with pytest.raises(ArgumentError, match="at least 2 texts"):
        neighbours(x_NH[:1], x_NH[:1])


def test_the_faster_one_is_said_to_be_faster() -> None:
    original = loud_original(4, hidden_size=96, intermediate_size=384)
    nothing = [Block(Nothing(96), span) for span in partition(4, 1)]
    found = speed(original, assemble(original, nothing), many_texts(64), rounds=3)
    assert found.ratio > 1
    assert found.original > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "a,b,1\nc,d\ne,f,2\n",
            r"line 2: two texts and a number .*found \['c', 'd'\]",
        ),
        ("a,b,1\nc,d,high\n", "line 2: two texts and a number"),
        ("a,b,nan\nc,d,1\ne,f,2\n", "2 pairs: at least 3"),
        ("a,b,1\nc,d,1\ne,f,1\n", "3 pairs: at least 3 of different scores"),
        ("", "0 pairs"),
        ("one text a line\n", "line 1: two texts and a number"),
    ],
)
def test_what_is_no_file_of_pairs_is_said_with_its_line(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(ResourceError, match=said):
        read_pairs(path)


def test_a_file_of_pairs_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match=r"pairs=.*none.csv: allowed: a .csv file"):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00a,b\x00")
    with pytest.raises(ResourceError, match=r"no \.csv file"):
        read_pairs(tmp_path / "binary.csv")
