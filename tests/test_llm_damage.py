"""Files and options that are wrong in every way a file can be: one line that names the file, and no model touched."""

import argparse
import json
import pathlib
import random
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from tests.llm_evaluation import byte_tokenizer
from tests.llm_helpers import adapted, adapter_of, tiny, tokens
from zeroinit import files
from zeroinit.adapter import Adapter, BaseShape
from zeroinit.config import AdapterConfig
from zeroinit.convert import from_peft, from_published, to_peft, to_published
from zeroinit.model import activate, attach, load, save
from zeroinit.trainer import AdapterTrainer

CONFIG, WEIGHTS = files.CONFIG_NAME, files.WEIGHTS_NAME


@pytest.fixture(scope="module")
def base():
    """A model that no test may change."""
    model = tiny()
    yield model
    assert not hasattr(model, "zero_init_adapters")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(adapted(tiny()), folder / "adapter")
    to_published(folder / "adapter", folder / "adapter.pth")
    model = adapted(tiny("llama", head_dim=12))
    adapter_of(model).gate.data[:] = 0.25
    save(model, folder / "even")
    to_peft(folder / "even", folder / "peft")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((saved / "adapter" / name).read_bytes())
    return tmp_path


def refused(call, *words: str) -> None:
    """The call raises a ValueError of one line, not too long, with these words."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is checked here)
        call()
    message = str(error.value)
    assert type(error.value) is ValueError
    assert "\n" not in message
    assert len(message) < 900
    for word in words:
        assert word in message, message


RAW = {
    "nothing": b"",
    "zeros": b"\0" * 100,
    "text": b"hello",
    "cut": b'{"method": "zero',
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "two objects": b"{}{}",
    "latin-1": b'{"method": "\xe4"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "deep list": b"[" * 100_000,
    "deep object": b'{"method":' * 100_000,
    "deep and closed": b'{"method": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long": b'{"method": "' + b"x" * 2_000_000 + b'"}',
    "an endless integer": b'{"version": ' + b"9" * 100_000 + b"}",
    "a large exponent": b'{"version": 1e999}',
    "infinity": b'{"version": Infinity}',
    "less than that": b'{"version": -Infinity}',
    "no number": b'{"version": NaN}',
    "a name twice": b'{"method": 1, "method": 2}',
    "another method": b'{"peft_type": "LORA"}',
    "a long method": b'{"method": "' + b"x" * 5000 + b'"}',
}


@pytest.mark.parametrize("what", RAW)
def test_a_configuration_that_is_none(what, folder, base):
    (folder / CONFIG).write_bytes(RAW[what])
    refused(lambda: load(base, folder), str(folder / CONFIG))


def test_a_configuration_in_another_encoding_or_with_a_name_twice(folder, base):
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_bytes(text.encode("utf-16"))
    refused(lambda: load(base, folder), str(folder / CONFIG))
    (folder / CONFIG).write_text(text.replace('"layers": 2', '"layers": 2, "layers": 1'))
    refused(lambda: load(base, folder), "'layers' stands twice")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_folder_in_place_of_a_file(name, folder, base):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(lambda: load(base, folder), f"{folder / name} must be a file")


NUMBERS = ["base.hidden_size", "base.num_hidden_layers", "base.num_attention_heads", "base.head_dim",
           "adapter.prompt_length", "adapter.layers", "adapter.hidden_width", "version"]  # fmt: skip
NAMES = ["adapter.prompt", "adapter.attention", "adapter.activation", "adapter.gate", "adapter.gate_activation"]
OBJECTS = ["method", "adapter", "base"]
WRONG = [-1, True, 1.5, "x", "4", "", [], [1], {}, {"a": 1}, float("inf"), float("nan"), 10**30, 10**400, 10**18]


def put(folder, path: str, value: object) -> None:
    text = json.loads((folder / CONFIG).read_text())
    *parents, last = path.split(".")
    inner = text
    for name in parents:
        inner = inner[name]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    (folder / CONFIG).write_text(json.dumps(text))


@pytest.mark.parametrize("path", [*NUMBERS, *NAMES, *OBJECTS, "adapter.initial_scale"])
def test_values_of_another_type_or_size(path, folder, base):
    good = (folder / CONFIG).read_bytes()
    for value in [*WRONG, None]:
        if path == "adapter.initial_scale" and value in (None, 1.5):
            continue  # both are allowed
        if (path, value) in (("adapter.layers", None), ("adapter.hidden_width", 10**18)):
            continue  # all but two layers, which is two here; and linear prompts have no hidden layer
        put(folder, path, value)
        refused(lambda: load(base, folder), "" if value == 10**18 else str(folder))
        (folder / CONFIG).write_bytes(good)


@pytest.mark.parametrize("path", ["method", "base", "adapter", "base.head_dim"])
def test_values_that_are_missing(path, folder, base):
    put(folder, path, KeyError)
    refused(lambda: load(base, folder), CONFIG)


def test_unknown_versions_and_names(folder, base):
    put(folder, "version", 3)
    refused(lambda: load(base, folder), "from 1 to 2; got 3; update zeroinit")
    put(folder, "version", 2)
    put(folder, "adapter.colour", "red")
    refused(lambda: load(base, folder), "adapter must have names among prompt, attention")


@torch.no_grad()
def test_folders_of_earlier_versions_load(folder, base):
    """Version 1 called random_init a kind of prompt, and neither it nor the first of version 2 had a checksum."""
    put(folder, "sha256", KeyError)
    load(tiny(), folder)
    put(folder, "version", 1)
    put(folder, "adapter.attention", KeyError)
    load(tiny(), folder)
    model = adapted(tiny(), prompt="random_init")
    save(model, folder / "random")
    for path, value in (("version", 1), ("adapter.attention", KeyError), ("adapter.prompt", "random_init"),
                        ("sha256", KeyError)):  # fmt: skip
        put(folder / "random", path, value)
    assert torch.equal(load(tiny(), folder / "random")(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize(
    "dtype",
    [torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float16, torch.bfloat16,
     torch.float64, torch.float8_e4m3fn],
    ids=str,
)  # fmt: skip
def test_tensors_of_another_type(dtype, folder, base):
    state = load_file(folder / WEIGHTS)
    save_file({key: (8 * t).to(dtype) for key, t in state.items()}, folder / WEIGHTS)
    refused(lambda: load(base, folder), "gate must be float32 (2, 4), is ")
    one = {"gate": state["gate"].to(dtype)}
    save_file(state | one, folder / WEIGHTS)
    refused(lambda: load(base, folder), "gate must be float32 (2, 4), is ")


def test_an_adapter_of_a_model_in_another_precision_is_saved_in_float32(tmp_path):
    model = adapted(tiny()).double()
    save(model, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / WEIGHTS).values()} == {torch.float32}
    load(tiny(), tmp_path)


def test_names_and_shapes_of_tensors(folder, base):
    state = load_file(folder / WEIGHTS)
    save_file({"Gate\n\x00" * 50: state["gate"], "prompts.weight": state["prompts.weight"]}, folder / WEIGHTS)
    refused(lambda: load(base, folder), "gate must be float32 (2, 4), is absent", "must be absent")
    save_file({f"t{n}": torch.zeros(1) for n in range(500)}, folder / WEIGHTS)
    refused(lambda: load(base, folder), "and 498 more")
    save_file(state | {"gate": state["gate"][None]}, folder / WEIGHTS)
    refused(lambda: load(base, folder), "gate must be float32 (2, 4), is float32 (1, 2, 4)")


def test_weights_cut_or_with_one_bit_changed(folder, base):
    """Every cut and every flipped bit is found, in the header as in the numbers."""
    good, dice = (folder / WEIGHTS).read_bytes(), random.Random(0)
    for length in [0, 1, 7, 8, 9, 60, *(dice.randrange(len(good)) for _ in range(40)), len(good) - 1]:
        (folder / WEIGHTS).write_bytes(good[:length])
        refused(lambda: load(base, folder), WEIGHTS)
    places = [
        *range(0, 12),
        *(dice.randrange(12, 300) for _ in range(60)),
        *(dice.randrange(len(good)) for _ in range(60)),
    ]
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << dice.randrange(8)
        (folder / WEIGHTS).write_bytes(flipped)
        refused(lambda: load(base, folder), WEIGHTS)
    for more in (b"\0", good):
        (folder / WEIGHTS).write_bytes(good + more)
        refused(lambda: load(base, folder), WEIGHTS)
    header = b'{"gate":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,32]}}'
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 32)
    refused(lambda: load(base, folder), WEIGHTS)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**63 - 1) + header)
    refused(lambda: load(base, folder), WEIGHTS)
    (folder / WEIGHTS).write_bytes(good)
    load(tiny(), folder)


def test_weights_of_another_adapter(folder, base):
    """All is as it should be except that the files were not saved together."""
    state = load_file(folder / WEIGHTS)
    save_file({key: -t for key, t in state.items()}, folder / WEIGHTS)
    refused(lambda: load(base, folder), "not the file that was saved with", 'remove "sha256"')
    put(folder, "sha256", KeyError)
    assert torch.equal(adapter_of(load(tiny(), folder)).gate, -state["gate"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_length": 10**12}, ["prompt_length 1000000000000 on 2 layers of hidden size 48 takes", "free"]),
        ({"prompt": "nonlinear", "hidden_width": 10**12}, ["takes 2,030,283.2 GiB", "a smaller prompt_length"]),
        ({"prompt": "nonlinear_shared", "layer_width": 10**12}, ["takes", "layer_width"]),
        ({"prompt_length": 10**30}, ["no tensor can be as large", "prompt_length 1000000000000000000000000000000"]),
        ({"prompt_length": 10**5000}, ["no tensor can be as large", "prompt_length a int too long"]),
        ({"layers": 10**5000}, ["at most the base's depth, 4; got a int too long"]),
        ({"prompt": "nonlinear", "layer_width": 2**62}, ["no tensor can be as large"]),
    ],
    ids=range(7),
)
def test_adapters_that_no_memory_holds(options, words, base):
    config = AdapterConfig(**({"layers": 2} | options))
    refused(lambda: attach(base, config), *words)
    assert all(p.requires_grad for p in base.parameters())


def test_initial_scales_that_are_none():
    for value in (10**5000, -1, 1e-300, float("inf"), float("nan"), True, "1", [1], 10**30):
        refused(
            lambda v=value: AdapterConfig(initial_scale=v), "initial_scale must be a positive number, 1e-15 to 1e+15"
        )


def test_the_limit_is_the_free_memory(monkeypatch):
    shape = BaseShape(1024, 4, 4, 256)
    needed = sum(p.numel() for p in Adapter(AdapterConfig(prompt_length=100), shape).parameters()) * 4
    monkeypatch.setattr("zeroinit.adapter.free_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"prompt_length 100 on 2 layers of hidden size 1024 takes 0\.0 GiB"):
        attach(tiny(hidden_size=1024, intermediate_size=8), AdapterConfig(prompt_length=100))
    monkeypatch.setattr("zeroinit.adapter.free_memory", lambda: needed)
    attach(tiny(hidden_size=1024, intermediate_size=8), AdapterConfig(prompt_length=100))


class Evil:
    """What a pickle may do if nobody forbids it."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (self.file, "w")


