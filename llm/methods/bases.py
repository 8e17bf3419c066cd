"""Configurations, tokenizers and weights of bases, read from a folder or the hub; no code of theirs is ever run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaTokenizer
from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

from common.memory import out_of_memory
from common.sources import fetch, why_local
from common.texts import parse_json, read_json, read_text

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TEXTS = ("*.json", "*.model", "*.txt", "*.jinja")
SENTENCEPIECE = "tokenizer.model"
LLAMA_TOKENIZER = ("llama", "mistral", "mixtral")  # families whose SentencePiece models are read as LLaMA's
# Packages of quantisations whose errors in transformers name none.
PACKAGES = {"hqq": "hqq", "torchao": "torchao", "quark": "amd-quark"}


def base_folder(model: str | Path, weights: bool = True) -> Path:
    """The folder of a base on this machine, fetched from the hub if the name is one of there.

    Raises
    ------
    FileNotFoundError
        If a folder or a file in it is missing.
    ConnectionError
        If the hub does not give the model.
    """
    why = why_local(model)
    folder = Path(model).expanduser() if why else fetch(str(model), *TEXTS)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no model folder at {folder} ({why}); give a folder in Hugging Face format, or a hub id "
            "(huggyllama/llama-7b)"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"a model folder must have config.json; {folder} has none")
    if weights:
        for pattern in () if why else WEIGHTS:
            if not _has_weights(folder):
                folder = fetch(str(model), pattern, but="consolidated*")
        if not _has_weights(folder):
            raise FileNotFoundError(
                f"a model folder must have weights ({' or '.join(WEIGHTS)}); {folder} has none; download or save them"
            )
    return folder


def read_config(model: str | Path) -> Any:
    """The configuration of a base; errors as of `base_folder`, and ValueError if it is none of transformers'."""
    folder = base_folder(model, weights=False)
    path = folder / "config.json"
    found = parse_json(read_text(path, "the configuration of a model"), path, finite=False)  # some have infinities
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be the configuration of a model, a JSON object; it is a {type(found).__name__}")
    if name := _kernel(found):
        raise ValueError(_code(model, f"{name} in config.json names a kernel on the hub"))
    with _in_words(model):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a base; errors as of `read_config`.

    A LLaMA folder with `tokenizer.model` and no `tokenizer.json`, as LLaMA-1 was published, has LlamaTokenizer, and
    texts begin with <s>, as in training, unless tokenizer_config.json says otherwise.
    """
    folder = base_folder(model, weights=False)
    kind: Any = AutoTokenizer
    options: dict[str, Any] = {"trust_remote_code": False}
    pieces = (folder / SENTENCEPIECE).is_file() and not (folder / "tokenizer.json").is_file()
    if pieces:
        _check_packages(folder / SENTENCEPIECE)
    if pieces and read_config(model).model_type in LLAMA_TOKENIZER:
        path = folder / "tokenizer_config.json"
        known = read_json(path, "settings of a tokenizer") if path.is_file() else {}
        # AutoTokenizer would leave out the space before the first word, and <s>.
        kind, options = LlamaTokenizer, {} if "add_bos_token" in known else {"add_bos_token": True}
    with _in_words(model):
        try:
            return kind.from_pretrained(folder, **options)
        except ValueError as error:
            if pieces:
                raise ValueError(f"its {SENTENCEPIECE} is damaged, or no SentencePiece model ({error})") from error
            if "backend tokenizer" in str(error):
                raise ValueError(f"it has no tokenizer (tokenizer.json or {SENTENCEPIECE})") from error
            raise


def read_model(model: str | Path, dtype: Any = "auto", **options: Any) -> Any:
    """A base with all its weights; errors as of `read_config`, and ValueError if weights are missing or do not fit."""
    folder = base_folder(model)
    config = read_config(model)
    settings = {"config": config, "generation_config": _ends(folder, config), "dtype": dtype} | options
    with _in_words(model, getattr(config, "quantization_config", None)):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, output_loading_info=True, **settings
        )
    base, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights of {model} must be complete; {len(missing)} tensors are missing, {missing[0]} for one; "
            "download or save the model again"
        )
    return base


def _has_weights(folder: Path) -> bool:
    return any(path for pattern in WEIGHTS for path in folder.glob(pattern))


def _ends(folder: Path, config: Any) -> GenerationConfig:
    """Tokens of the model's generation_config.json, whose other settings count for nothing here and can be wrong."""
    path, names = folder / "generation_config.json", ("bos_token_id", "eos_token_id", "pad_token_id")
    own = config.get_text_config()
    found = read_json(path, "settings of generation") if path.is_file() else {n: getattr(own, n, None) for n in names}
    tokens = {name: found[name] for name in names if found.get(name) is not None}
    for name, value in tokens.items():
        every = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in every):
            raise ValueError(f"{name} in {path} must be the id of a token; got {value!r}")
    return GenerationConfig(**tokens)


def _check_packages(path: Path) -> None:
    """What transformers reads a SentencePiece model with; without it, it asks for another package."""
    needed = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    if missing := [name for name, there in needed.items() if not there]:
        raise ValueError(f"{path} needs a package that is not installed: pip install {' '.join(missing)}")


def _kernel(value: Any, name: str = "") -> str | None:
    """The first setting of an implementation that is a name on the hub."""
    if isinstance(value, dict):
        return next((found for key, one in value.items() if (found := _kernel(one, key))), None)
    return name if name.endswith("_implementation") and isinstance(value, str) and "/" in value else None


def _code(model: str | Path, what: str) -> str:
    return (
        f"{model} brings code of its own ({what}), which is never run here, as it could do anything on this machine; "
        "use a model whose class is part of transformers"
    )


@contextmanager
def _in_words(model: str | Path, quantisation: Any = None) -> Iterator[None]:
    """What transformers raises for files that are no such model, in one line; it was seen to raise nearly anything."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{model} needs a package that is not installed: {_package(error, quantisation)}") from error
    except OSError as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"{model} must hold a model and its tokenizer: {reason}") from error
    except Exception as error:  # of damaged files, whatever its class, as the docstring says
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            raise ValueError(_code(model, "auto_map")) from error
        raise ValueError(f"{model} does not load as a causal language model: {reason}") from error


def _package(error: ImportError, quantisation: Any) -> str:
    reason = " ".join(str(error).split())
    if re.search(r"pip install", reason):
        return reason
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    name = PACKAGES.get(str(method), error.name)
    return f"{reason}; pip install {name}" if name else reason
