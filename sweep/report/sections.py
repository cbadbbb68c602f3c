"""The report of a study. Its sections: for each its name, its title, and what its template is told.

A new section is a row of `SECTIONS`, at the end, and a template in `templates/sections/`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from sweep.report.material import FEW, Material, TrialMaterial, varying
from sweep.report.page import Head, Section, Values, page
from sweep.report.picture import Picture
from sweep.report.table import Cell, Table, Tile, metric_cell, trial_link, trial_table
from sweep.study.places import rerun_command
from sweep.study.plan import command_of
from sweep.trial.record import RECORD_NAME
from sweep.view.words import counted, in_words, metric_shown, shown

# Rows that a browser still sorts at once.
_ROWS = 3000
_LISTED_NUMBERS = 30


@dataclass(frozen=True)
class Links:
    """Trials that are listed.

    Attributes:
        cells: The first of them.
        count: How many there are.
    """

    cells: list[Cell]
    count: int


def question(material: Material) -> Values:
    """What is sought, where, and by whom."""
    config, application = material.shared, material.application
    goals = [
        f"{direction.name.lower()} {name}"
        for name, direction in zip(material.objectives, material.directions, strict=True)
    ]
    space = material.identity.get("space", {})
    facts = []
    if application is None:
        facts = [
            ("Teacher", _teacher(material)),
            ("Data", _node_in_words(config.get("data", {}))),
            ("Student", _node_in_words(config.get("student", {}))),
            ("Optimizer", _node_in_words(config.get("optimizer", {}))),
            ("Scheduler", _node_in_words(config.get("scheduler") or {})),
        ]
    return {
        "application": application,
        "goals": goals,
        "by": [word for word in (material.plan.sampler, material.plan.pruner) if word],
        "facts": [(name, text) for name, text in facts if text],
        "space": [(key, _range(described)) for key, described in space.items()],
        "config": json.dumps(config, indent=2) if config else "",
    }


def _teacher(material: Material) -> str:
    config = material.shared.get("teacher", {})
    source = next((t.record["teacher"] for t in material.trials if t.record.get("teacher")), None)
    size = next(filter(None, (t.metrics.teacher_parameters for t in material.trials)), None)
    said = [str(source)] if source else []
    if "first_layer" in config and "num_layers" in config:
        first, count = config["first_layer"], config["num_layers"]
        last = "the last" if count is None else str(first + count - 1)
        said.append(f"layer {first}" if count == 1 else f"layers {first} to {last}")
    if size:
        said.append(f"{size:,} parameters")
    return ", ".join(said) or _node_in_words(config)


def _node_in_words(node: dict[str, Any]) -> str:
    """A configuration node: what it builds, then its plain values."""
    target = str(node.get("_target_", "")).rpartition(".")[2]
    plain = {
        key: value
        for key, value in node.items()
        if not key.startswith("_") and isinstance(value, (bool, int, float, str))
    }
    return ": ".join(part for part in (target, in_words(plain)) if part)


def _range(described: Any) -> str:
    """A distribution in words."""
    if not isinstance(described, dict) or "attributes" not in described:
        return str(described)
    attributes = described["attributes"]
    if "choices" in attributes:
        return "one of " + ", ".join(shown(choice) for choice in attributes["choices"])
    step = attributes.get("step")
    whole = described.get("name") == "IntDistribution"
    return (
        f"{shown(attributes['low'])} to {shown(attributes['high'])}"
        + (", logarithmic" if attributes.get("log") else "")
        + (", whole numbers" if whole else "")
        + (f", in steps of {shown(step)}" if step and not (whole and step == 1) else "")
    )


def _answer(material: Material) -> Values:
    best = material.best
    words = {"noun": "student" if material.application is None else "trial"}
    if best is None:
        empty = {"tiles": [], "point": "", "several": False, "students": None, "baselines": []}
        return words | empty
    baselines = best.record.get("baselines") or {}
    return words | {
        "tiles": _tiles(material, best),
        "point": in_words(best.trial.params),
        "several": len(material.objectives) > 1,
        "students": _best_students(material),
        "baselines": [(_plain(name), f"L1 {value:.4g}") for name, value in baselines.items()],
    }


def _tiles(material: Material, best: TrialMaterial) -> list[Tile]:
    several = len(material.objectives) > 1
    label = "first of the front" if several else "best trial"
    tiles = [Tile(label, trial_link(material, best))]
    for name, value in zip(material.objectives, best.values, strict=True):
        tiles.append(Tile(name, metric_cell(name, value), is_good=not several))
    baseline = _plain(str(best.record.get("best_baseline") or "the best one"))
    others = (
        ("valid_l1", "validation L1", False),
        ("baseline_ratio", f"times better than predicting {baseline}", True),
        ("student_parameters", "parameters", False),
        ("parameter_share", "of the original slice's parameters", True),
        ("text_cosine", "cosine to the original model, on text", False),
    )
    for name, label, is_good in others:
        value = getattr(best.metrics, name)
        if value is not None and name not in material.objectives:
            tiles.append(Tile(label, metric_cell(name, value), is_good))
    return tiles


def _best_students(material: Material) -> Table | None:
    """The students that one would choose from; None where there is nothing to choose."""
    several = len(material.objectives) > 1
    students = [t for t in material.ranking if t.on_front] if several else material.size_front
    if len(students) < 2:
        return None
    label = "Best students" if material.application is None else "Best trials"
    return trial_table(material, students, label, is_tall=False)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _leaderboard(material: Material) -> Values:
    others = [
        t for t in material.trials if t.trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    trials = [*material.ranking, *others]
    table = trial_table(material, trials[:_ROWS], "Trials", is_tall=True)
    return {
        "table": table,
        "n_trials": len(trials),
        "has_pruned": bool(material.of(TrialState.PRUNED)),
    }


def _mattered(material: Material) -> Values:
    """In words, what there is no picture of: too few trials, or parameters."""
    if len(material.complete) < 2:
        return {"words": ""}
    varied = varying(material)
    if not varied:
        return {"words": "All trials were asked the same."}
    if len(varied) == 1:
        name = material.objectives[0]
        ends = [t for t in material.ranking if t.is_complete]
        best, worst = (
            f"{name} {metric_shown(name, t.values[0])} with {shown(t.trial.params.get(varied[0]))}"
            for t in (ends[0], ends[-1])
        )
        return {"words": f"Only {varied[0]} varied: {best}, {worst}."}
    if len(material.complete) <= FEW:
        words = (
            f"Of {len(varied)} parameters that varied, so few trials do not tell which mattered."
        )
        return {"words": words}
    return {"words": ""}


def _failures(material: Material) -> Values:
    failed: dict[str, list[TrialMaterial]] = defaultdict(list)
    for trial in material.of(TrialState.FAIL):
        failed[trial.reason].append(trial)
    reasons = sorted(failed.items(), key=lambda item: -len(item[1]))
    retaken = [trial for trial in material.trials if trial.attempts]
    return {
        "reasons": [(reason, _links(material, trials)) for reason, trials in reasons],
        "pruned": _links(material, material.of(TrialState.PRUNED)),
        "retaken": _links(material, retaken),
    }


def _links(material: Material, trials: Sequence[TrialMaterial]) -> Links:
    cells = [trial_link(material, trial) for trial in trials[:_LISTED_NUMBERS]]
    return Links(cells, len(trials))


def _versions(material: Material) -> Values:
    facts = provenance(trial.record for trial in material.trials)
    hosts = sorted({sign.hostname for sign in material.workers.values()})
    if hosts and facts:
        facts.insert(0, ("machines", ", ".join(hosts)))
    return {"facts": facts, "record_name": RECORD_NAME}


def provenance(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What some trials recorded of what they ran on; where they differ, which did how often.

    Args:
        records: Of each trial, as trial.json has it.
    """
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        named = {
            "hardware": record.get("hardware"),
            "precision": record.get("precision"),
            "CPU threads": record.get("threads"),
            "code (git commit)": record.get("git_commit"),
            **(record.get("versions") or {}),
        }
        for name, value in named.items():
            if value:
                found[name][str(value)] += 1
    return [(name, _counted(values)) for name, values in found.items()]


