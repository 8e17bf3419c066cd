"""Folders that PEFT itself wrote, as adapters: the same logits, and whatever is wrong with them in one line."""

import json
import pickle

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm import evaluate, generate
from llm.methods import loading, registry
from tests.llm_evaluation import arguments, save_items, save_model
from tests.llm_helpers import tiny, tokens

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
LORA = {"target_modules": ["q_proj", "v_proj"], "r": 4, "init_lora_weights": False}
CONFIGS = {
    "lora": peft.LoraConfig(**LORA),
    "lora-mlp": peft.LoraConfig(target_modules=["up_proj", "down_proj"], r=2, lora_alpha=7, init_lora_weights=False),
    "lora-all": peft.LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False),
    "lora-bias": peft.LoraConfig(**LORA, bias="lora_only"),
    "dora": peft.LoraConfig(**LORA, use_dora=True),
    "rslora": peft.LoraConfig(**LORA, use_rslora=True),
    "vera": peft.VeraConfig(target_modules=["q_proj", "v_proj"], r=8, init_weights=False),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt_tuning": peft.PromptTuningConfig(num_virtual_tokens=5),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_items(folder / "data")
    return save_model(folder)


def written(folder, name: str = "lora", task: str | None = "CAUSAL_LM", **options):
    """A folder as PEFT writes it, and the model in memory; a LoRA of random weights."""
    config = CONFIGS[name]
    config.task_type = task
    model = peft.get_peft_model(tiny("llama", vocab_size=259, max_position_embeddings=512), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder, save_embedding_layers=False, **options)
    return model.eval()


def fresh():
    return tiny("llama", vocab_size=259, max_position_embeddings=512)


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_folder_of_peft_gives_its_logits(tmp_path, name, task):
    if name == "prompt_tuning" and task is None:
        pytest.skip("PEFT needs the task to place virtual tokens")
    model, ids = written(tmp_path, name, task), tokens(2, 9)
    loaded = registry.load(fresh(), tmp_path).eval()
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    plain = fresh()(input_ids=ids).logits
    assert not torch.allclose(loaded(input_ids=ids).logits[:, -9:], plain, atol=1e-2)
    assert not any(p.requires_grad for p in loaded.parameters())
    registry.save(loaded, tmp_path / "again")  # as one of our own
    assert registry.saved_method(tmp_path / "again") == name.partition("-")[0].replace("dora", "lora").replace(
        "rsl", "l"
    )


@pytest.mark.parametrize("name", ["lora", "vera", "ia3", "prompt_tuning"])
@torch.no_grad()
def test_bin_files_are_read_without_unpickling_anything_else(tmp_path, name):
    model, ids = written(tmp_path, name), tokens(2, 9)
    state = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter_model.bin")
    loaded = registry.load(fresh(), tmp_path).eval()
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "pwned"), "w")

    for evil in (Evil(), {**state, "more": Evil()}):
        with open(tmp_path / "adapter_model.bin", "wb") as file:
            pickle.dump(evil, file)
        with pytest.raises(ValueError, match="does not fit this model"):
            registry.load(fresh(), tmp_path)
        torch.save(evil, tmp_path / "adapter_model.bin")
        with pytest.raises(ValueError, match="does not fit this model"):
            registry.load(fresh(), tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["lora", "vera", "ia3", "prompt_tuning"])
def test_commands_take_folders_of_peft(base, tmp_path, name, capsys):
    written(tmp_path / "peft", name)
    answers = []
    for more in ((), ("--adapter", str(tmp_path / "peft"))):
        command = ["--model", str(base), "--instruction", "Hi", "--max-new-tokens", "8", "--device", "cpu", *more]
        assert generate.main(command) == 0
        answers.append(capsys.readouterr().out)
        out = tmp_path / f"out{len(answers)}"
        assert evaluate.main(arguments(base, out, "--limit", "3", *more)) == 0
    assert answers[0] != answers[1]
    files = [(tmp_path / f"out{n}" / "harness" / "arc_easy.jsonl").read_text() for n in (1, 2)]
    assert files[0] != files[1]


