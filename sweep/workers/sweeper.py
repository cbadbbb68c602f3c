"""A sweep: search space -> study -> workers -> summary.

It opens the study and asks Hydra's launcher for `n_jobs` workers, once. The workers do the rest;
this process shows that the sweep lives, waits, and sums up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, ListConfig, OmegaConf
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.waiting import waiting_for
from sweep.any_application import FORCED, AnyApplication
from sweep.child import dismiss_ahead
from sweep.command_line import STUDY_NAME, command_of_study, speak_for, study_override
from sweep.console import Interrupted, warn_of
from sweep.devices import cpu_count, started_by_torchrun, visible_gpus
from sweep.overrides import override_text
from sweep.passwords import take_password_of
from sweep.ranks.placement import Placement
from sweep.report import load_drawing, write_report
from sweep.study.attributes import FINISHED, REASON
from sweep.study.compose import TrialComposer, check_folders
from sweep.study.dimension import described
from sweep.study.failures import failures
from sweep.study.growth import take_up
from sweep.study.identity import DECIDES
from sweep.study.places import beside_storage, trial_folder
from sweep.study.plan import (
    DEFAULT_STORAGE,
    Plan,
    find_study,
    note_end,
    read_plan,
    storage_of,
    write_plan,
)
from sweep.study.points import Point, checked_point, read_points
from sweep.study.points import enqueue as add_points
from sweep.study.presence import (
    SWEEP_HEARTBEAT_SECONDS,
    Heartbeat,
    Presence,
    own_heartbeat,
    seems_swept,
    write_heartbeat,
)
from sweep.study.sampler_check import check_samplers
from sweep.study.samplers import (
    PRUNER_KEY,
    LearningStudy,
    new_pruner,
    new_sampler,
    sampler_line,
    sampler_of_trial,
    seeded,
)
from sweep.study.shared import (
    Budget,
    Rest,
    SharedStudy,
    load_study,
    open_study,
    quiet_optuna,
)
from sweep.study.space import CustomSearchSpace, SearchSpace
from sweep.study.stopping import new_rule
from sweep.study.storage import (
    is_memory,
    open_storage,
    refuse_network_file,
    short_url,
    storage_file,
    storage_url,
)
from sweep.study.warm_start import check_that_it_learns, trials_of
from sweep.trial.metrics import metric_named
from sweep.trial.pareto import ParetoPruner
from sweep.trial.record import RECORD_NAME, record_files
from sweep.trial.settings import check_study_name, seeds_of
from sweep.view.picture import shown_progress
from sweep.view.summary import save_results, show_study
from sweep.view.words import listed
from sweep.workers.side_by_side import settled
from sweep.workers.worker import Worker

log = logging.getLogger(__name__)

_FOLDER_KEY = "hydra.sweep.dir"
# Launchers whose worker, if it is one, has the terminal; whose workers, if several, print to files.
_ON_TERMINAL = ("basic", "local")
_IN_THIS_PROCESS = "basic"
_INTO_FILES = ("local", "submitit_local", "submitit_slurm")
# Launchers whose workers share the cores of this machine.
_ONE_MACHINE = ("local", "joblib", "submitit_local")


def sweep(
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    application: AnyApplication | None,
    arguments: Sequence[str],
    sampler: DictConfig,
    pruner: DictConfig,
    stop: DictConfig,
    direction: Any,
    storage: str | None,
    study_name: str | None,
    n_trials: int,
    n_jobs: int | str,
    max_failure_rate: float,
    timeout: float | None,
    max_retries: int,
    heartbeat: float,
    workers_per_gpu: int,
    side_by_side: Any,
    enqueue: Any,
    warm_start: Any,
    summary: bool,
    metric_names: Any,
    custom_search_space: str | None,
    params: DictConfig | None,
) -> None:
    """Runs a study until its budget is met, or goes on with it.

    Args:
        config: The sweep's configuration, Hydra's own part included.
        hydra_context: From Hydra.
        task_function: What runs one trial and returns its value, or values. Its attribute
            `rehearse`, if it has one, raises what is wrong with a trial's configuration: what is
            wrong with all trials alike is then found before any starts.
        application: Whose task function it is, where it is not this package's own.
        arguments: The command line's overrides.
        sampler, pruner: Configurations of Optuna's.
        stop: Configuration of a `StoppingRule`.
        direction: `minimize` or `maximize`; a list for several values.
        storage: URL, see `sweep.study.storage.open_storage`; None: a file in the study's folder.
        study_name: Also the name under which it is resumed; None: the sweep folder's name.
        n_trials: Finished trials of the whole study.
        n_jobs: Number of workers, or `auto`.
        max_failure_rate: Failed trials as a share of `n_trials`, after which the sweep stops.
        timeout: Seconds after which no trial starts; None: none.
        max_retries: How often a trial is taken up again whose worker died.
        heartbeat: Seconds between two signs of life of a worker.
        workers_per_gpu: With `n_jobs=auto`, how many workers share a GPU.
        side_by_side: How many trials a worker runs side by side at most, or `auto`.
        enqueue: Points that come first: maps, or the path of a CSV file; None: none.
        warm_start: Names of other studies that the sampler learns from; None: none.
        summary: Whether to end with a table of the trials.
        metric_names: What the values are called, one for each direction; None: `value`.
        custom_search_space: Dotted path of a function (configuration, trial) that suggests more.
        params: Further overrides, as a map; the command line's go before them.

    Raises:
        SlicewiseError: The study cannot be opened, or too many trials failed.
        Interrupted: The user stopped it; the message holds the command that resumes it.
    """
    quiet_optuna()
    speak_for(None if application is None else application.text)
    force = _resumes_by_force(arguments)
    space = _search_space(
        [argument for argument in arguments if not _is_resume(argument)],
        params,
        custom_search_space,
        hydra_context.config_loader,
        sampler.get("seed"),
    )
    if application is None:
        _check_name_and_objective(config, space)
        if study_name is not None:
            # By default a timestamp: resolved once more, it could be that of the next second.
            config.study = study_name
    directory = Path(config.hydra.sweep.dir).absolute()
    name = study_name or directory.name
    storage = _without_secrets(config, storage)
    url = storage_url(storage, directory)
    refuse_network_file(url)
    if is_memory(storage):
        given = "null" if storage is None else storage
        log.info("hydra.sweeper.storage=%s: the study is kept in %s", given, short_url(url))
    budget = Budget(
        _at_least("n_trials", n_trials, 1),
        _rate(max_failure_rate),
        _at_least("max_retries", max_retries, 0),
        None if timeout is None else time.time() + _seconds("timeout", timeout),
    )
    heartbeat = _seconds("heartbeat", heartbeat)
    sampler_node, pruner_node = seeded(_plain(sampler)), _plain(pruner)
    if application is None and metric_names is None:
        metric_names = OmegaConf.select(config, "objective.metrics")
    metrics = _metrics(metric_names)
    directions = _directions(direction, metrics)
    pruner_name = str(config.hydra.runtime.choices.get("hydra/sweeper/pruner"))
    _check_pruner(new_pruner(pruner_node), pruner_name, directions, metrics)
    check_samplers(sampler_node, pruner_node, space, n_trials, directions)
    stop_node = _plain(stop)
    rule = new_rule(stop_node)
    rule.check(space, len(directions))
    devices = 1 if application is not None else Placement.of(config).devices
    workers = _number_of_workers(config, n_jobs, workers_per_gpu, devices)
    if devices > 1 or config.hydra.runtime.choices.get("hydra/launcher") != "local":
        # Ranks are processes of their own; another launcher starts its workers itself.
        dismiss_ahead()
    beside = settled(side_by_side, config, task_function, workers)
    points = _given_points(enqueue, space.with_asked(config))
    sampler_name = str(config.hydra.runtime.choices.get("hydra/sweeper/sampler"))
    names = _names(warm_start)
    if names:
        check_that_it_learns(sampler_of_trial(sampler_node, 0), sampler_name, names)

    own_name = name if application is None else None
    composer = TrialComposer(config, hydra_context, _pinned(space, directory, own_name))
    composer.check()
    check_folders(composer, space)
    if name in names:
        raise ArgumentError("hydra.sweeper.warm_start", name, "another study")
    others = [find_study(other, _storage_beside(other, url)) for other in names]
    if metrics is not None:
        # What is refused leaves nothing of this study.
        trials_of(others, metrics, directions, space, config, _group_of(hydra_context))
    _make_folder(directory)
    with waiting_for("Opening the study's storage"):
        opened = open_storage(url)
    if not _has_trials(name, opened):
        another = study_override() if application is None else _FOLDER_KEY
        try:
            _check_folder(name, directory, another, _kept_there(opened, directory))
            if application is None:
                _check_apart(name, opened)
        except SlicewiseError:
            # Where it was made for this, and nothing is in it.
            with contextlib.suppress(OSError):
                directory.rmdir()
            raise
    # Workers ask with samplers of their own, of the space as the study has it.
    study = open_study(name, opened, directions)
    rules = DECIDES if application is None else {"hydra": False, "resume": not force}
    is_group = _group_of(hydra_context)
    sweep_name = secrets.token_hex(3)
    sign = own_heartbeat(sweep_name)
    study, space = take_up(
        study, opened, directory, space, config, composer, is_group, force, sign, rules
    )
    if metrics is not None:
        _name_values(study, metrics, with_hints=application is None)
    warm = trials_of(others, study.metric_names, directions, space, config, is_group)
    add_points(study, opened, directory, space, points)
    if application is None:
        command = command_of_study(name)
    else:
        command = application.command(config, name, directory)
    plan = Plan(
        n_trials=int(min(n_trials, space.size())) + _outside(study, space),
        directory=str(directory),
        command=command,
        sampler=_class_name(sampler),
        pruner=_class_name(pruner),
        heartbeat=heartbeat,
        beside_storage=beside_storage(study, directory),
        application=None if application is None else application.text,
        started_in=str(Path.cwd()),
        earlier=read_plan(study).before(str(directory)),
    )
    write_plan(study, plan)
    learning = LearningStudy(name, opened, new_sampler(sampler_node, space, n_trials))
    shared = SharedStudy(learning, opened, directory, space, budget, config, (rule, stop_node))
    shared.forget_other_rules()
    rest = shared.rest()
    if rest not in (Rest.BUDGET, Rest.RULE) and (again := shared.try_again()):
        log.info("Trying again what failed: %s", listed(again))
        rest = shared.rest()
    if rest in (Rest.BUDGET, Rest.EXHAUSTED):
        log.info("Study %s is finished: %s", name, rest.value)
    elif rest is Rest.RULE:
        log.info(
            "Study %s is finished: %s. To go on all the same: hydra/sweeper/stop=none",
            name,
            shared.reason_to_stop(),
        )
    else:
        worker = Worker(
            config=config,
            hydra_context=hydra_context,
            task_function=task_function,
            space=_pinned(space, directory, own_name),
            budget=budget,
            storage=url,
            study_name=name,
            directory=directory,
            sampler=functools.partial(new_sampler, sampler_node, space, n_trials, warm),
            pruner=functools.partial(new_pruner, pruner_node),
            stop=stop_node,
            sweep=sweep_name,
            heartbeat=heartbeat,
            threads=_threads(config, workers, devices),
            application=application,
            side_by_side=beside,
            composed=composer.composed,
        )
        seeds = seeds_of(config) if application is None else ()
        if (unable := _wilcoxon_unable(new_pruner(pruner_node), len(seeds))) is not None:
            log.warning("%s", unable)
        if warm:
            log.info("Warm start: %d finished trials of %s", len(warm), ", ".join(names))
        log.info(
            "%s",
            sampler_line(sampler_name, sampler_node, space, n_trials, len(directions), workers),
        )
        log.info(
            "Study %s: %d of %d trials done, %d worker%s%s, in %s",
            name,
            shared.finished(),
            int(min(n_trials, space.size())),
            workers,
            "" if workers == 1 else "s",
            "" if beside == 1 else f", up to {beside} trials side by side",
            directory,
        )
        try:
            _launch(worker, sign, workers, study, config, hydra_context, command)
        except Interrupted:
            # Those that were killed could not put back what they ran.
            if config.hydra.runtime.choices.get("hydra/launcher") in _ON_TERMINAL:
                shared.release_trials_of(sweep_name)
            raise
    _note_end(shared, timeout)
    write_heartbeat(study, "sweep", sweep_name, dataclasses.replace(sign, state="ended"))
    save_results(study, directory)
    _write_report(study, directory, short_url(url))
    if summary:
        show_study(study, directory, storage_url=short_url(url))
    failed = failures(study.get_trials(deepcopy=False))
    stopped, none = shared.rest() is Rest.FAILURES, failed and not shared.finished()
    if stopped or none:
        found = "the sweep stopped" if stopped else "no trial could be run"
        where = _traceback_of([trial_folder(study, trial, directory) for trial in failed])
        raise SlicewiseError(f"{found}: {_failures(failed, budget)}{where}")


def _launch(
    worker: Worker,
    sign: Heartbeat,
    workers: int,
    study: optuna.Study,
    config: DictConfig,
    hydra_context: HydraContext,
    command: str,
) -> None:
    """Has the launcher run the workers, and waits for them."""
    launcher = Plugins.instance().instantiate_launcher(
        config=config, hydra_context=hydra_context, task_function=worker
    )
    # All workers at once: one that waited for another would find nothing left to do.
    for limits in (vars(launcher), getattr(launcher, "joblib", {})):
        if "n_jobs" in limits:
            limits["n_jobs"] = workers
    first = _free_place(study, worker.directory)
    fixed = [*worker.space.overrides({}), "hydra.sweep.subdir=workers/${hydra.job.num}"]
    n_trials = read_plan(study).n_trials
    launched_by = config.hydra.runtime.choices.get("hydra/launcher")
    # One worker of this machine says itself what it does; of several trials side by side also this
    # process which has ended, unless they are in it, and have the log.
    says_itself = _ON_TERMINAL if worker.side_by_side == 1 else (_IN_THIS_PROCESS,)
    if workers == 1 and launched_by in says_itself:
        showing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext(lambda: None)
    else:
        into_files = workers > 1 and launched_by in _INTO_FILES
        showing = shown_progress(study, n_trials, live=into_files)
    if launched_by != _IN_THIS_PROCESS:
        # While the workers work, this process has nothing to do.
        threading.Thread(target=load_drawing, name="report", daemon=True).start()
    interrupted = False
    mistakes: set[str | None] = {None}
    with showing as each_round:
        presence = Presence(study, "sweep", worker.sweep, sign, SWEEP_HEARTBEAT_SECONDS, each_round)
        with presence:
            try:
                returns = launcher.launch([fixed] * workers, initial_job_idx=first)
                ends = [job.return_value["end"] for job in returns]
                interrupted = "STOPPED" in ends
                mistakes = {job.return_value.get("mistake") for job in returns}
            except KeyboardInterrupt:
                interrupted = True
            except BaseException:
                presence.show(stop=True)
                raise
            if interrupted:
                presence.show(stop=True)
        each_round()
    if None not in mistakes:
        raise SlicewiseError("\n".join(filter(None, mistakes)))
    if interrupted:
        raise Interrupted(f"Stopped. To resume: {command}")


def _note_end(shared: SharedStudy, timeout: float | None) -> None:
    """Keeps how the sweep has ended, for those who look."""
    rest = shared.rest()
    # What has failed too often is to be mended, and not done.
    exhausted = rest is not Rest.FAILURES and shared.is_exhausted()
    up = f"the time is up (hydra.sweeper.timeout={timeout})"
    note_end(
        shared.study, up if rest is Rest.TIMEOUT and not exhausted else None, exhausted=exhausted
    )


def _without_secrets(config: DictConfig, storage: str | None) -> str | None:
    """The URL without its password, here and in what every job saves of Hydra's configuration."""
    if storage is not None and not isinstance(storage, str):
        allowed = "sqlite:///PATH, journal:///PATH, postgresql+psycopg://USER@HOST/DATABASE, or grpc://HOST:PORT"
        raise ArgumentError("hydra.sweeper.storage", storage, allowed)
    take_password_of(config)
    without: str | None = config.hydra.sweeper.storage
    return without


