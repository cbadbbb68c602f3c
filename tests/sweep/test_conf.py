"""Every option of every group composes, with a program that has the group."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from sweep import application
from sweep.compress import application as compress
from sweep.resolvers import register_resolvers

CONF = application.config_directory()
GROUPS = sorted({str(path.parent.relative_to(CONF)) for path in CONF.rglob("*/*.yaml")})


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _composed(program: str, *overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), job_name="sweep"):
        return compose(program, list(overrides), return_hydra_config=True)


def _has_group(program: DictConfig, group: str) -> bool:
    return group in program.hydra.runtime.choices


@pytest.fixture(scope="module")
def programs() -> dict[str, DictConfig]:
    GlobalHydra.instance().clear()
    names = (application.CONFIG_NAME, compress.CONFIG_NAME)
    return {name: _composed(name) for name in names}


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes(group: str, programs: dict[str, DictConfig]) -> None:
    having = [name for name, program in programs.items() if _has_group(program, group)]
    assert having
    for option in _options(group):
        config = _composed(having[0], f"{group}={option}")
        assert config.hydra.runtime.choices[group] == option


def test_every_file_is_an_option_or_a_program() -> None:
    assert {"experiment", "debug", "student", "hydra/help"} <= set(GROUPS)
    assert {path.stem for path in CONF.glob("*.yaml")} == {"config", "compress", "program"}
    assert not [path for path in Path(CONF).rglob("*") if path.suffix not in ("", ".yaml")]
