"""Where bases, data and adapters come from, and folders of bases that are strange, damaged or dangerous."""

import json
import sys

import huggingface_hub
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from common import sources
from common.sources import why_local
from llm import generate
from llm.data import rows
from llm.methods import bases, loading, registry
from tests.llm_evaluation import save_model
from tests.llm_helpers import tiny

HUB = ["huggyllama/llama-7b", "meta-llama/Llama-3.1-8B", "tatsu-lab/alpaca", "TheBloke/x-GGUF", "a/b"]
PATHS = {
    "runs/nothing": "runs is here, so it is no name on the hub",
    "runs": "it is here",
    "file.json/nothing": "file.json is here, so it is no name on the hub",
    "./a/b": "it is a path",
    "../a/b": "it is a path",
    "/a/b": "it is a path",
    "~/b": "it is a path",
    "a\\b": "it is a path",
    "a": "a name on the hub is OWNER/NAME",
    "a/b/c": "a name on the hub is OWNER/NAME",
    "a/": "a name on the hub is OWNER/NAME",
    "/b": "it is a path",
    "a//b": "a name on the hub is OWNER/NAME",
    "a/b c": "a name on the hub is OWNER/NAME",
    "a/-b": "a name on the hub is OWNER/NAME",
    "a/b.": "a name on the hub is OWNER/NAME",
    "a/" + "b" * 96: "a name on the hub is OWNER/NAME",
    "a/b.json": "it ends as a file does",
    "a/b.JSONL": "it ends as a file does",
    "a/b.safetensors": "it ends as a file does",
    "x" * 5000 + "/b": "it is no name on the hub",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "file.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_hub(monkeypatch):
    """Whatever goes to the hub fails the test."""
    import datasets

    def refuse(*args, **kwargs):
        pytest.fail(f"looked up on the hub: {args}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(datasets, "load_dataset", refuse)


def test_what_is_a_name_on_the_hub(here):
    assert {name: why_local(name) for name in HUB} == dict.fromkeys(HUB)
    assert {name: why_local(name) for name in PATHS} == PATHS
    assert why_local(here / "a") == "it is a path"
    assert why_local("a/b\0")


@pytest.mark.parametrize("name", PATHS)
def test_no_path_is_looked_up_on_the_hub(here, no_hub, name):
    for read in (bases.read_config, bases.read_tokenizer, bases.read_model):
        with pytest.raises((OSError, ValueError)):
            read(name)
    with pytest.raises((OSError, ValueError)):
        rows.read(name)
    with pytest.raises((OSError, ValueError)):
        registry.load(tiny(), name)


def test_a_mistyped_path_is_named(here, no_hub, capsys):
    assert generate.main(["--model", "runs/nothing", "--instruction", "Hi"]) == 2
    assert capsys.readouterr().err == (
        "generate.py: error: no model folder at runs/nothing (runs is here, so it is no name on the hub); give a "
        "folder in Hugging Face format, or a hub id (huggyllama/llama-7b)\n"
    )


def test_what_comes_from_the_hub_is_said_before_it_comes(monkeypatch, tmp_path, capsys):
    import datasets

    told = []

    def unreachable(name, *args, **kwargs):
        told.append((name, capsys.readouterr().err))
        raise OSError("We couldn't connect\nand more")

    monkeypatch.setattr(sources, "_told", set())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    readers = {"a/model": bases.read_model, "a/data": rows.read, "a/x": lambda name: registry.load(tiny(), name)}
    for name, read in readers.items():
        with pytest.raises(ConnectionError, match=f"{name}.*couldn't connect.*; without a network download it else"):
            read(name)
    line = "loading {} from the Hugging Face hub\n"
    assert told == [(name, line.format(name)) for name in readers]


def test_a_base_from_the_hub_is_its_files_but_no_code(monkeypatch, tmp_path, capsys):
    asked = []

    def snapshot(name, allow_patterns, ignore_patterns=None):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    save_model(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loading.load_base("owner/name", device="cpu")
    assert {name for name, _ in asked} == {"owner/name"}
    assert not [pattern for _, patterns in asked for pattern in patterns if "py" in pattern.rpartition(".")[2]]


# Strange folders


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "base")


def change(folder, name: str, **more) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def refused(folder, capsys) -> str:
    """The line with which the command refuses a folder."""
    assert generate.main(["--model", str(folder), "--instruction", "Hi", "--max-new-tokens", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("quantisation", "package"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}, "optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}, "gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "-U bitsandbytes>="),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "-U bitsandbytes>="),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors>="),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "quanto", "weights": "int8"}, "optimum-quanto"),
        ({"quant_method": "eetq"}, "kernels"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "torchao"),
        ({"quant_method": "vptq"}, "-U vptq"),
        ({"quant_method": "quark"}, "amd-quark"),
        ({"quant_method": "auto-round"}, "'auto-round>="),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_a_quantised_base_names_the_package_that_it_needs(folder, capsys, quantisation, package):
    change(folder, "config.json", quantization_config=quantisation)
    line = refused(folder, capsys)
    assert "needs a package that is not installed" in line
    assert f"pip install {package}" in line


@pytest.mark.parametrize(
    ("change_to", "words"),
    [
        ([1], "must be the configuration of a model, a JSON object; it is a list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        (b"\xff", "UTF-8"),
        ({"model_type": "nope"}, "does not load as a causal language model"),
        ({"model_type": None}, "does not load as a causal language model"),
        ({"model_type": "t5"}, "does not load as a causal language model"),
        ({"hidden_size": "48"}, "does not load as a causal language model"),
        ({"num_attention_heads": 0}, "does not load as a causal language model"),
        ({"hidden_size": 96}, "does not load as a causal language model"),
        ({"quantization_config": "x"}, "does not load as a causal language model"),
        ({"quantization_config": {"bits": 4}}, "does not load as a causal language model"),
        ({"attn_implementation": "owner/kernel"}, "brings code of its own (attn_implementation in config.json names a"),
        ({"text_config": {"_experts_implementation": "owner/kernel"}}, "brings code of its own"),
    ],
    ids=str,
)
def test_a_damaged_configuration_is_one_line(folder, capsys, change_to, words):
    if isinstance(change_to, dict):
        change(folder, "config.json", **change_to)
    else:
        data = change_to if isinstance(change_to, bytes) else change_to if isinstance(change_to, str) else "[1]"
        (folder / "config.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    assert words in refused(folder, capsys)


MAP = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
CODE = "from transformers import LlamaConfig as C, LlamaForCausalLM as M, PreTrainedTokenizerFast as T\n"


@pytest.mark.parametrize(
    ("name", "more", "runs"),
    [
        ("config.json", {"model_type": "evil", "auto_map": MAP}, False),
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "owner/repo--evil.C"}}, False),
        ("config.json", {"auto_map": MAP}, True),  # transformers has this class itself
        ("tokenizer_config.json", {"auto_map": MAP, "tokenizer_class": "T"}, False),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, True),
        ("generation_config.json", {"custom_generate": "evil", "trust_remote_code": True}, True),
    ],
)
def test_code_in_a_folder_is_never_run_and_nobody_is_asked(folder, capsys, monkeypatch, name, more, runs):
    class Yes:
        def readline(self):
            pytest.fail("the user is asked")

    monkeypatch.setattr(sys, "stdin", Yes())
    (folder / "custom_generate").mkdir()
    for path in ("evil.py", "custom_generate/generate.py"):
        (folder / path).write_text(f"open({str(folder / 'pwned')!r}, 'w')\n{CODE}")
    change(folder, name, **more)
    if runs:
        assert generate.main(["--model", str(folder), "--instruction", "Hi", "--max-new-tokens", "2"]) == 0
    else:
        assert "brings code of its own (auto_map), which is never run here, as it could do" in refused(folder, capsys)
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 3},
        {"cache_implementation": "nonsense"},
        {"watermarking_config": {"a": 1}},
        {"max_new_tokens": -3},
        {"temperature": -1.0, "do_sample": True},
        {"num_beams": "x"},
        {"min_length": 10**9, "max_length": 4},
    ],
    ids=str,
)
def test_generation_settings_of_a_folder_neither_break_nor_change_answers(folder, capsys, settings):
    command = ["--model", str(folder), "--instruction", "Hi", "--max-new-tokens", "6"]
    assert generate.main(command) == 0
    before = capsys.readouterr().out
    change(folder, "generation_config.json", **settings)
    assert generate.main(command) == 0
    assert capsys.readouterr().out == before
    loading.load_base(folder)[0].save_pretrained(folder / "again")  # transformers refuses to write wrong ones


