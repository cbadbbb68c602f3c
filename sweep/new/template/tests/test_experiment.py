"""The experiment as it is run: a process of its own, conf/, a random teacher, three steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    *("teacher=random_bert", "teacher.hidden_size=24", "teacher.num_hidden_layers=2"),
    *("teacher.num_attention_heads=2", "teacher.intermediate_size=32"),
    *("student.width=4", "data.batch_size=4", "data.seq_length=8"),
)


def test_it_fits_and_keeps_the_student(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweep", "--config-dir", str(ROOT / "conf")]
    others = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, [str(ROOT), others]))
    done = subprocess.run(
        [*command, "study=s", "experiment=mine", "debug=fast", *SMALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "SLICEWISE_TRUSTED": "my_package.*"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trial = tmp_path / "multirun" / "s" / "0"
    record = json.loads((trial / "trial.json").read_text())
    assert record["state"] == "COMPLETE"
    assert record["steps"] == 3
    kept = json.loads((trial / "student" / "config.json").read_text())
    assert kept["_target_"] == "my_package.student.MyStudent"
