"""The last stage: the best of the healed encoders is evaluated, and written for others to load."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from slicewise.cost import count_parameters, latency_ms
from slicewise.encoder.evaluation import neighbours, read_pairs, spearman, speed
from slicewise.encoder.export import export_model, why_not_plain
from slicewise.encoder.folder import load_model
from slicewise.encoder.sliced import SlicedEncoder
from slicewise.errors import SlicewiseError
from slicewise.transfer import default_texts
from sweep.command_line import command_of_study
from sweep.compress.card import model_card
from sweep.compress.heal import MODEL_FOLDER
from sweep.compress.inputs import contents
from sweep.compress.plans import ChosenPlan, Plans
from sweep.compress.report import write_report
from sweep.compress.result import Figures, Result
from sweep.compress.settings import CompressSettings
from sweep.compress.texts import held_out_texts, with_smaller_vocabulary
from sweep.compress.workbench import Workbench, open_workbench
from sweep.console import warn_of
from sweep.trial.hardware import processor
from sweep.trial.record import TrialRecord, record_files
from sweep.view.summary import REPORT_NAME

log = logging.getLogger(__name__)

_TURNS = 5


def deliver(settings: CompressSettings, plans: Plans, folder: Path, healing: Path) -> Result:
    """Evaluates and writes `model/`, its card, `result.json` and the report.

    Args:
        settings: Of the compression.
        plans: What was chosen.
        folder: Of the compression.
        healing: Of the trials that healed.

    Raises:
        SlicewiseError: Nothing was healed, or the model cannot be written.
    """
    place, record = best_healed(healing)
    made_of = _name(settings, plans, place, record)
    try:
        known = Result.read(folder)
        if known.made_of == made_of and (folder / MODEL_FOLDER).is_dir():
            log.info("Exported already")
            if not (folder / REPORT_NAME).is_file():
                _write_report(folder)
            show(known, folder)
            return known
    except SlicewiseError:
        pass
    bench = open_workbench(settings)
    device = next(bench.original.embeddings.parameters()).device
    healed = load_model(place / MODEL_FOLDER).to(device)
    encoder = with_smaller_vocabulary(healed, settings, bench, folder)
    plan = next(one for one in plans.chosen if one.text == record.params["plan"])
    log.info("Comparing with the original")
    result = _evaluated(settings, plans, plan, bench, encoder, healed, place, record, made_of)
    log.info("Writing %s", os.path.relpath(folder / MODEL_FOLDER))
    # Whatever comes in between: a result is of the model that lies beside it.
    Result.remove(folder)
    export_model(encoder, folder / MODEL_FOLDER, settings.onnx, model_card(result))
    result.write(folder)
    _write_report(folder)
    show(result, folder)
    return result


def _write_report(folder: Path) -> None:
    """Writes the report; a compression does not fail for want of it."""
    try:
        write_report(folder)
    except Exception as error:
        warn_of(log, "Could not write the report", error)


def best_healed(healing: Path) -> tuple[Path, TrialRecord]:
    """The folder and the record of the trial with the least damage.

    Raises:
        SlicewiseError: None is complete.
    """
    found = [(path.parent, TrialRecord.read(path.parent)) for path in record_files(healing)]
    complete = [(place, record) for place, record in found if record.state == "COMPLETE"]
    if not complete:
        raise SlicewiseError(f"{healing}: no plan was healed")
    return min(complete, key=lambda item: item[1].damage or 0.0)


def _evaluated(
    settings: CompressSettings,
    plans: Plans,
    plan: ChosenPlan,
    bench: Workbench,
    encoder: SlicedEncoder,
    healed: SlicedEncoder,
    place: Path,
    record: TrialRecord,
    made_of: str,
) -> Result:
    original = bench.original
    texts, where = held_out_texts(settings, bench)
    theirs_NH, ours_NH = original.encode(texts), encoder.encode(texts)
    whole_NH = ours_NH if encoder is healed else healed.encode(texts)
    near = neighbours(theirs_NH, ours_NH) if settings.evaluate.retrieval else None
    pairs = read_pairs(settings.evaluate.pairs) if settings.evaluate.pairs else None
    sts = [None if pairs is None else spearman(one, pairs) for one in (original, encoder)]
    docstrings = list(default_texts())
    seconds = speed(original, encoder, texts)
    milliseconds = _latencies((original, encoder), settings.data.seq_length)
    why_not = why_not_plain(encoder)
    return Result(
        made_of=made_of,
        study=settings.study,
        command=command_of_study(settings.study),
        teacher=bench.teacher.source,
        hardware=_hardware(),
        threads=torch.get_num_threads(),
        healed=os.path.relpath(place, place.parent.parent),
        steps=record.steps or 0,
        plan=plan.names,
        candidates=plan.candidates,
        original=Figures(
            int(plans.original["parameters"]),
            int(plans.original["flops"]),
            milliseconds[0],
            _megabytes(original),
            round(seconds.original, 1),
            sts[0],
        ),
        result=Figures(
            sum(map(count_parameters, encoder.block_list)),
            int(plan.costs["flops"]),
            milliseconds[1],
            _megabytes(encoder),
            round(seconds.encoder, 1),
            sts[1],
        ),
        damage_before=plan.measured,
        damage=float(record.damage or 0.0),
        cosine=F.cosine_similarity(theirs_NH, ours_NH).mean().item(),
        held_out=(len(texts), where),
        docstring_cosine=F.cosine_similarity(
            original.encode(docstrings), encoder.encode(docstrings)
        )
        .mean()
        .item(),
        overlap=None if near is None else near.overlap,
        ndcg=None if near is None else near.ndcg,
        full_vocabulary_cosine=None
        if encoder is healed
        else F.cosine_similarity(theirs_NH, whole_NH).mean().item(),
        pieces=_pieces(encoder),
        is_plain=not why_not,
        why_not_plain=why_not,
        has_onnx=settings.onnx,
    )


def show(result: Result, folder: Path) -> None:
    """Prints the result beside the original, and how to use it."""
    console = Console(highlight=False)
    table = Table(title=f"{result.study}: {result.teacher}")
    for heading in ("", "original", "result", ""):
        table.add_column(heading, justify="right" if heading else "left")
    before, after = result.original, result.result
    for name, format_, one, other in (
        ("parameters in layers", ",", before.parameters, after.parameters),
        ("FLOPs of a text", ",", before.flops, after.flops),
        ("ms of a text, layers", ".3g", before.latency_ms, after.latency_ms),
        ("megabytes of weights", ".1f", before.megabytes, after.megabytes),
        ("texts a second", ",.0f", before.texts_per_second, after.texts_per_second),
    ):
        table.add_row(name, format(one, format_), format(other, format_), _share(one, other))
    if before.spearman is not None and after.spearman is not None:
        change = f"{after.spearman - before.spearman:+.4f}"
        table.add_row(
            "Spearman on pairs", f"{before.spearman:.4f}", f"{after.spearman:.4f}", change
        )
    table.add_row(f"cosine, {result.held_out[0]} texts", "1", f"{result.cosine:.4f}", "")
    if result.overlap is not None:
        table.add_row("ten nearest: overlap", "1", f"{result.overlap:.3f}", "")
        table.add_row("ten nearest: NDCG", "1", f"{result.ndcg:.3f}", "")
    console.print(table)
    if result.was_healed_for_nothing:
        # Beside what scripts read.
        Console(stderr=True, highlight=False).print(
            f"Healing has made nothing better: damage {result.damage_before:.4f} before, "
            f"{result.damage:.4f} after {result.steps} steps; more heal.steps, or a smaller "
            "optimizer.lr, may",
            soft_wrap=True,
        )
    path = os.path.relpath(folder / MODEL_FOLDER)
    if result.is_plain:
        use = f"SentenceTransformer('{path}')"
    elif result.has_onnx:
        use = (
            f"SentenceTransformer('{path}', backend='onnx'), by sentence-transformers[onnx] in an "
            "environment of its own; with slicewise also without onnx"
        )
    else:
        use = f"import slicewise; SentenceTransformer('{path}')"
    console.print(f"Model:      {path}", soft_wrap=True, markup=False)
    console.print(f"Use it:     {use}", soft_wrap=True, markup=False)
    report = folder / REPORT_NAME
    if report.is_file():
        console.print(f"Look at it: {os.path.relpath(report)}", soft_wrap=True, markup=False)


def _latencies(encoders: Sequence[SlicedEncoder], seq_length: int) -> list[float]:
    """Milliseconds of one text in the layers of each, medians of a run in which they take turns."""
    taken: list[list[float]] = [[] for _ in encoders]
    for _ in range(_TURNS):
        for one, encoder in zip(taken, encoders, strict=True):
            layers = nn.Sequential(*(block.module for block in encoder.block_list))
            one.append(latency_ms(layers, encoder.hidden_size, seq_length, runs=10))
    return [round(statistics.median(one), 3) for one in taken]


def _share(before: float, after: float) -> str:
    """How the result compares: a share of the original, or times as much."""
    if not before or not after:
        return ""
    share = after / before
    return f"{share:.1%}" if share < 1 else f"{share:.2f} x"


def _megabytes(encoder: SlicedEncoder) -> float:
    return round(count_parameters(encoder) * 4 / 1e6, 2)


def _pieces(encoder: SlicedEncoder) -> int:
    return int(encoder.embeddings.config.vocab_size)  # type: ignore[union-attr, arg-type]


def _hardware() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def _name(settings: CompressSettings, plans: Plans, place: Path, record: TrialRecord) -> str:
    named: dict[str, Any] = {
        "plans": plans.made_of,
        "healed": [str(place.name), record.damage],
        "evaluate": asdict(settings.evaluate),
        "vocabulary": settings.vocabulary,
        "onnx": settings.onnx,
    }
    paths = (settings.evaluate.pairs, settings.vocabulary_file, *settings.text_files)
    files = contents(path for path in paths if path is not None)
    if files:
        named["files"] = files
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
