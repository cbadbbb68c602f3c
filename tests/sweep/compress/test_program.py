"""The program as its user sees it: what it leaves, how it goes on, and what it says is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertModel

import slicewise
from slicewise.encoder.sliced import original_encoder
from slicewise.teacher import load_slice, random_bert
from sweep.compress import heal
from sweep.compress.result import Result
from sweep.overrides import override_text
from sweep.watch import main as watch
from tests.sweep.compress.conftest import HALF, SMALL, TINY, Compress
from tests.sweep.test_passwords import holding

TEXTS = ["A short text.", "Another one, and it is longer than the first."]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _weights(home: Path) -> bytes:
    """Of the model that was exported."""
    (path,) = home.glob("model/*.safetensors")
    return path.read_bytes()


def test_from_a_teacher_to_a_smaller_model(
    compress: Compress, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compress(HALF) == 0
    home = folder / "multirun/c"
    plans, result = _json(home / "plans.json"), _json(home / "result.json")
    total = plans["original"]["parameters"]
    assert plans["budget"]["parameters"] == 0.5 * total
    (plan,) = plans["chosen"]
    assert plan["costs"]["parameters"] <= 0.5 * total

    # The library: each candidate of each slice, once.
    places = sorted(home.glob("library/*/trial.json"), key=lambda path: int(path.parent.name))
    library = [_json(path) for path in places]
    codes = [record["params"]["candidate"] for record in library]
    assert len(codes) == len(set(codes)) == 15
    assert codes[:5] == ["L0/2h/48n", "L0/2h/16n", "L0/1h/48n", "L0/1h/16n", "drop0"]
    damages = {record["params"]["candidate"]: record["damage"] for record in library}
    assert damages["L1/2h/48n"] == pytest.approx(0, abs=1e-6)
    assert plan["predicted"] == pytest.approx(sum(damages[code] for code in plan["candidates"]))

    # What was healed is what is exported.
    (healed,) = home.glob("heal-*/0")
    record = _json(healed / "trial.json")
    assert record["params"]["plan"] == " ".join(plan["candidates"])
    assert (record["state"], record["steps"]) == ("COMPLETE", 6)
    assert record["student_parameters"] == plan["costs"]["parameters"]
    model = slicewise.load_model(home / "model")
    again = slicewise.load_model(healed / "model")
    assert torch.equal(model.encode(TEXTS), again.encode(TEXTS))

    # What it is said to be, it is.
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
    original = original_encoder(random_bert(num_hidden_layers=3, **sizes))
    assert result["result"]["parameters"] == sum(p.numel() for p in model.blocks.parameters())
    assert result["original"]["parameters"] == sum(p.numel() for p in original.blocks.parameters())
    card = (home / "model/README.md").read_text()
    assert card.startswith("---\nlibrary_name: ")
    assert f"{result['cosine']:.4f}" in card
    assert result["command"] in card
    said = capfd.readouterr()
    assert watch(["c", "--once"]) == 0
    assert f"Study c/{healed.parent.name} " in capfd.readouterr().out
    assert "Model:      multirun/c/model" in said.out
    assert "[15/15" in said.out + said.err


def test_the_same_command_does_nothing_twice(
    compress: Compress, halved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = halved
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.safetensors")}
    records = {path: path.read_bytes() for path in home.rglob("trial.json")}
    capfd.readouterr()
    assert compress(HALF) == 0
    said = "".join(capfd.readouterr())
    for line in ("c/library is finished", "Chosen already", "Exported already"):
        assert line in said
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.safetensors")} == before
    assert {path: path.read_bytes() for path in home.rglob("trial.json")} == records


def test_another_budget_has_the_same_library(compress: Compress, halved: Path) -> None:
    home = halved
    library = {path: path.stat().st_mtime_ns for path in home.glob("library/*/trial.json")}
    first = _json(home / "result.json")
    assert compress("budget.flops=0.3", "heal.steps=3", "optimizer.lr=1e-4") == 0
    assert {p: p.stat().st_mtime_ns for p in home.glob("library/*/trial.json")} == library
    second = _json(home / "result.json")
    assert second["result"]["flops"] <= 0.3 * second["original"]["flops"]
    assert second["result"]["parameters"] < first["result"]["parameters"]
    assert len(list(home.glob("heal-*"))) == 2


def test_a_result_is_of_the_model_that_lies_beside_it(
    compress: Compress,
    halved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    weights = _weights(halved)
    with monkeypatch.context() as patch:
        # The disk is full just when the model lies there.
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(Result, "write", Mock(side_effect=full))
        assert compress("budget.parameters=0.3") == 1
    assert "What was done is kept" in capfd.readouterr().err
    assert _weights(halved) != weights
    assert compress(HALF) == 0
    assert "Exported already" not in "".join(capfd.readouterr())
    assert _weights(halved) == weights


def test_what_comes_after_a_healing_heals_nothing_again(
    compress: Compress, halved: Path, folder: Path
) -> None:
    home = halved
    records = {path: path.read_bytes() for path in home.rglob("trial.json")}
    assert not (home / "model/onnx").exists()
    (folder / "pairs.csv").write_text("a b,a c,3\nd e,f,1\nd,d e f,2\n")
    later = (
        "export.onnx=true",
        "evaluate.pairs=pairs.csv",
        "choose.measured=0",
        "library.keep=all",
    )
    assert compress(HALF, *later) == 0
    assert {path: path.read_bytes() for path in home.rglob("trial.json")} == records
    assert (home / "model/onnx/model.onnx").is_file()
    assert _json(home / "result.json")["result"]["spearman"] is not None


def test_what_changes_in_a_file_is_not_done_already(
    compress: Compress, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts, pairs = folder / "texts.txt", folder / "pairs.csv"
    texts.write_text("\n".join(f"return the value {number}" for number in range(300)))
    pairs.write_text("a b,a c,3\nd e,f,1\nd,d e f,2\n")
    given = (HALF, "data.files=[texts.txt]", "evaluate.pairs=pairs.csv", "heal.steps=1")
    assert compress(*given) == 0
    home = folder / "multirun/c"
    first = _json(home / "result.json")
    (healed,) = home.glob("heal-*")

    pairs.write_text("a b,a c,1\nd e,f,3\nd,d e f,2\n")
    capfd.readouterr()
    assert compress(*given) == 0
    assert "Exported already" not in "".join(capfd.readouterr())
    second = _json(home / "result.json")
    assert first["original"]["spearman"] == -second["original"]["spearman"]
    assert list(home.glob("heal-*")) == [healed]

    texts.write_text("\n".join(f"return another value, {number}" for number in range(300)))
    assert compress(*given) == 0
    said = "".join(capfd.readouterr())
    assert "texts.txt: changed since the library was measured" in said
    assert len(list(home.glob("heal-*"))) == 2
    assert compress(*given) == 0
    assert "Exported already" in "".join(capfd.readouterr())


def test_what_failed_is_tried_again(
    compress: Compress, halved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A healing is one trial: where it failed for good, the compression could not be finished."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the GPU is lent to somebody else")

    another = "budget.parameters=0.4"
    with monkeypatch.context() as broken:
        broken.setattr(heal, "put_together", refuse)
        assert compress(another) == 1
    (failed,) = [
        path for path in halved.glob("heal-*/0/trial.json") if '"FAIL"' in path.read_text()
    ]
    assert compress(another) == 0
    assert '"COMPLETE"' in (failed.parents[1] / "1/trial.json").read_text()
    result = Result.read(halved)
    assert 0 < result.result.parameters <= 0.4 * result.original.parameters


def test_keeping_everything_is_the_original(
    compress: Compress, folder: Path, pretrained: Path
) -> None:
    teacher = ("teacher=bert_base", f"teacher.pretrained={pretrained}", *SMALL)
    assert compress("budget.parameters=1e9", "heal.steps=0", small=teacher) == 0
    path = folder / "multirun/c/model"
    original = original_encoder(load_slice(str(pretrained), 0, 1))
    expected = original.encode(TEXTS)
    ours = slicewise.load_model(path).encode(TEXTS)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    # A plain model: everybody's.
    assert type(AutoModel.from_pretrained(path)) is BertModel
    theirs = torch.tensor(SentenceTransformer(str(path), device="cpu").encode(TEXTS))
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=0)


def test_a_homogeneous_plan_is_everybodys_and_a_mixture_runs_as_onnx(
    compress: Compress, folder: Path, pretrained: Path
) -> None:
    teacher = ("teacher=bert_base", f"teacher.pretrained={pretrained}", *SMALL)
    home = folder / "multirun/c"
    budget = "budget.parameters=0.6"
    assert compress(budget, "choose.homogeneous=true", small=teacher) == 0
    assert _json(home / "result.json")["is_plain"]
    assert type(AutoModel.from_pretrained(home / "model")) is BertModel
    library = "library.heads=[0.5]"
    mixed = (*teacher[:2], *SMALL, library, "study=mixed")
    assert compress(budget, "export.onnx=true", small=mixed) == 0
    mixture = folder / "multirun/mixed"
    assert not _json(mixture / "result.json")["is_plain"]
    assert (mixture / "model/onnx/model.onnx").is_file()
    ours = slicewise.load_model(mixture / "model").encode(TEXTS)
    theirs = torch.tensor(SentenceTransformer(str(mixture / "model"), device="cpu").encode(TEXTS))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_layers_around_those_that_are_told_stay(compress: Compress, folder: Path) -> None:
    told = ("teacher.first_layer=1", "teacher.num_layers=1", "budget.parameters=0.9")
    assert compress(*told, "heal.steps=0") == 0
    (plan,) = _json(folder / "multirun/c/plans.json")["chosen"]
    assert [plan["candidates"][0], plan["candidates"][2]] == ["L0/2h/48n", "L2/2h/48n"]
    assert plan["candidates"][1] != "L1/2h/48n"


def test_slices_of_several_layers_with_local_fits(compress: Compress, folder: Path) -> None:
    fits = ("partition=[1,2]", "library.steps=2", "library.keep=front", "budget.parameters=0.5")
    assert compress(*fits) == 0
    home = folder / "multirun/c"
    plans = _json(home / "plans.json")
    assert plans["spans"] == [[0, 0], [1, 2]]
    # Of the plans and of the curve, and of no other.
    wanted = {code for plan in (*plans["chosen"], *plans["curve"]) for code in plan["candidates"]}
    kept = {
        _json(path.parent.parent / "trial.json")["params"]["candidate"]
        for path in home.glob("library/*/student/config.json")
    }
    assert kept == wanted
    assert len(kept) < len(list(home.glob("library/*/trial.json")))
    assert {_json(path)["steps"] for path in home.glob("library/*/trial.json")} == {0, 2}


def test_a_vocabulary_of_the_texts(compress: Compress, folder: Path, pretrained: Path) -> None:
    (folder / "texts.txt").write_text(
        "\n".join(f"return the value {number}" for number in range(300))
    )
    teacher = ("teacher=bert_base", f"teacher.pretrained={pretrained}", *SMALL)
    cut = ("data.files=[texts.txt]", "embeddings.vocabulary=auto", "heal.steps=1")
    assert compress("budget.megabytes=0.8", *cut, small=teacher) == 0
    result = _json(folder / "multirun/c/result.json")
    assert result["result"]["megabytes"] <= 0.8 * result["original"]["megabytes"]
    assert result["full_vocabulary_cosine"] == pytest.approx(result["cosine"], abs=1e-5)
    model = AutoModel.from_pretrained(folder / "multirun/c/model")
    assert model.config.vocab_size == result["pieces"]


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ([], "Error: budget: missing: how small shall the result be? One of budget.parameters"),
        (["budget.parameters=-1"], "Error: budget.parameters=-1: allowed: a positive number"),
        (["budget=0.5"], "Error: budget=0.5: allowed: budget.parameters, budget.flops"),
        (["budget=null"], "Error: budget=null: allowed: budget.parameters, budget.flops"),
        (["~budget"], "Error: budget=null: allowed: budget.parameters, budget.flops"),
        (["budget.parameters=1e-9"], "Error: budget.parameters="),
        (["budget.parameter=0.3"], "Error: budget.parameter=0.3: there is no such key"),
        (["-m", "budget.parameters=0.3"], "Error: -m: python -m sweep.compress runs its own"),
        (["budget.parameters=0.3", "partition=[1,1]"], "Error: partition=[1, 1]: allowed: "),
        (["budget.parameters=0.3", "partition=0"], "Error: partition=0: allowed: layers a slice"),
        (["budget.parameters=0.3", "library.neurons=[99]"], "Error: library.neurons=99: allowed"),
        (["budget.parameters=0.3", "library.heads=[0]"], "Error: library.heads=0: allowed: 1 to"),
        (["budget.parameters=0.3", "library.keep=some"], "Error: library.keep=some: allowed: fr"),
        (["budget.parameters=0.3", "library.others=[a]"], "Error: library.others.0=a: allowed: "),
        (
            ["budget.parameters=0.3", "heal.steps=many"],
            "Error: heal.steps=many: allowed: an in",
        ),
        (["budget.parameters=0.3", "heal.groups=99"], "Error: heal.groups=99: allowed: 1 to 8"),
        ([HALF, "heal.hidden_weight=-1"], "Error: heal.hidden_weight=-1: allowed: a number of at"),
        (
            [HALF, "heal.hidden_weight=0", "heal.cosine_weight=0"],
            "Error: heal.cosine_weight=0: allowed: a positive number",
        ),
        ([HALF, "embeddings=auto"], "Error: embeddings=auto: allowed: embeddings.vocabulary"),
        ([HALF, "export=true"], "Error: export=true: allowed: export.onnx"),
        ([HALF, "export.onnx=1"], "Error: export.onnx=1: allowed: true or false"),
        ([HALF, "evaluate.retrieval=off"], "Error: evaluate.retrieval=off: allowed: true or fa"),
        ([HALF, "candidate=drop0"], "Error: candidate=drop0: allowed: null"),
        ([HALF, "plan=drop0"], "Error: plan=drop0: allowed: null"),
        ([HALF, "hydra.run.dir=else"], "Error: hydra.run.dir=else: allowed: multirun/NAME"),
        ([HALF, "++hydra.sweep.dir=else"], "Error: hydra.sweep.dir=else: allowed: multirun/NAME"),
        (["budget.parameters=0.3", "data=noise"], "Error: data=NoiseDataModule: allowed: data=te"),
        (["budget.parameters=0.3", "data.files=[no.txt]"], "Error: data.files=no.txt"),
        (["budget.parameters=0.3", "evaluate.pairs=no.csv"], "Error: evaluate.pairs=no.csv: allo"),
        (["budget.parameters=0.3", "evaluate.pairs=bad.csv"], "Error: bad.csv, line 2: two texts"),
        (["budget.parameters=0.3", "teacher.num_layers=9"], "Error: teacher.num_layers=9: allowe"),
        (["budget.parameters=0.3", "embeddings.vocabulary=auto"], "Error: embeddings.vocabulary="),
        (["budget.parameters=0.3", "optimizer.lr=-1"], "Error: optimizer: "),
        (["budget.parameters=0.3", "trainer.accelerator=gpu"], "Error: trainer.accelerator=gpu"),
        (["budget.parameters=0.3", "~callbacks", "+callbacks.a=1"], "Error: callbacks.a=1: allow"),
        (["budget.parameters=0.3", "+logger.a={_target_: os.remove}"], "Error: logger.a._target_"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_measured(
    compress: Compress,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    first: str,
) -> None:
    (folder / "bad.csv").write_text("one,two,3\none,two,three\n")
    assert compress(*arguments) == 1
    said = capfd.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(first)
    assert "Traceback" not in said
    assert not list(folder.glob("multirun/c/library/*/trial.json"))


@pytest.mark.parametrize("name", ["..", ".", "", "null", "../others", "a/../..", ".cache"])
def test_a_name_that_no_folder_can_have_touches_no_folder(
    compress: Compress,
    folder: Path,
    pretrained: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    teacher = ("teacher=bert_base", f"teacher.pretrained={pretrained}", *SMALL)
    # Where the vocabulary of such a compression would lie.
    for place in ("vocabulary", "others/vocabulary"):
        (folder / place).mkdir(parents=True)
        (folder / place / "words.txt").write_text("mine")
    (folder / "texts.txt").write_text("\n".join(f"return the value {n}" for n in range(300)))
    before = sorted(folder.rglob("*"))
    texts = ("data.files=[texts.txt]", "embeddings.vocabulary=auto")
    assert compress(HALF, *texts, f"study={name}", small=teacher) == 1
    said = capfd.readouterr().err
    assert f"Error: study={name if name == 'null' else override_text(name)}: allowed: a na" in said
    assert "Traceback" not in said
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_takes_no_log_is_one_message(
    compress: Compress, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "multirun/c/compress.log").mkdir(parents=True)
    assert compress(HALF) == 1
    said = capfd.readouterr().err
    assert "multirun/c/compress.log cannot be written to: Is a directory\n" in said
    assert "Traceback" not in said


def test_the_least_that_is_possible_is_said(
    compress: Compress, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compress("budget.parameters=1000") == 1
    said = capfd.readouterr().err
    # One layer of one head and 16 neurons: nothing smaller computes anything.
    least = 3 * 24 * 12 + 3 * 12 + 24 * 12 + 24 + 2 * 24 * 16 + 16 + 24 + 4 * 24
    assert f"allowed: at least {least:,}, the least that any plan takes" in said


def test_flops_are_counted_before_anything_is_measured(
    compress: Compress, halved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    records = [_json(path) for path in halved.glob("library/*/trial.json")]
    # One layer of one head and 16 neurons, as it was measured; the others are dropped.
    least = min(record["student_flops"] for record in records if record["student_flops"])
    assert compress("budget.flops=1000", "study=new") == 1
    said = capfd.readouterr().err
    assert f"budget.flops=1,000: allowed: at least {least:,}, the least that any plan" in said
    assert not (halved.parent / "new/library").exists()


def test_a_library_of_another_teacher_is_refused(
    compress: Compress, halved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert compress(HALF, "heal.steps=0", "teacher.seed=1") == 1
    said = capfd.readouterr().err
    assert "teacher.seed" in said
    assert "Traceback" not in said


def test_a_teacher_without_a_tokenizer_is_refused(
    compress: Compress, folder: Path, pretrained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bare = folder / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((pretrained / name).read_bytes())
    teacher = ("teacher=bert_base", f"teacher.pretrained={bare}", *SMALL)
    assert compress("budget.parameters=0.5", small=teacher) == 1
    said = capfd.readouterr().err
    assert "a model with its tokenizer" in said
    assert "Traceback" not in said


def test_a_trial_is_repeated_to_the_bit(
    halved: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    home = halved
    (healed,) = home.glob("heal-*/0")
    # Its first weights lay ready; the fit is the same where they have to be solved for again.
    (plan,) = _json(home / "plans.json")["chosen"]
    kept = list(home.glob("library/*/student"))
    codes = {_json(path.parent / "trial.json")["params"]["candidate"] for path in kept}
    assert codes == set(plan["candidates"])
    for path in kept:
        shutil.rmtree(path)
    for place in (healed, home / "library/3"):
        again = command("sweep.rerun", str(place))
        assert again.returncode == 0, again.stderr
        assert "Identical to the bit." in again.stdout


def test_help_and_configuration_are_shown_and_nothing_runs(
    folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shown = command("sweep.compress", "--help")
    assert shown.returncode == 0
    assert "python -m sweep.compress budget.parameters=0.33" in shown.stdout
    shown = command("sweep.compress", "--cfg", "job", *TINY, "budget.parameters=0.5")
    assert shown.returncode == 0
    assert "partition: 1" in shown.stdout
    assert not (folder / "multirun").exists()


def test_no_job_saves_the_password_of_a_storage_that_a_file_names(
    compress: Compress, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "before")
    (folder / "mine").mkdir()
    url = "postgresql://u:s3cret@127.0.0.1:1/db"
    own = f"defaults: [compress, _self_]\nhydra:\n  sweeper:\n    storage: {url}\n"
    (folder / "mine" / "mine.yaml").write_text(own)
    mine = ("--config-dir", str(folder / "mine"), "--config-name", "mine")
    # Only its studies, after the first job, ask for the storage, which is not there.
    assert compress(HALF, *mine) == 1
    assert (folder / "multirun/c/.hydra/hydra.yaml").is_file()
    assert not holding(folder / "multirun", "s3cret")
