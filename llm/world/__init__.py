"""The small generated world and the study on it."""
