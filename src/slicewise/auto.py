"""After `import slicewise`, transformers' AutoModel knows sliced encoders.

Importing slicewise loads no transformers, so this waits until somebody else does, and until
AutoModel is asked for a model: then an entry is added to its table for each family whose layers
can be students. Whoever uses `AutoModel` or sentence-transformers then gets a sliced encoder where
a folder's `config.json` describes one, and the family's own model everywhere else.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_TABLE = "transformers.models.auto.modeling_auto"
# How AutoModel is asked for a model.
_ENTRANCES = ("from_pretrained", "from_config")


def register_with_transformers() -> None:
    """Has the entries added before AutoModel is asked for a model for the first time."""
    if _TABLE in sys.modules:
        _register_at_first_use(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module as the others would, and has the entries added once it has run."""

    def __init__(self) -> None:
        self._asked = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TABLE or self._asked:
            return None
        # Once: the others are asked for it in their turn.
        self._asked = True
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register_at_first_use(module)

    def __getattr__(self, name: str) -> Any:
        # Whoever asks for a module's source or resources asks its loader.
        return getattr(self._loader, name)


class _FamilyOrSliced:
    """Stands in AutoModel's table in the place of a family's model, and hands on to one of two.

    A subclass for each family; never instantiated.
    """

    own_name: str
    config_class: Any

    @classmethod
    def _model_class(cls, config: Any) -> Any:
        if getattr(config, "slicewise", None) is not None:
            return importlib.import_module("slicewise.encoder.transformers_model").SlicedModel
        return getattr(importlib.import_module("transformers"), cls.own_name)

    @classmethod
    def from_pretrained(cls, path: Any, *arguments: Any, config: Any, **options: Any) -> Any:
        return cls._model_class(config).from_pretrained(path, *arguments, config=config, **options)

    @classmethod
    def _from_config(cls, config: Any, **options: Any) -> Any:
        return cls._model_class(config)._from_config(config, **options)


def _register_at_first_use(table: ModuleType) -> None:
    """Not as soon as the table is there: it may be imported by a family that is not there yet."""
    auto = table.AutoModel
    theirs = {name: vars(auto)[name] for name in _ENTRANCES if name in vars(auto)}

    def entrance(name: str) -> Any:
        def registered_first(cls: Any, *arguments: Any, **options: Any) -> Any:
            for other, method in theirs.items():
                setattr(auto, other, method)
            _register(table)
            return getattr(cls, name)(*arguments, **options)

        return classmethod(functools.wraps(theirs[name].__func__)(registered_first))

    for name in theirs:
        setattr(auto, name, entrance(name))


def _register(table: ModuleType) -> None:
    known = importlib.import_module("slicewise.architecture").known_architectures()
    classes = importlib.import_module(table.__name__.replace("modeling", "configuration"))
    for model_type, own_name in list(table.MODEL_MAPPING_NAMES.items()):
        if model_type.replace("-", "_") not in known or not isinstance(own_name, str):
            continue
        config_class = classes.CONFIG_MAPPING[model_type]
        entry = type(
            own_name, (_FamilyOrSliced,), {"own_name": own_name, "config_class": config_class}
        )
        table.AutoModel.register(config_class, entry, exist_ok=True)
