"""Files of other projects, there and back; what cannot be exact is refused; gates as tables and pictures."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from common.paths import ROOT
from tests.llm_helpers import adapted, adapter_of, multimodal, tiny, tokens
from zeroinit import gates
from zeroinit.convert import from_peft, from_published, nonlinear_to_linear, to_peft, to_published
from zeroinit.model import load, save

# PEFT calls the first of transformers itself; earlier versions say the second of a model that has no folder.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in"),
]


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("prompt", ["nonlinear", "nonlinear_shared"])
@torch.no_grad()
def test_nonlinear_to_linear_has_identical_output(prompt, gate, tmp_path):
    model = adapted(tiny(), prompt=prompt, gate=gate, activation="gelu")
    save(model, tmp_path / "one")
    nonlinear_to_linear(tmp_path / "one", tmp_path / "two")
    linear = load(tiny(), tmp_path / "two")
    assert adapter_of(linear).config.prompt == "linear"
    assert torch.equal(linear(tokens()).logits, model(tokens()).logits)
    with pytest.raises(ValueError, match="linear already"):
        nonlinear_to_linear(tmp_path / "two", tmp_path / "three")


PUBLISHED = [
    ("linear", {}),
    ("random_init", {}),
    ("random_init_nonlinear", {}),
    ("nonlinear", {}),
    ("nonlinear", {"hidden_width": 0, "activation": "leaky_relu"}),
    ("nonlinear_shared", {"hidden_width": 8}),
    ("linear", {"gate": "adapt"}),
    ("nonlinear", {"gate": "adapt"}),
]


@pytest.mark.parametrize(("prompt", "options"), PUBLISHED)
@torch.no_grad()
def test_published_files_there_and_back(prompt, options, tmp_path):
    model = adapted(tiny(), prompt=prompt, **options)
    save(model, tmp_path / "one")
    to_published(tmp_path / "one", tmp_path / "adapter.pth")
    kwargs = {"activation": options["activation"]} if "activation" in options else {}
    from_published(tmp_path / "adapter.pth", tmp_path / "two", prompt_length=5, layers=2,
                   random_init=prompt.startswith("random_init"), **kwargs)  # fmt: skip
    again = load(tiny(), tmp_path / "two")
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_names_and_shapes_of_published_files(tmp_path):
    """As the published training code makes them (7B would be 4096, 32 layers, 32 heads), from its description."""
    torch.manual_seed(0)
    gate_files = {f"layers.{n}.attention.gate": torch.zeros(1, 4, 1, 1) for n in range(4)}
    for n in (2, 3):
        gate_files[f"layers.{n}.attention.gate"] = torch.randn(1, 4, 1, 1)
    linear = {"adapter_query.weight": torch.randn(20, 48)} | gate_files
    deep = gate_files | {
        "hyperAdapter.layer_embed.weight": torch.randn(4, 64),
        "hyperAdapter.decoder.linear1.weight": torch.randn(64, 64),
        "hyperAdapter.decoder.linear1.bias": torch.randn(64),
        "hyperAdapter.decoder.prompt.weight": torch.randn(480, 64),
        "hyperAdapter.decoder.prompt.bias": torch.randn(480),
    }
    shared = gate_files | {
        "adapter_query.weight": torch.randn(20, 256),
        "hyperAdapter.linear1.weight": torch.randn(64, 256),
        "hyperAdapter.linear1.bias": torch.randn(64),
        "hyperAdapter.prompt.weight": torch.randn(48, 64),
        "hyperAdapter.prompt.bias": torch.randn(48),
    }
    expected = {
        "linear": linear["adapter_query.weight"].view(2, 10, 48),
        "deep": torch.stack([
            (torch.relu(e @ deep["hyperAdapter.decoder.linear1.weight"].T + deep["hyperAdapter.decoder.linear1.bias"])
             @ deep["hyperAdapter.decoder.prompt.weight"].T + deep["hyperAdapter.decoder.prompt.bias"]).view(10, 48)
            for e in deep["hyperAdapter.layer_embed.weight"][2:]
        ]),
        "shared": (torch.relu(shared["adapter_query.weight"] @ shared["hyperAdapter.linear1.weight"].T
                   + shared["hyperAdapter.linear1.bias"]) @ shared["hyperAdapter.prompt.weight"].T
                   + shared["hyperAdapter.prompt.bias"]).view(2, 10, 48),
    }  # fmt: skip
    for name, state in (("linear", linear), ("deep", deep), ("shared", shared)):
        for wrapped in (state, {"model": state | {"tok_embeddings.weight": torch.zeros(2)}, "epoch": 4}):
            torch.save(wrapped, tmp_path / f"{name}.pth")
            from_published(tmp_path / f"{name}.pth", tmp_path / name)
            adapter = gates.read(tmp_path / name)
            assert (adapter.shape.hidden_size, adapter.shape.num_hidden_layers, adapter.first) == (48, 4, 2)
            prompts = torch.stack([adapter.prompts_of(2), adapter.prompts_of(3)])
            torch.testing.assert_close(prompts, expected[name], rtol=1e-4, atol=1e-4)
            for row in (0, 1):
                assert torch.equal(adapter.gate[row], gate_files[f"layers.{row + 2}.attention.gate"].flatten())
            load(tiny(), tmp_path / name)(tokens())


def test_a_vector_gate_is_permuted_with_the_rotation(tmp_path):
    """The published model rotates pairs (0, 1), (2, 3), ...; transformers' rotates (0, D/2), (1, D/2 + 1), ..."""
    state = {f"layers.{n}.attention.gate": torch.zeros(1, 2, 6, 1) for n in range(3)}
    state["layers.2.attention.gate"] = torch.arange(12.0).view(1, 2, 6, 1)
    torch.save(state | {"adapter_query.weight": torch.zeros(10, 12)}, tmp_path / "a.pth")
    from_published(tmp_path / "a.pth", tmp_path / "a")
    assert gates.read(tmp_path / "a").gate.tolist() == [[[0, 2, 4, 1, 3, 5], [6, 8, 10, 7, 9, 11]]]