def _write_report(study: optuna.Study, directory: Path, storage: str) -> None:
    """Writes the report; a sweep does not fail for want of it."""
    try:
        write_report(study, directory, storage)
    except Exception as error:
        warn_of(log, "Could not write the report", error)


def _is_resume(argument: str) -> bool:
    return argument.partition("=")[0] in FORCED


def _resumes_by_force(arguments: Sequence[str]) -> bool:
    """Whether `+resume=force` is among the arguments."""
    given = [argument.partition("=")[2] for argument in arguments if _is_resume(argument)]
    if given and given[-1] != "force":
        raise ArgumentError(FORCED[0], given[-1], "force")
    return bool(given)


def _search_space(
    arguments: Sequence[str],
    params: DictConfig | None,
    custom: str | None,
    loader: ConfigLoader,
    seed: int | None,
) -> SearchSpace:
    given = [
        f"{key!s}={value if isinstance(value, str) else override_text(value)}"
        for key, value in (params or {}).items()
    ]
    extend = None if custom is None else _function(custom)
    return SearchSpace.parse([*given, *arguments], extend, loader, seed)


def _function(path: str) -> CustomSearchSpace:
    """The function itself, not a partial of Hydra's, which no other process could be sent."""
    try:
        function: CustomSearchSpace = get_method(path)
    except (ImportError, AttributeError, ValueError) as error:
        allowed = "the dotted path of a function (configuration, trial)"
        raise ArgumentError(
            "hydra.sweeper.custom_search_space", path, allowed, str(error)
        ) from error
    return function


