"""`hydra/launcher=local`, with real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.test_utils.test_utils import TSweepRunner
from omegaconf import DictConfig

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.child import start_ahead
from sweep.devices import cpu_count
from sweep.signals import _AT_ONCE_SECONDS
from sweep.workers.local import slot_environments
from tests.sweep import children
from tests.waiting import PATIENCE, eventually, is_alive

APP = Path(__file__).with_name("local_app.py")

# Plugins register their configurations when they are first imported, for all tests: the fixture
# hydra_restore_singletons would take back what is registered within a test.
Plugins.instance()


# Hydra's own suites for launchers.


@pytest.mark.parametrize(("launcher_name", "overrides"), [("local", [])])
class TestLocalLauncher(LauncherTestSuite):
    """In one process at a time or several, as there are cores."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("local", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])],
)
class TestLocalLauncherWithBatches(BatchedSweeperTestSuite):
    """Launches that follow each other."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [
        (
            {
                "defaults": [
                    {"override hydra/launcher": "local"},
                    {"override hydra/hydra_logging": "hydra_debug"},
                    {"override hydra/job_logging": "disabled"},
                    "_self_",
                ]
            },
            ["-m"],
        )
    ],
)
class TestLocalLauncherIntegration(IntegrationTestSuite):
    """Applications, run as scripts."""


# Sweeps in this process.

Sweep = Callable[..., list[JobReturn]]


@pytest.fixture
def sweep(
    hydra_restore_singletons: None, hydra_sweep_runner: TSweepRunner, tmp_path: Path
) -> Iterator[Sweep]:
    """Runs a function as the task of a sweep; the sweep's folder is there until the test ends."""

    def run(task: Callable[[DictConfig], Any], *overrides: str) -> list[JobReturn]:
        runner = hydra_sweep_runner(
            calling_file=None,
            calling_module="hydra.test_utils.a_module",
            task_function=task,
            config_path="configs",
            config_name="compose.yaml",
            overrides=["hydra/launcher=local", *overrides],
            temp_dir=tmp_path / "sweep",
        )
        runner.__enter__()
        assert runner.returns is not None
        return [job for batch in runner.returns for job in batch]

    yield run
    shutil.rmtree(tmp_path / "sweep", ignore_errors=True)


def values(jobs: list[JobReturn]) -> list[Any]:
    return [job.return_value for job in jobs]


def what_it_finds(config: DictConfig) -> tuple[bool, str | None]:
    """Whether something was loaded before the job, and a variable of its environment."""
    return children._loaded, os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("threads", [None, "1"])
