"""`logger=`: what each tracker's users look for is where they look."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]


@pytest.fixture(autouse=True)
def own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves the last one that was used in the environment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_tensorboard_has_curves_and_hyperparameters(
    sweep: Sweep, folder: Path, record: Record
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert sweep("-m", "study=a", "student.qkv_layers=0,1", "logger=[csv,tensorboard]") == 0
    for number in (0, 1):
        events = EventAccumulator(str(folder / f"multirun/a/{number}/tensorboard")).Reload()
        found = record(f"a/{number}")
        [final] = events.Scalars("final/valid_l1")
        assert final.value == pytest.approx(found["valid_l1"])
        assert len(events.Scalars("valid_l1")) == 5
        content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        hparams = HParamsPluginData.FromString(content).session_start_info.hparams
        assert hparams["student.qkv_layers"].number_value == number
        assert (folder / f"multirun/a/{number}/metrics.csv").is_file()


def test_mlflow_has_a_run_for_each_trial(sweep: Sweep, folder: Path, record: Record) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert sweep("-m", "study=a", "student.qkv_layers=0,7", "logger=mlflow") == 0
    client = mlflow.MlflowClient(f"sqlite:///{folder}/multirun/mlflow.db")
    experiment = client.get_experiment_by_name("a")
    runs = client.search_runs([experiment.experiment_id])
    for run in runs:
        found = record(run.info.run_name)
        assert run.data.params["student.qkv_layers"] == str(found["params"]["student.qkv_layers"])
        assert run.data.metrics["final/valid_l1"] == found["valid_l1"]
        assert run.data.metrics["final/baseline_ratio"] == found["baseline_ratio"]
        assert run.info.status == "FINISHED"
    assert sorted(run.info.run_name for run in runs) == ["a/0", "a/1"]


def wandb_records(path: Path) -> Iterator[Any]:
    """What an offline run has written down: LevelDB's log format after seven bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, header = 32768, struct.Struct("<IHB")
    data, place, record = path.read_bytes(), 7, b""
    while place + header.size <= len(data):
        left = block - place % block
        if left < header.size:
            place += left
            continue
        _, length, kind = header.unpack_from(data, place)
        place += header.size
        record += data[place : place + length]
        place += length
        # Whole, or the last of several pieces.
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def test_wandb_has_a_run_for_each_trial_without_a_network(
    sweep: Sweep, folder: Path, record: Record
) -> None:
    pytest.importorskip("wandb")
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", "logger=wandb") == 0
    for number in (0, 1):
        [log] = (folder / f"multirun/a/{number}").glob("wandb/offline-run-*/*.wandb")
        config: dict[str, Any] = {}
        summary: dict[str, Any] = {}
        for entry in wandb_records(log):
            for item in (*entry.config.update, *entry.run.config.update):
                config[item.key] = json.loads(item.value_json)
            for item in entry.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            for item in entry.history.item:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        assert config["student.qkv_layers"] == number
        assert summary["final/valid_l1"] == record(f"a/{number}")["valid_l1"]


def test_a_trial_that_fails_is_a_failed_run(sweep: Sweep, folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert sweep("-m", "study=a", "optimizer.lr=1e30,1e31", "logger=mlflow") == 1
    client = mlflow.MlflowClient(f"sqlite:///{folder}/multirun/mlflow.db")
    experiment = client.get_experiment_by_name("a")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}


def test_a_logger_that_is_not_installed_is_one_line(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pytorch_lightning.loggers.mlflow as mlflow_logger

    monkeypatch.setattr(mlflow_logger, "_MLFLOW_AVAILABLE", False)
    monkeypatch.setattr(mlflow_logger, "_MLFLOW_SYNCHRONOUS_AVAILABLE", False, raising=False)
    assert sweep("logger=mlflow") == 1
    said = capsys.readouterr().err
    assert "logger=mlflow: allowed: a logger that is installed" in said
    assert "pip install 'slicewise[mlflow]'" in said
    assert "Traceback" not in said
