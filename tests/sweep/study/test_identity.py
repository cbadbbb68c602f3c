"""What can change a result must stay the same over a study; what cannot may change."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
import pytorch_lightning as lightning
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import TrialState

from slicewise.errors import SlicewiseError
from sweep import application
from sweep.resolvers import register_resolvers
from sweep.study.attributes import IDENTITY
from sweep.study.identity import DECIDES, check_identity, decides, identity_of
from sweep.study.space import SearchSpace
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]
register_resolvers()

TINY = ("experiment=tiny", "trainer.accelerator=cpu", "study=s")


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(application.config_directory())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.compose_config("config", [*TINY, *overrides], run_mode=RunMode.MULTIRUN)


def identity(*overrides: str) -> dict[str, Any]:
    return identity_of(composed(*overrides), SearchSpace.parse([*TINY, *overrides]))


def resumes(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a study that was begun with one identity goes on with another."""
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=0.0))
    study.set_user_attr(IDENTITY, json.loads(json.dumps(before)))
    try:
        check_identity(study, now, force=False)
    except SlicewiseError:
        return False
    return True


def leaves(node: DictConfig, above: str = "") -> Iterator[str]:
    for name in node:
        key = f"{above}{name}"
        if isinstance(node._get_node(name), DictConfig) and node[name]:
            yield from leaves(node[name], f"{key}.")
        else:
            yield key


CONFIG = composed()
with open_dict(CONFIG):
    HYDRA = CONFIG.pop("hydra")
KEYS = sorted(
    {
        *leaves(CONFIG),
        *(f"trainer.{name}" for name in inspect.signature(lightning.Trainer).parameters),
        "callbacks.average",
        "callbacks.average.decay",
        "student.new",
        "new",
        "new.inner",
    }
)


def changed(key: str, value: Any, *swept: str) -> dict[str, Any]:
    """The identity of a study whose command fixes a key, and sweeps over others."""
    config = CONFIG.copy()
    OmegaConf.set_struct(config, False)
    with open_dict(config):
        config.hydra = HYDRA.copy()
        config.hydra.overrides.task = [*TINY, f"++{key}={json.dumps(value)}"]
    OmegaConf.update(config, key, value, merge=False)
    space = SearchSpace.parse([*TINY, *swept, f"++{key}={json.dumps(value)}"])
    return identity_of(config, space)


@settings(deadline=None)
@given(
    key=st.sampled_from(KEYS),
    values=st.lists(
        st.one_of(st.booleans(), st.integers(0, 9), st.floats(0, 1), st.sampled_from(["x", "y"])),
        min_size=2,
        max_size=2,
        unique_by=lambda value: (isinstance(value, bool), value),
    ),
    swept=st.sampled_from([(), ("student=tiny,approx",), ("seed=1,2", "data=noise,text")]),
)
def test_what_decides_parts_a_study_from_its_past_and_nothing_else_does(
    key: str, values: list[Any], swept: tuple[str, ...]
) -> None:
    if key in [argument.partition("=")[0] for argument in swept]:
        return
    # Of callbacks, the one that keeps a checkpoint is known to decide nothing.
    harmless = not decides(key) or key == "callbacks.resume_point.every_seconds"
    before, now = (changed(key, value, *swept) for value in values)
    assert resumes(before, now) == harmless
    assert resumes(now, before) == harmless
    assert resumes(now, now)


def test_the_table_names_every_part_of_the_configuration() -> None:
    parts = [str(name) for name in OmegaConf.load(application.config_directory() / "config.yaml")]
    groups = [path.name for path in application.config_directory().iterdir() if path.is_dir()]
    # What they choose shows in the other groups.
    chosen = {"defaults", "search", "experiment", "debug"}
    for name in {*parts, *groups} - chosen:
        assert any(key.partition(".")[0] == name for key in DECIDES), name


def test_the_table_names_every_argument_of_lightnings_trainer() -> None:
    named = {key.removeprefix("trainer.") for key in DECIDES if key.startswith("trainer.")}
    assert named == {*inspect.signature(lightning.Trainer).parameters, "_target_"}


