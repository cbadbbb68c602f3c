"""Which way to a smaller encoder: python benchmarks/whole.py --pairs PAIRS.csv

MiniLM at half, a third and a fifth of the parameters in its layers, by layer reduction, by local
distillation on noise or on text and then healing, and by a plan chosen from a library and healed.
All on the same batches of text, with as many optimizer steps in all. Results go to
benchmarks/results/whole.md, their picture to docs/compress.svg. Finished rows are kept in the file
`--state`: the same command goes on after an interruption.

Shapes: B batch, T tokens, H hidden size, K real tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from machine import Table, description
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from slicewise.cost import count_parameters
from slicewise.data.batch import BatchIndex, Split
from slicewise.data.corpus import Source, read_texts, split_of
from slicewise.data.text import TextDataModule
from slicewise.encoder.candidates import Proposal, Workshop, propose
from slicewise.encoder.damage import Observations
from slicewise.encoder.evaluation import read_pairs, spearman
from slicewise.encoder.healing import Healer, OriginalSide, TextBatch, TextBatchDataModule
from slicewise.encoder.plan import Candidate, choose
from slicewise.encoder.refit import refit_encoder
from slicewise.encoder.sliced import (
    Block,
    SlicedEncoder,
    Span,
    assemble,
    original_encoder,
    partition,
    student_of,
    teacher_slice,
)
from slicewise.muon import MuonWithAdamW
from slicewise.schedules import cosine
from slicewise.students.bert_layer import BertLayer
from slicewise.targets import TargetStore
from slicewise.teacher import minilm
from slicewise.transfer import default_texts
from slicewise.whole import additive_mask

SHARES = {"50%": 0.5, "33%": 0.33, "20%": 0.2}
BATCH_SIZE, MAX_LENGTH = 64, 64
PRECISION = "bf16-mixed"
# Of the library: texts that first weights are solved for, and others that damage is measured on.
SOLVED_ON, MEASURED_ON = 512, 128
LOCAL_SLICES = 3
# Heads and neurons of a layer of MiniLM.
WHOLE = (12, 1536)

REDUCTION, NOISE, TEXT, OURS, FITTED = (
    "layer reduction",
    "local fits on noise, then healing",
    "local fits on text, then healing",
    "chosen plan, healed",
    "chosen plan, local fits on text, then healing",
)
# Those that spend half of their steps on local fits.
LOCAL = (NOISE, TEXT, FITTED)


PICTURE = Path(__file__).resolve().parent.parent / "docs/compress.svg"
# Okabe and Ito's, told apart by the colour-blind too.
STYLES = {
    OURS: ("#0072B2", "solid", "circle"),
    TEXT: ("#009E73", "dash", "square"),
    REDUCTION: ("#D55E00", "dot", "diamond"),
    NOISE: ("#CC79A7", "dashdot", "x"),
}


@dataclass(frozen=True)
class Recipe:
    """How a row learns.

    Attributes:
        muon: Muon (AdamW for what is no matrix) with a cosine; else AdamW with one cycle.
        lr: The highest learning rate.
        hidden_weight: Of the L1 to the hidden states, beside the embeddings' cosine; in healing.
    """

    muon: bool
    lr: float
    hidden_weight: float = 1.0

    def __str__(self) -> str:
        loss = "cosine and hidden states" if self.hidden_weight else "cosine"
        return f"{'Muon' if self.muon else 'AdamW'} {self.lr:g}, {loss}"

    def factories(self) -> tuple[Any, Any]:
        """Of the optimizer and of its schedule."""
        if self.muon:
            optimizer = partial(MuonWithAdamW, lr=self.lr, weight_decay=0.01, momentum=0.9)
            return optimizer, partial(cosine, warmup=0.1)
        optimizer = partial(AdamW, lr=self.lr, weight_decay=0.01)
        return optimizer, partial(OneCycleLR, max_lr=self.lr, pct_start=0.1)


@dataclass(frozen=True)
class Row:
    """One way to one size.

    Attributes:
        size: Of `SHARES`.
        method: One of the five.
        recipe: How it learns.
        layers: Those that layer reduction keeps.
        first: First weights of a chosen plan: `slice`: each block fitted to its slice's output, as
            the library has them; `row`: fitted once more, to what the blocks before really return;
            `layer`: each map of a layer to that map's own output alone.
    """

    size: str
    method: str
    recipe: Recipe
    layers: tuple[int, ...] = ()
    first: str = ""

    @property
    def name(self) -> str:
        """Its own among all rows."""
        kept = f" to {', '.join(map(str, self.layers))}" if self.layers else ""
        first = f" (first weights: {self.first})" if self.first else ""
        return f"{self.size}, {self.method}{kept}{first}, {self.recipe}"


def all_rows() -> list[Row]:
    """In the order of the table."""
    documented = {
        "50%": [(0, 2, 4), (1, 3, 5), (0, 2, 5), (0, 3, 5)],
        "33%": [(2, 5), (1, 4)],
        "20%": [(5,), (0,)],
    }
    best = {"50%": (1, 3, 5), "33%": (2, 5), "20%": (5,)}
    rows = []
    for size in SHARES:
        adamw = Recipe(muon=False, lr=1e-3)
        muon = Recipe(muon=True, lr=1e-3 if size == "50%" else 2e-3)
        rows += [
            Row(size, REDUCTION, Recipe(False, 1e-3, 0.0), layers) for layers in documented[size]
        ]
        rows.append(Row(size, REDUCTION, Recipe(False, 2e-3, 0.0), best[size]))
        rows += [Row(size, REDUCTION, recipe, best[size]) for recipe in (adamw, muon)]
        rows += [Row(size, method, recipe) for method in (NOISE, TEXT) for recipe in (adamw, muon)]
        rows += [Row(size, OURS, adamw, first="slice")]
        rows += [Row(size, OURS, muon, first=first) for first in ("slice", "row", "layer")]
        rows += [Row(size, FITTED, muon, first="slice")]
    return rows


def spread(layers: Sequence[int], num_layers: int) -> list[Span]:
    """Slices of one length, each with one of some layers: what layer reduction stands for.

    Raises:
        ValueError: There are no such slices.
    """
    spans = partition(num_layers, num_layers // len(layers))
    if len(spans) != len(layers) or any(
        layer not in span.layers for layer, span in zip(layers, spans, strict=True)
    ):
        raise ValueError(f"layers {layers} are not one of each of {len(layers)} equal slices")
    return spans


def widest(sizes: dict[str, Any], budget: float, layers: int) -> int:
    """The most neurons that each of so many layers may have for all of them to keep to a budget.

    Args:
        sizes: Of a `BertLayer` of one layer; no more neurons than it says.
        budget: Parameters.
        layers: How many.

    Raises:
        ValueError: Not even one neuron each.
    """
    one, two = (
        count_parameters(BertLayer(**{**sizes, "num_layers": 1, "intermediate_size": neurons}))
        for neurons in (1, 2)
    )
    each = two - one
    neurons = int(budget // layers - (one - each)) // each
    if neurons < 1:
        raise ValueError(f"{budget} parameters: {layers} layers take at least {layers * one}")
    return min(neurons, int(sizes["intermediate_size"]))


class Later(TextBatchDataModule):
    """The batches of a data module from some number on."""

    def __init__(self, texts: TextDataModule, first: int) -> None:
        super().__init__(texts)
        self.first = first

    def transfer_batch_to_device(
        self, batch: BatchIndex, device: torch.device, dataloader_idx: int
    ) -> TextBatch:
        return self.make_batch(batch._replace(number=batch.number + self.first), device)


class LocalFits(LightningModule):
    """Every block by itself: L1 to what its slice of the original makes of the same input.

    All slices in one step, as they share nothing: a step of all of them is a step of the whole.

    Args:
        original, encoder: As for `Healer`.
        recipe: Its optimizer and schedule.
        targets: The original's side of text.
        noise: Standard-normal hidden states enter the slices, as many tokens in texts of the same
            lengths; else what enters them on text.
    """

    def __init__(
        self,
        original: SlicedEncoder,
        encoder: SlicedEncoder,
        recipe: Recipe,
        targets: OriginalSide,
        noise: bool,
    ) -> None:
        super().__init__()
        self._outside = (original,)
        self.encoder = encoder
        self.encoder.embeddings.requires_grad_(False)
        self.recipe = recipe
        self.targets = targets
        self.noise = noise

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        difference = torch.zeros(())
        generator = torch.Generator().manual_seed(batch.origin.number)
        targets = [None] * len(batch.groups) if self.noise else self.targets(batch)
        for (ids_BT, keep_BT), target in zip(batch.groups, targets, strict=True):
            mask = additive_mask(keep_BT)
            entering_BTH = self.encoder.enter(ids_BT, keep_BT).float()
            for block in self.encoder.block_list:
                if target is None:
                    size = (*keep_BT.shape, self.encoder.hidden_size)
                    x_BTH = torch.randn(size, generator=generator)
                    y_KH = self._original(block.span, x_BTH, mask)[keep_BT].float()
                else:
                    x_BTH = entering_BTH
                    if block.span.first_layer:
                        x_BTH = torch.zeros_like(entering_BTH)
                        x_BTH[keep_BT] = target.states[block.span.first_layer]
                    y_KH = target.states[block.span.end]
                found_KH = block(x_BTH, mask)[keep_BT].float()
                difference = difference + (found_KH - y_KH).abs().mean(-1).sum()
        return difference / batch.num_tokens

    @torch.no_grad()
    def _original(self, span: Span, x_BTH: Tensor, mask: Tensor | None) -> Tensor:
        for block in self._outside[0].block_list[span.first_layer : span.end]:
            x_BTH = block(x_BTH, mask)
        return x_BTH

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.recipe.factories()
        learning = optimizer(list(self.encoder.blocks.parameters()))
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = {"scheduler": scheduler(learning, total_steps=steps), "interval": "step"}
        return {"optimizer": learning, "lr_scheduler": schedule}


class State:
    """Finished rows and the library, a line each in a file.

    Args:
        path: Goes on where it stops.
        settings: Lines of others are not looked at.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.rows: dict[str, dict[str, Any]] = {}
        self.library: list[Any] | None = None
        for line in self._lines():
            if line["settings"] == settings:
                if "library" in line:
                    self.library = line["library"]
                else:
                    self.rows[line["row"]] = line["found"]

    def add_row(self, name: str, found: dict[str, Any]) -> None:
        self.rows[name] = found
        self._append({"row": name, "found": found})

    def set_library(self, library: list[Any]) -> None:
        self.library = library
        self._append({"library": library})

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                # An interruption may have cut one off.
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write("\n" + json.dumps({"settings": self.settings, **line}) + "\n")


