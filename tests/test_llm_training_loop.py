"""`llm.training.train` against a plain loop and literal formulas; divided batches, processes, kills, and errors."""

import math
import os
import signal
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

import llm.methods.tensors
import llm.training.curve
import llm.training.trainer
from llm.data.batches import Batches, Collator
from llm.methods import names, registry
from llm.methods.tensors import trained
from llm.training import checkpoints
from llm.training.errors import TrainingError
from llm.training.loss import response_loss
from llm.training.settings import Training
from llm.training.train import held_out_loss, train
from llm.training.trainer import ResponseTrainer, optimizer_groups
from tests.llm_helpers import tiny
from tests.llm_processes import killed, together
from zeroinit.families import owner

SETTINGS = {"steps": 12, "batch_size": 8, "learning_rate": 1e-2, "length": 24, "evaluate_every": 4}


def examples(count: int, seed: int = 1) -> list[dict]:
    """Lengths 6 to 20, and 3 to 17 tokens with a loss."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(6, 21, (1,), generator=generator))
        ids = torch.randint(3, 97, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * 3 + ids[3:]})
    return rows


TRAIN, VALIDATION = examples(45), examples(10, seed=2)


def prepared(method: str = "nonlinear", dtype: torch.dtype = torch.float32):
    if method == "lora with dropout":
        return registry.apply(tiny(num_hidden_layers=3), "lora", {"lora_dropout": 0.2})
    if method == "full":  # in float64, where rounding that Adam makes larger is far below any mistake
        return registry.apply(tiny(dtype=torch.float64, num_hidden_layers=3), method)
    options = {"layers": 2, "initial_scale": 1.0} if method in names.PROMPTS else {}
    return registry.apply(tiny(dtype=dtype, num_hidden_layers=3), method, options)


TOLERANCE = {"full": 1e-11, "nonlinear": 1e-5, "lora": 1e-4}


def trained_by(settings: dict, method: str = "nonlinear", folder: Path | None = None, resume: bool = False):
    model = prepared(method)
    curve = train(model, TRAIN, VALIDATION, Training(**(SETTINGS | settings)), folder, resume)
    return curve, {name: tensor.clone() for name, tensor in trained(model).items()}


@cache
def whole(method: str):
    """An undisturbed run in one piece."""
    return trained_by({}, method)


def without_time(curve: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in curve]


def farthest(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


# --- the published choices


def test_published_defaults():
    published = Training()
    assert published.learning_rate == pytest.approx(9e-3 * 64 / 256)
    assert (published.batch_size, published.epochs, published.length, published.weight_decay) == (64, 5, 512, 0.02)
    assert published.betas == (0.9, 0.95)
    steps = Batches([100] * 52_002, published.batch_size).steps
    assert (steps, 5 * steps, round(published.warmup * 5 * steps)) == (812, 4060, 2 * 812)


def test_the_schedule_is_the_published_formula():
    curve, _ = trained_by({"steps": 20, "warmup": 0.4, "evaluate_every": 1})
    for step, row in enumerate(curve):
        expected = 1e-2 * (step / 8 if step < 8 else 0.5 * (1 + math.cos(math.pi * (step - 8) / 12)))
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert row["step"] == step + 1
        assert row["epoch"] == pytest.approx((step + 1) / 5)


def test_tensors_of_two_or_more_dimensions_decay_and_no_others():
    """Gates, (layers, heads), decay as published; biases do not."""
    model = prepared()
    names = {p: name.rpartition("default.")[2] for name, p in model.named_parameters() if p.requires_grad}
    decaying, others = optimizer_groups(model, 0.02)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.02, 0)
    weights = {"gate", "prompts.embedding.weight", "prompts.network.hidden.weight", "prompts.network.output.weight"}
    assert {names[p] for p in decaying["params"]} == weights
    assert {names[p] for p in others["params"]} == {"prompts.network.hidden.bias", "prompts.network.output.bias"}
    assert len(optimizer_groups(prepared("norms"), 0.02)) == 1


@pytest.mark.parametrize("method", ["nonlinear", "full"])
def test_weights_are_those_of_a_plain_loop_bit_for_bit(method):
    """Forward, backward, AdamW and schedule written out; on one process nothing of Trainer may change a bit."""
    settings = Training(**SETTINGS)
    curve, weights = whole(method)
    model = prepared(method).train()
    optimizer = torch.optim.AdamW(optimizer_groups(model, 0.02), 1e-2, (0.9, 0.95), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.4 * 12), 12)
    batches = Batches([len(e["input_ids"]) for e in TRAIN], 8, grouped=True, seed=settings.seed)
    losses, tokens, step = [], [], 0
    while step < 12:
        batches.epoch = step // batches.steps
        for rows in batches:
            if step == 12:
                break
            loss, count = response_loss(model, Collator()([TRAIN[row] for row in rows]))
            (loss / torch.tensor(count)).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            tokens.append(count)
            step += 1
    assert farthest(weights, trained(model)) == 0
    for end, row in zip((4, 8, 12), curve, strict=True):
        mean = math.fsum(losses[end - 4 : end]) / sum(tokens[end - 4 : end])
        assert row["train_loss"] == pytest.approx(mean, rel=1e-12)
    assert curve[-1]["held_out_loss"] == held_out_loss(model, VALIDATION, settings)


def test_held_out_loss_is_the_mean_over_tokens():
    model = prepared()
    sums = [response_loss(model.eval(), Collator()([row])) for row in VALIDATION]
    mean = sum(loss.item() for loss, _ in sums) / sum(count for _, count in sums)
    assert held_out_loss(model, VALIDATION, Training(micro_batch_size=3)) == pytest.approx(mean, rel=1e-6)


def test_a_row_per_epoch_and_no_validation():
    model = prepared()
    curve = train(model, TRAIN, [], Training(epochs=2, batch_size=8, length=24))
    assert [(row["epoch"], row["step"], row["held_out_loss"]) for row in curve] == [(1, 5, None), (2, 10, None)]
    assert 0 < curve[0]["seconds"] < curve[1]["seconds"]


# --- order of the data


def test_batches_divide_but_do_not_change():
    lengths = [len(e["input_ids"]) for e in TRAIN]
    for grouped in (False, True):
        whole = Batches(lengths, 12, grouped=grouped, seed=4)
        expected = [sorted(batch) for batch in whole]
        assert len(expected) == whole.steps == 3
        for micro in (1, 5, 6):
            for processes in (1, 2, 4):
                parts = [Batches(lengths, 12, micro, grouped, 4, p, processes) for p in range(processes)]
                accumulate = parts[0].accumulate
                assert accumulate == math.ceil(12 / processes / micro)
                found: list[list[int]] = [[] for _ in expected]
                for part in parts:
                    pieces = list(part)
                    assert len(pieces) == len(part) == whole.steps * accumulate
                    assert all(1 <= len(piece) <= micro for piece in pieces)
                    for number, piece in enumerate(pieces):
                        found[number // accumulate] += piece
                assert [sorted(batch) for batch in found] == expected


def test_order_is_a_function_of_seed_and_epoch():
    lengths = [len(e["input_ids"]) for e in TRAIN]

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = Batches(lengths, 8, grouped=True, seed=seed)
        batches.epoch = epoch
        return list(batches)

    assert [len(batch) for batch in order(0, 0)] == [8] * 5
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    seen = Counter(row for epoch in range(60) for batch in order(0, epoch) for row in batch)
    # Each epoch leaves out 5 of 45 rows. With grouping on whatever is left, the shortest would be left out for ever.
    assert set(seen) == set(range(45))
    assert min(seen.values()) > 40


def test_grouping_saves_padding_and_starts_with_the_longest():
    lengths = [1 + (37 * i) % 100 for i in range(640)]
    grouped, random = (list(Batches(lengths, 16, grouped=g)) for g in (True, False))
    padded = [sum(max(lengths[i] for i in batch) * len(batch) for batch in side) for side in (grouped, random)]
    assert padded[0] < 0.65 * padded[1]
    assert max(lengths) in {lengths[i] for i in grouped[0]}
    firsts = [max(lengths[i] for i in batch) for batch in grouped]
    assert firsts != sorted(firsts, reverse=True)


def test_few_rows_make_one_smaller_batch():
    batches = Batches([5] * 5, 64, micro=2, processes=2)
    assert (batches.size, batches.steps, batches.accumulate) == (4, 1, 1)
    assert sorted(Batches([5] * 5, 64).batches()[0]) == list(range(5))
    curve = train(prepared(), TRAIN[:3], [], Training(**SETTINGS))
    assert [row["step"] for row in curve] == [4, 8, 12]


# --- the same result, computed otherwise


@pytest.mark.parametrize("method", ["nonlinear", "full"])
def test_accumulation_changes_nothing_though_micro_batches_have_unequal_labels(method):
    curve, weights = whole(method)
    other, divided = trained_by({"micro_batch_size": 3}, method)
    assert farthest(weights, divided) < TOLERANCE[method]
    for one, two in zip(curve, other, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=TOLERANCE[method])
        assert one["held_out_loss"] == pytest.approx(two["held_out_loss"], rel=TOLERANCE[method])


def test_padded_and_packed_batches_agree():
    padded, weights = trained_by({"batching": "padded"})
    packed, others = trained_by({"batching": "packed"})
    assert farthest(weights, others) < 1e-5
    assert [row["train_loss"] for row in padded] == pytest.approx([row["train_loss"] for row in packed], rel=1e-5)
    assert padded[-1]["tokens"] == 12 * 8 * 24
    assert packed[-1]["tokens"] < 0.75 * padded[-1]["tokens"]


def test_gradient_checkpointing_changes_nothing():
    for method in ("nonlinear", "lora", "prompt_tuning"):
        curve, weights = trained_by({"steps": 3}, method)
        other, again = trained_by({"steps": 3, "gradient_checkpointing": True}, method)
        assert farthest(weights, again) < 1e-6
        assert without_time(curve) == without_time(other)


@pytest.mark.parametrize("method", ["nonlinear", "full"])
def test_two_processes_give_the_curve_of_one(method):
    curve, weights = whole(method)
    (two_curve, two_weights, rows), (same, _, others) = together(2, trained_by_numbers, {"micro_batch_size": 3}, method)
    assert rows == others == 12 * 8 / 2  # else each would have trained by itself, with the same result
    assert without_time(two_curve) == without_time(same)
    for one, two in zip(curve, two_curve, strict=True):
        for name in ("train_loss", "held_out_loss"):
            assert one[name] == pytest.approx(two[name], rel=TOLERANCE[method])
    found = {name: torch.tensor(value, dtype=weights[name].dtype) for name, value in two_weights.items()}
    assert farthest(weights, found) < TOLERANCE[method]


def trained_by_numbers(settings: dict, method: str):
    """Curve, weights as lists (which outlive their process), and rows trained on."""
    rows = []

    def counted(model, batch):
        rows.append(len(batch["labels"]))
        return response_loss(model, batch)

    llm.training.trainer.response_loss = counted
    curve, weights = trained_by(settings, method)
    return curve, {name: tensor.tolist() for name, tensor in weights.items()}, sum(rows)


def sharded(method: str, folder: Path, resume: bool) -> list[dict]:
    """As `trained_by`, with FSDP 2 over two processes; accelerate shards on GPUs only, so one is feigned."""
    import accelerate.state
    from accelerate.utils import DistributedType

    torch.accelerator.is_available = lambda: True
    accelerate.state.PartialState._prepare_backend = lambda *a, **k: ("gloo", DistributedType.MULTI_GPU)
    model = prepared(method)
    curve = train(model, TRAIN, VALIDATION, Training(**SETTINGS, checkpoint_every=6), folder, resume)
    assert method == "lora" or any(type(p).__name__ == "DTensor" for p in model.parameters())
    return curve


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nonlinear", "lora", "full"])
def test_sharded_training_agrees_and_resumes(method, tmp_path):
    wrap = {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "ACCELERATE_TORCH_DEVICE": "cpu"}
    wrap |= {"ACCELERATE_USE_FSDP": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    curve, weights = whole(method)
    found = together(2, sharded, method, tmp_path, False, **wrap)[0]
    losses = [row["train_loss"] for row in found]
    assert losses == pytest.approx([row["train_loss"] for row in curve], rel=1e-5)
    last = tmp_path / "checkpoint-12" / llm.methods.tensors.NAME
    tensors = llm.methods.tensors.read(last)
    assert farthest(weights, tensors) < TOLERANCE[method]
    last.with_name(checkpoints.NAME).unlink()
    together(2, sharded, method, tmp_path, True, **wrap)
    assert farthest(tensors, llm.methods.tensors.read(last)) == 0


# --- checkpoints


def die(*_args, **_kwargs) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(where: str, folder: Path, settings: dict) -> None:
    """Train, and be killed: in a step, while tensors are written, after them, or just before the last file."""
    calls = {"count": 0}

    def at(number: int, function):
        def wrapped(*args, **kwargs):
            calls["count"] += 1
            if calls["count"] == number:
                die()
            return function(*args, **kwargs)

        return wrapped

    if where == "step":
        llm.training.trainer.response_loss = at(9, llm.training.trainer.response_loss)  # in step 9
    elif where == "tensors":
        llm.methods.tensors.save_file = at(3, llm.methods.tensors.save_file)
    elif where == "optimizer":
        ResponseTrainer._save_optimizer_and_scheduler = at(2, ResponseTrainer._save_optimizer_and_scheduler)
    elif where == "last file":
        llm.training.curve.write_atomic = at(2, llm.training.curve.write_atomic)
    elif where == "first checkpoint":
        llm.training.curve.write_atomic = at(1, llm.training.curve.write_atomic)
    trained_by(settings, "lora with dropout", folder, resume=True)


@pytest.mark.parametrize("where", ["step", "tensors", "optimizer", "last file", "first checkpoint"])
def test_killed_and_resumed_is_bit_for_bit_as_if_not(where, tmp_path):
    """With dropout, checkpoints inside epochs, and rows of the curve between checkpoints."""
    settings = {"checkpoint_every": 3}
    curve, weights = whole("lora with dropout")
    killed(dying, where, tmp_path, settings)
    left = checkpoints.last(tmp_path)
    assert (left is None) == (where == "first checkpoint")
    resumed, after = trained_by(settings, "lora with dropout", tmp_path, resume=True)
    assert farthest(weights, after) == 0
    assert without_time(resumed) == without_time(curve)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-9"]


def test_a_finished_run_is_not_trained_on(tmp_path, monkeypatch):
    curve, weights = trained_by({"steps": 4}, folder=tmp_path)
    monkeypatch.setattr(llm.training.trainer, "response_loss", None)
    again, same = trained_by({"steps": 4}, folder=tmp_path, resume=True)
    assert again == curve
    assert farthest(weights, same) == 0


def test_without_resume_old_checkpoints_go(tmp_path):
    trained_by({"steps": 5, "checkpoint_every": 2}, folder=tmp_path)
    trained_by({"steps": 4}, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    files = {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
    assert files == {
        "curve.json",
        "manifest.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "tensors.safetensors",
    } | {"trainer_state.json"}
    size = (tmp_path / "checkpoint-4" / "tensors.safetensors").stat().st_size
    assert size < 4 * registry.counts(prepared())["trainable"] + 2000


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained_by({})
    assert not list(tmp_path.iterdir())


# --- what is left of a model, and what goes wrong


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_model_is_left_as_it_was(precision):
    model = prepared(dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    caching, forward = owner(model).config.use_cache, model.forward
    settings = Training(**SETTINGS, precision=precision, gradient_checkpointing=True)
    curve = train(model, TRAIN, VALIDATION, settings)
    assert all(math.isfinite(row["train_loss"]) for row in curve)
    assert not model.training
    assert owner(model).config.use_cache == caching
    assert not owner(model).is_activation_checkpointing
    assert model.forward == forward
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
        else:
            assert parameter.dtype == torch.float32
            assert parameter.grad is None


def test_a_loss_that_is_not_finite_stops_with_the_rate():
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step \d+ of 12, .*lower learning_rate \(now 1e\+30"
    ):
        trained_by({"learning_rate": 1e30, "warmup": 0.0}, "full")
    assert trained_by({"steps": 2})[0]  # nothing of it is left behind


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_memory_that_does_not_suffice_names_the_knobs(error, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(llm.training.trainer, "response_loss", fail)
    with pytest.raises(
        TrainingError, match=r"micro_batch_size .* length, .*gradient_checkpointing .* precision"
    ) as info:
        trained_by({})
    assert "\n" not in str(info.value)


def test_other_errors_stay_what_they_are(monkeypatch):
    def fail(*args):
        raise RuntimeError("something else")

    monkeypatch.setattr(llm.training.trainer, "response_loss", fail)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        trained_by({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be above 0 and finite; got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be an integer of at least 1; got 0"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"batch_size": 2.0}, "batch_size must be an integer of at least 1; got 2.0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be an integer of at least 1"),
        ({"length": 1}, "length must be an integer of at least 2"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1; got 1.0"),
        ({"weight_decay": -1}, "weight_decay must be at least 0 and finite; got -1"),
        ({"batching": "sorted"}, "batching must be one of grouped, padded, packed; got 'sorted'"),
        ({"precision": "fp8"}, "precision must be one of float32, bf16, fp16; got 'fp8'"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer of at least 1"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)


def test_bad_batches():
    with pytest.raises(ValueError, match=r"ids from 0 to \d+, those of the model's vocabulary; got 100000"):
        train(prepared(), [{"input_ids": [1, 100_000], "labels": [-100, 100_000]}], [], Training())
    with pytest.raises(ValueError, match="at least one example"):
        train(prepared(), [], [], Training())
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of processes, 3"):
        Batches([5] * 20, 8, processes=3)
    with pytest.raises(ValueError, match="2 examples are too few for 4 processes"):
        Batches([5] * 2, 8, processes=4)
