"""A configuration that was varied is the one that would have been composed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from slicewise.errors import SlicewiseError
from sweep import application
from sweep.resolvers import register_resolvers
from sweep.study.compose import TrialComposer
from sweep.study.space import SearchSpace

register_resolvers()


@pytest.fixture(scope="module")
def sweep() -> Iterator[tuple[DictConfig, HydraContext]]:
    with initialize_config_dir(str(application.config_directory())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("config", ["study=s"], run_mode=RunMode.MULTIRUN)
        yield config, HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())


@pytest.mark.parametrize(
    ("arguments", "params"),
    [
        (["student=bert_layer", "student.num_layers=1,2"], {"student.num_layers": 2}),
        (["+new=1", "new=2,3"], {"new": 3}),
        (["student=tiny,approx", "student.dropout=0.2,0.3"],
         {"student": "tiny", "student.dropout": 0.3}),
        (["scheduler=null,one_cycle"], {"scheduler": None}),
        (["logger=csv,[csv,tensorboard]"], {"logger": "[csv,tensorboard]"}),
        (["student.qkv_layers=1,2"], {"student.qkv_layers": 2}),
        (["seed=1,2", "study=s"], {"seed": 2}),
        (["teacher=minilm,random_bert"], {"teacher": "random_bert"}),
        (["teacher=minilm,random_bert", "seed=1,2"], {"teacher": "random_bert", "seed": 2}),
        (["scheduler=constant,one_cycle", "optimizer.lr=1,2"],
         {"scheduler": "one_cycle", "optimizer.lr": 2}),
        (["+trainer.fast_dev_run=true,false"], {"+trainer.fast_dev_run": True}),
        (["student.value_dim=null,24"], {"student.value_dim": None}),
        (["hydra.job.chdir=true,false"], {"hydra.job.chdir": True}),
        (["data.seq_length=1,2", "data.batch_size=7", "~logger.csv"], {"data.seq_length": 2}),
        (["student={qkv_layers:1},{qkv_layers:2}", "student.dropout=0.5"],
         {"student": "{qkv_layers:2}"}),
    ],
)  # fmt: skip
def test_it_is_what_hydra_composes(
    sweep: tuple[DictConfig, HydraContext], arguments: list[str], params: dict[str, Any]
) -> None:
    config, context = sweep
    space = SearchSpace.parse(arguments, loader=context.config_loader)
    expected = context.config_loader.load_sweep_config(config, space.overrides(params))
    composer = TrialComposer(config, context, space)
    for _ in range(2):
        assert OmegaConf.to_yaml(composer.compose(params)) == OmegaConf.to_yaml(expected)


def test_one_trials_values_do_not_reach_the_next(sweep: tuple[DictConfig, HydraContext]) -> None:
    space = SearchSpace.parse(["student.qkv_layers=1,2", "seed=1,2"])
    composer = TrialComposer(*sweep, space)
    first = composer.compose({"student.qkv_layers": 2, "seed": 2})
    first.student.dropout = 0.9
    second = composer.compose({"student.qkv_layers": 1, "seed": 1})
    assert (second.student.qkv_layers, second.seed, second.student.dropout) == (1, 1, 0.1)


def test_what_one_has_composed_another_reads_no_file_for(
    sweep: tuple[DictConfig, HydraContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, context = sweep
    space = SearchSpace.parse(["student=tiny,approx", "seed=1,2"], loader=context.config_loader)
    first = TrialComposer(config, context, space)
    first.check()
    points = [{"student": name, "seed": seed} for name in ("tiny", "approx") for seed in (1, 2)]
    expected = [OmegaConf.to_yaml(first.compose(point)) for point in points]
    monkeypatch.delattr(ConfigLoaderImpl, "load_sweep_config")
    second = TrialComposer(config, context, space, first.composed)
    assert [OmegaConf.to_yaml(second.compose(point)) for point in points] == expected


@pytest.mark.parametrize("params", [{"student.depth": 1}, {"colour": "red"}])
def test_an_unknown_key_is_refused(
    sweep: tuple[DictConfig, HydraContext], params: dict[str, Any]
) -> None:
    composer = TrialComposer(*sweep, SearchSpace.parse([f"{key}=1,2" for key in params]))
    with pytest.raises(SlicewiseError, match="there is no such key: allowed: "):
        composer.compose(params)
