"""Zero-initialised attention against PEFT's AdaptionPrompt and against the base model, in one run.

    python benchmarks/llm_attention.py               CPU: two small Llamas, all layers adapted; FLOPs of a 7B-size layer
    python benchmarks/llm_attention.py --quick       the same in seconds, to try the script: numbers mean nothing
    python benchmarks/llm_attention.py --device cuda LLaMA-7B shape, random bfloat16 weights (chosen by itself on a GPU)

Times are medians over pairs that alternate between the two sides, so that drift and other work on the machine hit both;
a ratio is the median of the pairs' ratios. Peak memory is the growth of a fresh process over its built model (CPU), or
the allocator's own peak (CUDA). Rows go to results/benchmarks/llm_attention.csv and .json, with where and when.
"""

import json
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import peft
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from common import tables
from common.arguments import Parser
from common.paths import RESULTS, SCRATCH
from common.records import provenance, write_atomic
from llm.methods.names import PROMPTS
from zeroinit.config import AdapterConfig
from zeroinit.families import attention_modules
from zeroinit.model import attach

LENGTH = 10  # prompts per layer
SHAPES = {
    "8x512": {"num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1376},
    "4x1024": {"num_hidden_layers": 4, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 2752},
    "quick": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 172},
    "7B": {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 11008},
}
# Fixed before the first run: a measured value is at most this.
LIMITS = {
    "training step, zero_init / PEFT": 0.92,
    "training step, random_init / zero_init": 1.15,
    "peak memory of training, zero_init / PEFT": 1.0,
    "forward FLOPs of a 7B layer, zero_init / base": 1.01,
    "decoding step, zero_init / base": 1.05,
}


def build(shape: str, kind: str, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """A random Llama with every layer adapted: kind 'base', 'peft', or a prompt kind of ours."""
    config = LlamaConfig(**SHAPES[shape], vocab_size=32000 if shape == "7B" else 2000, max_position_embeddings=2048)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=dtype).eval()
    if kind == "peft":
        depth = config.num_hidden_layers
        options = peft.AdaptionPromptConfig(adapter_len=LENGTH, adapter_layers=depth, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, options)
    elif kind != "base":
        attach(model, AdapterConfig(**PROMPTS[kind], prompt_length=LENGTH, layers=config.num_hidden_layers))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("zero_init_adapters.default.gate", "adaption_gate")):
                parameter.fill_(0.1)
    return model


def training_step(model, batch: int, length: int) -> Callable[[], None]:
    """One step of AdamW on fixed random tokens."""
    device = next(model.parameters()).device
    vocabulary = 2000 if next(model.parameters()).shape[0] == 2000 else 32000
    ids = torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1)).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def generation(model, count: int) -> Callable[[], None]:
    """Greedy generation of `count` tokens from eight, batch 1, dynamic cache."""
    device = next(model.parameters()).device
    ids = torch.arange(3, 11, device=device)[None]
    model.eval()

    def run() -> None:
        with torch.no_grad():
            options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)

    return run


