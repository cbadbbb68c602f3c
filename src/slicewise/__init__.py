"""slicewise: train small modules that stand in for a slice of a transformer encoder.

Names are imported on first use, so that ``import slicewise`` does not load torch. Transformers,
once it is loaded, learns of encoders that were put together from students: `slicewise.auto`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from slicewise.auto import register_with_transformers

if TYPE_CHECKING:
    from slicewise.distiller import Distiller as Distiller
    from slicewise.encoder.folder import load_model as load_model
    from slicewise.encoder.folder import save_model as save_model
    from slicewise.encoder.sliced import SlicedEncoder as SlicedEncoder
    from slicewise.errors import ArgumentError as ArgumentError
    from slicewise.errors import SlicewiseError as SlicewiseError
    from slicewise.students.base import Student as Student
    from slicewise.students.folder import load_student as load_student
    from slicewise.students.folder import save_student as save_student
    from slicewise.teacher import TeacherSlice as TeacherSlice
    from slicewise.teacher import load_slice as load_slice

__version__ = "0.1.0"

_HOME = {
    "ArgumentError": "slicewise.errors",
    "Distiller": "slicewise.distiller",
    "SlicewiseError": "slicewise.errors",
    "SlicedEncoder": "slicewise.encoder.sliced",
    "Student": "slicewise.students.base",
    "TeacherSlice": "slicewise.teacher",
    "load_model": "slicewise.encoder.folder",
    "load_slice": "slicewise.teacher",
    "load_student": "slicewise.students.folder",
    "save_model": "slicewise.encoder.folder",
    "save_student": "slicewise.students.folder",
}

__all__ = ["__version__", *_HOME]


register_with_transformers()


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'slicewise' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
