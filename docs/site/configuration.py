"""The configuration reference: what can be written on a command line, out of `conf/`.

A key's words are the comment above it, a file's the comment that it begins with. What Hydra knows
from dataclasses instead of files (`hydra/sweeper`, `hydra/launcher`) is read from their sources.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

# The words on the terminal, and how its lines look: nothing to choose.
LEFT_OUT = ("hydra/help", "hydra/hydra_logging", "hydra/job_logging")
# Whose options are dataclasses.
STORED = (
    "hydra/sweeper",
    "hydra/sweeper/sampler",
    "hydra/sweeper/pruner",
    "hydra/sweeper/stop",
    "hydra/launcher",
)
# The official plugin's samplers are chosen here too; of other plugins their own pages tell.
_OTHERS = "hydra/sweeper/sampler"
# Refused by Optuna.
_REMOVED = {"hydra/sweeper/sampler=motpe"}
# Of which a key's row would say nothing.
_NO_KEYS = {"defaults", "_partial_", "_convert_"}


@dataclass(frozen=True)
class Key:
    """What an override on the command line begins with.

    Attributes:
        name: With all that it lies in: `student.qkv_layers`.
        default: As it is written; empty where other keys lie in this one.
        comment: What is said about it, in one line.
    """

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class Option:
    """A file of `conf/`, or a dataclass: a choice of a group.

    Attributes:
        group: `student`; empty for a file that is in no group.
        name: `approx`.
        comment: What is said about it.
        target: The class or function that it is the arguments of, where there is one.
        chooses: What comes with it, such as `teacher=minilm`, or a file that it goes on from.
        keys: What is in it, in its order.
    """

    group: str
    name: str
    comment: str
    target: str
    chooses: tuple[str, ...]
    keys: tuple[Key, ...]

    @property
    def override(self) -> str:
        return f"{self.group}={self.name}"


def sources(conf: Path) -> list[Path]:
    """The files of a folder of configuration that the reference is made of."""
    found = sorted(conf.rglob("*.yaml"))
    return [path for path in found if path.parent.relative_to(conf).as_posix() not in LEFT_OUT]


def reference(conf: Path) -> str:
    """The reference of a folder of configuration, and of the sweeper, as Markdown."""
    files = [read_option(path, conf) for path in sources(conf)]
    main, *others = _programs([option for option in files if not option.group])
    named = [choice.partition("=")[0] for choice in main.chooses]
    of_files = {option.group for option in files if option.group}
    groups = [name for name in named if name in of_files]
    groups += sorted(of_files - set(groups))
    options = files + [option for group in STORED for option in stored_options(group)]
    parts = [*_section(2, "python -m sweep", main)]
    for group in [*groups, *STORED]:
        parts += _group([option for option in options if option.group == group], main)
    for program in others:
        parts += _section(2, f"python -m sweep.{program.name}", program)
    return "\n" + "\n\n".join(parts) + "\n"


def _programs(roots: Sequence[Option]) -> list[Option]:
    """Files that a program begins with, `config.yaml` first; what they go on from is in them."""
    named = {option.override: option for option in roots}
    parts = {choice for option in roots for choice in option.chooses if choice in named}
    programs = []
    for option in roots:
        if option.override in parts:
            continue
        inside = [named[choice] for choice in option.chooses if choice in named]
        own = tuple(choice for choice in option.chooses if choice not in named)
        chooses = (*own, *(choice for part in inside for choice in part.chooses))
        keys = (*(key for part in inside for key in part.keys), *option.keys)
        programs.append(replace(option, chooses=chooses, keys=keys))
    return sorted(programs, key=lambda option: option.name != "config")


def read_option(path: Path, conf: Path) -> Option:
    """An option out of its file."""
    lines = path.read_text().splitlines()
    comment = [line for line in _comment_above(lines, _first_key(lines)) if "@package" not in line]
    group = path.parent.relative_to(conf).as_posix().removeprefix(".")
    is_global = not group or any(line.startswith("# @package _global_") for line in lines)
    tree = yaml.compose("\n".join(lines))
    top = {name.value: value for name, value in tree.value} if tree else {}
    target = top["_target_"].value if "_target_" in top else ""
    chooses = _choices(top["defaults"], group) if "defaults" in top else ()
    prefix = "" if is_global else group.replace("/", ".")
    keys = [key for key in _keys(tree, lines, prefix) if key.name != f"{prefix}._target_"]
    return Option(group, path.stem, _one_line(comment), target, tuple(chooses), tuple(keys))


def stored_options(group: str) -> list[Option]:
    """The options of a group whose options are dataclasses."""
    Plugins.instance()
    stored: dict[str, Any] = ConfigStore.instance().repo
    for part in group.split("/"):
        stored = stored[part]
    options = []
    for file, entry in stored.items():
        name = file.removesuffix(".yaml")
        if isinstance(entry, dict) or f"{group}={name}" in _REMOVED:
            continue
        if entry.provider == "slicewise" or group == _OTHERS:
            options.append(_stored_option(group, name, entry.node))
    return options


def _stored_option(group: str, name: str, node: DictConfig) -> Option:
    kind = OmegaConf.get_type(node)
    assert kind is not None
    values = _plain_values(node)
    # What the sweeper changes of the official plugin's defaults.
    changed = ConfigStore.instance().repo["hydra"]["sweeper"]["optunas_defaults"]
    if group == _OTHERS and f"{name}.yaml" in changed:
        values |= _plain_values(changed[f"{name}.yaml"].node)
    comments = _comments_of(kind)
    prefix = group.replace("/", ".")
    keys = [
        Key(f"{prefix}.{key}", _plain(value), comments.get(key, ""))
        for key, value in values.items()
        if key not in {*_NO_KEYS, "_target_"} and value != "???"
    ]
    words = " ".join((kind.__doc__ or "").split())
    # Which a dataclass without words of its own is given.
    if words.startswith(f"{kind.__name__}("):
        words = ""
    chooses = tuple(
        f"{group}/{key}={choice}"
        for default in values.get("defaults") or []
        for key, choice in default.items()
        if not key.startswith("optional ")
    )
    return Option(group, name, words, values["_target_"], chooses, tuple(keys))


def _plain_values(node: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(node, enum_to_str=True)
    return dict(values)


def _keys(tree: yaml.MappingNode | None, lines: Sequence[str], prefix: str) -> Iterator[Key]:
    for name, value in tree.value if tree else ():
        if name.value in _NO_KEYS:
            continue
        full = f"{prefix}.{name.value}" if prefix else name.value
        row = name.start_mark.line
        # The comment that a file begins with is the file's, not its first key's.
        above = [] if row == _first_key(lines) else _comment_above(lines, row)
        comment = _one_line(above)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            # A key that other keys lie in stands for itself only where something is said about it.
            if comment:
                yield Key(full, "", comment)
            yield from _keys(value, lines, full)
        else:
            yield Key(full, _written(value, lines), comment)


def _choices(defaults: yaml.Node, group: str) -> Iterator[str]:
    for entry in defaults.value:
        if isinstance(entry, yaml.ScalarNode):
            if entry.value != "_self_":
                yield f"{group}={entry.value}"
            continue
        [(name, value)] = entry.value
        chosen = name.value.removeprefix("override ").removeprefix("/")
        yield f"{chosen}={value.value}"


def _written(value: yaml.Node, lines: Sequence[str]) -> str:
    start, end = value.start_mark, value.end_mark
    if start.line == end.line:
        return str(lines[start.line][start.column : end.column])
    return " ".join(line.strip() for line in lines[start.line : end.line])


def _first_key(lines: Sequence[str]) -> int:
    found = (row for row, line in enumerate(lines) if line.strip() and line[0] != "#")
    return next(found, len(lines))


def _comment_above(lines: Sequence[str], row: int) -> list[str]:
    start = row
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return [line.strip().removeprefix("#").strip() for line in lines[start:row]]


def _comments_of(kind: type) -> dict[str, str]:
    """The comment above each field of a dataclass, and of those that it inherits from."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        lines = inspect.getsource(base).splitlines()
        for row, line in enumerate(lines):
            field = re.match(r"    (\w+): ", line)
            if field:
                comments[field[1]] = _one_line(_comment_above(lines, row))
    return comments


