"""The evaluation command: both protocols, adapters, kills, records, and errors."""

import json
import signal
import subprocess
import sys
import time

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import zeroinit
from common import journal, seals
from common.paths import ROOT
from llm import evaluate
from llm.evaluation import harness, prefix, protocol, settings, tasks
from llm.evaluation.decoding import generate
from llm.evaluation.settings import Decoding
from llm.methods import loading, registry
from tests.llm_evaluation import arguments, save_items, save_model
from tests.llm_helpers import adapted, data, randomise_gates, tiny
from zeroinit.config import AdapterConfig
from zeroinit.convert import nonlinear_to_linear
from zeroinit.model import attach


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_items(folder / "data")
    return save_model(folder)


def test_items_that_do_not_fit_are_wrong_and_counted(base, tmp_path):
    model, tokenizer = loading.load(base)
    items = tasks.items("arc_easy", base / "data")
    found = protocol.evaluate(model, tokenizer, items, tmp_path / "a.jsonl", Decoding(max_new_tokens=8), batch_size=5)
    rows = {row["id"]: row for row in journal.read(tmp_path / "a.jsonl")}
    assert sorted(rows) == sorted(item.id for item in items)
    assert [name for name, row in rows.items() if not row["fits"]] == ["i7"]
    assert found["not_fitting"] == 1
    assert (found["n"], found["oracle_ceiling"]) == (12, 1.0)
    right = [rows[item.id]["right"] for item in items]
    assert found["accuracy"] == pytest.approx(sum(right) / 12)
    assert found["accuracy_fitting"] == pytest.approx(sum(right) / 11)
    for item in items:
        row = rows[item.id]
        if row["fits"]:
            assert (row["right"], row["reason"]) == protocol.score(row["answer"], item.options, item.gold)


