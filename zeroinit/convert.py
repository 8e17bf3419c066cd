"""Adapter files of other projects, and non-linear adapters as linear ones.

    published   one .pth of llama-adaptor-nonlinear: adapter_query.weight, hyperAdapter.*, layers.N.attention.gate
    PEFT        an AdaptionPrompt folder: ...layers.N.self_attn.adaption_gate (one number), .adaption_prompt

    python -m zeroinit.convert --help        the same from the command line

Prompts live in the hidden space, so no rotary permutation is needed; a vector gate meets queries and is permuted.
Whatever cannot be carried over exactly is refused, with the reason.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zeroinit import files
from zeroinit.adapter import Adapter, BaseShape
from zeroinit.command import Parser, path
from zeroinit.config import ACTIVATIONS, GATE_ACTIVATIONS, AdapterConfig, shown
from zeroinit.published import from_published, to_published

_OLD_PEFT_NAME = "adapter_model.bin"
_PEFT = "base_model.model.model.layers.{}.self_attn.adaption_{}"
EXAMPLES = """examples:
  python -m zeroinit.convert from-published adapter.pth my-adapter --layers 30
  python -m zeroinit.convert to-published my-adapter adapter.pth
  python -m zeroinit.convert from-peft peft-folder my-adapter --model models/llama-7b
  python -m zeroinit.convert to-peft my-adapter peft-folder
  python -m zeroinit.convert to-linear my-adapter linear-adapter
"""


def nonlinear_to_linear(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Write the adapter of folder `source` with its prompts computed once: a linear one with identical output."""
    config, shape, state = files.read(source)
    if config.prompt not in ("nonlinear", "nonlinear_shared"):
        raise ValueError(
            f"prompt must be nonlinear or nonlinear_shared; {source} has {config.prompt!r}, linear already"
        )
    linear = replace(config, prompt="linear", initial_scale=None)
    prompts = {"prompts.weight": _prompts(config, shape, state), "gate": state["gate"]}
    files.write(target, linear, shape, prompts)


def from_peft(
    source: str | os.PathLike, folder: str | os.PathLike, model: nn.Module, gate_activation: str = "identity"
) -> None:
    """Write a PEFT AdaptionPrompt folder as ours: its one number per layer becomes the gate of every head.

    Parameters
    ----------
    model : transformers model
        The base, for the number of heads and layers, which PEFT's files do not record.
    gate_activation : {'identity', 'tanh'}
        PEFT multiplies by the number itself: identity is exact for every gate, tanh only below 1.

    Raises
    ------
    ValueError
        If the folder is not of that method, does not fit the model, or a gate of 1 or more is wanted as a tanh.
    """
    source, shape = Path(source), BaseShape.of(model)
    kind = files.read_json(source / files.CONFIG_NAME).get("peft_type")
    if kind != "ADAPTION_PROMPT":
        raise ValueError(f"peft_type must be ADAPTION_PROMPT; {source} has {shown(kind)}")
    safe = (source / files.WEIGHTS_NAME).exists()  # PEFT before 0.7 wrote the other one
    state = files.read_tensors(source / files.WEIGHTS_NAME) if safe else files.read_pickled(source / _OLD_PEFT_NAME)
    layers = sum(str(key).endswith(".adaption_gate") for key in state)
    adapted = range(shape.num_hidden_layers - layers, shape.num_hidden_layers)
    wanted = {_PEFT.format(n, part) for n in adapted for part in ("gate", "prompt")}
    if set(state) != wanted or layers == 0:
        raise ValueError(
            f"{source} must adapt the last layers of a base with {shape.num_hidden_layers}, so have the keys "
            f"{_PEFT.format('N', 'gate')} and ...prompt for N = {list(adapted)}; it has "
            f"{shown(sorted(map(str, state)), 300)}"
        )
    for part, dimensions in (("gate", 1), ("prompt", 3)):
        found = [state[_PEFT.format(n, part)] for n in adapted]
        good = all(isinstance(t, Tensor) and t.is_floating_point() and t.ndim == dimensions for t in found)
        if not good or len({t.shape for t in found}) > 1 or len(found[0]) != 1:
            raise ValueError(
                f"every {part} in {source} must be a tensor of numbers, 1 first, of one shape in all layers"
            )
    prompts = torch.cat([state[_PEFT.format(n, "prompt")] for n in adapted]).float()
    gates = torch.cat([state[_PEFT.format(n, "gate")] for n in adapted]).float()
    files.check_finite({"gates": gates, "prompts": prompts}, source)
    if prompts.shape[2] != shape.hidden_size:
        raise ValueError(f"prompts must have the model's hidden size, {shape.hidden_size}; got {prompts.shape[2]}")
    if gate_activation == "tanh":
        if (gates.abs() >= 1).any():
            raise ValueError(
                f"no tanh(g) equals a gate of 1 or more; {source} has {gates.tolist()}; use gate_activation='identity'"
            )
        gates = torch.atanh(gates.double()).float()
    config = AdapterConfig("linear", prompt_length=prompts.shape[1], layers=layers, gate_activation=gate_activation)
    state = {"prompts.weight": prompts, "gate": gates[:, None].repeat(1, shape.num_attention_heads)}
    files.write(folder, config, shape, state)