@torch.no_grad()
def test_checkpoints_as_the_published_training_script_writes_them(saved, tmp_path):
    """They hold the options of the run as an argparse.Namespace; any other class is refused and never made."""
    state = torch.load(saved / "adapter.pth")
    options = argparse.Namespace(
        batch_size=4, output_dir="out", lr=None, blr=9e-3, betas=(0.9, 0.95), distributed=False
    )
    rest = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}, "epoch": 4,
            "scaler": {"scale": 65536.0, "_growth_tracker": 2}}  # fmt: skip
    whole = {"model": state | {"tok_embeddings.weight": torch.zeros(3)}, "args": options, **rest}
    for name, legacy in (("new", False), ("old", True)):
        torch.save(whole, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
        from_published(tmp_path / f"{name}.pth", tmp_path / name, prompt_length=5, layers=2)
        assert torch.equal(
            load(tiny(), tmp_path / name)(tokens()).logits, load(tiny(), saved / "adapter")(tokens()).logits
        )
    mark, allowed = tmp_path / "run", torch.serialization.get_safe_globals()
    for number, evil in enumerate((
        {"model": state, "args": Evil(str(mark))},
        {"model": state | {"adapter_query.weight": Evil(str(mark))}},
        Evil(str(mark)),
        {"model": state, "args": argparse.Namespace(inner=Evil(str(mark)))},
        {"model": state, "args": pathlib.PurePosixPath("x")},
        {"model": state, "args": argparse.ArgumentParser},
    )):  # fmt: skip
        torch.save(evil, tmp_path / f"{number}.pth")
        refused(
            lambda number=number: from_published(tmp_path / f"{number}.pth", tmp_path / "b", prompt_length=5, layers=2),
            f"{number}.pth cannot be read as weights",
        )
    assert not mark.exists()
    assert torch.serialization.get_safe_globals() == allowed
    assert argparse.Namespace not in allowed


def wrong_published(state: dict) -> dict[str, object]:
    gate, query = "layers.3.attention.gate", "adapter_query.weight"
    return {
        "a list": [1],
        "a tensor": torch.zeros(2),
        "nothing": {},
        "a model that is none": {"model": 3},
        "a number for a tensor": state | {query: 1},
        "a list for a tensor": state | {query: [[1.0]]},
        "text for a gate": state | {gate: "x"},
        "None for a gate": state | {gate: None},
        "integers": state | {query: torch.zeros(10, 48, dtype=torch.int64)},
        "a gate without dimensions": state | {gate: torch.tensor(0.0)},
        "a gate of another size": state | {gate: torch.zeros(1, 3, 1, 1)},
        "no heads": {k: torch.zeros(1, 0, 1, 1) if k.endswith(".gate") else t for k, t in state.items()},
        "an odd gate": {k: torch.zeros(1, 4, 7, 1) if k.endswith(".gate") else t for k, t in state.items()},
        "heads that do not divide": {
            k: torch.zeros(1, 5, 1, 1) if k.endswith(".gate") else t for k, t in state.items()
        },
        "no prompts": {k: t for k, t in state.items() if k != query},
        "a gap": {k: t for k, t in state.items() if k != "layers.1.attention.gate"},
        "an unknown name": state | {"hyperAdapter.other": torch.zeros(2)},
        "half a network": state | {"hyperAdapter.prompt.weight": torch.zeros(48, 8)},
        "prompts that are no number": state | {query: torch.full((10, 48), float("nan"))},
        "prompts of one dimension": state | {query: torch.zeros(48)},
        "names that are none": {1: 2, None: torch.zeros(2)},
    }


def test_published_files_of_other_content(saved, tmp_path):
    for what, content in wrong_published(torch.load(saved / "adapter.pth")).items():
        torch.save(content, file := tmp_path / f"{what}.pth")
        refused(lambda file=file: from_published(file, tmp_path / "out", prompt_length=5, layers=2))
    # names beside those of the adapter are not looked at
    torch.save(torch.load(saved / "adapter.pth") | {1: 2, "epoch": "x"}, file)
    from_published(file, tmp_path / "out", prompt_length=5, layers=2)
    (tmp_path / "folder").mkdir()
    refused(lambda: from_published(tmp_path / "folder", tmp_path / "out"), "must be a file")


def test_published_files_cut_or_changed(saved, tmp_path):
    """A pickle has no checksum of the whole, so a flipped bit is refused or gives an adapter that loads."""
    good, dice, kept = (saved / "adapter.pth").read_bytes(), random.Random(0), 0
    file = tmp_path / "a.pth"
    for length in [0, 1, 100, *(dice.randrange(len(good)) for _ in range(20)), len(good) - 1]:
        file.write_bytes(good[:length])
        refused(lambda: from_published(file, tmp_path / "out", prompt_length=5, layers=2), "a.pth")
    for _ in range(60):
        flipped = bytearray(good)
        flipped[dice.randrange(len(good))] ^= 1 << dice.randrange(8)
        file.write_bytes(flipped)
        try:
            from_published(file, tmp_path / "out", prompt_length=5, layers=2)
        except ValueError:
            refused(lambda: from_published(file, tmp_path / "out", prompt_length=5, layers=2))
        else:
            kept += 1
            load(tiny(), tmp_path / "out")
    assert kept < 60


@torch.no_grad()
def test_old_peft_folders(saved, tmp_path):
    """Before 0.7 PEFT wrote adapter_model.bin."""
    peft, base = saved / "peft", tiny(head_dim=12)
    state = load_file(peft / WEIGHTS)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / CONFIG).write_bytes((peft / CONFIG).read_bytes())
    bin_file = tmp_path / "old" / "adapter_model.bin"
    torch.save(state, bin_file)
    from_peft(peft, tmp_path / "one", base)
    from_peft(tmp_path / "old", tmp_path / "two", base)
    one, two = (load(tiny(head_dim=12), tmp_path / name)(tokens()).logits for name in ("one", "two"))
    assert torch.equal(one, two)
    gate = next(key for key in state if key.endswith("gate"))
    for content in (
        {**state, gate: 3.0},
        {**state, gate: torch.zeros(2)},
        {**state, gate: torch.zeros(1, dtype=torch.int32)},
        {**state, gate: torch.full((1,), float("inf"))},
        {**state, 5: torch.zeros(1)},
        {**state, gate: Evil(str(tmp_path / "run"))},
        [state],
    ):
        torch.save(content, bin_file)
        refused(lambda: from_peft(tmp_path / "old", tmp_path / "three", base))
    assert not (tmp_path / "run").exists()
    for name, content in RAW.items():
        if name != "a long method":
            (tmp_path / "old" / CONFIG).write_bytes(content)
            refused(lambda: from_peft(tmp_path / "old", tmp_path / "three", base))
    (tmp_path / "old" / CONFIG).write_bytes((peft / CONFIG).read_bytes())
    bin_file.unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.bin"):
        from_peft(tmp_path / "old", tmp_path / "three", base)