def test_ends_of_a_folder_are_kept(folder, capsys):
    assert bases.read_model(folder).generation_config.eos_token_id == 2
    change(folder, "generation_config.json", eos_token_id=[2, 7], pad_token_id=5)
    own = bases.read_model(folder).generation_config
    assert (own.eos_token_id, own.pad_token_id) == ([2, 7], 5)
    for wrong in ("x", [1, "x"], True, 1.5):
        change(folder, "generation_config.json", eos_token_id=wrong)
        assert "eos_token_id in" in refused(folder, capsys)
    (folder / "generation_config.json").write_text("{")
    assert "is not JSON at line 1" in refused(folder, capsys)
    (folder / "generation_config.json").unlink()
    change(folder, "config.json", eos_token_id=9)
    assert bases.read_model(folder).generation_config.eos_token_id == 9


# Tokenizers of SentencePiece

TEXTS = ["hello world", "two  spaces, and a question?", "Name three birds.\n\n### Response:", "ünïcode 名前"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    with open(path, "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["hello world this is a text", "Name three birds.", "and a question?"] * 20),
            model_writer=file,
            vocab_size=315,
            model_type="bpe",
            byte_fallback=True,
            bos_id=1,
            eos_id=2,
            unk_id=0,
            num_threads=1,
            minloglevel=2,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        )
    return path


def only_pieces(folder, pieces, settings: dict | None = None):
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        (None, True),
        ({}, True),
        ({"tokenizer_class": "LlamaTokenizer"}, True),
        ({"tokenizer_class": "LLaMATokenizer"}, True),  # as early conversions wrote it
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, True),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, False),
    ],
)
def test_a_sentencepiece_model_alone_gives_the_ids_of_sentencepiece(folder, pieces, settings, begins):
    processor = SentencePieceProcessor(model_file=str(pieces))
    tokenizer = bases.read_tokenizer(only_pieces(folder, pieces, settings))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [1] * begins + processor.encode(text)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_missing_packages_of_tokenizers_are_named(folder, pieces, capsys, monkeypatch):
    only_pieces(folder, pieces)
    monkeypatch.setattr(bases, "is_protobuf_available", lambda: False)
    assert refused(folder, capsys).endswith("needs a package that is not installed: pip install protobuf")
    monkeypatch.setattr(bases, "is_sentencepiece_available", lambda: False)
    assert refused(folder, capsys).endswith("not installed: pip install sentencepiece protobuf")


def test_damaged_and_missing_tokenizers_are_one_line(folder, pieces, capsys):
    only_pieces(folder, pieces)
    (folder / "tokenizer.model").write_bytes(b"garbage")
    assert "its tokenizer.model is damaged, or no SentencePiece model" in refused(folder, capsys)
    (folder / "tokenizer.model").unlink()
    assert "it has no tokenizer (tokenizer.json or tokenizer.model)" in refused(folder, capsys)
    (folder / "tokenizer.json").write_text("[1]")
    assert "generate.py: error: " in refused(folder, capsys)


def test_a_folder_with_tokenizer_json_is_read_by_that(folder):
    plain = AutoTokenizer.from_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(b"not looked at")
    assert bases.read_tokenizer(folder)("hello")["input_ids"] == plain("hello")["input_ids"]