@pytest.mark.parametrize(
    ("overrides", "goes_on"),
    [
        (["callbacks=ema"], False),
        (["steps.compile=true"], False),
        (["trainer.devices=2"], False),
        (["trainer.val_check_interval=0.5"], False),
        (["trainer.limit_val_batches=1"], False),
        (["+callbacks.stop={_target_:pytorch_lightning.callbacks.EarlyStopping}"], False),
        (["+callbacks.mine={_target_:mine.Callback}"], False),
        (["~scheduler", "+scheduler={_target_:a.b}"], False),
        (["data=tokens"], False),
        (["+note=x"], False),
        (["steps.capture=off"], True),
        (["steps.at_once=2"], True),
        (["logger=[csv,tensorboard]"], True),
        (["~logger"], True),
        (["~callbacks"], True),
        (["callbacks=[]"], True),
        (["gang.timeout=7"], True),
        (["data.cache=off", "data.cache_limit=1"], True),
        (["trainer.strategy=ddp"], True),
        (["trainer.log_every_n_steps=1", "trainer.enable_model_summary=true"], True),
        (["+trainer.profiler=simple"], True),
        (["+callbacks.bar={_target_:pytorch_lightning.callbacks.TQDMProgressBar}"], True),
        (["callbacks.resume_point.every_seconds=1"], True),
        (["hydra.sweeper.n_trials=7", "hydra/sweeper/pruner=median"], True),
        (["study=t"], True),
    ],
)
def test_whether_a_study_goes_on_with_another_command(overrides: list[str], goes_on: bool) -> None:
    assert resumes(identity(), identity(*overrides)) == goes_on
    assert resumes(identity(*overrides), identity()) == goes_on


def test_what_varies_a_swept_group_decides() -> None:
    families = "student=tiny,approx"
    assert resumes(identity(families), identity(families))
    assert not resumes(identity(families), identity(families, "student.dropout=0.5"))
    assert not resumes(identity(families), identity(families, "~student.dropout"))
    assert resumes(identity(families), identity(families, "~logger.csv"))


def test_what_the_sweepers_own_params_fix_decides() -> None:
    config = composed("student.qkv_layers=1,2")

    def of(*params: str) -> dict[str, Any]:
        return identity_of(config, SearchSpace.parse([*params, *TINY, "student.qkv_layers=1,2"]))

    assert not resumes(of(), of("student.dropout=0.5"))
    assert not resumes(of("student=tiny"), of("student=approx"))
    assert resumes(of("logger=csv"), of("logger=tensorboard"))


def test_what_is_made_of_swept_keys_is_named_and_not_resolved() -> None:
    found = identity("optimizer.lr=1,2", "scheduler=one_cycle", "seed=3,4")
    assert "lr" not in found["config"]["optimizer"]
    assert found["config"]["scheduler"]["max_lr"] == "${optimizer.lr}"
    assert "seed" not in found["config"]
    assert found["config"]["data"]["seed"] == "${seed}"
    assert identity()["config"]["data"]["seed"] == 0


def test_neither_secrets_nor_the_time_of_day_enter_a_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    written = {"+token": "${oc.env:TOKEN}", "+begun": "${now:%S-%f}", "+list": "[${oc.env:TOKEN}]"}
    found = identity(*(f"{key}={value}" for key, value in written.items()))
    assert "s3cret" not in json.dumps(found)
    assert found["config"]["begun"] == written["+begun"]
    assert found["config"]["list"] == [written["+token"]]