def _pinned(space: SearchSpace, directory: Path, own_name: str | None) -> SearchSpace:
    """The space, with what a timestamp decides fixed for all workers.

    Args:
        space: What is searched.
        directory: The study's.
        own_name: Of a study of this package's own programs, whose configuration has it.
    """
    fixed = dict(space.fixed)
    if own_name is not None:
        fixed["study"] = override_text(own_name)
    fixed["hydra.sweep.dir"] = override_text(str(directory))
    return dataclasses.replace(space, fixed=fixed)


def _given_points(given: Any, space: SearchSpace) -> list[Point]:
    """The points of `hydra.sweeper.enqueue`.

    Raises:
        SlicewiseError: They cannot be read, or one lies outside the space.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return read_points(Path(given), space)
    maps = OmegaConf.to_container(given) if isinstance(given, ListConfig) else given
    if not isinstance(maps, list) or not all(isinstance(one, dict) for one in maps):
        raise ArgumentError("hydra.sweeper.enqueue", given, "a list of maps, or a CSV file")
    return [checked_point(one, space) for one in maps]


def _names(warm_start: Any) -> list[str]:
    """The names in `hydra.sweeper.warm_start`."""
    if warm_start is None:
        return []
    names = [warm_start] if isinstance(warm_start, str) else warm_start
    if not isinstance(names, (list, ListConfig)) or not all(isinstance(n, str) for n in names):
        raise ArgumentError("hydra.sweeper.warm_start", warm_start, "a list of studies' names")
    return list(names)


def _storage_beside(name: str, url: str) -> str:
    """The storage of another study: its own, where it has one, or this sweep's."""
    own = storage_of(name, DEFAULT_STORAGE)
    return url if own == DEFAULT_STORAGE else own


