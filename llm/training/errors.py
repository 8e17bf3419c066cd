"""What can stop a training; the messages say what to change."""

from common.arguments import CommandError


class TrainingError(CommandError):
    """Training cannot go on."""


class Diverged(TrainingError):
    """A loss, or a trained tensor, is not finite."""
