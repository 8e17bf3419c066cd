"""Batches of real instructions: length-grouped and packed against padding to 512 tokens, in one run.

    python benchmarks/llm_data.py DATA           tokens of an epoch, batch loss, and time of an epoch; minutes
    python benchmarks/llm_data.py DATA --quick   the same in seconds, to try the script: times mean nothing

DATA is a file of Alpaca rows; without it, alpaca/alpaca_random_9k.json in the folder that ZIA_DATA names. A BPE of
32,000 pieces trained on these rows, in the manner of LLaMA's, stands in for LLaMA's tokenizer. Tokens count every
position that the model computes, padding included. All three ways use the same rows, base, adapter and loss (logits
only where there is a label), so that they differ in their batches alone. Times are of shares of an epoch: batches of
the length-grouped epoch, equally spaced in the order of their length, whose rows all ways take in turns. Packing counts
as part of its epoch. Rows go to results/benchmarks/llm_data.csv and .json, with where and when.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_pt_utils import LengthGroupedSampler

from common import tables
from common.arguments import Parser
from common.paths import RESULTS, SCRATCH
from common.records import provenance, write_atomic
from llm.data.alpaca import IGNORED, Example, encode, prompt
from llm.data.batches import Collator, pack
from llm.data.rows import Row, read
from llm.training.loss import response_loss
from zeroinit.config import AdapterConfig
from zeroinit.model import attach

LENGTH, BATCH, PIECES = 512, 16, 32000
WAYS = ("padded to 512", "length-grouped", "packed")
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4}
# Fixed before the first run.
LIMITS = {
    "tokens of an epoch, length-grouped / padded to 512": ("at most", 0.40),
    "tokens of an epoch, packed / padded to 512": ("at most", 0.40),
    "batch loss, length-grouped, largest difference": ("at most", 1e-6),
    "batch loss, packed, largest difference": ("at most", 1e-6),
    "speed-up of an epoch, length-grouped": ("at least", 2.5),
    "speed-up of an epoch, packed": ("at least", 2.5),
}


def train_tokenizer(rows: Sequence[Row]) -> PreTrainedTokenizerFast:
    """A byte-pair encoding in the manner of LLaMA's, trained on these rows."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    blank = "\u2581"
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend(blank), normalizers.Replace(" ", blank)])
    # A piece is of letters or of signs, with blanks before them, or one digit, or one line end.
    pieces = Regex(rf"{blank}*(\p{{L}}+|\p{{N}}|[^\p{{L}}\p{{N}}\n{blank}]+)|\n|{blank}+")
    bpe.pre_tokenizer = pre_tokenizers.Split(pieces, "isolated")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace(blank, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=special, show_progress=False)
    bpe.train_from_iterator((prompt(row["instruction"], row["input"]) + row["output"] for row in rows), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def grouped(examples: list[Example]) -> list[list[Example]]:
    """The batches of an epoch in which transformers groups examples by length."""
    generator = torch.Generator().manual_seed(0)
    lengths = [len(example["input_ids"]) for example in examples]
    order = list(LengthGroupedSampler(BATCH, lengths=lengths, generator=generator))
    return [[examples[index] for index in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]


def share(groups: list[list[Example]], count: int, number: int, of: int) -> list[list[Example]]:
    """Of the batches in order of their length `count` that are equally spaced; disjoint for each number below `of`."""
    ordered = sorted(groups, key=lambda group: max(len(example["input_ids"]) for example in group))
    return [ordered[(of * place + number) * len(groups) // (of * count)] for place in range(count)]


def batches(way: str, groups: list[list[Example]]) -> Iterator[dict[str, torch.Tensor]]:
    """An epoch over the groups' examples; a batch of packed rows holds about as many examples as the others."""
    if way == "packed":
        examples = [example for group in groups for example in group]
        rows = pack(examples, LENGTH)
        size = max(1, round(BATCH * len(rows) / len(examples)))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    collate = Collator(length=LENGTH if way == WAYS[0] else None)
    return map(collate, groups)


def build(dtype: torch.dtype) -> LlamaForCausalLM:
    """A small random Llama with a linear adapter, gates open."""
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE, vocab_size=PIECES), dtype=dtype)
    attach(model, AdapterConfig("linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".gate"):
                parameter.fill_(0.1)
    return model


def losses(groups: list[list[Example]]) -> dict[str, float]:
    """Largest difference of a batch's mean loss from that of all logits of the batch padded to 512, in float64."""
    model = build(torch.float64).eval()
    worst: dict[str, float] = dict.fromkeys(WAYS, 0.0)
    with torch.no_grad():
        for group in groups:
            whole = Collator(length=LENGTH)(group)
            logits = model(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]).logits[:, :-1]
            wanted = F.cross_entropy(logits.flatten(0, 1), whole["labels"][:, 1:].flatten(), ignore_index=IGNORED)
            del logits
            for way in WAYS:
                parts = [response_loss(model, batch) for batch in batches(way, [group])]
                mean = sum(loss for loss, _ in parts) / sum(count for _, count in parts)
                worst[way] = max(worst[way], abs(float(mean - wanted)))
    return worst


def epochs(groups: list[list[Example]], count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way over the same `count` groups, other groups every round, after one batch that is not timed."""
    model = build(torch.float32).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def epoch(way: str, part: list[list[Example]]) -> float:
        start = time.perf_counter()
        for batch in batches(way, part):
            loss, labels = response_loss(model, batch)
            (loss / labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    for way in WAYS:
        epoch(way, groups[:1])
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tqdm(total=rounds * len(WAYS), unit="epoch", disable=not sys.stderr.isatty()) as progress:
        for number in range(rounds):
            part = share(groups, count, number, rounds)
            for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
                seconds[way].append(epoch(way, part))
                progress.update()
    return seconds


def row(what: str, value: float, unit: str, detail: str, spread: tuple[float, float] | None = None) -> dict:
    low, high = spread or (None, None)
    sense, limit = LIMITS.get(what, (None, None))
    met = None if limit is None else bool(value <= limit if sense == "at most" else value >= limit)
    bound = "" if limit is None else f"   {sense} {limit:g}: {'met' if met else 'NOT MET'}"
    print(f"{what:52s} {value:11.5g} {unit:8s}{bound}", flush=True)
    line = {"what": what, "value": value, "low": low, "high": high, "unit": unit, "limit": limit}
    return line | {"sense": sense, "met": met, "detail": detail}


def measure(rows: list[Row], count: int, rounds: int) -> list[dict]:
    tokenizer = train_tokenizer(rows)
    examples, report = encode(rows, tokenizer, LENGTH)
    groups = grouped(examples)
    print(report, flush=True)
    lines = [
        row("mean tokens of an example", report.tokens / report.kept, "tokens", f"{len(tokenizer):,} pieces; {report}")
    ]
    tokens = {way: sum(batch["input_ids"].numel() for batch in batches(way, groups)) for way in WAYS}
    detail = f"{report.kept:,} examples, {BATCH} in a batch (packed: about as many), packed rows of {LENGTH}"
    lines += [row(f"tokens of an epoch, {way}", tokens[way], "tokens", detail) for way in WAYS]
    lines += [
        row(f"tokens of an epoch, {way} / {WAYS[0]}", tokens[way] / tokens[WAYS[0]], "ratio", detail)
        for way in WAYS[1:]
    ]
    few = [group[:4] for group in share(groups, 8, 0, 1)]  # all logits of more rows would fill the memory
    detail = f"mean loss of {len(few)} batches of 4, float64, against all logits of the padded batch"
    lines += [
        row(f"batch loss, {way}, largest difference", worst, "nats", detail) for way, worst in losses(few).items()
    ]
    seconds = epochs(groups, count, rounds)
    detail = (
        f"{rounds} shares of {count * BATCH} rows; Llama {SHAPE['num_hidden_layers']} x {SHAPE['hidden_size']}, linear "
        f"adapter, float32, AdamW, {torch.get_num_threads()} threads"
    )
    for way, times in seconds.items():
        lines.append(row(f"share of an epoch, {way}", sum(times) / rounds, "s", detail, (min(times), max(times))))
    for way in WAYS[1:]:
        each = [a / b for a, b in zip(seconds[WAYS[0]], seconds[way], strict=True)]
        ratio = sum(seconds[WAYS[0]]) / sum(seconds[way])
        lines.append(row(f"speed-up of an epoch, {way}", ratio, "ratio", detail, (min(each), max(each))))
    return lines


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="Alpaca rows (.json, .jsonl or .parquet)")
    parser.add_argument("--batches", type=int, default=8, help="of 16 rows, in a timed share (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="timed shares (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="seconds; written to results/scratch")
    options = parser.parse_args()
    for name in ("batches", "rounds", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(options, name)}")
    if options.data is None and "ZIA_DATA" not in os.environ:
        parser.error("needs a file of Alpaca rows: name it, or the folder of alpaca/alpaca_random_9k.json in ZIA_DATA")
    torch.set_num_threads(options.threads)
    start = {"command": " ".join(["python", *sys.argv]), **provenance(), "load_average": list(os.getloadavg())}
    try:
        rows = read(options.data or Path(os.environ["ZIA_DATA"], "alpaca", "alpaca_random_9k.json"))
        lines = measure(rows, *((1, 1) if options.quick else (options.batches, options.rounds)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    folder = SCRATCH if options.quick else RESULTS / "benchmarks"
    record = {"provenance": start | {"load_average_at_end": list(os.getloadavg())}, "rows": lines}
    write_atomic(folder / "llm_data.json", json.dumps(record, indent=1) + "\n")
    tables.write(folder / "llm_data.csv", lines, list(lines[0]))


if __name__ == "__main__":
    main()
