"""What a sweep says of itself in its study, for those who look: how much, where, which command.

Nothing is decided by it. A study without one (of an older version, or made by other hands) can be
looked at all the same.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import optuna

from sweep.passwords import without_password
from sweep.study.attributes import FINISHED, PLAN, STOPPED
from sweep.study.shared import load_study, quiet_optuna
from sweep.study.storage import (
    OWN_STORAGE,
    absolute_url,
    existing_file,
    open_storage,
)

DEFAULT_STORAGE = "sqlite:///multirun/studies.db"


@dataclass
class Plan:
    """The plan of the sweep that worked on a study last.

    Attributes:
        n_trials: How many finished trials the study will have; None: unknown.
        directory: The study's folder; None: unknown.
        command: What starts, or resumes, the study; None: unknown.
        sampler: Name of Optuna's sampler.
        pruner: Name of Optuna's pruner.
        heartbeat: Seconds between two signs of life of its workers; None: unknown.
        beside_storage: The study's folder as seen from its SQLite file; None: it is elsewhere.
        application: What one types to run another application, whose study it is; None: this
            package's own.
        started_in: The working directory in which that was typed; None: unknown.
        earlier: Folders that the study had before; its trials of then say that they are there.
        stopped: What ended that sweep before its budget was met, other than a stopping rule.
        exhausted: Whether it has left no point of its space to try, whatever became of them.
    """

    n_trials: int | None = None
    directory: str | None = None
    command: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    heartbeat: float | None = None
    beside_storage: str | None = None
    application: str | None = None
    started_in: str | None = None
    earlier: list[str] = field(default_factory=list)
    stopped: str | None = None
    exhausted: bool = False

    def before(self, directory: str) -> list[str]:
        """The folders that the study had until it came to this one."""
        known = dict.fromkeys([self.directory, *self.earlier])
        return [one for one in known if one is not None and one != directory]

    def __post_init__(self) -> None:
        if self.command is not None:
            self.command = without_password(self.command)


def write_plan(study: optuna.Study, plan: Plan) -> None:
    """Keeps the plan in the study, where it is news."""
    if study.user_attrs.get(PLAN) != asdict(plan):
        study.set_user_attr(PLAN, asdict(plan))


def read_plan(study: optuna.Study) -> Plan:
    """The plan of a study; an empty one where it has none."""
    known = {one.name for one in fields(Plan)}
    stored = study.user_attrs.get(PLAN, {})
    return Plan(**{key: value for key, value in stored.items() if key in known})


def note_end(study: optuna.Study, stopped: str | None = None, exhausted: bool = False) -> None:
    """Keeps how a sweep has ended, until the plan of the next one is written.

    Args:
        study: Which; where a point is enqueued afterwards, nothing is left of its end.
        stopped, exhausted: See `Plan`.
    """
    write_plan(study, replace(read_plan(study), stopped=stopped, exhausted=exhausted))


def is_finished(study: optuna.Study) -> bool:
    """Whether the same command would find nothing to do: the budget is met, or the space empty."""
    plan = read_plan(study)
    finished = len(study.get_trials(deepcopy=False, states=FINISHED))
    return plan.exhausted or (plan.n_trials is not None and finished >= plan.n_trials)


def reason_stopped(study: optuna.Study) -> str | None:
    """What ended a study before its budget was met: a rule, or the last sweep's time."""
    by_rule: dict[str, str] = study.user_attrs.get(STOPPED) or {}
    return by_rule.get("reason", read_plan(study).stopped)


def command_to_go_on(study: optuna.Study) -> str | None:
    """The command that goes on with a study, without the rule that has ended it; None: unknown."""
    command = read_plan(study).command
    if command is None or not study.user_attrs.get(STOPPED):
        return command
    rule = re.compile(r"\+*hydra[/.]sweeper[/.]stop\b")
    kept = [part for part in shlex.split(command) if not rule.match(part)]
    return shlex.join([*kept, "hydra/sweeper/stop=none"])


def find_study(name: str, storage_url: str) -> optuna.Study:
    """Opens a study to look at it.

    Args:
        name: Its name, or its folder, `multirun/NAME`. Of what is made in several studies,
            `NAME/...`, it is the latest.
        storage_url: Of the storage that has it; a study that has one of its own is found anyway.

    Raises:
        SlicewiseError: There is no such storage, or no such study in it.
    """
    quiet_optuna()
    url = storage_of(name, storage_url)
    existing_file(url)
    storage = open_storage(absolute_url(url))
    names = optuna.get_all_study_names(storage)
    if url != storage_url and len(names) == 1:
        return load_study(names[0], storage)
    name = re.sub(r"^(\./)?multirun/", "", name).rstrip("/")
    parts = [one for one in names if one.startswith(f"{name}/")]
    return load_study(parts[-1] if parts and name not in names else name, storage)


def storage_of(name: str, storage_url: str) -> str:
    """The storage of a study, see `find_study`: the one in its own folder, where that has one."""
    if storage_url == DEFAULT_STORAGE:
        for folder in (Path(name), Path("multirun", name)):
            if (folder / OWN_STORAGE).is_file():
                return f"sqlite:///{folder / OWN_STORAGE}"
    return storage_url


def command_of(module: str, study_name: str | None, storage_url: str) -> str:
    """The command line of one of this program's modules, for a study or for all."""
    study = [] if study_name is None else [study_name]
    storage = [] if storage_url == DEFAULT_STORAGE else ["--storage", storage_url]
    return without_password(shlex.join(["python", "-m", module, *study, *storage]))