def _one_line(comment: Sequence[str]) -> str:
    return " ".join(line.removesuffix("\\").strip() for line in comment if line)


def _plain(value: object) -> str:
    text = str(yaml.safe_dump(value, default_flow_style=True, width=1000))
    return text.removesuffix("...\n").strip()


def _group(options: Sequence[Option], main: Option) -> Iterator[str]:
    group = options[0].group
    yield f"## {group}"
    # What is chosen unless told otherwise comes first.
    for option in sorted(options, key=lambda option: option.override not in main.chooses):
        yield from _section(3, option.override, option, option.override in main.chooses)


def _section(level: int, title: str, option: Option, is_default: bool = False) -> Iterator[str]:
    yield f"{'#' * level} `{title}`" + (" (default)" if is_default else "")
    if option.comment:
        yield _prose(option.comment)
    if option.target not in ("", "???"):
        yield f"Builds {{py:obj}}`{option.target}`."
    if option.chooses:
        inherited = [c for c in option.chooses if c.startswith(f"{option.group}=") and option.group]
        shown = [c for c in option.chooses if not c.startswith(LEFT_OUT)]
        chosen = [choice for choice in shown if choice not in inherited]
        if inherited:
            yield f"All keys of {_codes(inherited)}, and:"
        if chosen:
            yield f"Chooses {_codes(chosen)}."
    if option.keys:
        yield "\n".join(
            [
                "```{table}",
                ":class: keys",
                "",
                "| key | default | comment |",
                "| --- | --- | --- |",
                *(_row(key) for key in option.keys),
                "```",
            ]
        )


def _row(key: Key) -> str:
    default = _code(key.default) if key.default else ""
    return f"| {_code(key.name)} | {default} | {_prose(key.comment)} |"


def _codes(texts: Sequence[str]) -> str:
    return ", ".join(_code(text) for text in texts)


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return fence + text.replace("|", "\\|") + fence


def _prose(comment: str) -> str:
    """A comment as Markdown: it has no markup but `code`, and names pages by their files."""
    parts = re.split(r"(`[^`]+`|docs/[\w-]+\.md)", comment)
    return "".join(map(_prose_part, parts))


def _prose_part(part: str) -> str:
    if part.startswith("`"):
        return part.replace("|", "\\|")
    page = re.fullmatch(r"docs/([\w-]+\.md)", part)
    if page:
        return f"[{part}](../{page[1]})"
    escaped = re.sub(r"([\\*_<>|\[\]$])", r"\\\1", part)
    # An address is a link, and stays as it is.
    return re.sub(r"https://\S+", lambda found: f"<{found[0].replace(chr(92), '')}>", escaped)