def _group_of(hydra_context: HydraContext) -> Callable[[str], bool]:
    """Tells the keys that are config groups."""
    loader = hydra_context.config_loader

    def is_group(key: str) -> bool:
        return bool(loader.get_group_options(key.lstrip("+").partition("@")[0]))

    return is_group


def _outside(study: optuna.Study, space: SearchSpace) -> int:
    """Finished trials of an earlier space, which do not count."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    return sum(not space.holds(trial) for trial in trials)


def _class_name(node: DictConfig) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


def _plain(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _check_name_and_objective(config: DictConfig, space: SearchSpace) -> None:
    """Refuses what this package's own programs cannot sweep, and names that no folder can have."""
    if "study" in space.dimensions:
        raise ArgumentError("study", described(space.dimensions["study"].distribution), "one name")
    for key in ("objective", "objective.metrics", "objective.direction", "objective.seeds"):
        if key in space.dimensions:
            swept = described(space.dimensions[key].distribution)
            allowed = "one: it is what the trials of a study are compared by"
            raise ArgumentError(key, swept, allowed, "Another objective is another study")
    if seeds_of(config) and "seed" in space.dimensions:
        raise ArgumentError(
            "seed",
            described(space.dimensions["seed"].distribution),
            "none with objective.seeds, over which each trial is the mean: one or the other",
        )
    check_study_name(config.study)