def _counted(values: dict[str, int]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({n} trials)" for value, n in values.items())


def commands(material: Material) -> Values:
    """The commands that go on from here, those that there are."""
    name, url = material.name, material.storage_url
    rerun = None
    if material.best is not None:
        rerun = rerun_command(material.best.directory, working_directory(material))
    return {
        "again": material.plan.command,
        "rerun": rerun,
        "report": None if url is None else command_of("sweep.report", name, url),
        "dashboard": None if url is None else command_of("sweep.dashboard", None, url),
    }


def _commands(material: Material) -> Values:
    then = commands(material)
    told = (
        ("The same study again, or more of it", then["again"]),
        ("The best trial once more, and compare", then["rerun"]),
        ("This report, and its pictures as files", then["report"] and f"{then['report']} --png"),
        ("All studies in the browser", then["dashboard"]),
    )
    return {"commands": [(words, command) for words, command in told if command]}


def working_directory(material: Material) -> Path:
    """Where the sweep was started; of one that has been moved, what holds multirun/<study>."""
    started_in = material.plan.started_in
    if started_in is not None and material.directory.is_relative_to(started_in):
        return Path(started_in)
    return material.directory.parent.parent


SECTIONS: tuple[Section[Material], ...] = (
    Section("question", "The question", "question", question, row="question"),
    Section("answer", "The answer", "answer", _answer, row="question"),
    Section("leaderboard", "Leaderboard", "leaderboard", _leaderboard),
    Section("curves", "Learning curves", "pictures", row="losses"),
    Section("size", "Loss against parameters", "pictures", row="losses"),
    Section("parameters", "What mattered", "parameters", _mattered),
    Section("slices", "One parameter at a time", "picture_grid"),
    Section("timeline", "Who ran what, and when", "pictures"),
    Section("failures", "Failures", "failures", _failures, row="circumstances"),
    Section("versions", "Versions and hardware", "versions", _versions, row="circumstances"),
    Section("commands", "Commands", "commands", _commands),
)
# Those that have nothing to say without a picture.
_PICTURES = ("pictures", "picture_grid")
# Of another application.
_TITLES = {"size": "Objectives against each other"}


def study_page(material: Material, pictures: Sequence[Picture]) -> str:
    """The whole file of a study."""
    application = material.application
    kind = "A slicewise study" if application is None else f"A study of {application}"
    head = Head(material.name, kind, material.written, _state(material))
    return page(head, _sections(material, pictures), material, pictures)


def _sections(material: Material, pictures: Sequence[Picture]) -> Sequence[Section[Material]]:
    """The sections of a study that have something to show."""
    shown = {picture.section for picture in pictures}
    silent = set() if len(material.complete) > 1 else {"parameters"}
    kept = [
        section
        for section in SECTIONS
        if section.name in shown
        or (section.template not in _PICTURES and section.name not in silent)
    ]
    if material.application is None:
        return kept
    return [replace(s, title=_TITLES.get(s.name, s.title)) for s in kept]


def _state(material: Material) -> str:
    said = counted({state: len(material.of(state)) for state in TrialState})
    planned = f" {material.plan.n_trials} were asked for." if material.plan.n_trials else ""
    return f"Trials: {said or 'none'}.{planned}"