# As version 0.1.0 wrote it, which knew less: two trials of three, `student.qkv_layers=0,1,2`.
OF_0_1_0 = {
    "space": {
        "student.qkv_layers": {
            "name": "CategoricalDistribution",
            "attributes": {"choices": [0, 1, 2]},
        }
    },
    "config": {
        "teacher": {
            "_target_": "slicewise.teacher.random_bert",
            "first_layer": 0,
            "num_layers": 2,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "seed": 0,
        },
        "student": {
            "_target_": "slicewise.students.approx.ApproximateAttention",
            "num_attention_heads": 2,
            "attention_hidden_size": 4,
            "value_dim": None,
            "input_dim": None,
            "output_dim": None,
            "dropout": 0.1,
            "layer_norm_eps": 1e-12,
            "init": "random",
        },
        "data": {
            "_target_": "slicewise.data.noise.NoiseDataModule",
            "batch_size": 4,
            "seq_length": 8,
            "train_batches": 10,
            "valid_batches": 2,
            "seed": 0,
        },
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "_partial_": True,
            "lr": 0.001,
            "weight_decay": 0.0001,
            "fused": True,
        },
        "scheduler": None,
        "trainer": {
            "_target_": "pytorch_lightning.Trainer",
            "devices": 1,
            "num_nodes": 1,
            "precision": "32-true",
            "max_epochs": 1,
            "max_steps": -1,
            "max_time": None,
            "limit_train_batches": None,
            "limit_val_batches": None,
            "val_check_interval": 0.2,
            "check_val_every_n_epoch": 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 10,
            "accumulate_grad_batches": 1,
            "gradient_clip_val": 1.0,
            "deterministic": True,
            "enable_model_summary": False,
        },
        "objective": {
            "metrics": ["valid_l1"],
            "direction": "minimize",
            "max_parameters": None,
            "max_latency_ms": None,
        },
        "seed": 0,
    },
}


def test_a_study_of_the_release_before_goes_on(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    def load() -> optuna.Study:
        return optuna.load_study(study_name="a", storage="sqlite:///multirun/studies.db")

    command = ("-m", "study=a", "trainer.accelerator=cpu", "student.qkv_layers=0,1,2")
    assert sweep(*command, "hydra.sweeper.n_trials=2") == 0
    load().set_user_attr(IDENTITY, OF_0_1_0)
    assert sweep(*command, "student.dropout=0.2") == 1
    assert "config.student.dropout: was 0.1, now 0.2" in capfd.readouterr().err
    assert sweep(*command, "trainer.log_every_n_steps=5", "hydra.sweeper.n_trials=3") == 0
    study = load()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    # From here on it is known whole.
    assert sweep(*command, "callbacks=ema") == 1
    assert "config.callbacks.weight_average._target_: was absent" in capfd.readouterr().err


@pytest.mark.parametrize(
    "override",
    [
        "trainer.enable_progress_bar=true",
        "trainer.enable_model_summary=true",
        "trainer.log_every_n_steps=1",
        "trainer.strategy=single_device",
        "+trainer.inference_mode=false",
        "+trainer.profiler=simple",
        "+trainer.limit_test_batches=1",
        "+trainer.limit_predict_batches=1",
        "+trainer.enable_autolog_hparams=false",
        "+trainer.default_root_dir=elsewhere",
        "steps.capture=off",
        "steps.at_once=2",
        "data.cache=off",
        "data.cache=memory",
        "logger=[]",
        "gang.timeout=9",
        "callbacks.resume_point.every_seconds=0",
        "+callbacks.rate={_target_:pytorch_lightning.callbacks.LearningRateMonitor}",
        "+callbacks.summary={_target_:pytorch_lightning.callbacks.ModelSummary}",
    ],
)
def test_what_does_not_decide_gives_the_same_digits(
    sweep: Sweep, record: Record, override: str
) -> None:
    key = override.partition("=")[0].lstrip("+")
    assert not decides(key) or key.startswith("callbacks.")
    assert resumes(identity(), identity(override))
    for study, more in (("a", ()), ("b", (override,))):
        assert sweep(f"study={study}", "trainer.accelerator=cpu", *more) == 0
    before, now = record("a/0"), record("b/0")
    assert (now["valid_l1"], now["train_l1"]) == (before["valid_l1"], before["train_l1"])
