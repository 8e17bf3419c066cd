"""The command line of fine-tuning: presets, results, resuming, estimates, and one line for whatever is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import llm.training.trainer
from common.paths import ROOT
from llm import finetune
from llm.data import alpaca, rows, splits
from llm.methods import bases, loading, registry
from llm.methods.names import METHODS, PROMPTS
from llm.training import estimate
from llm.training.presets import PRESETS, WORLD
from llm.training.settings import Training
from llm.training.train import held_out_loss
from llm.world.world import World
from tests.llm_helpers import data as real
from tests.llm_helpers import tiny, tokens

SMALL = World(train=12, validation=1, test=1, asked=6)
SHORT = ["--steps", "6", "--batch-size", "8", "--evaluate-every", "3", "--validation", "8", "--checkpoint-every", "2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny random Llama with the tokenizer of a small world, and its instruction set, 60 rows."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = SMALL.tokenizer()
    tiny(vocab_size=len(tokenizer), num_hidden_layers=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "instructions.json").write_text(json.dumps(SMALL.instructions()))
    return folder


@pytest.fixture
def command(base, tmp_path):
    """Run the command line on that base in a folder of this test; the exit code, and the result if there is one."""

    def run(*arguments: str, out: str = "run", source: str | None = None):
        result = tmp_path / f"{out}.json"
        given = ["mini-linear", "--model", str(base), "--data", source or str(base / "instructions.json"), *SHORT]
        places = ["--out", str(tmp_path / out), "--result", str(result)]
        layers = [] if {"--set", "--method"} & set(arguments) else ["--set", "layers=2"]
        code = finetune.main([*given, *layers, *places, *arguments])
        return code, json.loads(result.read_text()) if result.exists() else None

    return run


# --- presets


def test_presets_are_the_published_protocol():
    assert set(PRESETS) == {f"{family}-{m}" for family in ("mini", "llama-7b", "llama-13b") for m in METHODS}
    for size, layers in (("7b", 30), ("13b", 38)):
        for prompt in PROMPTS:
            preset = PRESETS[f"llama-{size}-{prompt}"]
            assert (preset.model, preset.data) == (f"huggyllama/llama-{size}", "tatsu-lab/alpaca")
            assert replace(preset.training, micro_batch_size=None, precision="float32") == Training()
            assert dict(preset.options) == {"layers": layers}
    assert {preset.method for preset in PRESETS.values()} == set(METHODS)
    assert all(preset.method in preset.name for preset in PRESETS.values())


def test_presets_of_the_small_world_are_at_hand():
    if not (WORLD / "model.safetensors").is_file():
        pytest.skip("the base of the small world is made by llm/pretrain.py")
    preset = PRESETS["mini-linear"]
    trained, validation = preset.split(1.0)
    assert len(validation) == 100
    assert len(trained) + 100 == len(rows.read(preset.data))
    assert "6 layers" not in estimate.report(preset, 1.0, WORLD / "none", 1.0)


def test_list_and_overrides(capsys):
    assert finetune.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
    parse = finetune._parser().parse_args
    preset = finetune.configured(parse(["llama-7b-linear", "--method", "lora", "--set", "r=4", "bias=none"]))
    assert (preset.name, preset.training.learning_rate) == ("llama-7b-lora", 3e-4)
    assert dict(preset.options) == {"r": 4, "bias": "none"}
    words = "mini-linear --learning-rate 0.5 --epochs 3 --packed --precision bf16 --gradient-checkpointing --seed 2"
    training = finetune.configured(parse(words.split())).training
    expected = {"learning_rate": 0.5, "epochs": 3, "batching": "packed", "precision": "bf16", "seed": 2}
    expected |= {"steps": None, "evaluate_every": 0}  # epochs instead, and a row of the curve for each
    assert training == replace(PRESETS["mini-linear"].training, gradient_checkpointing=True, **expected)


# --- runs


def test_a_run_writes_what_it_did_and_the_adapter_gives_its_loss(command, base, tmp_path, capsys):
    code, result = command()
    assert code == 0
    configuration, results = result["configuration"], result["results"]
    assert configuration["learning_rate"] == 0.1
    assert configuration["options"] == {"layers": 2}
    assert str(tmp_path) not in json.dumps(result)
    assert [row["step"] for row in results["curve"]] == [3, 6]
    assert (results["data"]["rows"], results["validation"]["rows"]) == (52, 8)
    assert results["counts"]["trainable"] == 2 * (10 * 48 + 4)
    assert result["history"][0]["libraries"]["torch"]
    loaded, tokenizer = loading.load(base, tmp_path / "run" / "adapter", device="cpu")
    held_out = splits.hold_out(rows.read(base / "instructions.json"), 8, 0)[1]
    loss = held_out_loss(loaded, alpaca.encode(held_out, tokenizer, 128).examples, Training())
    assert loss == pytest.approx(results["curve"][-1]["held_out_loss"], rel=1e-6)
    out = capsys.readouterr().out
    assert "968 trainable parameters" in out
    assert "52 rows: 52 kept" in out


@pytest.mark.parametrize("method", ["full", "norms", "lora"])
def test_other_methods_are_saved_to_be_loaded(method, command, base, tmp_path):
    code, result = command("--method", method)
    assert code == 0
    folder = tmp_path / "run" / ("model" if method == "full" else "adapter")
    assert registry.saved_method(folder) == method
    place = (folder, None) if method == "full" else (base, folder)
    loaded, tokenizer = loading.load(*place, device="cpu")
    held_out = splits.hold_out(rows.read(base / "instructions.json"), 8, 0)[1]
    loss = held_out_loss(loaded, alpaca.encode(held_out, tokenizer, 128).examples, Training())
    assert loss == pytest.approx(result["results"]["curve"][-1]["held_out_loss"], rel=1e-6)


def test_the_same_command_resumes_and_another_is_refused(command, tmp_path, capsys):
    _, result = command()
    weights = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert command("--micro-batch-size", "4")[0] == 0  # finished; and this would not change the result
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    capsys.readouterr()
    assert command("--seed", "1")[0] == 2
    error = capsys.readouterr().err
    assert error.startswith("finetune.py: error: ")
    assert "seed 0 (now 1)" in error
    assert "--fresh" in error
    assert error.count("\n") == 1
    (tmp_path / "run.json").unlink()
    assert command("--learning-rate", "0.2")[0] == 2  # the folder alone is enough
    assert "learning_rate 0.1 (now 0.2)" in capsys.readouterr().err
    assert command()[0] == 0
    assert command("--seed", "1", "--out", str(tmp_path / "elsewhere"))[0] == 2  # and so is the result
    assert "seed 0 (now 1)" in capsys.readouterr().err
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, other = command("--seed", "1", "--fresh")
    assert code == 0
    assert (tmp_path / "run" / "notes.txt").exists()
    assert other["configuration"]["seed"] == 1
    assert other["results"]["curve"][-1]["train_loss"] != result["results"]["curve"][-1]["train_loss"]
    assert len(other["history"]) == 1


def test_fractions_take_part_of_the_rows_and_keep_validation(command):
    _, whole = command()
    _, tenth = command("--fraction", "0.1", out="tenth")
    assert tenth["results"]["data"]["rows"] == 5
    assert tenth["results"]["validation"] == whole["results"]["validation"]
    assert tenth["configuration"]["fraction"] == 0.1


@pytest.mark.slow
def test_killed_and_started_again_ends_with_the_same_adapter(base, tmp_path):
    def start(out: str) -> subprocess.Popen:
        places = ["--out", str(tmp_path / out), "--result", str(tmp_path / f"{out}.json")]
        sources = ["--model", str(base), "--data", str(base / "instructions.json"), "--set", "layers=2"]
        words = ["mini-linear", *sources, *SHORT, "--steps", "60", *places]
        return subprocess.Popen([sys.executable, str(ROOT / "llm" / "finetune.py"), *words], cwd=tmp_path)

    assert start("whole").wait(300) == 0
    process = start("killed")
    while not list((tmp_path / "killed").glob("checkpoint-*/curve.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter").exists()
    assert start("killed").wait(300) == 0
    one, other = (
        (tmp_path / out / "adapter" / "adapter_model.safetensors").read_bytes() for out in ("whole", "killed")
    )
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_give_the_curve_of_one_process(launcher, command, base, tmp_path):
    _, alone = command()
    launch = {
        "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29613"],
        "accelerate": [
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--main_process_port",
            "29614",
        ],
    }[launcher]
    places = ["--out", str(tmp_path / launcher), "--result", str(tmp_path / f"{launcher}.json")]
    sources = ["--model", str(base), "--data", str(base / "instructions.json"), "--set", "layers=2"]
    words = [str(ROOT / "llm" / "finetune.py"), "mini-linear", *sources, *SHORT, *places]
    done = subprocess.run([sys.executable, "-m", *launch, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{launcher}.json").read_text())
    assert result["results"]["processes"] == 2
    for one, two in zip(alone["results"]["curve"], result["results"]["curve"], strict=True):
        for name in ("train_loss", "held_out_loss"):
            assert one[name] == pytest.approx(two[name], rel=1e-5)


def test_a_real_model_learns_from_real_instructions(tmp_path):
    """The tiny LLaMA of stories on Alpaca, by the same command line."""
    model, source = real("stories260K"), real("alpaca", "alpaca_random_9k.json")
    result = tmp_path / "real.json"
    words = ["llama-7b-nonlinear", "--model", str(model), "--data", str(source), "--fraction", "0.01"]
    words += "--steps 8 --batch-size 8 --validation 24 --precision float32 --evaluate-every 4 --length 256".split()
    words += "--learning-rate 0.01 --warmup 0.2 --set layers=3 initial_scale=1.0".split()
    assert finetune.main([*words, "--out", str(tmp_path / "real"), "--result", str(result)]) == 0
    results = json.loads(result.read_text())["results"]
    assert results["data"]["rows"] == 92  # 1 % of the 9,229 - 24
    assert results["data"]["truncated"] > 0 < results["data"]["skipped"]
    first, last = results["curve"]
    assert last["held_out_loss"] < first["held_out_loss"]


def test_nothing_of_somebody_else_is_removed(command, base, tmp_path, capsys):
    mine = tmp_path / "run" / "checkpoint-500" / "model.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for more in ((), ("--fresh",)):
        assert command(*more)[0] == 2
        assert "has checkpoint-500, and no run.json of this command" in capsys.readouterr().err
    notes = tmp_path / "other.json"
    notes.write_text('{"experiment": 1}')
    for more in ((), ("--fresh",)):
        assert command(*more, out="other")[0] == 2
        assert "is not a record of this command; move it away" in capsys.readouterr().err
    assert (mine.read_text(), notes.read_text()) == ("mine", '{"experiment": 1}')
    notes.unlink()
    work = tmp_path / "other"
    shutil.copytree(base, work / "model")
    assert command("--model", str(work / "model"), out="other")[0] == 2  # before there is a run.json
    shutil.move(work / "model", tmp_path / "kept")
    assert command("--model", str(tmp_path / "kept"), out="other")[0] == 0
    shutil.move(tmp_path / "kept", work / "model")
    assert command("--model", str(work / "model"), "--fresh", out="other")[0] == 0
    assert (work / "model" / "model.safetensors").exists()


def test_full_does_not_remove_its_own_base(command, tmp_path, capsys):
    assert command("--method", "full")[0] == 0
    assert command("--method", "full", "--model", str(tmp_path / "run" / "model"), "--fresh")[0] == 2
    assert "--fresh would remove the base" in capsys.readouterr().err
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_options_may_be_set_one_by_one(command):
    _, result = command("--set", "layers=2", "--set", "prompt_length=4")
    assert result["configuration"]["options"] == {"layers": 2, "prompt_length": 4}


def test_epochs_of_a_mini_preset_give_a_row_for_each(base, tmp_path):
    arguments = ["mini-linear", "--model", str(base), "--data", str(base / "instructions.json"), "--set", "layers=2"]
    arguments += ["--epochs", "2", "--validation", "8", "--batch-size", "8", "--out", str(tmp_path / "run")]
    assert finetune.main([*arguments, "--result", str(tmp_path / "run.json")]) == 0
    curve = json.loads((tmp_path / "run.json").read_text())["results"]["curve"]
    assert [row["epoch"] for row in curve] == [1, 2]


# --- estimates


def test_a_dry_run_knows_llama_without_its_files(capsys, monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(estimate, "read_config", offline)
    monkeypatch.setattr(rows, "read", offline)
    monkeypatch.setattr("llm.training.presets.read", offline)
    monkeypatch.chdir(tmp_path)
    assert finetune.main(["llama-7b-nonlinear", "--dry-run", "--throughput", "125"]) == 0
    out = capsys.readouterr().out
    assert "2,669,568 trainable of 6,741,085,184" in out
    assert "weights 13.5 GB" in out
    assert "4,045 steps" in out
    assert "(8,192 tokens at once)" in out
    assert not list(tmp_path.iterdir())


def test_the_published_hours_are_those_of_the_estimate():
    """260,000 rows padded to 512 took 7.6 A100-hours, 4 x 1.9; at 125 TFLOP/s they should."""
    preset = PRESETS["llama-7b-linear"]
    model = estimate.LlamaConfig(**preset.shape)
    with torch.device("meta"):
        model = registry.apply(estimate.AutoModelForCausalLM.from_config(model, dtype=torch.bfloat16), "linear")
    flops = estimate.estimate(model, preset.training, 512).flops_per_token * 5 * 812 * 64 * 512
    assert flops / 125e12 / 3600 == pytest.approx(7.6, rel=0.05)


@pytest.mark.parametrize("method", ["linear", "full", "lora"])
def test_flops_are_those_that_torch_counts(method):
    # Products of the fused attention are not counted on a CPU; the lowest adapted layer's projections of text have no
    # backward pass, which the estimate leaves out.
    base = tiny(attention="eager", hidden_size=96, head_dim=24, num_hidden_layers=10)
    model = registry.apply(base, method, {"layers": 8} if method == "linear" else {}).train()
    ids = tokens(2, 64)
    with FlopCounterMode(display=False) as counter:
        hidden = model.get_base_model() if method == "lora" else model
        hidden.model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.sum().backward()
    found = estimate.estimate(model, Training(length=64), ids.numel()).flops_per_token * ids.numel()
    assert found == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("method", ["linear", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(method, checkpointing):
    sizes = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6, "num_attention_heads": 8}
    model = registry.apply(tiny(**sizes), method, {"layers": 5} if method == "linear" else {}).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = tokens(4, 128)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model.model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    measured = sum(storage.nbytes() for storage in kept.values())
    settings = Training(length=128, gradient_checkpointing=checkpointing)
    found = estimate.estimate(model, settings, ids.numel()).activations
    if checkpointing:  # what is kept of all layers; one layer more is computed anew when its turn comes
        assert measured < found < 4 * measured
    else:
        assert found == pytest.approx(measured, rel=0.2)
    assert out.requires_grad


def test_memory_counts_weights_gradients_and_moments():
    found = estimate.estimate(registry.apply(tiny(dtype=torch.bfloat16), "lora"), Training(precision="bf16"), 100)
    trainable, every = found.trainable, found.parameters
    assert (found.gradients, found.optimizer) == (4 * trainable, 8 * trainable)
    assert found.weights == 2 * (every - trainable) + 4 * trainable
    parts = found.weights + found.gradients + found.optimizer + found.activations + found.logits
    assert found.memory == parts


def test_work_counts_what_is_computed(command, capsys):
    lengths = [10, 20, 30, 40]
    settings = Training(batch_size=2, length=64)
    assert estimate.Work.of(lengths, replace(settings, batching="padded")) == estimate.Work(256, 2, 128)
    assert estimate.Work.of(lengths, replace(settings, batching="packed")).tokens == 100
    assert 100 < estimate.Work.of(lengths, settings).tokens <= 140
    command()
    capsys.readouterr()
    assert command("--dry-run")[0] == 0
    out = capsys.readouterr().out
    assert "968 trainable" in out
    assert "(measured, 6 steps in " in out
    assert command("--dry-run", "--batch-size", "4", "--throughput", "1")[0] == 0  # another run than that in the folder
    assert "at 1 TFLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fraction", "5"], "fraction must be above 0 and at most 1; got 5.0"),
        (["--data", "no/such/file.json"], "no data file at no/such/file.json"),
        (["--model", "/no/such/folder"], "/no/such/folder must be a model folder or hub id"),
        (["--length", "9999"], "length must be at most what the model was made for, 2048; got 9999"),
    ],
)
def test_a_dry_run_invents_nothing(arguments, message, capsys, monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(estimate, "read_config", offline)
    monkeypatch.chdir(tmp_path)
    assert finetune.main(["llama-7b-linear", "--dry-run", "--throughput", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- errors


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[]", "must have at least one row; it is empty"),
        ('[{"question": "a", "answer": "b"}]', "has question, answer; rename its columns"),
        ('[{"instruction": "a", "output": "b"}', "is not JSON at line 1"),
        (json.dumps([{"instruction": "a \ud800", "output": "b"}]), "instruction must be text; row 1 of"),
        (json.dumps([{"instruction": "a " * 400, "output": "b"}] * 20), "prompt shorter than 128 tokens"),
    ],
)
def test_bad_data(rows, message, command, tmp_path, capsys):
    source = tmp_path / "rows.json"
    source.write_text(rows)
    code, result = command("--validation", "0", source=str(source))
    error = capsys.readouterr().err
    assert (code, result) == (2, None)
    assert error.startswith("finetune.py: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "absent.json"], "no data file at absent.json"),
        (["--fraction", "0"], "fraction must be above 0 and at most 1; got 0.0"),
        (["--fraction", "1.5"], "got 1.5"),
        (["--validation", "60"], "fewer than the 60 rows"),
        (["--model", "/absent/folder"], "/absent/folder"),
        (["--learning-rate", "-1"], "learning_rate must be above 0 and finite"),
        (["--set", "layers=9"], "layers must be at most the base's depth, 3; got 9"),
        (["--set", "depth=9"], "linear has no option 'depth'; it has prompt_length"),
        (["--set", "depth"], "--set takes NAME=VALUE; got depth"),
        (["--method", "bitfit", "--set", "a=1"], "bitfit has no option 'a'"),
        (["--method", "bitfit"], "use the method norms"),
        (["--method", "lora", "--set", "r=abc"], "lora cannot be made with r='abc'"),
        (["--method", "lora", "--set", "target_modules=5"], "lora cannot be made with target_modules=5"),
        (["--method", "vera", "--set", "r=0"], "vera cannot be made with r=0"),
        (["--method", "prompt_tuning", "--set", "num_virtual_tokens=-3"], "cannot be made with num_virtual_tokens=-3"),
        (["--method", "full", "--steps", "1", "--warmup", "0", "--learning-rate", "1e38"], "is not finite after"),
        (["--data", "."], "is a folder; give the path of a"),
        (["--length", "4096"], "length must be at most what the model was made for, 256; got 4096"),
        (["--learning-rate", "1e30", "--warmup", "0", "--method", "full"], "lower learning_rate (now 1e+30)"),
    ],
)
def test_bad_requests(arguments, message, command, capsys):
    assert command(*arguments)[0] == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("finetune.py: error: ")
    assert message in error[-1]


def test_bad_names_and_numbers(capsys):
    for arguments, message in (
        (["mini-quadratic"], "no preset is called mini-quadratic; there are mini-linear"),
        ([], "name a preset; --list shows all"),
        (["mini-linear", "--method", "prefix"], "invalid choice: 'prefix'"),
        (["mini-linear", "--throughput", "0", "--dry-run"], "--throughput must be positive"),
    ):
        try:
            code = finetune.main(arguments)
        except SystemExit as stop:
            code = stop.code
        error = capsys.readouterr().err
        assert code == 2
        assert message in error
        assert error.count("\n") == 1


def test_a_model_folder_without_weights(command, base, tmp_path, capsys):
    folder = tmp_path / "hollow"
    folder.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    assert command("--model", str(folder))[0] == 2
    error = capsys.readouterr().err
    assert "hollow" in error
    assert "weights" in error or "safetensors" in error


def test_no_network_says_to_give_a_path(command, monkeypatch, capsys):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert command("--model", "someone/some-model")[0] == 2
    assert "give the path of its folder" in capsys.readouterr().err
    assert command("--data", "someone/some-data")[0] == 2
    assert "give the path of its .json" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_does_not_suffice_for_the_base(command, monkeypatch, capsys, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(bases.AutoModelForCausalLM, "from_pretrained", fail)
    assert command()[0] == 2
    assert "memory does not suffice" in capsys.readouterr().err


def test_memory_that_does_not_suffice(command, monkeypatch, capsys):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(llm.training.trainer, "response_loss", fail)
    assert command()[0] == 2
    error = capsys.readouterr().err.splitlines()[-1]
    for knob in ("micro_batch_size", "length", "gradient_checkpointing", "precision"):
        assert knob in error


@pytest.mark.slow
@pytest.mark.parametrize("how", [[str(ROOT / "llm" / "finetune.py")], ["-m", "llm.finetune"]])
def test_the_script_runs_from_anywhere(how, tmp_path):
    place = ROOT if how[0] == "-m" else tmp_path
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *how, "--list"], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "llama-13b-nonlinear" in done.stdout


def test_help_names_the_launchers():
    text = finetune._parser().format_help()
    assert "accelerate launch --config_file llm/fsdp.yaml" in text
    assert "torchrun --nproc_per_node" in text
    assert (ROOT / "llm" / "fsdp.yaml").is_file()
