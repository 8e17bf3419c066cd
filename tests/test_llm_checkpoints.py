"""Resuming: a checkpoint is whole or not there; what follows it is bit for bit the run in one piece, or refused."""

import builtins
import json
import shutil
from dataclasses import replace

import pytest
import torch

from common import seals
from llm.methods import registry, tensors
from llm.training import checkpoints
from llm.training.checkpoints import CheckpointError
from llm.training.errors import Diverged
from llm.training.settings import Training
from llm.training.train import train
from tests.test_llm_training_loop import TRAIN, VALIDATION, farthest, prepared, trained_by, without_time

SETTINGS = {"steps": 6, "checkpoint_every": 2}
FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "curve.json", "tensors.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one piece, with its last two checkpoints (4 and 6), its curve and its weights."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *trained_by(SETTINGS, folder=folder)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(whole[0], tmp_path / "run")


def again(folder, whole):
    """Resume, and compare with the run in one piece."""
    _, curve, weights = whole
    found, after = trained_by(SETTINGS, folder=folder, resume=True)
    assert farthest(weights, after) == 0
    assert without_time(found) == without_time(curve)


def missing(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_another_step(path):
    step = checkpoints.number(path.parent)
    shutil.copy(path.parent.with_name(f"checkpoint-{10 - step}") / path.name, path)


@pytest.mark.parametrize("damage", [missing, cut, flipped, of_another_step])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_or_refused_by_name(name, damage, run, whole, capsys):
    damage(run / "checkpoint-6" / name)
    again(run, whole)
    said = capsys.readouterr().err
    assert f"checkpoint-6 is damaged: {name} is" in said
    assert "going on from checkpoint-4" in said
    shutil.rmtree(run / "checkpoint-6")
    shutil.copytree(whole[0] / "checkpoint-6", run / "checkpoint-6")
    damage(run / "checkpoint-4" / name)
    shutil.rmtree(run / "checkpoint-6")
    if damage is of_another_step:
        return
    with pytest.raises(CheckpointError, match=rf"checkpoint-4 is damaged: {name} is .* begin anew with --fresh"):
        trained_by(SETTINGS, folder=run, resume=True)
    assert (run / "checkpoint-4").is_dir()


def test_a_copied_checkpoint_is_none_of_a_later_step(run, whole, capsys):
    shutil.rmtree(run / "checkpoint-6")
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-6")
    again(run, whole)
    said = "checkpoint-6 is damaged: its manifest is of step 4, so it is another's, copied; going on from checkpoint-4"
    assert said in capsys.readouterr().err


def sealed_again(folder, **changes):
    """What an attentive forger would do: the checksums are right again."""
    manifest = json.loads((folder / checkpoints.NAME).read_text())
    manifest |= {"files": checkpoints._files(folder)} | changes
    (folder / checkpoints.NAME).write_text(seals.sealed(manifest))


def test_the_step_of_the_trainer_is_compared(run, whole, capsys):
    state = run / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text().replace('"global_step": 6', '"global_step": 5'))
    sealed_again(run / "checkpoint-6")
    again(run, whole)
    assert "trainer_state.json is of step 5" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 6}', '{"step": NaN}', "[" * 100_000, "\xff"])
def test_a_damaged_manifest_is_passed_over(text, run, whole):
    (run / "checkpoint-6" / checkpoints.NAME).write_text(text, encoding="latin-1")
    again(run, whole)


def test_a_checkpoint_without_manifest_was_cut_short_by_a_kill(run, whole, capsys):
    (run / "checkpoint-6" / checkpoints.NAME).unlink()
    again(run, whole)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 0.02}, r"learning_rate 0.01 \(now 0.02\)"),
        ({"steps": 8}, r"steps 6 \(now 8\)"),
        ({"seed": 1}, r"seed 0 \(now 1\)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, reason, run):
    with pytest.raises(CheckpointError, match=rf"is of a run with .*{reason}.*use --fresh"):
        trained_by(SETTINGS | changes, folder=run, resume=True)
    model = registry.apply(prepared("lora").get_base_model(), "linear", {"layers": 2})
    settings = Training(**{"batch_size": 8, "learning_rate": 1e-2, "length": 24, "evaluate_every": 4} | SETTINGS)
    with pytest.raises(CheckpointError, match="tensors "):
        train(model, TRAIN, VALIDATION, settings, run, resume=True)
    with pytest.raises(CheckpointError, match="rows "):
        train(prepared(), TRAIN[1:], VALIDATION, settings, run, resume=True)
    with pytest.raises(CheckpointError, match=r"weights None \(now 'abc'\)"):
        train(prepared(), TRAIN, VALIDATION, settings, run, resume=True, configuration={"weights": "abc"})


def test_other_rounding_is_refused_unless_accepted(run, whole):
    shutil.rmtree(run / "checkpoint-6")
    other = SETTINGS | {"micro_batch_size": 4}
    with pytest.raises(CheckpointError, match=r"micro_batch_size None \(now 4\).*--other-rounding"):
        trained_by(other, folder=run, resume=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(CheckpointError, match=rf"device .* {threads} threads' \(now .* {threads + 1} threads'\)"):
            trained_by(SETTINGS, folder=run, resume=True)
    finally:
        torch.set_num_threads(threads)
    model = prepared()
    settings = replace(Training(batch_size=8, learning_rate=1e-2, length=24, evaluate_every=4), **other)
    train(model, TRAIN, VALIDATION, settings, run, resume=True, other_rounding=True)
    assert 0 < farthest(whole[2], tensors.trained(model)) < 1e-5


def test_tensors_that_are_not_finite_are_no_checkpoint(tmp_path, run, whole):
    """Neither of a run that diverges, nor of one that was saved so."""
    diverging = {"steps": 1, "checkpoint_every": 1, "learning_rate": 1e39, "warmup": 0.0, "evaluate_every": 2}
    for _ in range(2):  # the second time from what the first has left
        with pytest.raises(Diverged, match="what was trained is not finite after step 1"):
            trained_by(diverging, folder=tmp_path / "diverging", resume=True)
    assert checkpoints.last(tmp_path / "diverging") is None
    file = run / "checkpoint-6" / tensors.NAME
    tensors.write(file, {name: torch.full_like(t, torch.nan) for name, t in tensors.read(file).items()})
    sealed_again(run / "checkpoint-6")
    with pytest.raises(Diverged, match="what was trained is not finite after step 6"):
        trained_by(SETTINGS, folder=run, resume=True)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.evil = True",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_code_of_a_checkpoint_runs(name, run):
    shutil.rmtree(run / "checkpoint-6")
    torch.save(Evil(), run / "checkpoint-4" / name)
    sealed_again(run / "checkpoint-4")
    with pytest.raises(CheckpointError, match="has a file that holds more than tensors and numbers"):
        trained_by(SETTINGS, folder=run, resume=True)
    assert not hasattr(builtins, "evil")
