"""The commands, a command line that each takes, and mistakes in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

COUNTS = ("0", "-1", "2.5", "x", "", "nan", "-99999999999999999999999", "1e3", " ", "0x10")
SEEDS = COUNTS[1:]
SHARES = ("0", "-1", "1.5", "nan", "inf", "x", "")
POSITIVE = ("0", "-1", "nan", "inf", "-inf", "x", "", "1e999")
WORDS = ("none of these", "", " ", "ä")
NAMES = (*WORDS, "--")
FOLDERS = ("", " ", "FILE", "FILE/below", "a\0b")
ABSENT = ("/no/such/place", "./none", "", " ", "FILE")
MODELS = ("/no/such/model", "./none/at/all", "", "FILE", "EMPTY")
SETS = (
    *("depth=3", "layers", "layers=0", "layers=-1", "layers=99", "layers=x", "layers=[1]", "=3", "gate=none"),
    *("prompt_length=0", "prompt_length=nan", "prompt_length=" + "9" * 30, "initial_scale=-1", "initial_scale=inf"),
)


@dataclass(frozen=True)
class Command:
    """A command, a command line that it takes, and what its options may not be.

    Words in capitals are places: OUT is to be written, BASE a model, ADAPTER one for it, DATA its rows, TASKS a folder
    with tasks, FILE a file of somebody, EMPTY an empty folder.

    Attributes
    ----------
    name : str
        A file, or the module that `python -m` runs; more words are for people.
    valid : sequence of str
    wrong : mapping
        Option -> values that it must not have; a number is the place of a word in `valid`, and "" a word in front.
    runs : sequence of sequence of str
        Options behind the valid ones with which it must end well; alone, if the first one is --help or --list.
    """

    name: str
    valid: Sequence[str]
    wrong: Mapping[str | int, Sequence[str]]
    runs: Sequence[Sequence[str]] = (("--help",),)

    @property
    def module(self) -> str:
        """The module with its `main`."""
        return self.name.split()[0].removesuffix(".py").replace("/", ".")

    def main(self, argv: Sequence[str]) -> int | None:
        """Run it in this process."""
        return import_module(self.module).main(argv)


MODEL = ("--model", "BASE", "--device", "cpu")
SHORT = ("--model", "BASE", "--data", "DATA", "--steps", "2", "--batch-size", "4", "--validation", "2")
COMMANDS = (
    Command(
        "theory/simulate.py",
        ("exact-linear", "--sizes", "40", "80", "--replicates", "2", "--workers", "1", "--out", "OUT"),
        {
            "": NAMES,
            "--replicates": (*COUNTS, "1"),
            "--noise": POSITIVE,
            "--seed": SEEDS,
            "--workers": COUNTS,
            "--out": FOLDERS,
            "--sizes": (*COUNTS, "5", "100"),
            "--truths": COUNTS,
            "--scheduler": ("", " "),
            "--none": NAMES,
        },
        (("--help",), ("--list",), ()),
    ),
    Command(
        "llm/study.py",
        ("--workers", "1", "--out", "OUT"),
        {
            "": NAMES,
            "--workers": COUNTS,
            "--out": FOLDERS,
            "--tables": NAMES,
            "--size": NAMES,
            "--device": (*NAMES, "cuda"),
            "--worlds": ("EMPTY", *FOLDERS),
        },
    ),
    Command(
        "llm/finetune.py",
        ("mini-linear", *SHORT, "--set", "layers=2", "--out", "OUT", "--result", "OUT/result.json"),
        {
            "--method": (*NAMES, "bitfit"),
            "--model": MODELS,
            "--data": ("/no/such.json", "", "FILE", "EMPTY", "./none.json"),
            "--set": SETS,
            "--fraction": SHARES,
            "--validation": ("-1", "9999", "x", "2.5", ""),
            "--learning-rate": POSITIVE,
            "--epochs": COUNTS,
            "--steps": COUNTS,
            "--warmup": ("1", "-0.1", "nan", "inf", "x"),
            "--batch-size": COUNTS,
            "--micro-batch-size": COUNTS,
            "--length": ("0", "1", "9999", "-3", "x"),
            "--precision": NAMES,
            "--evaluate-every": SEEDS,
            "--checkpoint-every": COUNTS,
            "--seed": SEEDS,
            "--out": FOLDERS,
            "--result": ("", "EMPTY", "FILE"),
            "--throughput": POSITIVE,
        },
        (("--help",), ("--list",), (), ("--dry-run", "--throughput", "1")),
    ),
    Command(
        "llm/pretrain.py",
        ("--train", "6", "--validation", "1", "--test", "1", "--asked", "2", "--steps", "1", "--out", "OUT"),
        {
            **{f"--{name}": COUNTS for name in ("train", "validation", "test", "asked", "steps", "batch-size")},
            **{f"--{name}": COUNTS for name in ("hidden", "layers", "heads")},
            "--asked": ("7", *COUNTS),
            "--seed": SEEDS,
            "--learning-rate": POSITIVE[1:],
            "--weight-decay": POSITIVE[1:],
            "--out": FOLDERS,
        },
    ),
    Command(
        "llm/evaluate.py",
        (
            *MODEL,
            "--protocol",
            "paper",
            "--tasks",
            "arc_easy",
            "--data",
            "TASKS",
            "--max-new-tokens",
            "2",
            "--out",
            "OUT",
        ),
        {
            "--model": MODELS,
            "--adapter": MODELS,
            "--tasks": NAMES,
            "--data": ("/no/such", "EMPTY", "FILE", ""),
            "--limit": COUNTS,
            "--decoding": NAMES,
            "--max-new-tokens": COUNTS,
            "--truthfulqa-order": NAMES,
            "--batch-size": COUNTS,
            "--seed": SEEDS,
            "--out": FOLDERS,
            "--device": ("none", "cuda:99", "", "cpu:x"),
            "--precision": NAMES,
            "--protocol": NAMES,
            "--gate-activation": ("tanh", *NAMES),
        },
        (("--help",), ()),
    ),
    Command(
        "llm/generate.py",
        (*MODEL, "--file", "DATA", "--out", "OUT/answers.jsonl", "--max-new-tokens", "2"),
        {
            "--model": MODELS,
            "--adapter": MODELS,
            "--file": ("/no/such.json", "", "EMPTY", "FILE", "DATA/below"),
            "--out": ("", "EMPTY", "FILE", "DATA"),
            "--max-new-tokens": COUNTS,
            "--batch-size": COUNTS,
            "--seed": SEEDS,
            "--decoding": NAMES,
            "--instruction": ("Name a bird.",),
            "--input": ("alone",),
        },
        (("--help",), ()),
    ),
    Command(
        "zeroinit.gates",
        ("ADAPTER", "--out", "OUT"),
        {0: MODELS, "--out": ("", " ", "FILE", "FILE/below", "a\0b"), "--none": NAMES},
        (("--help",), ()),
    ),
    Command(
        "zeroinit.convert",
        ("to-linear", "ADAPTER", "OUT"),
        {
            0: (*NAMES, "from-peft", "from-published"),
            1: MODELS,
            2: ("", " ", "FILE", "FILE/below", "BASE"),
            "--none": NAMES,
        },
        (("--help",), ()),
    ),
    Command(
        "theory.constants",
        ("exact-linear", "--results", "EMPTY", "--out", "OUT/constants.csv"),
        {0: NAMES, "--results": FOLDERS, "--out": ("", " ", "EMPTY", "FILE/below")},
    ),
    Command("theory.cases", (), {"": WORDS, "--none": WORDS, "--out": ("", " ", "a\0b")}),
    Command(
        "theory.dynamics",
        ("--quick", "--workers", "1", "--out", "OUT"),
        {"": WORDS, "--workers": COUNTS, "--out": FOLDERS, "--none": WORDS},
    ),
    Command(
        "theory.heads",
        ("BASE", "--text", "FILE", "--out", "OUT/head.json"),
        {0: MODELS, "--text": ("", "/no/such.txt", "EMPTY"), "--layer": ("99", *SEEDS), "--head": ("99", *SEEDS)},
    ),
    Command(
        "theory.real",
        ("BASE", "--out", "OUT"),
        {0: (*MODELS, "./none", "none at all"), "--out": FOLDERS, "--none": WORDS},
        (("--help",), ()),
    ),
    Command("llm.training.counts", (), {"": WORDS, "--none": WORDS}),
    Command(
        "llm/base.py",
        ("EMPTY", "--out", "OUT"),
        {0: (*MODELS, "none/at/all"), "--file": NAMES, "--out": FOLDERS, "--none": NAMES},
    ),
    Command(
        "llm/study.py --base",
        ("--base", "BASE", "--data", "TASKS", "--workers", "1", "--out", "OUT"),
        {
            **{name: COUNTS for name in ("--workers", "--sample", "--epochs", "--seeds")},
            "--base": (*MODELS, *NAMES),
            "--data": ("", "FILE", "EMPTY", "/no/such"),
            "--device": (*NAMES, "cuda"),
            "--tables": NAMES,
            "--out": FOLDERS,
        },
    ),
    Command("common.seals", ("FILE.json",), {0: ("/no/such.csv", "EMPTY", "", "FILE/below"), "--none": NAMES}),
    Command(
        "figures/draw.py",
        ("--out", "OUT"),
        {"": NAMES, "--results": FOLDERS, "--llm-results": FOLDERS, "--workers": COUNTS, "--out": FOLDERS},
    ),
    Command("figures/report.py", ("--check",), {"": NAMES, "--none": NAMES}),
)
