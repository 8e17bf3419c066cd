"""What the paper publishes, as printed, to be drawn and tabulated beside what is measured here.

Source: "On Zero-Initialized Attention: Optimal Prompt and Gating Factor Estimation", ICML 2025, arXiv 2502.03029. It
gives no seeds and no deviations. Loss curves are read off the figure in the authors' repository.
"""

from dataclasses import dataclass

BENCHMARKS = ("ARC-e", "ARC-c", "MMLU", "HellaSwag", "TruthfulQA")


@dataclass(frozen=True)
class Entry:
    """A line of Table 1 or 2.

    Attributes
    ----------
    size : str
        Of LLaMA.
    method : str
        One of `llm.methods.METHODS`.
    parameters : str
        Trainable ones, as printed.
    scores : tuple of float
        Accuracies on `BENCHMARKS`, per cent.
    arc, average : float
        Means as printed, of which `recomputed` are those of the entries.
    """

    size: str
    method: str
    parameters: str
    scores: tuple[float, ...]
    arc: float
    average: float

    @property
    def recomputed(self) -> tuple[float, float]:
        """Mean of both ARC sets, and of ARC, MMLU, HellaSwag and TruthfulQA."""
        return averages(self.scores)

    @property
    def agrees(self) -> bool:
        """Whether the printed means are those of the entries, or of the printed mean of ARC and the other entries."""
        arc, average = self.recomputed
        averages_of = (average, average + (self.arc - arc) / 4)
        half = 0.005 + 1e-9  # rounded either way at a half
        return abs(self.arc - arc) < half and any(abs(self.average - x) < half for x in averages_of)


def averages(scores: tuple[float, ...]) -> tuple[float, float]:
    """Mean of the two ARC sets, and the mean of this and the other three benchmarks."""
    easy, challenge, *others = scores
    arc = (easy + challenge) / 2
    return arc, (arc + sum(others)) / (1 + len(others))


# Table 1 has the baselines and Table 2 the prompts, of which the 7B rows stand in both.
ACCURACY = (
    Entry("7B", "full", "7B", (67.47, 46.25, 37.25, 77.09, 42.35), 56.86, 53.39),
    Entry("7B", "lora", "4.2M", (61.91, 42.15, 34.87, 77.53, 46.14), 52.03, 52.64),
    Entry("7B", "prompt_tuning", "42K", (55.35, 37.46, 32.85, 75.88, 34.76), 46.41, 47.48),
    Entry("7B", "ia3", "524K", (52.06, 35.92, 31.65, 75.73, 32.8), 43.99, 46.04),
    Entry("7B", "vera", "541K", (49.2, 35.49, 30.88, 75.59, 31.95), 42.35, 45.19),
    Entry("7B", "random_init", "1.2M", (60.65, 40.7, 35.12, 72.62, 37.82), 50.67, 49.06),
    Entry("7B", "linear", "1.2M", (62.29, 43.17, 36.28, 76.79, 45.53), 52.73, 52.83),
    Entry("7B", "nonlinear", "2.6M", (63.51, 45.39, 36.95, 76.67, 45.04), 54.45, 53.28),
    Entry("13B", "random_init", "1.9M", (81.61, 63.91, 48.02, 81.16, 34.52), 72.76, 59.12),
    Entry("13B", "linear", "1.9M", (81.78, 64.33, 49.64, 81.21, 34.88), 73.06, 59.70),
    Entry("13B", "nonlinear", "3.3M", (82.87, 66.55, 51.32, 81.72, 38.92), 74.71, 61.67),
)

# Text on Figures 2 and 3, whose values are in the image only: first arm, second arm, size of LLaMA, fraction of the
# data, and by how many points of ARC accuracy the first is ahead.
GAPS = (
    ("nonlinear", "random_init", "7B", 1.0, 3.77),
    ("linear", "random_init", "7B", 1.0, 2.05),
    ("nonlinear", "random_init", "7B", 0.5, 4.72),
    ("linear", "random_init", "7B", 0.5, 2.16),
    ("nonlinear", "linear", "13B", 0.01, -1.99),
)

# Table 3, on four A100 of 80 GB: size, method, parameters, storage in MB, minutes.
COSTS = (
    ("7B", "linear", "1.2M", 4.4, 114),
    ("7B", "nonlinear", "2.6M", 9.5, 114),
    ("13B", "linear", "1.9M", 6.9, 197),
    ("13B", "nonlinear", "3.3M", 12.0, 197),
)

# Table 4: test items.
TEST_SIZES = {"arc_easy": 2376, "arc_challenge": 1172, "hellaswag": 10042, "mmlu": 14042, "truthfulqa": 817}

# Mean training loss of each of the five epochs, 7B; those of linear prompts are approximate.
LOSS = {
    "nonlinear": (1.186, 1.099, 1.089, 1.086, 1.074),
    "random_init": (4.023, 1.135, 1.106, 1.101, 1.096),
    "linear": (1.243, 1.124, 1.104, 1.093, 1.088),
}


def published_gaps(first: str, second: str, size: str) -> dict[float, float]:
    """Points of ARC accuracy by fraction; as a difference of two gaps to random-init where these are published."""
    every = {(a, b, s, f): points for a, b, s, f, points in GAPS}
    known = {f: points for (a, b, s, f), points in every.items() if (a, b, s) == (first, second, size)}
    for (arm, base, s, f), points in every.items():
        if (arm, base, s) == (first, "random_init", size) and (second, base, s, f) in every:
            known[f] = round(points - every[second, base, s, f], 2)
    return known