def test_published_files_that_do_not_fit(tmp_path):
    model = adapted(tiny())
    save(model, tmp_path / "one")
    to_published(tmp_path / "one", tmp_path / "a.pth")
    for options, message in (
        ({}, "2 x 10 rows; it has 10"),
        ({"prompt_length": 10, "layers": 1}, "gates below the last 1 layers"),
        ({"prompt_length": 2, "layers": 5}, "must be at most the base's depth, 4; got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            from_published(tmp_path / "a.pth", tmp_path / "two", **options)
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        from_published(tmp_path / "b.pth", tmp_path / "two")
    data = (tmp_path / "a.pth").read_bytes()
    numbers = load_file(tmp_path / "one" / "adapter_model.safetensors")["prompts.weight"].numpy().tobytes()
    place = data.index(numbers)
    (tmp_path / "b.pth").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(ValueError, match=r"may be damaged .* the checksum of its part .* is another"):
        from_published(tmp_path / "b.pth", tmp_path / "two", prompt_length=5, layers=2)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"attention\.gate"):
        from_published(tmp_path / "c.pth", tmp_path / "two")
    with pytest.raises(FileNotFoundError):
        from_published(tmp_path / "absent.pth", tmp_path / "two")
    save(adapted(tiny(), prompt="nonlinear"), tmp_path / "deep")
    to_published(tmp_path / "deep", tmp_path / "deep.pth")
    with pytest.raises(ValueError, match=r"7 x \.\.\. numbers; it has 240; pass the prompt_length"):
        from_published(tmp_path / "deep.pth", tmp_path / "two", prompt_length=7)
    save(adapted(tiny("llama-head-dim")), tmp_path / "wide")
    with pytest.raises(ValueError, match="heads x head_dim"):
        to_published(tmp_path / "wide", tmp_path / "d.pth")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("write", [to_published, to_peft, nonlinear_to_linear])
def test_a_failed_export_leaves_the_former_file(write, tmp_path, monkeypatch):
    save(adapted(tiny(), None, prompt="nonlinear"), tmp_path / "one")
    write(tmp_path / "one", target := tmp_path / "two")
    weights = target if target.is_file() else target / "adapter_model.safetensors"
    before = weights.read_bytes()

    def half(state, file, *args):
        Path(file).write_bytes(before[:100])
        raise OSError("disk full")

    for where in ("torch.save", "zeroinit.convert.save_file", "zeroinit.files.save_file"):
        monkeypatch.setattr(where, half)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "one", target)
    assert weights.read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