def test_an_adapter_is_not_written_beside_its_base(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    attach(model)
    for call in (lambda: save(model, tmp_path), lambda: AdapterTrainer(model, arguments(tmp_path))):
        refused(call, f"{tmp_path} holds a whole model (config.json)", f"such as {tmp_path / 'adapter'}")
    assert not (tmp_path / CONFIG).exists()
    save(model, tmp_path / "adapter")
    again = type(model).from_pretrained(tmp_path)
    load(again, tmp_path / "adapter")


def arguments(folder, **changes) -> TrainingArguments:
    options = {"max_steps": 4, "save_steps": 2, "report_to": [], "disable_tqdm": True, "use_cpu": True}
    return TrainingArguments(str(folder), **(options | changes))


def rows() -> list[dict]:
    return [{"input_ids": row.tolist(), "labels": row.tolist()} for row in tokens(8, 9)]


def test_training_nothing_is_an_error_that_says_what_to_call(tmp_path):
    model = adapted(tiny())
    trainer = AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())
    model.requires_grad_(False)  # as peft.prepare_model_for_kbit_training does
    cure = "zeroinit.activate(model, 'default')"
    refused(trainer.train, "nothing trains", cure)
    refused(lambda: AdapterTrainer(model, arguments(tmp_path), train_dataset=rows()), cure)
    before = adapter_of(activate(model, "default")).gate.clone()
    AdapterTrainer(model, arguments(tmp_path, learning_rate=0.1), train_dataset=rows()).train()
    assert not torch.equal(adapter_of(model).gate, before)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_trainer_and_tokenizer_share_a_folder_and_training_goes_on_there(tmp_path):
    """The habits of transformers: checkpoint-N folders, the last one in the output folder, the tokenizer beside it."""
    trainers = []
    for again in (False, True):
        model = adapted(tiny())
        trainer = AdapterTrainer(
            model, arguments(tmp_path, max_steps=8 if again else 4), train_dataset=rows(),
            processing_class=byte_tokenizer(),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=again)
        trainer.save_model()
        trainers.append(trainer)
        loaded = load(tiny(), tmp_path)
        assert torch.equal(adapter_of(loaded).gate, adapter_of(model).gate)
    assert trainers[1].state.global_step == 8
    assert (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "checkpoint-8" / "tokenizer.json").exists()