class Bench:
    """What all rows share: the original and its side of the batches, the library, what is measured.

    Args:
        options: Of the command.
        state: Holds the library, once it is made.
        cache: A folder for the original's side.
    """

    def __init__(self, options: argparse.Namespace, state: State, cache: Path) -> None:
        self.steps: int = options.steps
        self.state = state
        files = [options.text] if options.text else None
        self.teacher = minilm(0, 6)
        self.original = original_encoder(self.teacher)
        self.texts = TextDataModule(
            self.teacher, BATCH_SIZE, MAX_LENGTH, self.steps, valid_batches=1, files=files
        )
        self.training_texts = [
            text for text in read_texts(Source(tuple(files or ()))) if split_of(text) is Split.TRAIN
        ]
        self.parameters = count_parameters(self.original.blocks)
        layers = range(1, self.original.num_layers + 1)
        self.targets = OriginalSide(self.original, layers, TargetStore(cache, "original", 2**40))
        self.held_out = list(default_texts())
        self.pairs = read_pairs(options.pairs) if options.pairs else []
        self.expected = self.original.encode(self.held_out)

    def prepare(self) -> None:
        """The original's side of all batches, so that no row pays for it."""
        data = TextBatchDataModule(self.texts)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for number in range(self.steps):
                self.targets(data.make_batch(BatchIndex(Split.TRAIN, number), torch.device("cpu")))

    def run(self, row: Row) -> dict[str, Any]:
        """Makes a smaller encoder, and says what it is."""
        torch.manual_seed(0)
        encoder = self.build(row)
        before = self.cosine(encoder)
        optimizer, scheduler = row.recipe.factories()
        local = self.steps // 2 if row.method in LOCAL else 0
        started = time.process_time()
        after_local = None
        if local:
            noise = row.method == NOISE
            fits = LocalFits(self.original, encoder, row.recipe, self.targets, noise)
            _fit(fits, TextBatchDataModule(self.texts), local)
        local_seconds = time.process_time() - started
        if local:
            after_local = self.cosine(encoder)
        healer = Healer(
            self.original,
            encoder,
            optimizer,
            scheduler,
            row.recipe.hidden_weight,
            targets=self.targets,
        )
        started = time.process_time()
        _fit(healer, Later(self.texts, local), self.steps - local)
        seconds = local_seconds + time.process_time() - started
        return {
            "plan": describe(encoder),
            "parameters": count_parameters(encoder.blocks),
            "before": before,
            "after_local": after_local,
            "cosine": self.cosine(encoder),
            "spearman": self.spearman(encoder),
            "seconds": seconds,
        }

    def build(self, row: Row) -> SlicedEncoder:
        """The encoder before any training."""
        budget = SHARES[row.size] * self.parameters
        if row.method == REDUCTION:
            spans = spread(row.layers, self.original.num_layers)
            pairs = zip(row.layers, spans, strict=True)
            blocks = [self._layer(layer, span) for layer, span in pairs]
        elif row.method in (OURS, FITTED):
            blocks = self._chosen(budget, row.first)
        else:
            spans = partition(self.original.num_layers, self.original.num_layers // LOCAL_SLICES)
            sizes = BertLayer.sizes_from(self.teacher)
            neurons = widest(sizes, budget, len(spans))
            blocks = [self._least_damage(span, neurons) for span in spans]
        encoder = assemble(self.original, blocks)
        if row.first == "row":
            refit_encoder(encoder, self.solved_on)
        return encoder.requires_grad_(True)

    @cached_property
    def solved_on(self) -> Observations:
        return Observations(self.original, self._some(0, SOLVED_ON), MAX_LENGTH)

    @cached_property
    def measured_on(self) -> Observations:
        return Observations(self.original, self._some(SOLVED_ON, MEASURED_ON), MAX_LENGTH)

    @cached_property
    def workshop(self) -> Workshop:
        return Workshop(self.solved_on)

    @cached_property
    def library(self) -> list[list[Candidate]]:
        """First weights alone, every layer a slice; made once."""
        spans = partition(self.original.num_layers, 1)
        if self.state.library is None:
            self.state.set_library([self._measured(span) for span in spans])
        assert self.state.library is not None
        return [
            [Candidate(span, name, damage, {"parameters": size}) for name, damage, size in slice_]
            for span, slice_ in zip(spans, self.state.library, strict=True)
        ]

    def _measured(self, span: Span) -> list[tuple[str, float, int]]:
        """Name, damage and parameters of every candidate of a slice."""
        found = []
        for proposal in propose(self.original, span):
            block = self.workshop.build(proposal)
            damage = self.measured_on.damage(block).damage
            found.append((proposal.name, damage, count_parameters(block)))
        return found

    def cosine(self, encoder: SlicedEncoder) -> float:
        """Of the embeddings of the held-out sentences to the original's."""
        return F.cosine_similarity(encoder.encode(self.held_out), self.expected).mean().item()

    def spearman(self, encoder: SlicedEncoder) -> float | None:
        """Of the embeddings' cosine with the scores of the pairs."""
        if not self.pairs:
            return None
        return spearman(encoder, self.pairs)

    def _some(self, first: int, count: int) -> list[str]:
        generator = torch.Generator().manual_seed(11)
        order = torch.randperm(len(self.training_texts), generator=generator).tolist()
        return [self.training_texts[number] for number in order[first : first + count]]

    def _layer(self, layer: int, span: Span) -> Block:
        """A layer of the original in the place of a slice."""
        teacher = teacher_slice(self.original, Span(layer, 1))
        student = BertLayer(**BertLayer.sizes_from(teacher))
        student.start_from(teacher)
        return Block(student, span, [layer]).eval()

    def _chosen(self, budget: float, first: str) -> list[Block]:
        (plan,) = choose(self.library, {"parameters": budget})
        blocks = []
        for candidate in plan.candidates:
            proposals = propose(self.original, candidate.span)
            (proposal,) = [p for p in proposals if p.name == candidate.name]
            block = self.workshop.build(proposal)
            if first == "layer":
                self._fill_by_maps(block, proposal)
            blocks.append(block)
        return blocks

    def _fill_by_maps(self, block: Block, proposal: Proposal) -> None:
        """As `BertLayer` does it where no layer is dropped."""
        student = student_of(block)
        if isinstance(student, BertLayer):
            span = proposal.span
            student.start_from(
                teacher_slice(self.original, span), self.solved_on.entering(span.first_layer)
            )

    def _least_damage(self, span: Span, neurons: int) -> Block:
        """One layer of a slice, that of least damage, as `keep=auto` chooses it."""
        teacher = teacher_slice(self.original, span)
        sizes = {**BertLayer.sizes_from(teacher), "num_layers": 1, "intermediate_size": neurons}
        inputs = self.solved_on.entering(span.first_layer)
        blocks = []
        for number, layer in enumerate(span.layers):
            student = BertLayer(**sizes)
            student.start_from(teacher, inputs, keep=[number])
            blocks.append(Block(student, span, [layer]).eval())
        return min(blocks, key=lambda block: self.solved_on.damage(block).damage)


def describe(encoder: SlicedEncoder) -> str:
    """Which layers are kept, in brackets the heads and neurons of those that are not whole."""
    words = []
    for block in encoder.block_list:
        config = student_of(block).config
        for layer in block.layers:
            sizes = (config["num_attention_heads"], config["intermediate_size"])
            words.append(f"{layer}" if sizes == WHOLE else "{} ({}/{})".format(layer, *sizes))
    return ", ".join(words)


def _fit(module: LightningModule, data: TextBatchDataModule, steps: int) -> None:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        precision=PRECISION,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module.train(), data)


