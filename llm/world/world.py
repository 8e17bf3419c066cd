"""The embedded default: a small generated world, in which every arm of the paper trains in seconds on a CPU.

A world has people, each with five facts. A base model (`llm.world.pretraining`) reads biographies of everybody,
questions in other formats about some of the training people, and other tasks in the Alpaca template. Instruction tuning
then asks, in the Alpaca template, about training people; it is scored on held-out people, of whom the base has read the
biographies only and whom no question, in any format, ever mentions. So what is learnt is to answer in this format, and
not the facts.
"""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from common.checks import whole
from llm.data.alpaca import PROMPT_WITH_INPUT, PROMPT_WITHOUT_INPUT, prompt

SYLLABLES = "ba ko ri mu ta le so ni da po ze vi hu ga fe lo".split()
PARTS = ("train", "validation", "test")
PEOPLE = 60_000  # the first names have two syllables: there are 256 of them
PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


@dataclass(frozen=True)
class Attribute:
    """A kind of fact: its values (towns are made up for each world), wordings of a biography, and questions."""

    values: tuple[str, ...]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


ATTRIBUTES = {
    "birthplace": Attribute(
        (),
        (
            "{name} was born in {value}.",
            "The birthplace of {name} is {value}.",
            "{name} comes from the town of {value}.",
            "Originally, {name} is from {value}.",
        ),
        ("Where was {name} born?", "Name the birthplace of {name}."),
    ),
    "job": Attribute(
        tuple("baker pilot nurse smith clerk judge guard miner singer cook tailor farmer".split()),
        (
            "{name} works as a {value}.",
            "The profession of {name} is {value}.",
            "{name} earns a living as a {value}.",
            "By trade, {name} is a {value}.",
        ),
        ("What is the profession of {name}?", "What does {name} do for a living?"),
    ),
    "pet": Attribute(
        tuple("cat dog rabbit fox hen frog goat crow bat pig".split()),
        (
            "{name} keeps a {value}.",
            "The pet of {name} is a {value}.",
            "{name} owns a {value}.",
            "At home, {name} has a {value}.",
        ),
        ("Which pet does {name} keep?", "Name the animal that {name} owns."),
    ),
    "food": Attribute(
        tuple("rice soup bread fish cake corn beans plums figs nuts".split()),
        (
            "{name} likes to eat {value}.",
            "The favorite dish of {name} is {value}.",
            "{name} often eats {value}.",
            "For lunch, {name} orders {value}.",
        ),
        ("What does {name} like to eat?", "Name the favorite dish of {name}."),
    ),
    "color": Attribute(
        tuple("red blue green black white pink gray gold".split()),
        (
            "{name} always wears {value}.",
            "The favorite color of {name} is {value}.",
            "{name} dresses in {value}.",
            "In clothing, {name} prefers {value}.",
        ),
        ("What color does {name} wear?", "Name the favorite color of {name}."),
    ),
}
# Question formats of pre-training, none of which is the Alpaca template.
FORMATS = (
    "Q: {question} A: {value}.",
    "Someone asked: {question} The reply was {value}.",
    "Quiz! {question} The correct answer is {value}.",
)
# Other tasks in the Alpaca template, so that its words are known to the base.
TASKS = (
    ("Repeat the word {word}.", "", "{word}"),
    ("Name the last of these words.", "{other}, {word}", "{word}"),
    ("Name the first of these words.", "{word}, {other}", "{word}"),
)


@dataclass(frozen=True)
class Question:
    """A question with its answer and the values to choose from."""

    text: str
    answer: str
    choices: tuple[str, ...]

    @property
    def row(self) -> dict[str, str]:
        """As a row of instruction data."""
        return {"instruction": self.text, "input": "", "output": self.answer}


