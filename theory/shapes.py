"""What grouped-query attention lets a prompt be seen by, counted from dimensions; and the dimensions of models in use.

A layer with k key-value heads of size D_h sees a prompt p of `hidden` numbers only through its keys W_k p and values
W_v p, k D_h numbers each. With weights of full rank

    seen = min(hidden, 2 k D_h),     value free of the key = seen - min(hidden, k D_h),

and the other hidden - seen directions of a prompt change nothing. Where keys are normalised head by head, their k sizes
are not seen either. The published non-linear prompts of a layer are an affine image of 64 numbers, so what is seen of
each is at most 64, and once k D_h >= 64 its key determines its value.
"""

from dataclasses import dataclass

NETWORK = 64  # hidden width of the published non-linear prompts
LENGTH, UNADAPTED = 10, 2  # published: prompts a layer, and layers without prompts
NORMALISED = frozenset(("gemma3", "gemma3_text", "olmo2", "qwen3", "qwen3_moe"))
"""Families (model_type of transformers) whose attention normalises keys."""


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model's attention.

    Attributes
    ----------
    model, family : str
        Name, and model_type of transformers.
    layers, hidden, heads, kv_heads, head_dim : int
    """

    model: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def normalised(self) -> bool:
        """Whether keys are normalised, head by head."""
        return self.family in NORMALISED

    @property
    def values(self) -> int:
        """Numbers of a prompt's value in a layer."""
        return self.kv_heads * self.head_dim

    @property
    def keys(self) -> int:
        """Rank of a prompt's key in the prompt."""
        return min(self.hidden, self.values - self.normalised * self.kv_heads)

    @property
    def linear(self) -> int:
        """Rank of W_k and W_v together: what the projections see, before keys are normalised."""
        return min(self.hidden, 2 * self.values)

    @property
    def seen(self) -> int:
        """Rank of key and value in the prompt."""
        return min(self.hidden, self.values - self.normalised * self.kv_heads + self.values)


# From the config.json of each model on the Hugging Face hub, which says: model_type, num_hidden_layers, hidden_size,
# num_attention_heads, num_key_value_heads, head_dim (or hidden_size / num_attention_heads).
SHAPES = (
    Shape("LLaMA-7B", "llama", 32, 4096, 32, 32, 128),  # huggyllama/llama-7b
    Shape("LLaMA-13B", "llama", 40, 5120, 40, 40, 128),  # huggyllama/llama-13b
    Shape("Llama-2-70B", "llama", 80, 8192, 64, 8, 128),  # meta-llama/Llama-2-70b-hf
    Shape("Llama-3-8B", "llama", 32, 4096, 32, 8, 128),  # meta-llama/Meta-Llama-3-8B; 3.1 alike
    Shape("Llama-3.2-1B", "llama", 16, 2048, 32, 8, 64),  # meta-llama/Llama-3.2-1B
    Shape("Llama-3.2-3B", "llama", 28, 3072, 24, 8, 128),  # meta-llama/Llama-3.2-3B
    Shape("TinyLlama-1.1B", "llama", 22, 2048, 32, 4, 64),  # TinyLlama/TinyLlama-1.1B-Chat-v1.0
    Shape("SmolLM2-135M", "llama", 30, 576, 9, 3, 64),  # HuggingFaceTB/SmolLM2-135M
    Shape("SmolLM2-360M", "llama", 32, 960, 15, 5, 64),  # HuggingFaceTB/SmolLM2-360M
    Shape("SmolLM2-1.7B", "llama", 24, 2048, 32, 32, 64),  # HuggingFaceTB/SmolLM2-1.7B
    Shape("Mistral-7B", "mistral", 32, 4096, 32, 8, 128),  # mistralai/Mistral-7B-v0.1
    Shape("Qwen2.5-0.5B", "qwen2", 24, 896, 14, 2, 64),  # Qwen/Qwen2.5-0.5B
    Shape("Qwen2.5-7B", "qwen2", 28, 3584, 28, 4, 128),  # Qwen/Qwen2.5-7B
    Shape("Qwen3-8B", "qwen3", 36, 4096, 32, 8, 128),  # Qwen/Qwen3-8B
    Shape("Gemma-2-2B", "gemma2", 26, 2304, 8, 4, 256),  # google/gemma-2-2b
    Shape("Gemma-3-1B", "gemma3_text", 26, 1152, 4, 1, 256),  # google/gemma-3-1b-pt
    Shape("Phi-3-mini", "phi3", 32, 3072, 32, 32, 96),  # microsoft/Phi-3-mini-4k-instruct
)


def counted(shape: Shape, ranks: tuple[int, int, int] | None = None) -> dict:
    """Columns of the table that follow from a shape, or from its measured ranks (seen, keys, linear).

    `prompt_numbers` is what the published linear prompts train, `saved` how many of these could be left out: those that
    no projection sees. (The size of a key that is normalised is not seen either, but is no linear part of a prompt.)
    """
    seen, keys, linear = ranks or (shape.seen, shape.keys, shape.linear)
    prompts = LENGTH * max(shape.layers - UNADAPTED, 1)
    return {
        **{name: getattr(shape, name) for name in Shape.__dataclass_fields__},
        "keys_normalised": "yes" if shape.normalised else "no",
        "seen": seen,
        "invisible": shape.hidden - seen,
        "value_numbers": shape.values,
        "value_free_of_key": seen - keys,
        "network_seen": min(NETWORK, seen),
        "network_value_free_of_key": min(NETWORK, seen) - min(NETWORK, keys),
        "prompt_numbers": prompts * shape.hidden,
        "saved": prompts * (shape.hidden - linear),
    }