def to_peft(folder: str | os.PathLike, target: str | os.PathLike) -> None:
    """Write the adapter of `folder` as a PEFT AdaptionPrompt folder; non-linear prompts are computed once.

    Raises
    ------
    ValueError
        If PEFT could not compute the same: random_init, an input-dependent gate, gates that differ between the heads
        of a layer, a base with decoupled head_dim.
    """
    config, shape, state = files.read(folder)
    reasons = {
        "it has no joint softmax, which random_init needs": config.joint,
        "its gate does not depend on the input": config.gate == "adapt",
        "it takes heads x head_dim for the hidden size": shape.head_dim * shape.num_attention_heads
        != shape.hidden_size,
    }
    if any(reasons.values()):
        raise ValueError("PEFT cannot hold this adapter: " + "; ".join(r for r, holds in reasons.items() if holds))
    if (state["gate"] != state["gate"][:, :1]).any():
        raise ValueError("PEFT has one gate per layer, and the heads of this adapter differ in theirs")
    gates = state["gate"][:, :1]
    if config.gate_activation == "tanh":
        gates = torch.tanh(gates)
    prompts, layers = _prompts(config, shape, state), config.adapted_layers(shape.num_hidden_layers)
    theirs = {}
    for row, n in enumerate(range(shape.num_hidden_layers - layers, shape.num_hidden_layers)):
        theirs[_PEFT.format(n, "prompt")], theirs[_PEFT.format(n, "gate")] = prompts[row][None], gates[row]
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    with files.whole(target / files.WEIGHTS_NAME) as unfinished:
        save_file({key: t.contiguous().clone() for key, t in theirs.items()}, unfinished, {"format": "pt"})
    text = {"peft_type": "ADAPTION_PROMPT", "task_type": "CAUSAL_LM", "target_modules": "self_attn",
            "adapter_len": config.prompt_length, "adapter_layers": layers, "inference_mode": True}  # fmt: skip
    with files.whole(target / files.CONFIG_NAME) as unfinished:
        unfinished.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _prompts(config: AdapterConfig, shape: BaseShape, state: dict[str, Tensor]) -> Tensor:
    """The prompts of all adapted layers, (K, L, hidden_size)."""
    adapter = Adapter(config, shape)
    adapter.load_state_dict(state)
    return torch.stack([adapter.prompts_of(layer) for layer in range(adapter.first, shape.num_hidden_layers)])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: one conversion."""
    parser = Parser(
        prog="python -m zeroinit.convert",
        description="Carry adapters over from other projects, and to them.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="CONVERSION")
    for name, words in {
        "from-published": "a .pth of llama-adaptor-nonlinear to an adapter folder",
        "to-published": "an adapter folder to such a .pth",
        "from-peft": "a folder of PEFT's AdaptionPrompt to an adapter folder",
        "to-peft": "an adapter folder to one of PEFT's AdaptionPrompt",
        "to-linear": "an adapter folder with non-linear prompts to one with linear prompts and equal output",
    }.items():
        command = commands.add_parser(name, help=words, description=f"Convert {words}.")
        command.add_argument("source", type=path)
        command.add_argument("target", type=path)
        if name == "from-published":
            command.add_argument("--prompt-length", type=int, default=10, metavar="L", help="--adapter_len there (10)")
            command.add_argument("--layers", type=int, metavar="K", help="--adapter_layer there (all but two)")
            command.add_argument("--random-init", action="store_true", help="trained with --random_init")
            command.add_argument("--activation", choices=ACTIVATIONS, default="relu", help="--hid_acti_func (relu)")
        if name == "from-peft":
            command.add_argument("--model", required=True, metavar="PATH", help="the base: a folder or a hub id")
            command.add_argument("--gate-activation", choices=GATE_ACTIVATIONS, default="identity", help="(identity)")
    options = vars(parser.parse_args(argv))
    command, source, target = (options.pop(name) for name in ("command", "source", "target"))
    try:
        if command == "from-peft":
            options["model"] = _shell(options["model"])
        convert = {
            "from-published": from_published,
            "to-published": to_published,
            "from-peft": from_peft,
            "to-peft": to_peft,
            "to-linear": nonlinear_to_linear,
        }[command]
        convert(source, target, **options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(target)
    return 0


def _shell(name: str) -> nn.Module:
    """A model without weights: its configuration is all that a conversion reads."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name, trust_remote_code=False))


if __name__ == "__main__":
    sys.exit(main())