def write_table(bench: Bench, state: State, options: argparse.Namespace) -> None:
    """Of all rows that there are, in their order."""
    original = bench.spearman(bench.original)
    table = Table(
        "whole.md",
        "Smaller encoders, five ways",
        [
            f"`python benchmarks/whole.py`, {description()}, one thread, {PRECISION}.",
            f"MiniLM's six layers ({bench.parameters:,} parameters) made smaller. All rows: the",
            f"same {bench.steps} batches of {BATCH_SIZE} texts of up to {MAX_LENGTH} tokens,",
            f"of {len(bench.training_texts):,} {options.text_name}.",
            "A step of local fits is one of all slices, which together are a step of the whole.",
            "Layer reduction to two of six layers takes a little more than 33%. Layers kept: in",
            "brackets heads and neurons (a whole layer has 12 and 1536). Cosine: of the embeddings",
            f"to the original's, on {len(bench.held_out)} held-out sentences: with the first",
            "weights, after local fits, and at the end. Spearman: on",
            f"{len(bench.pairs):,} {options.pairs_name}.",
            "Seconds: of one core, all steps, the original's side read from a cache.",
        ],
        "size|way|layers kept|learns with|parameters|steps|cosine: first|local|**end**|"
        "Spearman|seconds",
    )
    table.add(
        [
            *("100%", "the original", "all", "", f"{bench.parameters:,}", "", "", "", "1.0000"),
            *(_number(original), ""),
        ]
    )
    for row in all_rows():
        found = state.rows.get(row.name)
        if found is None:
            continue
        local = row.method in LOCAL
        half = bench.steps // 2
        first = f", first weights by {row.first}" if row.first else ""
        table.add(
            [
                *(row.size, row.method + first, found["plan"], str(row.recipe)),
                f"{found['parameters']:,}",
                f"{half} + {bench.steps - half}" if local else str(bench.steps),
                *(_number(found[key]) for key in ("before", "after_local", "cosine", "spearman")),
                f"{found['seconds']:.0f}",
            ]
        )


