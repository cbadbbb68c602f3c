"""The report of a compression: what came out, what was cut where, and why one should believe it.

One file, as the report of a study is: `sweep.report.page`. A new section is a row of `SECTIONS`,
and a template in `templates/sections/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from slicewise.atomic import write_atomically
from sweep.compress.application import HEALING, LIBRARY
from sweep.compress.codes import Kept
from sweep.compress.figures import RESOURCES, draw, shown
from sweep.compress.material import Candidate, Compression, read_compression
from sweep.compress.plans import ChosenPlan
from sweep.compress.result import Result
from sweep.report import save_pictures
from sweep.report.page import Head, Section, Values, page
from sweep.report.sections import provenance
from sweep.report.table import Cell, Column, Table, Tile, table_of
from sweep.trial.record import RECORD_NAME
from sweep.view.summary import REPORT_NAME

# Rows that a browser still sorts at once.
_ROWS = 3000
_MODEL = "model"
_CARD = "README.md"
# Of rank correlations, what they say of a sum that predicts.
_ORDERS = (
    (0.9, "the sum orders plans nearly as they come out, so the choice can be believed"),
    (0.7, "the sum mostly orders plans as they come out; heal more than one (choose.plans)"),
    (
        -1.0,
        "the sum is a poor guide here; heal several plans (choose.plans), or cut in larger slices",
    ),
)


def write_report(folder: Path, place: Path | None = None) -> Path:
    """Writes `report.html`; it appears whole or not at all.

    Args:
        folder: Of the compression.
        place: The folder to write into; None: that one.

    Raises:
        SlicewiseError: Nothing was chosen there yet.
    """
    compression = read_compression(folder, place)
    head = Head(
        compression.name, "A compression by slicewise", compression.written, _state(compression)
    )
    text = page(head, SECTIONS, compression, draw(compression), "sweep.compress")
    compression.place.mkdir(parents=True, exist_ok=True)
    return write_atomically((place or folder) / REPORT_NAME, text)


def write_pictures(folder: Path, place: Path) -> list[Path]:
    """Writes the report's pictures as PNG files, on white.

    Args:
        folder: Of the compression.
        place: The folder to write into.

    Raises:
        SlicewiseError: Nothing was chosen there yet, or what draws is not installed.
    """
    return save_pictures(draw(read_compression(folder)), place)


def _state(compression: Compression) -> str:
    if compression.result is not None:
        return f"Made of {compression.result.teacher}."
    ended = sum(healing.record is not None for healing in compression.healings)
    plans = _counted(len(compression.plans.chosen), "plan")
    return (
        f"It is not finished: nothing has been exported of what was chosen ({plans}). "
        f"Healings that have ended: {ended}."
    )


# 1: the answer.


def _answer(compression: Compression) -> Values:
    result = compression.result
    if result is None:
        return {"tiles": _promises(compression), "result": None}
    path = os.path.relpath(compression.folder / _MODEL)
    load = f"model = SentenceTransformer({path!r})"
    importing = "from sentence_transformers import SentenceTransformer"
    without = None
    if not result.is_plain:
        importing = f"import slicewise\n{importing}"
        if result.has_onnx:
            without = f"SentenceTransformer({path!r}, backend='onnx')"
    return {
        "tiles": _tiles(result),
        "result": result,
        "path": path,
        "card": _link(compression, compression.folder / _MODEL / _CARD),
        "lines": [importing, load],
        "without": without,
        "sides": _sides(result),
    }


def _tiles(result: Result) -> list[Tile]:
    before, after = result.original, result.result
    tiles = [
        Tile("cosine to the original, on held-out text", _number(result.cosine, ".4f"), True),
        Tile(
            "of the parameters in its layers",
            _number(after.parameters / before.parameters, ".1%"),
            True,
        ),
        Tile(
            f"times as fast; its FLOPs promise {result.promised_speed:.2f}",
            _number(result.speed, ".2f"),
            True,
        ),
    ]
    if before.spearman is not None and after.spearman is not None:
        label = f"Spearman on labelled pairs; the original {before.spearman:.4f}"
        tiles.append(Tile(label, _number(after.spearman, ".4f"), True))
    if result.overlap is not None:
        label = "of the original's ten nearest texts are among its ten"
        tiles.append(Tile(label, _number(result.overlap, ".1%"), True))
    tiles.append(Tile("megabytes of weights", _number(after.megabytes, ",.1f")))
    return tiles


def _promises(compression: Compression) -> list[Tile]:
    """What is known before anything has been exported."""
    plan, plans = compression.plan, compression.plans
    share = plan.costs["parameters"] / max(1.0, plans.original["parameters"])
    tiles = [
        Tile("of the parameters in its layers, by the best plan", _number(share, ".1%")),
        Tile("damage predicted", _number(plan.predicted, ".4f")),
    ]
    if plan.measured is not None:
        tiles.append(Tile("damage of the whole, put together", _number(plan.measured, ".4f")))
    return tiles


def _sides(result: Result) -> Table:
    """Original and result beside each other."""
    one, other = result.original, result.result
    rows: list[tuple[str, float | None, float | None, str]] = [
        ("parameters in layers", one.parameters, other.parameters, ",.0f"),
        ("FLOPs of a text, in layers", one.flops, other.flops, ",.0f"),
        ("milliseconds of a text, in layers", one.latency_ms, other.latency_ms, ".3g"),
        ("megabytes of weights", one.megabytes, other.megabytes, ",.2f"),
        ("texts a second", one.texts_per_second, other.texts_per_second, ",.1f"),
        ("Spearman on labelled pairs", one.spearman, other.spearman, ".4f"),
        (f"cosine, {result.held_out[0]:,} held-out texts", 1.0, result.cosine, ".4f"),
        ("cosine, 256 docstring sentences", 1.0, result.docstring_cosine, ".4f"),
        ("ten nearest: overlap", 1.0, result.overlap, ".3f"),
        ("ten nearest: NDCG", 1.0, result.ndcg, ".4f"),
        ("cosine before the vocabulary was cut", 1.0, result.full_vocabulary_cosine, ".4f"),
    ]
    rows = [row for row in rows if row[2] is not None]
    columns = [
        Column("measure", "what was measured", [Cell(row[0]) for row in rows], is_number=False),
        Column("original", "of the original", [_number(row[1], row[3]) for row in rows]),
        Column("result", "of the result", [_number(row[2], row[3]) for row in rows]),
        Column("ratio", "result over original", [_ratio(row[1], row[2]) for row in rows]),
    ]
    return table_of("Original and result", columns, [False] * len(rows))


def _ratio(one: float | None, other: float | None) -> Cell:
    return Cell("") if not one or other is None else _number(other / one, ".3g")


# 2: what was cut where.


@dataclass(frozen=True)
class Bar:
    """So much of something, of all that the original has.

    Attributes:
        text: Says it.
        width: Of the original's, in percent of the widest layer's.
        filled: What is kept, in percent of the original's.
        is_other: Whether something else stands there.
    """

    text: str
    width: float
    filled: float
    is_other: bool = False


@dataclass(frozen=True)
class LayerRow:
    """A layer of the original.

    Attributes:
        name: Its.
        note: Of a layer that is gone; empty of others.
        bars: What became of it: of heads and of neurons, or one for what stands in its place.
        is_first: Whether a slice begins with it.
    """

    name: str
    note: str
    bars: list[Bar]
    is_first: bool


def _layers(compression: Compression) -> Values:
    shapes = compression.plans.shapes
    most = {size: max(max(shape[size] for shape in shapes), 1) for size in ("heads", "neurons")}
    rows: list[LayerRow] = []
    kept_layers, kept_sizes = 0, dict.fromkeys(most, 0)
    others = []
    for kept, code in zip(compression.kept, compression.plan.candidates, strict=True):
        if kept.family is not None:
            others.append(f"{kept.slice_name}: {kept.name}")
        for number in range(kept.first, kept.last + 1):
            bars = [_other_bar(compression, kept, code, number)] if kept.family else []
            if not bars:
                stays = number in kept.layers
                kept_layers += stays
                for size in most:
                    full = shapes[number][size]
                    count = (kept.size(size) if kept.size(size) is not None else full) or 0
                    count = count if stays else 0
                    kept_sizes[size] += count
                    bars.append(_bar(count, full, most[size], size))
            note = "" if kept.family or number in kept.layers else "dropped"
            rows.append(LayerRow(f"layer {number}", note, bars, number == kept.first))
    return {
        "rows": rows,
        "is_result": compression.result is not None,
        "has_slices": len(compression.plans.spans) < len(shapes),
        "layers": (kept_layers, len(shapes)),
        "sizes": [
            (size, count, sum(shape[size] for shape in shapes))
            for size, count in kept_sizes.items()
        ],
        "others": others,
    }


def _bar(count: int, full: int, most: int, size: str) -> Bar:
    text = f"{count:,} of {full:,} {size}"
    return Bar(text, 100 * full / most, 100 * count / max(1, full))


def _other_bar(compression: Compression, kept: Kept, code: str, number: int) -> Bar:
    """What stands in the place of a slice, by its parameters, where its first layer was."""
    if number > kept.first:
        return Bar(f"replaced with layer {kept.first}", 100.0, 0.0)
    text, filled = f"{kept.name}, for {kept.slice_name}", 100.0
    candidate = compression.by_code.get(code)
    if candidate is not None:
        record = candidate.record
        own, theirs = record.student_parameters or 0, record.teacher_parameters or 0
        text, filled = (
            f"{text}: {own:,} parameters for {theirs:,}",
            100 * min(1.0, own / max(1, theirs)),
        )
    return Bar(text, 100.0, filled, is_other=True)


# 3 and 4: the choice, and whether it can be believed.


def _budget(compression: Compression) -> Values:
    plans = compression.plans
    best, plain = plans.chosen[0], plans.homogeneous
    bounds = [
        f"{shown(bound, RESOURCES[name][1])} {RESOURCES[name][0]}"
        for name, bound in plans.budget.items()
    ]
    return {
        "bounds": bounds,
        "shown": shown,
        "best": best,
        "plain": None if best.homogeneous else plain,
        "has_plain": plain is not None,
        "rivals": [
            plan
            for plan in plans.layer_reduction
            if all(plan.costs[name] <= bound for name, bound in plans.budget.items())
        ][-1:],
    }


def _additive(compression: Compression) -> Values:
    correlation = compression.plans.rank_correlation
    # Of damages that are all alike there is no order, and no number.
    known = correlation is not None and correlation == correlation
    words = next((words for least, words in _ORDERS if known and correlation >= least), "")  # type: ignore[operator]
    return {
        "correlation": correlation if known else None,
        "words": words,
        "measured": len(compression.measured),
    }


# 6: the plans.


def _quality(compression: Compression) -> Values:
    return {"table": _plan_table(compression), "result": compression.result}


def _plan_table(compression: Compression) -> Table:
    plans = compression.plans
    told = list(plans.chosen)
    plain = plans.homogeneous
    if plain is not None and plain.text not in {plan.text for plan in told}:
        told.append(plain)
    healings = [compression.healed(plan) for plan in told]
    names = []
    for plan, healing in zip(told, healings, strict=True):
        number = compression.number(plan.text)
        text = "best plain model" if number is None else f"plan {number}"
        names.append(Cell(text) if healing is None else _link(compression, healing.directory, text))
    records = [None if healing is None else healing.record for healing in healings]
    columns = [
        Column("plan", "leads to its healing", names, is_number=False),
        Column("state", "of its healing", [_healing_state(compression, p) for p in told], False),
        *(
            Column(short, RESOURCES[name][0], [_cost(plan, name) for plan in told])
            for name, short in (
                ("parameters", "parameters"),
                ("flops", "FLOPs"),
                ("latency_ms", "ms"),
                ("megabytes", "MB"),
            )
        ),
        Column(
            "predicted",
            "the candidates' damages, added up; smaller is better",
            [_number(plan.predicted, ".4f") for plan in told],
        ),
        Column(
            "put together",
            "damage of the whole before it learns; smaller is better",
            [_number(plan.measured, ".4f") for plan in told],
        ),
        Column(
            "healed",
            "damage after healing, on validation text; smaller is better",
            [_number(None if one is None else one.damage, ".4f") for one in healings],
        ),
        Column(
            "text cosine",
            "to the original's embeddings, on 256 docstring sentences; larger is better",
            [_number(None if one is None else one.text_cosine, ".4f") for one in records],
        ),
        Column("made of", "first slice to last", [Cell("; ".join(p.names)) for p in told], False),
    ]
    return table_of("Plans", columns, [_is_of_result(compression, plan) for plan in told])


def _is_of_result(compression: Compression, plan: ChosenPlan) -> bool:
    return compression.result is not None and plan.text == compression.plan.text


def _healing_state(compression: Compression, plan: ChosenPlan) -> Cell:
    if _is_of_result(compression, plan):
        return Cell("exported")
    healing = compression.healed(plan)
    return Cell("not healed" if healing is None else healing.state)


def _cost(plan: ChosenPlan, name: str) -> Cell:
    return _number(plan.costs.get(name), RESOURCES[name][1])


# 7: the library.


def _library(compression: Compression) -> Values:
    candidates = compression.candidates
    reports = [compression.folder / LIBRARY, *sorted(compression.folder.glob(f"{HEALING}-*"))]
    return {
        "table": _candidate_table(compression, candidates[:_ROWS]),
        "count": len(candidates),
        "slices": len(compression.plans.spans),
        "failed": len(compression.failed),
        "reasons": list(dict.fromkeys(r.reason or r.state.lower() for r in compression.failed))[:3],
        "reports": [
            _link(compression, place / REPORT_NAME, f"{place.name}/{REPORT_NAME}")
            for place in reports
            if (place / REPORT_NAME).is_file()
        ],
    }


def _candidate_table(compression: Compression, candidates: Sequence[Candidate]) -> Table:
    records = [candidate.record for candidate in candidates]

    def column(
        heading: str, hint: str, form: str, value: Callable[[Candidate], float | None]
    ) -> Column:
        return Column(heading, hint, [_number(value(one), form) for one in candidates])

    slices = [Cell(one.kept.slice_name, full=str(one.kept.first)) for one in candidates]
    names = [_link(compression, one.directory, one.kept.name) for one in candidates]
    shares = [
        _number((r.student_parameters or 0) / r.teacher_parameters, ".1%")
        if r.teacher_parameters
        else Cell("")
        for r in records
    ]
    columns = [
        Column("slice", "of the original", slices, is_number=False),
        Column("candidate", "leads to its trial", names, is_number=False),
        column("parameters", "of it", ",.0f", lambda one: one.record.student_parameters),
        Column("of slice", "share of the slice's parameters", shares),
        column("FLOPs", "of a text", ",.0f", lambda one: one.record.student_flops),
        column("ms", "of a text, alone", ".3g", lambda one: one.record.student_latency_ms),
        column(
            "text L1",
            "to the slice's hidden states, on text; smaller is better",
            ".4g",
            lambda one: one.record.text_l1,
        ),
        column(
            "damage",
            "one minus the cosine of the model with this slice alone replaced; smaller is better",
            ".4f",
            lambda one: one.record.damage,
        ),
    ]
    chosen = set(compression.plan.candidates)
    marked = [one.code in chosen for one in candidates]
    return table_of("Candidates", columns, marked, is_tall=True)


# 8: versions.


def _versions(compression: Compression) -> Values:
    result = compression.result
    facts: list[tuple[str, str]] = []
    if result is not None:
        facts = [
            ("teacher", result.teacher),
            ("held-out texts", f"{result.held_out[0]:,}: {result.held_out[1]}"),
            ("compared on", f"{result.hardware}, {_counted(result.threads, 'thread')}"),
            ("pieces of the vocabulary", f"{result.pieces:,}"),
        ]
    own = {"hardware": "hardware of healing", "precision": "precision of healing"}
    facts += [(own.get(name, name), text) for name, text in provenance(compression.records)]
    return {"facts": facts, "record_name": RECORD_NAME}


def _number(value: float | None, form: str) -> Cell:
    """A number for people, with the number in full; nothing where it is not known."""
    return Cell("") if value is None else Cell(shown(value, form), full=repr(value))


def _link(compression: Compression, target: Path, text: str | None = None) -> Cell:
    """Leads to a file or a folder, as seen from the report; to none that is not there."""
    text = target.name if text is None else text
    if not target.exists():
        return Cell(text)
    place = quote(os.path.relpath(target, compression.place))
    return Cell(text, href=f"{place}/" if target.is_dir() else place)


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


SECTIONS: tuple[Section[Compression], ...] = (
    Section("answer", "The answer", "result", _answer, row="answer"),
    Section("layers", "What was cut where", "layers", _layers, row="answer"),
    Section("budget", "Damage over budget", "budget", _budget, row="damage"),
    Section("additive", "Does damage add up?", "additive", _additive, row="damage"),
    Section("healing", "Healing", "healing"),
    Section("quality", "Quality against size and speed", "quality", _quality),
    Section("library", "The library", "library", _library),
    Section("versions", "Versions and hardware", "versions", _versions),
)