def _check_pruner(
    pruner: optuna.pruners.BasePruner,
    name: str,
    directions: Sequence[str],
    metrics: Sequence[str] | None,
) -> None:
    """Refuses a pruner that would not be asked, or cannot judge such a study.

    Raises:
        ArgumentError: It is one.
    """
    if isinstance(pruner, ParetoPruner):
        pruner.check(directions, metrics)
    elif len(directions) > 1 and not isinstance(pruner, optuna.pruners.NopPruner):
        raise ArgumentError(
            "hydra/sweeper/pruner",
            name,
            "pareto, none with several objectives: Optuna's pruners compare one",
        )


def _wilcoxon_unable(pruner: optuna.pruners.BasePruner, n_seeds: int) -> str | None:
    """Why Wilcoxon's test will end no trial, however bad: so few seeds cannot make it so sure."""
    if not isinstance(pruner, optuna.pruners.WilcoxonPruner) or not n_seeds:
        return None
    # What it comes to where all seeds but the last are worse, after which nothing is saved.
    least = 0.5 ** (n_seeds - 1)
    if n_seeds > 2 and pruner._p_threshold > least:
        return None
    return (
        f"{PRUNER_KEY}.p_threshold={pruner._p_threshold:g} ends no trial with {n_seeds} seeds: "
        + (f"above {least:g} it may" if n_seeds > 2 else "it takes three or more")
    )


