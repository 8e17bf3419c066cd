"""Which errors mean that memory, or the disk, does not suffice; libraries have several ways to say so."""

SIGNS = ("out of memory", "can't allocate memory", "not enough memory")
WRITING = ("I/O error", "PytorchStreamWriter", "No space left", "File too large", "file write failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of a GPU's or a machine's allocator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def out_of_disk(error: BaseException) -> bool:
    """Whether an error is that of a library's writer (safetensors', torch's) that could not write a file."""
    ours = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
    return ours and any(sign in str(error) for sign in WRITING)
