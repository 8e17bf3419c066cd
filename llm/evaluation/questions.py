"""The text in which the paper's own evaluation asks a question. Nothing heavy is imported here."""

from llm.evaluation.tasks import Item

PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the multiple-choice question{about}.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
QUESTION = "\nQuestion: {question}\n\nOptions:\n\n{options}"
MARKER = "### Response:"


def prompt(item: Item, preface: str = "") -> str:
    """The text that a model answers.

    Parameters
    ----------
    item : Item
        Its subject, if it has one, is named as the data set does, with underscores.
    preface : str
        A sentence before the question. The published code has one for TruthfulQA, which the paper does not mention.
    """
    options = "\n".join(f"- {option}" for option in item.options)
    question = QUESTION.format(question=item.question, options=options)
    about = f" about {item.subject}" if item.subject else ""
    return PROMPT.format(about=about, instruction=f"{preface}\n{question}" if preface else question)
