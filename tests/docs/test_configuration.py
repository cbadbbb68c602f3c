"""The configuration reference says of every key what its file says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from docs.site import configuration
from docs.site.configuration import Option, read_option, reference, sources, stored_options
from hydra_plugins.slicewise_hydra.local import LocalLauncherConf
from hydra_plugins.slicewise_hydra.optuna_workers import OptunaWorkersConf

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
NOT_KEYS = {"defaults", "_partial_", "_convert_"}

names = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True).filter(lambda n: yaml.safe_load(n) == n)
leaves = st.none() | st.booleans() | st.integers() | names | st.lists(st.integers(), max_size=3)
comments = st.lists(names, max_size=2).map(" ".join)
trees = st.recursive(
    st.dictionaries(names, st.tuples(comments, leaves), min_size=1, max_size=4),
    lambda inner: st.dictionaries(
        names, st.tuples(comments, leaves | inner), min_size=1, max_size=4
    ),
    max_leaves=8,
)


def _written(tree: Mapping[str, tuple[str, Any]], indent: str = "") -> Iterator[str]:
    for name, (comment, value) in tree.items():
        if comment:
            yield f"{indent}# {comment}"
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _written(value, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(value)}"


def _expected(tree: Mapping[str, tuple[str, Any]], prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, (comment, value) in tree.items():
        full = f"{prefix}.{name}"
        if isinstance(value, dict):
            if comment:
                yield full, None, comment
            yield from _expected(value, full)
        else:
            yield full, value, comment


@settings(max_examples=60)
@given(trees, comments)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, tree: Any, words: str
) -> None:
    conf = tmp_path_factory.mktemp("conf")
    (conf / "student").mkdir()
    path = conf / "student" / "mine.yaml"
    head = [f"# {words}" if words else "", "_target_: my_package.mine.Mine"]
    path.write_text("\n".join([*head, *_written(tree)]) + "\n")
    option = read_option(path, conf)
    assert (option.override, option.comment) == ("student=mine", words)
    assert option.target == "my_package.mine.Mine"
    found = [(key.name, yaml.safe_load(key.default), key.comment) for key in option.keys]
    assert found == list(_expected(tree, "student"))


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if name in NOT_KEYS:
            continue
        full = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(inner, dict):
            yield from _leaves(inner, full)
        else:
            yield full, inner


@pytest.mark.parametrize("path", sources(CONF), ids=lambda path: str(path.relative_to(CONF)))
def test_all_keys_of_a_file_are_there(path: Path) -> None:
    option = read_option(path, CONF)
    text = path.read_text()
    is_global = "@package _global_" in text or path.parent == CONF
    prefix = "" if is_global else option.group.replace("/", ".")
    wanted = dict(_leaves(yaml.safe_load(text), prefix))
    target = wanted.pop(f"{prefix}._target_", "")
    assert {k.name: yaml.safe_load(k.default) for k in option.keys if k.default} == wanted
    assert option.target == target
    # No comment is lost, be it the file's or a key's.
    said = " ".join([option.comment, *(key.comment for key in option.keys)])
    for line in text.splitlines():
        if line.lstrip().startswith("#") and "@package" not in line:
            assert line.strip(" #\\") in said


@pytest.mark.parametrize(
    ("group", "kind"), [("hydra/sweeper", OptunaWorkersConf), ("hydra/launcher", LocalLauncherConf)]
)
def test_all_fields_of_the_sweeper_are_there(group: str, kind: type) -> None:
    [option] = stored_options(group)
    # What a group holds is chosen by the group.
    groups = {"_target_", "defaults", "sampler", "pruner", "stop"}
    wanted = [f"{group.replace('/', '.')}.{field.name}" for field in fields(kind)]
    kept = [name for name in wanted if name.rpartition(".")[2] not in groups]
    assert [key.name for key in option.keys] == kept
    said = {key.name: key.comment for key in option.keys}
    if kind is OptunaWorkersConf:
        assert said["hydra.sweeper.max_retries"] == (
            "How often a trial is taken up again whose worker died."
        )
        # Of the official sweeper, whose class it extends.
        assert said["hydra.sweeper.study_name"]


def test_the_page_has_every_option_once() -> None:
    page = reference(CONF)
    options = [read_option(path, CONF) for path in sources(CONF)]
    options += [option for group in configuration.STORED for option in stored_options(group)]
    for option in filter(lambda option: option.group, options):
        assert page.count(f"\n### `{option.override}`") == 1
    assert "### `teacher=minilm` (default)" in page
    assert "| `hydra.sweeper.sampler.constant_liar` | `true` |" in page


def test_a_file_that_programs_share_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.yaml").write_text("c: 1\n")
    (tmp_path / "shared.yaml").write_text("# What both have.\ndefaults:\n  - override /d: e\n")
    for name in ("config", "other"):
        (tmp_path / f"{name}.yaml").write_text("defaults: [shared, _self_, {a: b}]\nf: 2\n")
    page = reference(tmp_path)
    assert "sweep.shared" not in page
    assert page.count("Chooses `a=b`, `d=e`.") == 2
    assert "## `python -m sweep.other`" in page


def test_comments_are_no_markup() -> None:
    option = Option("a", "b", "a_b *c* | `d_e` docs/scaling.md https://f.org/g_h", "", (), ())
    [_, said] = configuration._section(3, option.override, option)
    assert said == ("a\\_b \\*c\\* \\| `d_e` [docs/scaling.md](../scaling.md) <https://f.org/g_h>")