def _metrics(names: Any) -> list[str] | None:
    """What the study's values are called, where the application says so."""
    if names is None:
        return None
    if not isinstance(names, (str, list, ListConfig)):
        allowed = "a list of names, one for each direction"
        raise ArgumentError("hydra.sweeper.metric_names", names, allowed)
    return [names] if isinstance(names, str) else [str(name) for name in names] or None


def _name_values(study: optuna.Study, metrics: Sequence[str], with_hints: bool) -> None:
    """Calls the study's values by their metrics.

    Args:
        study: Which.
        metrics: A name for each direction.
        with_hints: Whether to say so where it looks for the worst of one that we know.
    """
    for name, direction in zip(metrics, study.directions, strict=True):
        metric, sought = metric_named(name) if with_hints else None, direction.name.lower()
        if metric is not None and metric.direction not in (None, sought):
            log.warning("objective.direction=%s, but %s %s is better", sought, metric.better, name)
    study.set_metric_names(list(metrics))


def _directions(direction: Any, metrics: Sequence[str] | None) -> list[str]:
    """As Optuna takes them; one for each metric, where the application names those."""
    several = isinstance(direction, Sequence) and not isinstance(direction, str)
    names = [str(getattr(item, "name", item)) for item in (direction if several else [direction])]
    for name in names:
        if name not in ("minimize", "maximize"):
            raise ArgumentError(
                "hydra.sweeper.direction", name, "minimize, maximize, or a list of them"
            )
    if not names or (metrics is not None and len(names) != len(metrics)):
        number = "at least one" if metrics is None else f"one for each of {', '.join(metrics)}"
        raise ArgumentError("hydra.sweeper.direction", f"[{','.join(names)}]", number)
    return names


