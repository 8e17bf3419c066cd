"""What can be evaluated, and how answers are decoded. Nothing here imports torch."""

from dataclasses import dataclass

from common.checks import number, whole

GENERATED = ("arc_easy", "arc_challenge", "mmlu", "truthfulqa")
SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
PUBLISHED = {
    "harness": ("arc_easy", "arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2"),
    "paper": (*GENERATED, "hellaswag"),
}
TASKS = {"harness": (*PUBLISHED["harness"], *SUPER_GLUE, "nq_open"), "paper": PUBLISHED["paper"]}


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen; temperature 0 is greedy.

    Attributes
    ----------
    temperature, top_p : float
        Of the tokens by falling probability, those are kept before which less than `top_p` lies, as published.
    max_new_tokens : int
        Length at which an answer without an end is cut.
    seed : int
        Of the sampling.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        number("temperature", self.temperature)
        number("top_p", self.top_p, below=1 + 1e-9, strictly=True)
        whole("max_new_tokens", self.max_new_tokens)
        whole("seed", self.seed, 0)


DECODINGS = {"greedy": Decoding(), "published": Decoding(temperature=0.1, top_p=0.75)}