@pytest.mark.parametrize("decoding", ["greedy", "published"])
def test_a_stopped_evaluation_goes_on_to_the_same_file(base, tmp_path, monkeypatch, decoding):
    more = ("--protocol", "paper", "--decoding", decoding, "--max-new-tokens", "6", "--batch-size", "3")
    assert evaluate.main(arguments(base, tmp_path / "whole", *more)) == 0
    calls = []

    def stops(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(protocol, "generate", stops)
    assert evaluate.main(arguments(base, tmp_path / "parts", *more)) == 130
    part = tmp_path / "parts" / "paper" / "arc_easy.jsonl"
    assert len(journal.read(part)) == 1 + 2 * 3
    with part.open("a") as file:
        file.write('{"key": "half of a rec')  # as a machine that goes down may leave it
    assert evaluate.main(arguments(base, tmp_path / "parts", *more)) == 0
    assert len(calls) == 3 + 2
    assert part.read_bytes() == (tmp_path / "whole" / "paper" / "arc_easy.jsonl").read_bytes()
    results = [
        json.loads((tmp_path / name / "paper.json").read_text())["results"]["arc_easy"] for name in ("whole", "parts")
    ]
    for found in results:
        del found["seconds"]
    assert results[0] == results[1]
    assert results[0]["n"] == 12


def test_shuffled_truthfulqa_stands_beside_the_published_order(base, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    targets = {"Yes, it is.": 1, "No.": 0, "Never, as far as is known.": 0}
    rows = [{"question": f"Is it {n}?", "mc1_targets": targets, "mc2_targets": targets} for n in range(6)]
    (folder / "mc_task.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    command = ["--model", str(base), "--data", str(folder), "--protocol", "paper", "--tasks", "truthfulqa"]
    command += ["--out", str(out), "--max-new-tokens", "3"]
    assert evaluate.main(command) == 0
    assert evaluate.main([*command, "--truthfulqa-order", "shuffled"]) == 0
    assert sorted(json.loads((out / "paper.json").read_text())["results"]) == ["truthfulqa", "truthfulqa-shuffled"]
    assert evaluate.main([*command, "--preface", "Take it literally."]) == 2  # another configuration


def test_a_nonlinear_adapter_and_its_linear_export_score_identically(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    torch.manual_seed(0)
    attach(model, AdapterConfig("nonlinear", initial_scale=1.0))
    randomise_gates(model, 1.5)
    zeroinit.save(model, tmp_path / "nonlinear")
    nonlinear_to_linear(tmp_path / "nonlinear", tmp_path / "linear")
    records = {}
    for protocol_name, more in (("harness", ()), ("paper", ("--max-new-tokens", "8"))):
        for name in ("nonlinear", "linear", None):
            out = tmp_path / f"out-{name}"
            options = ("--adapter", str(tmp_path / name)) if name else ()
            assert evaluate.main(arguments(base, out, "--protocol", protocol_name, *options, *more)) == 0
            records[protocol_name, name] = journal.read(out / protocol_name / "arc_easy.jsonl")
        same, other, without = (records[protocol_name, name] for name in ("nonlinear", "linear", None))
        assert same == other
        assert same != without  # the adapter does something


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
def test_a_method_of_peft_is_evaluated_as_well(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    wrapped = registry.apply(model, "prompt_tuning")
    registry.save(wrapped, tmp_path / "tuned")
    tuned = ("--adapter", str(tmp_path / "tuned"))
    assert evaluate.main(arguments(base, tmp_path / "out", "--limit", "3", *tuned)) == 0
    (first, *_) = journal.read(tmp_path / "out" / "harness" / "arc_easy.jsonl")
    item = tasks.items("arc_easy", base / "data")[0]
    loaded, tokenizer = loading.load(base, tmp_path / "tuned")
    assert loading.context_length(loaded) == 502
    ids = tokenizer(f"Question: {item.question}\nAnswer: {item.options[0]}", return_tensors="pt")["input_ids"]
    count = len(tokenizer(" " + item.options[0], add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = loaded(input_ids=ids).logits[0, -count - 1 : -1].log_softmax(-1)
    assert first["responses"][0][0] == pytest.approx(float(logits.gather(1, ids[0, -count:, None]).sum()), abs=1e-3)
    more = ("--protocol", "paper", "--limit", "3", "--max-new-tokens", "4", *tuned)
    assert evaluate.main(arguments(base, tmp_path / "out", *more)) == 0


def test_a_stopped_harness_goes_on_to_the_same_numbers(base, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PIECE", 8)
    assert evaluate.main(arguments(base, tmp_path / "whole", "--batch-size", "3")) == 0
    compute, calls = prefix.loglikelihoods, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(prefix, "loglikelihoods", stops)
    assert evaluate.main(arguments(base, tmp_path / "parts", "--batch-size", "3")) == 130
    assert evaluate.main(arguments(base, tmp_path / "parts", "--batch-size", "3")) == 0
    assert len(calls) == 3 + 3  # 36 requests are five pieces, two of them done
    whole, parts = (tmp_path / name / "harness" / "arc_easy.jsonl" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert [path.name for path in parts.parent.iterdir()] == ["arc_easy.jsonl"]
    assert evaluate.main(arguments(base, tmp_path / "parts")) == 0
    assert len(calls) == 6  # nothing left to do


@pytest.mark.slow
def test_real_data_by_both_protocols(tmp_path):
    """Four data sets, two items each (114 of MMLU); ten-shot HellaSwag prompts do not fit a model of 512 tokens."""
    source = data("stories260K", "config.json").parent
    command = ["--model", str(source), "--data", str(source.parent), "--limit", "2", "--out", str(tmp_path)]
    assert evaluate.main(command) == 0
    assert evaluate.main([*command, "--protocol", "paper", "--max-new-tokens", "10"]) == 0
    found = {p: json.loads((tmp_path / f"{p}.json").read_text())["results"] for p in ("harness", "paper")}
    assert list(found["harness"]) == list(settings.PUBLISHED["harness"])
    assert list(found["paper"]) == list(settings.PUBLISHED["paper"])
    for results in found.values():
        assert {name: r["n"] for name, r in results.items()} == {name: 114 if name == "mmlu" else 2 for name in results}
        assert (results["hellaswag"]["not_fitting"], results["hellaswag"]["accuracy_fitting"]) == (2, None)
        assert len(results["mmlu"]["subjects"]) == 57
        assert results["mmlu"]["not_fitting"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["harness", "paper"])
def test_killed_at_any_moment_it_ends_with_the_same_scores(base, tmp_path, name):
    save_items(tmp_path / "data", 200)
    command = [sys.executable, str(ROOT / "llm" / "evaluate.py"), "--model", str(base), "--tasks", "arc_easy"]
    command += ["--data", str(tmp_path / "data"), "--protocol", name, "--max-new-tokens", "20", "--batch-size", "4"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, cwd=tmp_path, capture_output=True)
    out = tmp_path / "parts"
    kept = out / name / ("arc_easy.jsonl" if name == "paper" else "arc_easy.jsonl.responses")
    for size in (1, 4000):  # killed as soon as the file is larger
        run = subprocess.Popen([*command, "--out", str(out)], cwd=tmp_path, stderr=subprocess.DEVNULL)
        while run.poll() is None and not (kept.exists() and kept.stat().st_size > size):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    subprocess.run([*command, "--out", str(out)], check=True, cwd=tmp_path, capture_output=True)
    files = [folder / name / "arc_easy.jsonl" for folder in (tmp_path / "whole", out)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_results_have_what_a_reader_needs(base, tmp_path, capsys):
    assert evaluate.main(arguments(base, tmp_path)) == 0
    record = json.loads((tmp_path / "harness.json").read_text())
    assert record["configuration"]["model"] == base.name
    assert record["configuration"]["adapter"] is None
    assert {"commit", "libraries", "cpu", "time"} <= record["history"][0].keys()
    found = record["results"]["arc_easy"]
    assert found["n"] == 12
    scores = [row["acc"] for row in journal.read(tmp_path / "harness" / "arc_easy.jsonl")]
    assert (found["accuracy"], found["standard_error"]) == pytest.approx(
        (np.mean(scores), np.std(scores, ddof=1) / 12**0.5)
    )
    assert str(base.parent) not in json.dumps(record)
    told = capsys.readouterr()
    assert "arc_easy" in told.out
    assert f"arc_easy is read from ARC-Easy-Test.jsonl in {base / 'data'}\n" in told.err
    assert found["file"] == "ARC-Easy-Test.jsonl"


def test_another_configuration_is_refused_and_fresh_replaces_it(base, tmp_path, capsys):
    assert evaluate.main(arguments(base, tmp_path)) == 0
    other = arguments(base, tmp_path, "--precision", "bfloat16")
    assert evaluate.main(other) == 2
    assert "precision 'auto' (now 'bfloat16'), weights" in capsys.readouterr().err
    assert evaluate.main([*other, "--fresh"]) == 0
    (tmp_path / "harness.json").write_text("[]")
    assert evaluate.main(other) == 2
    assert "is not a record of this command" in capsys.readouterr().err


def refused(capsys, command: list[str], message: str) -> None:
    """Exit code 2 and one line."""
    try:
        code = evaluate.main(command)
    except SystemExit as end:
        code = end.code
    error = [line for line in capsys.readouterr().err.strip().split("\n") if not line.endswith("Hugging Face hub")]
    assert code == 2
    assert error[-1].startswith("evaluate.py: error: ")
    assert message in error[-1]
    assert len(error) == 1


def test_errors_are_one_line(base, tmp_path, capsys, monkeypatch):
    refused(
        capsys, [*arguments(base, tmp_path)[:4], "--tasks", "arc"], "the harness protocol has no task 'arc'; it has arc"
    )
    refused(capsys, ["--model", str(base), "--protocol", "paper", "--tasks", "boolq"], "the paper protocol has no task")
    refused(capsys, arguments(base, tmp_path, "--limit", "0"), "--limit must be at least 1; got 0")
    refused(capsys, arguments(base, tmp_path, "--seed", "-1"), "--seed must be at least 0")
    refused(capsys, ["--tasks", "mmlu"], "required: --model")
    refused(capsys, ["--model", str(base), "--data", str(tmp_path), "--tasks", "mmlu"], "no data of mmlu in")
    refused(capsys, arguments(tmp_path / "absent", tmp_path), "the data must be a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    command = arguments(base, tmp_path)
    command[1] = str(empty)
    refused(capsys, command, "must have config.json")
    (empty / "config.json").write_text((base / "config.json").read_text())
    refused(capsys, command, "must have weights")
    command[1] = str(tmp_path / "absent")
    refused(capsys, command, "no model folder at")
    refused(capsys, arguments(base, tmp_path, "--adapter", str(empty)), "adapter_config.json")
    refused(capsys, arguments(base, tmp_path, "--gate-activation", "identity"), "needs an adapter with gates")
    refused(capsys, arguments(base, tmp_path, "--device", "cudda"), "the device must be one of this machine")

    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    command[1] = "huggyllama/llama-7b"
    refused(capsys, command, "without a network download it elsewhere and give the path of its folder")


@pytest.mark.parametrize("protocol", ["harness", "paper"])
def test_results_of_other_data_or_of_fewer_items_are_refused(base, tmp_path, capsys, protocol):
    more = ("--protocol", protocol, "--max-new-tokens", "4")
    assert evaluate.main(arguments(base, tmp_path / "out", *more)) == 0
    before = json.loads((tmp_path / "out" / f"{protocol}.json").read_text())["results"]
    capsys.readouterr()
    refused(capsys, arguments(base, tmp_path / "out", *more, "--limit", "2"), "limit None (now 2)")
    lines = (base / "data" / "ARC-Easy-Test.jsonl").read_text().splitlines()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ARC-Easy-Test.jsonl").write_text("\n".join(lines[:5]) + "\n")
    command = [*arguments(base, tmp_path / "out", *more), "--data", str(tmp_path / "data")]
    refused(capsys, command, "has arc_easy of other data")
    assert json.loads((tmp_path / "out" / f"{protocol}.json").read_text())["results"] == before


def test_responses_of_another_task_that_was_stopped_are_kept(base, tmp_path):
    stopped = tmp_path / "harness" / "arc_challenge.jsonl.responses"
    assert evaluate.main(arguments(base, tmp_path)) == 0
    stopped.write_text('{"key": "a", "responses": []}\n')
    assert evaluate.main(arguments(base, tmp_path, "--fresh")) == 0
    assert not stopped.exists()  # a fresh run removes what is its own
    stopped.write_text('{"key": "a", "responses": []}\n')
    record = json.loads((tmp_path / "harness.json").read_text())
    record["results"] = {}
    (tmp_path / "harness.json").write_text(seals.sealed(record))
    assert evaluate.main(arguments(base, tmp_path)) == 0
    assert stopped.exists()
    assert not (tmp_path / "harness" / "arc_easy.jsonl.responses").exists()


def test_files_of_somebody_else_are_not_removed(base, tmp_path, capsys):
    mine = tmp_path / "harness" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for more in ((), ("--fresh",)):
        refused(capsys, arguments(base, tmp_path, *more), "must be new, or of this command")
    (tmp_path / "harness.json").write_text('{"configuration": {}, "history": [], "results": {}}')
    refused(capsys, arguments(base, tmp_path, "--fresh"), "is not a record of this command")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("text", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_damaged_weights_are_one_line(base, tmp_path, capsys, text):
    for file in base.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if text is None else text)
    command = arguments(base, tmp_path / "out")
    command[1] = str(tmp_path)
    refused(capsys, command, "does not load as a causal language model")
    weights.write_bytes((base / "model.safetensors").read_bytes())
    (tmp_path / "tokenizer.json").write_text("{")
    refused(capsys, command, str(tmp_path))


def test_damaged_adapters_are_one_line(base, tmp_path, capsys):
    model, _ = loading.load(base)
    for method, name in (("lora", "adapter_model.safetensors"), ("full", "model.safetensors")):
        registry.save(registry.apply(model, method), tmp_path / method)
        whole = (tmp_path / method / name).read_bytes()
        (tmp_path / method / name).write_bytes(whole[:-100])
        refused(capsys, arguments(base, tmp_path / "out", "--adapter", str(tmp_path / method)), str(tmp_path / method))
        model, _ = loading.load(base)
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    refused(capsys, arguments(base, tmp_path / "out", "--adapter", str(tmp_path / "lora")), "is missing")


def test_an_adapter_of_another_base_is_refused(base, tmp_path, capsys):
    model = adapted(tiny("llama", hidden_size=32))
    zeroinit.save(model, tmp_path / "other")
    refused(
        capsys, arguments(base, tmp_path, "--adapter", str(tmp_path / "other")), "made for a base with hidden_size 32"
    )


def test_incomplete_weights_are_refused(base, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((base / name).read_text())
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    command = arguments(base, tmp_path)
    command[1] = str(tmp_path)
    refused(capsys, command, "1 tensors are missing, model.layers.1.self_attn.q_proj.weight")


def test_without_a_network_the_harness_proposes_local_files(base, tmp_path, capsys, monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    command = ["--model", str(base), "--tasks", "arc_easy", "--out", str(tmp_path)]
    refused(capsys, command, "give that with --data; arc_easy is read from ARC-Easy-Test.jsonl or arc_easy.jsonl")
    refused(capsys, [*command, "--protocol", "paper"], "give that with --data; arc_easy is read from")


def test_works_as_a_script_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "llm" / "evaluate.py"), "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "examples:" in run.stdout
