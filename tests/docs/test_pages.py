"""What a page may not leave out, and what counts as printed alike."""

from __future__ import annotations

import re

import pytest

from sweep.report.sections import SECTIONS
from tests.docs.interpreter import small
from tests.docs.pages import ROOT, blocks
from tests.docs.shapes import difference

TABLE = """
Study first

 #  trial  qkv_layers  valid_l1  x baseline  parameters     state
 ────────────────────────────────────────────────────────────────
 1      0           1    0.3364        1.18     925,056  complete
 2      2           4    0.3379        1.18   2,366,784    pruned

[14:34:39] Study first: 2 trials, in /home/you/multirun/first
"""


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```\nls\n```\n", "line 1: a block without a mark"),
        ("<!-- a remark -->\n\n```\nls\n```\n", "line 3: a block without a mark"),
        ("<!-- run -->\n\nWords between.\n\n```\nls\n```\n", "line 5: a block without a mark"),
        ("<!-- not run: -->\n```\nls\n```\n", "line 2: not run, and no reason"),
        ("<!-- prints -->\n```\n1\n```\n", "line 2: what printed this"),
        ("<!-- run -->\n```\nls\n```\n\n- one:\n  ```\n  ls\n  ```\n", "is one indented"),
    ],
)
def test_every_block_needs_its_mark(page: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        blocks(page)


def test_blocks_come_in_order_with_what_their_marks_say() -> None:
    page = (
        "<!-- given: echo 1 > a.txt -->\n\n<!-- run: seed=1 -->\n\n```\nls\nls a.txt\n```\n\n"
        "<!-- prints -->\n```text\na.txt\n```\n<!-- file: b/c.py -->\n```python\n```\n"
    )
    assert [(block.kind, block.told, block.text, block.line) for block in blocks(page)] == [
        ("run", "", "echo 1 > a.txt", 1),
        ("run", "seed=1", "ls\nls a.txt\n", 5),
        ("prints", "", "a.txt\n", 11),
        ("file", "b/c.py", "", 15),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0.3364", "0.11493933200836182"),
        ("925,056", "3,016"),
        ("14:34:39", "09:00:00"),
        ("/home/you/", "/tmp/pytest-1/test_0/"),
        ("────────", "──"),
        # Another order of the rows.
        ("1      0           1    0.3364        1.18     925,056  complete\n 2", "7 pruned\n 2"),
    ],
)
def test_figures_times_places_and_widths_do_not_count(before: str, after: str) -> None:
    assert before in TABLE
    changed = TABLE.replace(before, after)
    if after.startswith("7"):
        first, second = TABLE.splitlines()[5:7]
        changed = TABLE.replace(f"{first}\n{second}", f"{second}\n{first}")
    assert difference(TABLE, changed) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x baseline  ", ""),
        ("valid_l1", "valid_mse"),
        ("  1.18  ", "    "),
        ("pruned", "failed"),
        ("Study first:", "The study:"),
        ("/multirun/first", "/outputs/first"),
        (" 2      2           4    0.3379        1.18   2,366,784    pruned\n", ""),
    ],
)
def test_words_columns_and_rows_do(before: str, after: str) -> None:
    assert before in TABLE
    assert difference(TABLE, TABLE.replace(before, after))


def test_three_dots_stand_for_anything() -> None:
    dotted = "Study first\n...\n[0:00:00] Study first: ..., in /x/multirun/first\n"
    assert difference(dotted, TABLE) == ""
    assert difference("Study first\n", TABLE)
    assert difference("Study first\n", TABLE, in_part=True) == ""
    assert difference("Study\n", TABLE, in_part=True)
    assert difference("...\n" + TABLE + "...\n", TABLE) == ""
    assert difference("[14:34:39] Study first: ...\n", TABLE, in_part=True) == ""
    assert difference("[14:34:39] Study other: ...\n", TABLE, in_part=True)


def test_commands_of_configurations_are_made_small_and_others_are_not() -> None:
    tiny, cpu = "experiment=tiny", "trainer.accelerator=cpu"
    sweep = ["-m", "sweep", "-m", "seed=1,2"]
    one = "hydra/launcher=basic"
    assert small(sweep, ["study=a"]) == [*sweep, tiny, cpu, one, "study=a"]
    assert small([*sweep, tiny], []) == [*sweep, tiny, cpu, one]
    several = [*sweep, "hydra.sweeper.n_jobs=2"]
    assert small(several, []) == [*several, tiny, cpu]
    assert small(sweep, ["hydra/launcher=local"]) == [*sweep, tiny, cpu, "hydra/launcher=local"]
    assert small(["my_app.py", "-m"], ["rate=1"]) == ["my_app.py", "-m", "rate=1"]
    assert small(["-m", "sweep.watch", "mine"], ["rate=1"]) == ["-m", "sweep.watch", "mine"]
    assert small(["-c", "print(1)"], ["rate=1"]) == ["-c", "print(1)"]


def test_the_tutorial_on_reports_has_all_their_sections_in_order() -> None:
    page = (ROOT / "docs" / "tutorials" / "read-a-report.md").read_text()
    named = re.findall(r"^- \*\*(.+?)\*\*", page, re.M)
    assert named == [section.title for section in SECTIONS]