def test_peft_on_a_half_precision_base_stays_float32(base, tmp_path):
    written(tmp_path)
    model, _ = loading.load(base, tmp_path, precision="bfloat16", device="cpu")
    kinds = {name.rpartition("lora_")[1]: p.dtype for name, p in model.named_parameters()}
    assert kinds == {"": torch.bfloat16, "lora_": torch.float32}


def config(folder, **more) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"peft_type": "SEQ"}, "peft_type in .* must be one of LORA, VERA, IA3, PROMPT_TUNING; got 'SEQ'"),
        ({"peft_type": "LOHA"}, "got 'LOHA'"),
        ({"peft_type": ["LORA"]}, r"got \['LORA'\]"),
        ({"task_type": "SEQ_CLS"}, "task_type in .* must be CAUSAL_LM; got 'SEQ_CLS'"),
        (
            {"megatron_config": {"a": 1}, "megatron_core": "evil"},
            "has a megatron_config; no code that a folder",
        ),
        ({"r": 10**30}, "r in .* must be at most 1048576; got 1000"),
        ({"r": -(10**12)}, "r in .* must be at most"),
        ({"r": 5}, "does not fit this model"),
        ({"r": "4"}, "does not fit this model"),
        ({"r": None}, "does not fit this model"),
        ({"lora_alpha": 1e300}, "lora_alpha in .* must be at most"),
        ({"target_modules": ["nothing"]}, "does not fit this model"),
        ({"target_modules": ["q_proj"]}, "no place for base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "does not fit this model: Found missing adapter keys"),
        ({"unknown_option": 1}, None),
    ],
    ids=str,
)
def test_a_strange_configuration_of_peft_is_one_line(tmp_path, more, words):
    written(tmp_path)
    config(tmp_path, **more)
    if words is None:
        with pytest.warns(UserWarning, match="Unexpected keyword arguments"):
            registry.load(fresh(), tmp_path)
        return
    with pytest.raises(ValueError, match=words) as caught:
        registry.load(fresh(), tmp_path)
    assert "\n" not in str(caught.value)


def test_infinite_numbers_and_broken_files_are_one_line(tmp_path):
    written(tmp_path)
    path, whole = tmp_path / "adapter_config.json", (tmp_path / "adapter_config.json").read_text()
    for text, words in (
        (whole.replace('"r": 4', '"r": Infinity'), "Infinity"),
        ("[1]", "JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            registry.load(fresh(), tmp_path)
    path.write_text(whole)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="does not fit this model"):
        registry.load(fresh(), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors is missing"):
        registry.load(fresh(), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.fill_(float("nan")), "must be finite floating-point numbers"),
        (lambda t: t.fill_(float("inf")), "must be finite floating-point numbers"),
        (lambda t: t.to(torch.int32), "must be finite floating-point numbers"),
        (lambda t: t[:, :3], "does not fit this model"),
        (lambda t: None, "does not fit this model: Found missing adapter keys"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, words):
    written(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    changed = change(state.pop(name))
    save_file(state | ({} if changed is None else {name: changed.contiguous()}), path, {"format": "pt"})
    with pytest.raises(ValueError, match=words):
        registry.load(fresh(), tmp_path)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    written(tmp_path)
    with pytest.raises(ValueError, match="does not fit this model"):
        registry.load(tiny("llama", hidden_size=32), tmp_path)
    with pytest.raises(ValueError, match="does not fit this model"):
        registry.load(tiny("llama", num_hidden_layers=2), tmp_path)
    with pytest.raises(ValueError, match="does not fit this model"):
        registry.load(tiny("phi3"), tmp_path)


def test_adaption_prompts_are_sent_to_where_they_are_read(tmp_path):
    model = peft.get_peft_model(
        fresh(), peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(ValueError, match=r"zeroinit\.convert"):
        registry.load(fresh(), tmp_path)