def _number_of_workers(
    config: DictConfig, n_jobs: int | str, workers_per_gpu: int, devices: int
) -> int:
    launcher = config.hydra.runtime.choices.get("hydra/launcher")
    if started_by_torchrun() and launcher != "basic":
        raise ArgumentError(
            "hydra/launcher",
            launcher,
            "basic: torchrun has started the ranks, and rank 0 runs the sweep",
            "torchrun ... -m sweep -m hydra/launcher=basic trainer=ddp ...",
        )
    per_gpu = _at_least("workers_per_gpu", workers_per_gpu, 1)
    if n_jobs == "auto":
        workers = max(1, len(visible_gpus()) * per_gpu // devices)
    else:
        workers = _at_least("n_jobs", n_jobs, 1, "auto, or ")
    if workers > 1 and launcher == _IN_THIS_PROCESS:
        # The second would begin when the first finds nothing left to do.
        log.info("hydra/launcher=basic has one worker; hydra/launcher=local runs %d", workers)
        return 1
    return workers


def _threads(config: DictConfig, workers: int, devices: int) -> int | None:
    """CPU threads for each process of several workers on this machine; None: as it comes."""
    launcher = config.hydra.runtime.choices.get("hydra/launcher")
    if workers == 1 or launcher not in _ONE_MACHINE or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, cpu_count() // (workers * devices))


def _at_least(key: str, value: Any, least: int, other: str = "") -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        allowed = f"{other}an integer of at least {least}"
        raise ArgumentError(f"hydra.sweeper.{key}", value, allowed)
    return value


def _seconds(key: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ArgumentError(f"hydra.sweeper.{key}", value, "a number of seconds above 0")
    return value


def _rate(value: float) -> float:
    if not 0 <= value <= 1:
        raise ArgumentError("hydra.sweeper.max_failure_rate", value, "a share from 0 to 1")
    return value


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a folder that can be made: {error.strerror}"
        raise ArgumentError(_FOLDER_KEY, str(directory), allowed) from error


def _has_trials(name: str, storage: BaseStorage) -> bool:
    """Whether a study is in the storage already, and has begun."""
    if name not in optuna.get_all_study_names(storage):
        return False
    return bool(load_study(name, storage).get_trials(deepcopy=False))


def _kept_there(storage: BaseStorage, directory: Path) -> str | None:
    """The study that a folder holds with its storage: it need not be called as the folder is."""
    file = storage_file(storage)
    if file is None or file.absolute().parent != directory:
        return None
    names = optuna.get_all_study_names(storage)
    return names[0] if len(names) == 1 else None


def _check_folder(name: str, directory: Path, another: str, kept: str | None) -> None:
    """A new study must not mix its trials with those of another, or of one that is forgotten.

    Args:
        name: The study's.
        directory: Its folder.
        another: The override that chooses another one.
        kept: The study that the folder holds, where it was renamed.
    """
    if any(record_files(directory)) and kept is not None:
        own = [
            f"{STUDY_NAME}={override_text(kept)}",
            f"{_FOLDER_KEY}={override_text(os.path.relpath(directory))}",
        ]
        raise SlicewiseError(
            f"{directory} holds study {kept}, and no study {name}: to go on with it, "
            f"{shlex.join(own)}"
        )
    if any(record_files(directory)):
        raise SlicewiseError(
            f"{directory} holds trials of another study than {name} in this storage: "
            f"choose another {another}, or remove the folder"
        )


def _check_apart(name: str, storage: BaseStorage) -> None:
    """A new study must not lie in the folder of another, among its trials, nor that one in its."""
    for other in optuna.get_all_study_names(storage):
        nested = name.startswith(f"{other}/") or other.startswith(f"{name}/")
        if nested and _has_trials(other, storage):
            raise ArgumentError(
                "study", override_text(name), f"a folder apart from that of study {other}"
            )


def _free_place(study: optuna.Study, directory: Path) -> int:
    """The number of the first worker: after those of other sweeps that live."""
    if not seems_swept(study):
        return 0
    places = [int(p.name) for p in directory.glob("workers/*") if p.name.isdigit()]
    return max(places, default=-1) + 1


def _traceback_of(folders: Sequence[Path]) -> str:
    """Where the last of some failed trials has left its traceback; nothing where none has."""
    for folder in reversed(folders):
        for path in (*sorted(folder.glob("*.log")), folder / RECORD_NAME):
            with contextlib.suppress(OSError):
                if "Traceback (most recent call last)" in path.read_text(errors="replace"):
                    return f"\nThe traceback: {os.path.relpath(path)}"
    return ""


def _failures(failed: Sequence[FrozenTrial], budget: Budget) -> str:
    lines = [f"  trial {trial.number}: {trial.user_attrs.get(REASON)}" for trial in failed[-5:]]
    return (
        f"{len(failed)} trials failed (hydra.sweeper.max_failure_rate={budget.max_failure_rate}, "
        f"n_trials={budget.n_trials}); the last of them:\n" + "\n".join(lines)
    )
