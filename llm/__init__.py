"""Fine-tuning and evaluation of language models by the methods of the paper, and the study on a small world."""
