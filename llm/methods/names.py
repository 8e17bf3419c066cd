"""Names of the methods that the paper compares. Nothing here imports torch.

linear, nonlinear, nonlinear_shared    zero-initialised prompts (`zeroinit`)
random_init, random_init_nonlinear     prompts in one softmax with the text, without a gate
linear+lora, nonlinear+lora            the same prompts on a base with LoRA, trained together
lora, vera, ia3, prompt_tuning         PEFT
full, bitfit, norms                    tensors of the base: all, its biases, those of its normalisations
"""

from typing import Any

# What `zeroinit.AdapterConfig` is given for the methods of this library.
PROMPTS: dict[str, dict[str, str]] = {
    "linear": {"prompt": "linear"},
    "nonlinear": {"prompt": "nonlinear"},
    "nonlinear_shared": {"prompt": "nonlinear_shared"},
    "random_init": {"prompt": "linear", "attention": "random_init"},
    "random_init_nonlinear": {"prompt": "nonlinear", "attention": "random_init"},
}
COMBINED = {f"{prompt}+lora": prompt for prompt in ("linear", "nonlinear")}
# Name in PEFT, and what the paper chose where PEFT's default is another.
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    "vera": ("VeraConfig", {"r": 128, "target_modules": _ATTENTION}),
    "ia3": ("IA3Config", {"target_modules": _ATTENTION, "feedforward_modules": []}),
    "prompt_tuning": ("PromptTuningConfig", {"num_virtual_tokens": 10}),
}
OWN = ("full", "bitfit", "norms")
METHODS = (*PROMPTS, *COMBINED, *PEFT, *OWN)
PRECISIONS = ("auto", "float32", "bfloat16", "float16")  # a base is loaded in
