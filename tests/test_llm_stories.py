"""A really pre-trained LLaMA (260 thousand parameters) on real instructions; and the README's snippet as it stands."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.paths import ROOT
from tests.llm_helpers import adapter_of, configuration, data
from zeroinit.model import attach, save, trainable_parameters

PROMPT = "### Instruction:\n{instruction}\n\n{input}\n\n### Response:\n"


def stories():
    folder = data("stories260K", "config.json").parent
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def alpaca(tokenizer, count: int, length: int = 128) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels (the response only) of the first rows that fit."""
    rows = []
    for row in json.loads(data("alpaca", "alpaca_random_9k.json").read_text()):
        start = tokenizer(PROMPT.format(**row))["input_ids"]
        ids = start + tokenizer(row["output"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if len(ids) <= length and row["output"]:
            rows.append((torch.tensor([ids]), torch.tensor([[-100] * len(start) + ids[len(start) :]])))
        if len(rows) == count:
            return rows
    raise AssertionError("too few rows")


def held_out_loss(model, rows) -> float:
    model.eval()
    with torch.no_grad():
        losses = [model(ids, labels=labels).loss.item() * (labels >= 0).sum().item() for ids, labels in rows]
    return sum(losses) / sum((labels >= 0).sum().item() for _, labels in rows)


def test_zero_gate_leaves_its_text_unchanged():
    model, tokenizer = stories()
    start = tokenizer("Once upon a time", return_tensors="pt")
    options = {"max_new_tokens": 60, "do_sample": False, "pad_token_id": 0}
    text = tokenizer.decode(model.generate(**start, **options)[0])
    assert re.search(r"[a-z]+ [a-z]+ [a-z]+", text)
    for prompt in ("linear", "nonlinear", "nonlinear_shared"):
        attach(model, configuration(prompt), name=prompt)
        assert tokenizer.decode(model.generate(**start, **options)[0]) == text


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("linear", {}),
        ("nonlinear", {}),
        ("nonlinear", {"initial_scale": 1.0}),
        ("nonlinear_shared", {}),
        ("random_init", {}),
        ("linear", {"gate": "adapt"}),
    ],
    ids=["linear", "nonlinear published", "nonlinear", "nonlinear_shared", "random_init", "adapt"],
)
def test_200_steps_on_real_instructions_lower_held_out_loss(prompt, options, tmp_path):
    model, tokenizer = stories()
    rows = alpaca(tokenizer, 240)
    train, held_out = rows[:200], rows[200:]
    base = {name: p.clone() for name, p in model.named_parameters()}
    before = held_out_loss(model, held_out)
    torch.manual_seed(0)
    attach(model, configuration(prompt, **options))
    start = held_out_loss(model, held_out)  # random_init starts away from the base, the others at it
    assert (start == before) == (prompt != "random_init")
    optimizer = torch.optim.AdamW(adapter_of(model).parameters(), lr=1e-2)
    model.train()
    for ids, labels in train:
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = held_out_loss(model, held_out)
    assert after < before - 0.1
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    save(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert 4 * trainable_parameters(model) < size < 4 * trainable_parameters(model) + 1000


def test_the_snippet_of_the_readme_works_as_pasted(tmp_path, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Use it on your model")[2]
    snippet = re.search(r"```python\n(.*?)```", section, re.S)
    assert snippet is not None
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(snippet[1], "README.md", "exec"), {"__name__": "__main__"})
    assert "trainable parameters" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "my-adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
