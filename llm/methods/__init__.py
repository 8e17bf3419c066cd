"""Which tensors of a model train, how they are saved, and how bases are loaded."""
