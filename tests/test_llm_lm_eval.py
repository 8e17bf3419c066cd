"""An adapter on lm_eval's own command line: the model of its class, and the scores of evaluate.py."""

import json
import re
import subprocess
import sys

import pytest
import torch

import zeroinit
from llm import evaluate
from tests.llm_evaluation import save_items, save_model
from tests.llm_helpers import randomise_gates, tiny, tokens
from zeroinit.lm_eval import ZeroInitLM


@pytest.mark.slow
def test_the_command_line_of_lm_eval_scores_what_evaluate_does(tmp_path, monkeypatch):
    save_items(tmp_path / "data")
    model = tiny("llama", vocab_size=259, max_position_embeddings=512)
    zeroinit.attach(model, zeroinit.AdapterConfig(initial_scale=1.0))
    randomise_gates(model)
    base, adapter, found = save_model(tmp_path / "base"), tmp_path / "adapter", tmp_path / "out"
    zeroinit.save(model, adapter)
    loaded = ZeroInitLM(pretrained=str(base), adapter=str(adapter), device="cpu", dtype="float32").model
    ids = tokens(2, 9)
    assert torch.equal(loaded(ids).logits[..., 3:], model(ids).logits[..., 3:])  # save_model silences three tokens
    assert not any(p.requires_grad for p in loaded.parameters())
    [items] = (tmp_path / "data").rglob("*.jsonl")
    (tmp_path / "arc.yaml").write_text(f"""task: arc_here
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question.stem}}}}\\nAnswer:"
doc_to_choice: "{{{{question.choices | map(attribute='text') | list}}}}"
doc_to_target: "{{{{(question.choices | map(attribute='label') | list).index(answerKey)}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "zeroinit.lm_eval", "--model", "zero_init", "--tasks", "arc_here"]
    command += ["--model_args", f"pretrained={base},adapter={adapter}", "--include_path", str(tmp_path)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--output_path", str(found)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    [file] = found.rglob("results*.json")
    theirs = json.loads(file.read_text())["results"]["arc_here"]
    ours = tmp_path / "ours"
    assert evaluate.main(["--model", str(base), "--adapter", str(adapter), "--data", str(tmp_path / "data"),
                          "--tasks", "arc_easy", "--out", str(ours)]) == 0  # fmt: skip
    text = "".join(p.read_text() for p in sorted(ours.rglob("*.json")))
    for metric in ("acc", "acc_norm"):
        assert theirs[f"{metric},none"] == pytest.approx(float(re.findall(rf'"{metric}": ([0-9.]+)', text)[0]))