def draw(bench: Bench, state: State, path: Path) -> None:
    """The README's picture: the best row of each way at each size."""
    figure = go.Figure()
    for method, (colour, dash, symbol) in STYLES.items():
        best = {}
        for row in all_rows():
            found = state.rows.get(row.name)
            if found is None or row.method != method:
                continue
            if row.size not in best or found["cosine"] > best[row.size]["cosine"]:
                best[row.size] = found
        points = sorted(best.values(), key=lambda found: found["parameters"])
        figure.add_scatter(
            x=[found["parameters"] / bench.parameters for found in points],
            y=[found["cosine"] for found in points],
            name=method,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 3},
            marker={"size": 9, "symbol": symbol},
        )
    figure.update_layout(
        template="plotly_white",
        width=860,
        height=420,
        margin={"t": 30, "r": 20},
        xaxis={"title": "parameters in MiniLM's layers, of 10.6 million", "tickformat": ".0%"},
        yaxis_title="cosine to the original's embeddings",
        legend={"x": 0.99, "y": 0.01, "xanchor": "right", "yanchor": "bottom"},
    )
    figure.write_image(path)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Which way to a smaller encoder.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--text", help="a text a line; default: docstrings")
    parser.add_argument("--text-name", default="docstrings of the standard library")
    parser.add_argument("--pairs", help="CSV: two texts and a score")
    parser.add_argument("--pairs-name", default="pairs of sentences")
    parser.add_argument("--state", type=Path, help="finished rows are kept here")
    parser.add_argument("--rows", nargs="*", default=[""], help="only these: regular expressions")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    settings = {"steps": options.steps}
    for key in ("text", "pairs"):
        file = getattr(options, key)
        content = Path(file).read_bytes() if file else b""
        settings[key] = hashlib.sha256(content).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        state = State(options.state or Path(folder, "state.jsonl"), settings)
        bench = Bench(options, state, Path(folder))
        wanted = [
            row
            for pattern in options.rows
            for row in all_rows()
            if re.search(pattern, row.name) and row.name not in state.rows
        ]
        if wanted:
            bench.prepare()
        for row in dict.fromkeys(wanted):
            found = bench.run(row)
            state.add_row(row.name, found)
            print(row.name, json.dumps(found), flush=True)
        write_table(bench, state, options)
        draw(bench, state, PICTURE)


if __name__ == "__main__":
    main()