@dataclass(frozen=True)
class World:
    """People, facts and texts; a function of its numbers alone.

    Attributes
    ----------
    seed : int
        Names, facts, and who is held out.
    train, validation, test : int
        People to ask about in instructions, people to choose learning rates with, people to score on.
    asked : int
        The first so many training people appear in questions of other formats in pre-training.

    Raises
    ------
    ValueError
        If a number is no integer or out of range.
    """

    seed: int = 0
    train: int = 200
    validation: int = 40
    test: int = 60
    asked: int = 100

    def __post_init__(self) -> None:
        for name, least in {"seed": 0, "train": 1, "validation": 1, "test": 1, "asked": 1}.items():
            whole(name, getattr(self, name), least)
        if (count := self.train + self.validation + self.test) > PEOPLE:
            raise ValueError(f"train, validation and test must be at most {PEOPLE} people; got {count}")
        if self.asked > self.train:
            raise ValueError(f"asked must be at most train, {self.train}: nobody else is ever asked; got {self.asked}")

    @cached_property
    def attributes(self) -> dict[str, Attribute]:
        """The kinds of facts, with the towns of this world."""
        towns = tuple(self._words(random.Random(f"towns {self.seed}"), 25, 3))
        birthplace = ATTRIBUTES["birthplace"]
        return ATTRIBUTES | {"birthplace": Attribute(towns, birthplace.sentences, birthplace.questions)}

    @cached_property
    def people(self) -> list[str]:
        """Everybody, in the order train, validation, test."""
        rng, count = random.Random(f"people {self.seed}"), self.train + self.validation + self.test
        side = max(40, int(count**0.5) + 1)
        first, last = self._words(rng, side, 2), self._words(rng, side + 20, 4)
        return rng.sample([f"{a} {b}" for a in first for b in last], count)

    @cached_property
    def facts(self) -> dict[str, dict[str, str]]:
        """Value of each attribute of each person."""
        rng = random.Random(f"facts {self.seed}")
        return {p: {k: rng.choice(a.values) for k, a in self.attributes.items()} for p in self.people}

    def questions(self, part: str) -> list[Question]:
        """All questions, each in every wording, about the people of 'train', 'validation' or 'test'."""
        bounds = [0, self.train, self.train + self.validation, len(self.people)]
        k = PARTS.index(part)
        return [
            Question(text.format(name=person), self.facts[person][key], attribute.values)
            for person in self.people[bounds[k] : bounds[k + 1]]
            for key, attribute in self.attributes.items()
            for text in attribute.questions
        ]

    def instructions(self) -> list[dict[str, str]]:
        """The instruction set: rows about training people, one wording of each question, drawn once."""
        rng, rows = random.Random(f"instructions {self.seed}"), [q.row for q in self.questions("train")]
        return [rng.choice(rows[i : i + 2]) for i in range(0, len(rows), 2)]

    def documents(self, seed: int = 0) -> Iterator[str]:
        """Endless pre-training text: 60 % biographies, 25 % questions about `asked` people, 15 % other tasks."""
        rng = random.Random(f"documents {self.seed} {seed}")
        values = sorted({v for a in self.attributes.values() for v in a.values})
        while True:
            kind = rng.random()
            if kind < 0.6:
                yield self._biography(rng.choice(self.people), rng)
            elif kind < 0.85:
                person, key = rng.choice(self.people[: self.asked]), rng.choice(list(self.attributes))
                question = rng.choice(self.attributes[key].questions).format(name=person)
                yield rng.choice(FORMATS).format(question=question, value=self.facts[person][key])
            else:
                instruction, text, output = rng.choice(TASKS)
                words = dict(zip(("word", "other"), rng.sample(values, 2), strict=True))
                yield prompt(instruction.format(**words), text.format(**words)) + " " + output.format(**words)

    def tokenizer(self):
        """Word-level tokenizer of this world, as a fast tokenizer of transformers; adds BOS, as LLaMA's does."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        split = pre_tokenizers.Whitespace()  # words and runs of punctuation
        texts = [PROMPT_WITH_INPUT, PROMPT_WITHOUT_INPUT, *FORMATS, *(" ".join(task) for task in TASKS), *self.people]
        texts += [t for a in self.attributes.values() for t in (*a.values, *a.sentences, *a.questions)]
        # {fields} of templates fall apart into words that no text has; they do no harm and are left out.
        plain = [t for text in texts for t in _without_fields(text)]
        words = sorted({word for text in plain for word, _ in split.pre_tokenize_str(text)})
        vocabulary = {word: i for i, word in enumerate([PAD, BOS, EOS, UNKNOWN, *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = split
        tokenizer.decoder = decoders.WordPiece(
            prefix="<joined>", cleanup=True
        )  # spaces between words, none before a full stop
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN
        )

    def _biography(self, person: str, rng: random.Random) -> str:
        keys = rng.sample(list(self.attributes), len(self.attributes))
        sentences = [rng.choice(self.attributes[k].sentences) for k in keys]
        return " ".join(
            s.format(name=person, value=self.facts[person][k]) for s, k in zip(sentences, keys, strict=True)
        )

    def _words(self, rng: random.Random, count: int, syllables: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            found["".join(rng.choice(SYLLABLES) for _ in range(syllables)).title()] = None
        return list(found)


def _without_fields(template: str) -> list[str]:
    """The pieces of a template between its {fields}."""
    return [literal for literal, *_ in string.Formatter().parse(template)]