def test_what_a_job_sets_is_there_before_anything_is_loaded(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, threads: str | None
) -> None:
    """Libraries read such variables when they are loaded: a process that has done so is no use."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    start_ahead("sweep.workers.local._run_in_process", children.load)
    sets = [] if threads is None else [f"+hydra.job.env_set.OMP_NUM_THREADS='{threads}'"]
    assert values(sweep(what_it_finds, "hydra.launcher.n_jobs=1", *sets)) == [
        (threads is None, threads)
    ]


def attempt() -> int:
    """How often this job has been started; 1 the first time."""
    notes = Path(HydraConfig.get().runtime.output_dir, "attempts")
    with notes.open("a") as file:
        file.write("*")
    return notes.stat().st_size


def test_hydra_finds_it() -> None:
    assert "LocalLauncher" in [found.__name__ for found in Plugins.instance().discover(Launcher)]


def test_finding_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from hydra.core.plugins import Plugins; Plugins.instance();"
        "print({'torch', 'optuna', 'cloudpickle', 'multiprocessing.context'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_each_job_has_a_process_of_its_own_and_keeps_its_place(sweep: Sweep) -> None:
    def task(config: DictConfig) -> tuple[int, int, int, str]:
        hydra = HydraConfig.get()
        return config.a, os.getpid(), hydra.job.num, hydra.job.id

    jobs = sweep(task, "+a=5,4,3", "hydra.launcher.n_jobs=2")
    found, pids, numbers, identities = zip(*values(jobs), strict=True)
    assert found == (5, 4, 3)
    assert len({*pids, os.getpid()}) == 4
    assert numbers == (0, 1, 2)
    assert identities == ("0", "1", "2")


def test_no_more_jobs_at_a_time_than_asked_for(sweep: Sweep, tmp_path: Path) -> None:
    def task(config: DictConfig) -> int:
        for index in range(2):
            # Fails where both are taken.
            with_index = tmp_path / f"running-{index}"
            try:
                with_index.mkdir()
            except FileExistsError:
                continue
            time.sleep(0.1)
            with_index.rmdir()
            return index
        raise AssertionError("a third job runs")

    assert len(values(sweep(task, "+a=range(5)", "hydra.launcher.n_jobs=2"))) == 5


def test_a_killed_job_is_started_again(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig) -> int:
        times = attempt()
        if config.a == 1 and times == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.a == 1 and times == 2:
            os._exit(3)
        return times

    assert values(sweep(task, "+a=0,1")) == [1, 3]
    output = capfd.readouterr().out
    assert "Job #1 died (SIGKILL), is started again, 1 of 10 times" in output
    assert "Job #1 died (exit code 3), is started again, 2 of 10 times" in output


def test_a_job_that_always_dies_fails_alone(sweep: Sweep, tmp_path: Path) -> None:
    def task(config: DictConfig) -> int:
        attempt()
        if config.a == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    message = r"job #0 \(\+a=0\) died 3 times without a result, the last time of SIGKILL.* /"
    with pytest.raises(SlicewiseError, match=message):
        sweep(task, "+a=0,1", "hydra.launcher.max_restarts=2")
    assert (tmp_path / "sweep/0/attempts").read_text() == "***"
    assert (tmp_path / "sweep/1/attempts").read_text() == "*"


def test_what_a_dead_job_leaves_behind_is_ended(sweep: Sweep, tmp_path: Path) -> None:
    def task(config: DictConfig) -> int:
        if attempt() == 1:
            # It holds the pipes of its parent open, as forked data workers do.
            child = os.fork()
            if child == 0:
                signal.pause()
            (tmp_path / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    assert values(sweep(task)) == [7]
    child = int((tmp_path / "child").read_text())
    eventually(lambda: not is_alive(child), "the child's end")


def test_a_result_larger_than_a_pipe(sweep: Sweep) -> None:
    def task(config: DictConfig) -> bytes:
        return bytes(1_000_000)

    assert values(sweep(task)) == [bytes(1_000_000)]


def test_a_result_that_cannot_travel_is_the_failure_of_its_job(sweep: Sweep) -> None:
    def task(config: DictConfig) -> Any:
        return threading.Lock()

    with pytest.raises(SlicewiseError, match="returned a lock, which cannot be sent"):
        sweep(task)


def test_a_task_that_cannot_travel_is_refused(sweep: Sweep) -> None:
    lock = threading.Lock()

    def task(config: DictConfig) -> Any:
        return lock

    with pytest.raises(SlicewiseError, match=r"job #0 cannot be sent .* hydra/launcher=basic"):
        sweep(task)


@pytest.mark.parametrize("error", [SystemExit(5), KeyboardInterrupt()])
def test_a_job_that_ends_everything(sweep: Sweep, tmp_path: Path, error: BaseException) -> None:
    def task(config: DictConfig) -> None:
        if config.a == 1:
            while not (tmp_path / "sweep/0/attempts").exists():
                time.sleep(0.02)
            raise error
        attempt()
        signal.pause()

    with pytest.raises(type(error)) as raised:
        sweep(task, "+a=0,1", "hydra.launcher.n_jobs=2")
    assert raised.value.args == error.args


def test_an_error_outside_the_task_shows_where_it_was(sweep: Sweep) -> None:
    class Task:
        def __call__(self, config: DictConfig) -> None: ...
        def __reduce__(self) -> Any:
            return _cannot_be_read, ()

    with pytest.raises(RuntimeError, match="not here") as raised:
        sweep(Task())
    assert "in _cannot_be_read" in raised.value.__notes__[0]


def _cannot_be_read() -> None:
    raise RuntimeError("not here")


def test_in_another_thread(sweep: Sweep) -> None:
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.extend(values(sweep(lambda config: config.a, "+a=0,1")))
    )
    thread.start()
    thread.join()
    assert found == [0, 1]


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("n_jobs=0", "at least 1, or null"),
        ("max_restarts=-1", "at least 0"),
        ("grace=-1", "at least 0 seconds"),
        ("gpus_per_job=3", "0 to 2, the number of visible GPUs; null shares them"),
    ],
)
def test_impossible_settings(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, setting: str, allowed: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ArgumentError, match=f"hydra.launcher.{setting}.*: allowed: {allowed}"):
        sweep(lambda config: None, f"hydra.launcher.{setting}")


# Shares of the machine.


def test_the_environment_of_each_process(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def task(config: DictConfig) -> tuple[str | None, str | None]:
        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")

    threads = str(max(1, cpu_count() // 2))
    found = values(sweep(task, "+a=0,1", "hydra.launcher.n_jobs=2"))
    assert found == [("0,1", threads), ("2,3", threads)]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("visible", "slots", "gpus_per_job", "expected"),
    [
        ("0,1,2,3", 1, None, ["0,1,2,3"]),
        ("0,1,2,3", 2, None, ["0,1", "2,3"]),
        ("0,1,2,3,4", 2, None, ["0,1", "2,3"]),
        ("0,1", 4, None, ["0", "1", "0", "1"]),
        ("3,GPU-8f2a", 2, None, ["3", "GPU-8f2a"]),
        ("0,1,2,3", 3, 2, ["0,1", "2,3", "0,1"]),
        ("0,1", 2, 0, ["", ""]),
        ("", 2, None, [None, None]),
    ],
)
def test_shares_of_gpus(
    monkeypatch: pytest.MonkeyPatch,
    visible: str,
    slots: int,
    gpus_per_job: int | None,
    expected: list[str | None],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    shares = [env.get("CUDA_VISIBLE_DEVICES") for env in slot_environments(slots, gpus_per_job)]
    assert shares == expected


def test_shares_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert slot_environments(1, None) == [{}]
    assert slot_environments(1000, None)[-1] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert slot_environments(2, None) == [{}, {}]


# What jobs print.


def test_several_processes_print_to_their_logs(
    sweep: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def task(config: DictConfig) -> None:
        print("from python", config.a)
        os.system(f"echo from elsewhere {config.a}")
        print("to stderr", file=sys.stderr)
        if attempt() == 1:
            os._exit(1)

    sweep(task, "+a=0,1", "hydra.launcher.n_jobs=2")
    for a in (0, 1):
        once = f"from python {a}\nfrom elsewhere {a}\nto stderr\n"
        assert (tmp_path / f"sweep/{a}/output.log").read_text() == 2 * once
    assert "from" not in capfd.readouterr().out


def test_one_process_prints_to_the_terminal(
    sweep: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep(lambda config: print("from job", config.a), "+a=0,1", "hydra.launcher.n_jobs=1")
    assert re.findall("from job .", capfd.readouterr().out) == ["from job 0", "from job 1"]
    assert not list(tmp_path.glob("sweep/*/output.log"))


# Applications in processes of their own.


@contextmanager
def application(folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The application of `local_app.py`, sweeping over two jobs at a time."""
    command = [sys.executable, str(APP), "-m", "hydra/launcher=local", "hydra.launcher.n_jobs=2"]
    process = subprocess.Popen(
        [*command, "hydra.sweep.dir=sweep", "x=0,1", *overrides],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # As from a terminal, where Ctrl-C goes to the whole group.
        process_group=0,
        # Also where the tests themselves run in the background, which ignores SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def pids_of(folder: Path, name: str = "job") -> list[int]:
    """The processes of both jobs, once they run."""
    notes = [folder / "sweep" / job / name for job in ("0", "1")]
    eventually(lambda: all(note.exists() for note in notes), "both jobs")
    return [int(note.read_text()) for note in notes]


def test_interrupt_ends_the_jobs(tmp_path: Path) -> None:
    with application(tmp_path, "hydra.launcher.grace=1000") as app:
        jobs = pids_of(tmp_path)
        os.killpg(app.pid, signal.SIGINT)
        output, _ = app.communicate(timeout=PATIENCE)
    assert app.returncode != 0
    assert not any(map(is_alive, jobs))
    assert "KeyboardInterrupt" in output
    assert "Stopping 2 jobs within 1000 s; Ctrl-C kills at once" in output


def test_sigterm_ends_the_jobs(tmp_path: Path) -> None:
    with application(tmp_path, "hydra.launcher.grace=1000") as app:
        jobs = pids_of(tmp_path)
        app.terminate()
        app.wait(PATIENCE)
    assert not any(map(is_alive, jobs))


def test_stubborn_jobs_are_killed_after_the_grace_period(tmp_path: Path) -> None:
    with application(tmp_path, "do=stubborn", "hydra.launcher.grace=0.5") as app:
        family = pids_of(tmp_path) + pids_of(tmp_path, "descendant")
        app.send_signal(signal.SIGINT)
        app.wait(PATIENCE)
    eventually(lambda: not any(map(is_alive, family)), "the end of all")


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    with application(tmp_path, "do=stubborn", "hydra.launcher.grace=1000") as app:
        family = pids_of(tmp_path) + pids_of(tmp_path, "descendant")
        app.send_signal(signal.SIGINT)
        assert app.stdout is not None
        for line in app.stdout:
            if "Stopping 2 jobs" in line:
                break
        # What comes as soon is no second one: nobody types as fast.
        time.sleep(_AT_ONCE_SECONDS)
        assert all(map(is_alive, family))
        app.send_signal(signal.SIGINT)
        app.wait(PATIENCE)
    eventually(lambda: not any(map(is_alive, family)), "the end of all")


def test_interrupt_while_the_processes_start(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        assert app.stdout is not None
        for line in app.stdout:
            if "#1 :" in line:
                break
        os.killpg(app.pid, signal.SIGINT)
        output = app.stdout.read()
    # That of the application, and none of a process in the middle of its imports.
    assert output.count("Traceback") == 1


def test_jobs_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        jobs = pids_of(tmp_path)
        app.kill()
        eventually(lambda: not any(map(is_alive, jobs)), "the end of both jobs")


@pytest.mark.parametrize("as_module", [False, True], ids=["script", "module"])
def test_applications_as_scripts_and_as_modules(tmp_path: Path, as_module: bool) -> None:
    package = tmp_path / "an_app"
    package.mkdir()
    shutil.copy(APP, package / "__main__.py")
    program = ["-m", "an_app"] if as_module else [str(package / "__main__.py")]
    jobs = ["do=answer", "x=3,4", "hydra/launcher=local", "hydra.launcher.n_jobs=1"]
    done = subprocess.run(
        [sys.executable, *program, "-m", *jobs], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for x in (3, 4):
        found = rf"result Answer\(x={x}, python='{sys.executable}', folder='{tmp_path}', path=\["
        assert re.search(found, done.stdout)


def test_what_a_script_defines_comes_back_as_what_it_is(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    # Checks in the launching process, after the sweep, what came from the others.
    check = (
        "    from hydra_plugins.slicewise_hydra.local import LocalLauncher\n"
        "    launch = LocalLauncher.launch\n"
        "    def checked(*arguments, **keywords):\n"
        "        jobs = launch(*arguments, **keywords)\n"
        "        print('same', [isinstance(job.return_value, Answer) for job in jobs])\n"
        "        return jobs\n"
        "    LocalLauncher.launch = checked\n"
    )
    head, guard, call = APP.read_text().partition('if __name__ == "__main__":\n')
    script.write_text(head + guard + check + call)
    command = [sys.executable, str(script), "-m", "do=answer", "x=3,4", "hydra/launcher=local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "same [True, True]" in done.stdout, done.stderr


def test_a_script_without_a_guard_is_told_so_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(APP.read_text().replace('if __name__ == "__main__":', "if True:"))
    command = [sys.executable, str(script), "-m", "do=answer", "hydra/launcher=local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "job #0 could not be set up (exit code 1), for the reason printed above" in done.stderr
    assert "started again" not in done.stdout


def test_a_process_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    killed_once = (
        'if __name__ == "__mp_main__" and not Path("killed").exists():\n'
        '    Path("killed").touch()\n'
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script.write_text(APP.read_text() + killed_once)
    command = [sys.executable, str(script), "-m", "do=answer", "x=3", "hydra/launcher=local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "Job #0 died (SIGKILL), is started again, 1 of 10 times" in done.stdout
    assert "result Answer(x=3" in done.stdout, done.stderr
