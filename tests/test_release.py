"""What `make release` writes; that it builds and tries the wheel is seen when it is run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import slicewise

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def release() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / "release.py"))


def test_this_version_has_its_notes(release: dict[str, Any]) -> None:
    assert release["version"]() == slicewise.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{slicewise.__version__}]")
    notes = release["notes"](changelog, slicewise.__version__)
    assert "python -m sweep" in notes
    assert "## [" not in notes


def test_notes_end_where_the_next_version_begins(release: dict[str, Any]) -> None:
    changelog = (
        "# Changelog\n\n## [0.2.0] - 2027-01-02\n\n- New.\n\n## [0.1.0] - 2026-11-27\n- Old.\n"
    )
    assert release["notes"](changelog, "0.2.0") == "- New.\n"
    assert release["notes"](changelog, "0.1.0") == "- Old.\n"
    with pytest.raises(SystemExit, match=r"no heading such as: ## \[0\.3\.0\] - "):
        release["notes"](changelog, "0.3.0")


def test_a_version_without_a_date_is_not_released(release: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        release["notes"]("## [0.1.0]\n- Something.\n", "0.1.0")