def alternate(sides: dict[str, Callable[[], None]], pairs: int) -> dict[str, list[float]]:
    """Seconds of each side, `pairs` times in turns, after two runs of each that do not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(pairs + 2):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if number > 1:
                times[name].append(time.perf_counter() - start)
    return times


def row(what: str, shape: str, value: float, unit: str, detail: str, spread: tuple[float, float] | None = None) -> dict:
    low, high = spread or (None, None)
    limit = LIMITS.get(what)
    met = None if limit is None else bool(value <= limit)
    line = {"what": what, "shape": shape, "value": value, "low": low, "high": high, "unit": unit}
    line |= {"limit": limit, "met": met, "detail": detail}
    print(f"{what:48s} {shape:8s} {value:10.4g} {unit:8s}" + ("" if limit is None else f" limit {limit}: {met}"))
    return line


def compare(what: str, shape: str, times: dict[str, list[float]], per: int, detail: str) -> list[dict]:
    """Median time of both sides, and the median and quartiles of the ratio first / second."""
    (one, first), (other, second) = times.items()
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    rows = [
        row(f"{what}, {name}", shape, 1e3 * statistics.median(t) / per, "ms", detail)
        for name, t in times.items()
    ]  # fmt: skip
    return [*rows, row(f"{what}, {one} / {other}", shape, statistics.median(ratios), "ratio", detail, (low, high))]


def _peak(shape: str, kind: str, batch: int, length: int, out) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    step = training_step(build(shape, kind), batch, length)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew: importing needed more than building
    for _ in range(3):
        step()
    out.put(_memory("VmHWM") - before)


def _memory(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its peak (Linux)."""
    line = next(line for line in _lines("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_memory(shape: str, kind: str, batch: int, length: int) -> float:
    """MiB by which three training steps raise the peak of a fresh process."""
    # Let the allocator return every large block at once, so that the resident size is what is in use.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000", "MALLOC_TRIM_THRESHOLD_": "65536"}
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=_peak, args=(shape, kind, batch, length, out))
    process.start()
    value = out.get()
    process.join()
    return value


def flops(kind: str, length: int = 512) -> int:
    """Forward FLOPs of one 7B-size decoder layer over `length` tokens, on the meta device."""
    model = build_one_layer(kind)
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model(input_ids=ids) if kind != "peft" else model.base_model.model.model(input_ids=ids)
    return counter.get_total_flops()


def build_one_layer(kind: str):
    SHAPES["7B layer"] = SHAPES["7B"] | {"num_hidden_layers": 1}
    return build("7B layer", kind, "meta")


def on_cpu(quick: bool, pairs: int) -> list[dict]:
    torch.set_num_threads(1)
    batch, length, tokens = (2, 16, 4) if quick else (4, 128, 24)
    base = flops("base")
    detail = "torch's flop counter, 1 x 512 tokens, 10 prompts"
    rows = [
        row(f"forward FLOPs of a 7B layer, {name} / base", "7B layer", flops(kind) / base, "ratio", detail)
        for name, kind in (("zero_init", "linear"), ("random_init", "random_init"), ("PEFT", "peft"))
    ]
    for shape in ("quick",) if quick else ("8x512", "4x1024"):
        detail = f"batch {batch} x {length} tokens, float32, all layers, {pairs} pairs, 1 thread"
        steps = {k: training_step(build(shape, k), batch, length) for k in ("linear", "peft", "random_init")}
        for name, kind, other, other_kind in (
            ("zero_init", "linear", "PEFT", "peft"),
            ("random_init", "random_init", "zero_init", "linear"),
        ):
            times = alternate({name: steps[kind], other: steps[other_kind]}, pairs)
            rows += compare("training step", shape, times, 1, detail)
        peaks = {
            k: statistics.median(peak_memory(shape, k, batch, length) for _ in range(3)) for k in ("linear", "peft")
        }
        detail = f"growth over the built model in a fresh process, median of 3, batch {batch} x {length}"
        rows += [row(f"peak memory of training, {k}", shape, v, "MiB", detail) for k, v in peaks.items()]
        ratio = peaks["linear"] / max(peaks["peft"], 1e-9)
        rows.append(row("peak memory of training, zero_init / PEFT", shape, ratio, "ratio", detail))
        detail = f"generate, {tokens} tokens, batch 1, dynamic cache, {pairs} pairs, 1 thread"
        plain = generation(build(shape, "base"), tokens)
        for name, kind in (("zero_init", "linear"), ("random_init", "random_init"), ("nonlinear", "nonlinear")):
            times = alternate({name: generation(build(shape, kind), tokens), "base": plain}, pairs)
            rows += compare("decoding step", shape, times, tokens, detail)
        model = build(shape, "linear")
        uncached = generation(model, tokens)

        def without_keeping(model=model, uncached=uncached) -> None:
            for _, module in attention_modules(model):  # a training mode of its own makes the module keep nothing
                module.training = True
            uncached()

        times = alternate({"zero_init, nothing kept": without_keeping, "base": plain}, pairs)
        rows += compare("decoding step", shape, times, tokens, detail)
    return rows


def on_cuda(pairs: int, batch: int, length: int, peak_tflops: float | None) -> list[dict]:
    """LLaMA-7B shape: one side at a time, two models of 13.5 GB do not always fit."""
    rows, detail = [], f"batch {batch} x {length} tokens, bfloat16 base, all layers, median of {pairs} steps"
    seconds = {}
    for name, kind in (
        ("zero_init", "linear"),
        ("random_init", "random_init"),
        ("nonlinear", "nonlinear"),
        ("PEFT", "peft"),
    ):
        model = build("7B", kind, "cuda", torch.bfloat16)
        step = training_step(model, batch, length)
        step()
        torch.cuda.reset_peak_memory_stats()
        with FlopCounterMode(display=False) as counter:
            step()
        seconds[name] = statistics.median(alternate({name: step}, pairs)[name])
        rows.append(row(f"training step, {name}", "7B", 1e3 * seconds[name], "ms", detail))
        rows.append(row(f"tokens per second, {name}", "7B", batch * length / seconds[name], "1/s", detail))
        rows.append(row(f"peak memory, {name}", "7B", torch.cuda.max_memory_allocated() / 2**30, "GiB", detail))
        achieved = counter.get_total_flops() / seconds[name] / 1e12
        rows.append(row(f"arithmetic rate, {name}", "7B", achieved, "TFLOP/s", detail))
        if peak_tflops:
            rows.append(
                row(f"share of the peak, {name}", "7B", achieved / peak_tflops, "ratio", f"{peak_tflops} TFLOP/s")
            )
        del model, step
        torch.cuda.empty_cache()
    rows += [
        row(f"training step, {one} / {other}", "7B", seconds[one] / seconds[other], "ratio", detail)
        for one, other in (("zero_init", "PEFT"), ("random_init", "zero_init"))
    ]
    return rows


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="seconds; written to results/scratch")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="CUDA only")
    parser.add_argument("--length", type=int, default=512, help="CUDA only")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's dense bfloat16 peak, for the share of it")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
    start = {"command": " ".join(["python", *sys.argv]), **provenance(), "load_average": list(os.getloadavg())}
    if options.device == "cuda":
        start["gpu"] = torch.cuda.get_device_name()
    pairs = 3 if options.quick else options.pairs
    if options.device == "cuda":
        rows = on_cuda(pairs, options.batch, options.length, options.peak_tflops)
    else:
        rows = on_cpu(options.quick, pairs)
    folder = SCRATCH if options.quick else RESULTS / "benchmarks"
    record = {"provenance": start | {"load_average_at_end": list(os.getloadavg())}, "rows": rows}
    write_atomic(folder / f"llm_attention_{options.device}.json", json.dumps(record, indent=1) + "\n")
    tables.write(folder / f"llm_attention_{options.device}.csv", rows, list(rows[0]))


if __name__ == "__main__":
    main()
