"""A journal: cut off anywhere it loses nothing that was told; damaged it is one message."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from slicewise.errors import SlicewiseError
from sweep import watch
from sweep.study import storage
from sweep.study.shared import quiet_optuna
from sweep.study.storage import absolute_url, file_system_of, open_storage, short_url
from tests.sweep.conftest import Sweep
from tests.sweep.study.test_shared import _hammer, shared

quiet_optuna()


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 2000))
def test_cut_in_the_middle_of_a_record_it_goes_on_with_all_whole_ones(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "s.log"
    study = optuna.create_study(study_name="s", storage=open_storage(f"journal:///{path}"))
    for number in range(5):
        trial = study.ask()
        trial.set_user_attr("number", number)
        study.tell(trial, float(number))
    content = path.read_bytes()
    path.write_bytes(content[: max(len(content) - cut, content.index(b"\n") + 1)])
    whole = path.read_bytes().rpartition(b"\n")[0].count(b"\n") + 1
    again = optuna.load_study(study_name="s", storage=open_storage(f"journal:///{path}"))
    kept = [trial.values for trial in again.trials if trial.state is TrialState.COMPLETE]
    assert kept == [[float(number)] for number in range(len(kept))]
    again.tell(again.ask(), 7.0)
    lines = path.read_bytes().splitlines()
    assert lines[:whole] == content.splitlines()[:whole]
    # Whoever opens it next reads it whole.
    last = optuna.load_study(study_name="s", storage=open_storage(f"journal:///{path}")).trials
    assert [trial.values for trial in last if trial.values] == [*kept, [7.0]]


@pytest.mark.parametrize("line", [b"gar", b"5", b'{"a": 1}', b'{"op_code": 4, "work', b"\0\0"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_is_damaged_elsewhere_is_one_message(
    tmp_path: Path, line: bytes, place: int
) -> None:
    path = tmp_path / "s.log"
    url = f"journal:///{path}"
    optuna.create_study(study_name="s", storage=open_storage(url)).ask()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2
    path.write_bytes(b"\n".join([*lines[:place], line, *lines[place:], b""]))
    damaged = path.read_bytes()
    with pytest.raises(SlicewiseError, match=r"s\.log is damaged: ") as raised:
        optuna.create_study(study_name="other", storage=open_storage(url))
    assert path.read_bytes() == damaged
    if f"line {place + 1} is no record" in str(raised.value):
        assert f"head -n {place} {path}" in str(raised.value)
    else:
        assert place == 2
        assert "its last line is no record" in str(raised.value)


def test_processes_share_it_to_the_trial(tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/s.log"
    shared(tmp_path, ["a=range(0,40)"], 40, open_storage(url))
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_hammer, args=(url, str(tmp_path), f"w{i}")) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(200)
        assert worker.exitcode == 0
    trials = optuna.load_study(study_name="s", storage=open_storage(url)).trials
    assert sorted(trial.params["a"] for trial in trials) == list(range(40))


def test_a_sweep_keeps_its_study_in_it_and_goes_on(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "journal:///multirun/studies.log"
    command = ("-m", "study=a", "trainer.accelerator=cpu", f"hydra.sweeper.storage={url}")
    assert sweep(*command, "student.qkv_layers=0,1") == 0
    with (folder / "multirun/studies.log").open("ab") as file:
        file.write(b'{"op_code": 4, "work')
    assert sweep(*command, "student.qkv_layers=0,1,2") == 0
    assert watch.main(["a", "--storage", url, "--once"]) == 0
    assert "3/3 finished" in capsys.readouterr().out
    assert watch.main(["a", "--storage", "journal:///no.log", "--once"]) == 1
    assert "storage=journal:///no.log: allowed:" in capsys.readouterr().err
    assert not (folder / "no.log").exists()


def test_urls(folder: Path) -> None:
    assert absolute_url("journal:///x/s.log") == f"journal:///{folder}/x/s.log"
    assert short_url(f"journal:///{folder}/x/s.log") == "journal:///x/s.log"


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/local\\040disk xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/x/s.db", "ext4"),
        ("/home/me/multirun/s.db", "nfs4"),
        ("/homes/s.db", "ext4"),
        ("/home/local disk/s.db", "xfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_is_refused_with_what_may_lie_there(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "file_system_of", lambda path, mounts: "nfs4")
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 1
    said = capfd.readouterr().err
    assert "hydra.sweeper.storage=sqlite:///" in said
    assert "this one lies on nfs4" in said
    assert "hydra.sweeper.storage=journal:///multirun/studies.log" in said
    assert not (folder / "multirun/studies.db").exists()