def peft_model(gate_values, **changes):
    config = peft.AdaptionPromptConfig(adapter_len=5, adapter_layers=2, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny(**changes), config).eval()
    wrapped = [m for m in model.modules() if type(m).__name__ == "AdaptedAttention"]
    for module, value in zip(wrapped, gate_values, strict=True):
        module.adaption_gate.data.fill_(value)
    return model


@pytest.mark.parametrize("kind", ["identity", "tanh"])
@torch.no_grad()
def test_peft_folders_there_and_back(kind, tmp_path):
    theirs = peft_model((0.3, -0.9))
    logits = theirs(tokens()).logits
    theirs.save_pretrained(tmp_path / "peft")
    from_peft(tmp_path / "peft", tmp_path / "ours", tiny(), kind)
    ours = load(tiny(), tmp_path / "ours")
    torch.testing.assert_close(ours(tokens()).logits, logits, rtol=0, atol=2e-5)
    to_peft(tmp_path / "ours", tmp_path / "back")
    back = peft.PeftModel.from_pretrained(tiny(), tmp_path / "back").eval()
    torch.testing.assert_close(back(tokens()).logits, logits, rtol=0, atol=2e-5)


def test_peft_refusals(tmp_path):
    peft_model((0.3, 1.0)).save_pretrained(tmp_path / "peft")
    with pytest.raises(ValueError, match="1 or more"):
        from_peft(tmp_path / "peft", tmp_path / "ours", tiny(), "tanh")
    from_peft(tmp_path / "peft", tmp_path / "ours", tiny())
    for changes, message in (({"num_hidden_layers": 5}, "base with 5"), ({"hidden_size": 64}, "hidden size, 64")):
        with pytest.raises(ValueError, match=message):
            from_peft(tmp_path / "peft", tmp_path / "other", tiny(**changes))
    lora = peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "lora")
    with pytest.raises(ValueError, match="'LORA'"):
        from_peft(tmp_path / "lora", tmp_path / "other", tiny())
    for number, (family, options, message) in enumerate([
        ("llama", {"prompt": "random_init"}, "joint softmax"),
        ("llama", {"gate": "adapt"}, "does not depend on the input"),
        ("llama", {}, "heads of this adapter differ"),
        ("llama-head-dim", {}, "heads x head_dim"),
    ]):  # fmt: skip
        save(adapted(tiny(family), **options), tmp_path / str(number))
        with pytest.raises(ValueError, match=message):
            to_peft(tmp_path / str(number), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@torch.no_grad()
def test_table_of_gates(tmp_path):
    model = adapted(tiny())
    rows = gates.table(adapter_of(model))
    assert [(row["layer"], row["head"]) for row in rows] == [(n, h) for n in (2, 3) for h in range(4)]
    for row in rows:
        g = adapter_of(model).gate[row["layer"] - 2, row["head"]].item()
        assert row["gate"] == g
        assert row["effective_gate"] == pytest.approx(math.tanh(g), rel=1e-6)
        assert row["prompt_mass"] == pytest.approx(abs(math.tanh(g)) / (1 + abs(math.tanh(g))), rel=1e-6)
        prompts = adapter_of(model).prompts.weight[row["layer"] - 2]
        assert row["prompt_norm"] == pytest.approx((prompts**2).sum(1).sqrt().mean().item(), rel=1e-6)
    save(model, tmp_path)
    command = [sys.executable, "-m", "zeroinit.gates", str(tmp_path), "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    with open(tmp_path / "out" / "gates.csv") as stream:
        written = list(csv.DictReader(stream))
    assert [float(row["gate"]) for row in written] == [row["gate"] for row in rows]
    assert (tmp_path / "out" / "gates.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("how", ["absent", "no adapter", "out is a file", "no such option"])
def test_gates_refuses_in_one_line(how, tmp_path, capsys):
    (tmp_path / "file").touch()
    folder = tmp_path if how in ("no adapter", "absent") else tmp_path / "adapter"
    if how in ("out is a file", "no such option"):
        save(adapted(tiny()), folder)
    options = {"out is a file": ["--out", str(tmp_path / "file")], "no such option": ["--colour"]}.get(how, [])
    with pytest.raises(SystemExit) as stop:
        gates.main([str(folder / "absent" if how == "absent" else folder), *options])
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith("python -m zeroinit.gates: error: ")
    assert told.err.count("\n") == 1


@torch.no_grad()
def test_mass_that_depends_on_the_input(tmp_path):
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    random = adapted(tiny(), prompt="random_init")
    assert {row["prompt_mass"] for row in gates.table(adapter_of(random))} == {None}
    mass = gates.prompt_mass(random, ids, mask)
    assert random.config._attn_implementation == "zero_init_sdpa"
    weights = adapted(tiny(attention="eager"), prompt="random_init")
    adapter_of(weights).load_state_dict(adapter_of(random).state_dict())
    attentions = weights(ids, attention_mask=mask, output_attentions=True).attentions
    for row, layer in enumerate((2, 3)):
        share = attentions[layer][:, :, :, :5].sum(-1)  # (batch, heads, queries)
        expected = torch.cat([share[0, :, 3:], share[1]], 1).mean(1)
        torch.testing.assert_close(mass[row].float(), expected, rtol=1e-5, atol=1e-6)
    rows = gates.table(adapter_of(random), mass)
    assert rows[0]["prompt_mass"] == mass[0, 0].item()
    gates.heat_map(rows, tmp_path / "mass.png", "prompt_mass")
    with pytest.raises(ValueError, match="depends on the input"):
        gates.heat_map(rows, tmp_path / "gates.png")
    with pytest.raises(ValueError, match="column must be"):
        gates.heat_map(rows, tmp_path / "gates.png", "head")

    adapt = adapted(tiny(), gate="adapt")
    adapter_of(adapt).gate.zero_()
    assert gates.prompt_mass(adapt, ids).abs().max() == 0
    adapter_of(adapt).gate.fill_(1e4)
    torch.testing.assert_close(gates.prompt_mass(adapt, ids, mask), torch.full((2, 4), 0.5).double())
    assert "input_gate" not in vars(adapter_of(adapt))
    fixed = adapted(tiny())
    mass = gates.prompt_mass(fixed, ids)
    assert mass.flatten().tolist() == pytest.approx([r["prompt_mass"] for r in gates.table(adapter_of(fixed))])


def test_mass_of_a_decoder_inside_another_model():
    """Measuring it leaves the implementation of the decoder, and of what is around it, as it was."""
    model = multimodal()
    adapted(model, prompt="random_init")
    logits = model(tokens()).logits
    assert gates.prompt_mass(model, tokens()).shape == (2, 4)
    assert torch.equal(model(tokens()).logits, logits)
    wrapped = adapted(peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"])), prompt="random_init")
    assert gates.prompt_mass(wrapped, tokens()).shape == (2, 4)
