"""benchmarks/whole.py: budgets are kept to, halves make a whole, an interruption loses no row."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.cost import count_parameters
from slicewise.data.batch import BatchIndex, Split
from slicewise.data.text import TextDataModule
from slicewise.encoder.healing import OriginalSide, TextBatchDataModule
from slicewise.encoder.sliced import assemble, keep_slice, original_encoder, partition
from slicewise.students.bert_layer import BertLayer
from slicewise.teacher import TeacherSlice, random_bert
from tests.slicewise.encoder.encoders import many_texts

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CPU = torch.device("cpu")
SIZES = {
    "input_dim": 24,
    "num_attention_heads": 4,
    "attention_hidden_size": 6,
    "intermediate_size": 48,
}


def _load() -> ModuleType:
    """The benchmark as it is run: from its own folder."""
    spec = importlib.util.spec_from_file_location("benchmark_whole", BENCHMARKS / "whole.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCHMARKS))
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


whole = _load()


@pytest.fixture(scope="module")
def teacher() -> TeacherSlice:
    return random_bert(
        num_layers=4,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
    )


@pytest.fixture
def texts(teacher: TeacherSlice, tmp_path: Path) -> TextDataModule:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(many_texts(60)))
    return TextDataModule(teacher, 8, 16, train_batches=4, valid_batches=1, files=[str(file)])


def _of(neurons: int) -> int:
    return count_parameters(BertLayer(**{**SIZES, "num_layers": 1, "intermediate_size": neurons}))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5 * 6000))
def test_widest_keeps_to_the_budget_and_leaves_no_room(layers: int, budget: int) -> None:
    if budget < layers * _of(1):
        with pytest.raises(ValueError, match="take at least"):
            whole.widest(SIZES, budget, layers)
        return
    neurons = whole.widest(SIZES, budget, layers)
    assert layers * _of(neurons) <= budget
    assert neurons == 48 or layers * _of(neurons + 1) > budget


@given(st.data(), st.sampled_from([1, 2, 3, 6]))
def test_every_slice_of_a_layer_reduction_has_its_layer(data: st.DataObject, count: int) -> None:
    size = 6 // count
    layers = [data.draw(st.integers(n * size, (n + 1) * size - 1)) for n in range(count)]
    spans = whole.spread(layers, 6)
    assert [layer for span in spans for layer in span.layers] == list(range(6))
    assert all(layer in span.layers for layer, span in zip(layers, spans, strict=True))


def test_layers_of_one_slice_are_no_layer_reduction() -> None:
    with pytest.raises(ValueError, match="equal slices"):
        whole.spread((0, 1, 4), 6)


def test_names_of_rows_are_their_own() -> None:
    rows = whole.all_rows()
    assert len({row.name for row in rows}) == len(rows)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=5), unique=True, max_size=4), st.floats(0, 1))
def test_an_interruption_loses_no_more_than_the_row_that_it_cuts(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], share: float
) -> None:
    path = tmp_path_factory.mktemp("state") / "state.jsonl"
    written = []
    for number, name in enumerate(names):
        whole.State(path, {"steps": 3}).add_row(name, {"cosine": number / 7})
        written.append(path.stat().st_size)
    cut = int(share * (written[-1] if written else 0))
    if names:
        path.write_bytes(path.read_bytes()[:cut])
    left = [name for name, end in zip(names, written, strict=True) if end <= cut]
    state = whole.State(path, {"steps": 3})
    assert list(state.rows)[: len(left)] == left
    state.add_row("another", {"cosine": 1.0})
    state.set_library([[("nothing", 0.5, 0)]])
    again = whole.State(path, {"steps": 3})
    assert set(again.rows) == {*state.rows}
    assert again.library == [[["nothing", 0.5, 0]]]
    assert whole.State(path, {"steps": 4}).rows == {}


def test_two_halves_see_what_one_fit_sees(texts: TextDataModule) -> None:
    one = TextBatchDataModule(texts)
    later = whole.Later(texts, 2)
    for number in range(2):
        index = BatchIndex(Split.TRAIN, number)
        found = later.transfer_batch_to_device(index, CPU, 0)
        expected = one.make_batch(BatchIndex(Split.TRAIN, number + 2), CPU)
        assert found.origin == expected.origin
        for ours, theirs in zip(found.groups, expected.groups, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("noise", [False, True], ids=["text", "noise"])
def test_local_fits_compare_each_block_with_its_own_slice(
    teacher: TeacherSlice, texts: TextDataModule, noise: bool
) -> None:
    original = original_encoder(teacher)
    spans = partition(4, 2)

    def loss(blocks: list[Any]) -> float:
        targets = OriginalSide(original, range(1, 5))
        recipe = whole.Recipe(muon=False, lr=1e-3)
        fits = whole.LocalFits(original, assemble(original, blocks), recipe, targets, noise)
        batch = TextBatchDataModule(texts).make_batch(BatchIndex(Split.TRAIN, 0), CPU)
        return float(fits.training_step(batch, 0).detach())

    kept = [keep_slice(original, span) for span in spans]
    assert loss(kept) < 1e-5
    # What the one gets wrong is its own: the other's input stays the original's.
    changed = [keep_slice(original, span) for span in spans]
    norms = [block.module.encoder.get_submodule("layers.1.feed_forward.norm") for block in changed]
    with torch.no_grad():
        norms[0].bias.add_(0.25)
    assert loss(changed) == pytest.approx(0.25, abs=1e-4)
    with torch.no_grad():
        norms[1].bias.add_(0.5)
    assert loss(changed) == pytest.approx(0.75, abs=1e-4)
