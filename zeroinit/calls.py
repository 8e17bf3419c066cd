"""Which adapter a forward pass computes with: decided when the pass begins, and handed down with its arguments.

Nothing about a pass is kept on a module, so that several threads may use one model at a time. A choice made by
`activate` or `disabled` holds in its context (`contextvars`: a thread, or a task of asyncio). The thread that attached
the first adapter also decides for every thread that made no choice of its own. A pass takes one choice as a whole:
checkpointed layers that are computed again during backward, by whatever thread, use the one of their forward pass.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from zeroinit.adapter import Adapter

ARGUMENT = "zero_init_call"  # the keyword argument by which a Call goes from the decoder to its attention modules
KEYS = itertools.count()


@dataclass(frozen=True)
class Choice:
    """What a context decided about the adapters of one model; the defaults decide nothing."""

    name: str | None = None
    enabled: bool = True
    masses: "dict[int, Tensor] | None" = None  # where attention notes the prompts' share, for zeroinit.gates


class Call:
    """One forward pass: its adapter (None: the base alone), and prompts that its text has kept so far."""

    def __init__(
        self, adapter: "Adapter | None", kept: "dict[Any, tuple] | None" = None, masses: dict | None = None
    ) -> None:
        self.adapter, self.kept, self.masses = adapter, kept, masses


_NOTHING = Choice()
_choices: "ContextVar[dict[int, Choice]]" = ContextVar("zeroinit", default={})  # noqa: B039  (replaced, never changed)
# Prompt keys and values of the text whose tokens a cache holds: they live as long as the cache does.
_kept: "WeakKeyDictionary[Any, dict]" = WeakKeyDictionary()
_lock = threading.Lock()


class _Thread(threading.local):
    """A number for every thread; the system's own numbers are used again."""

    def __init__(self) -> None:
        self.number = next(KEYS)


_thread = _Thread()


class Switch(nn.ModuleDict):
    """Adapters by name, and who chose which of them.

    `active` is the default name. Compiled code cannot ask which thread it runs in; it watches the two counters, and
    asks outside the graph as soon as a second context has made a choice or something is switched off somewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active, self.home, self.key = "", -1, next(KEYS)
        self.choosers = self.overrides = 0

    def choice(self) -> Choice:
        """What the present context decided."""
        return _choices.get().get(self.key, _NOTHING)

    def current(self) -> str:
        """Name of the adapter that is active in this context."""
        name = self.choice().name or self.active
        if name not in self:
            raise ValueError(
                f"the adapter {name!r} that this thread had activated was deleted; activate one of: {', '.join(self)}"
            )
        return name

    @property
    def active_adapter(self) -> "Adapter":
        """The adapter that is active in this context."""
        return self._adapter(self.current())

    def _adapter(self, name: str) -> "Adapter":
        adapter: Any = self[name]  # a ModuleDict knows its values as modules only
        return adapter

    def choose(self, name: str) -> None:
        """Make `name` the active one in this context, and the default if this is the thread that decides it."""
        mine = self.choice()
        with _lock:
            if self.home < 0:
                self.home = _thread.number
            if self.home == _thread.number:
                self.active = name
            self.choosers += mine.name is None
        _choices.set({**_choices.get(), self.key: replace(mine, name=name)})

    @contextmanager
    def override(self, **changes: Any) -> Iterator[None]:
        """Within this block, in this context, the choice is changed so."""
        before = self.choice()
        with _lock:
            self.overrides += 1
        _choices.set({**_choices.get(), self.key: replace(before, **changes)})
        try:
            yield
        finally:
            back = {name: getattr(before, name) for name in changes}  # an adapter activated meanwhile stays so
            _choices.set({**_choices.get(), self.key: replace(self.choice(), **back)})
            with _lock:
                self.overrides -= 1

    def begin(self, cache: Any = None) -> Call:
        """The call that a forward pass with this cache of keys and values makes."""
        if torch.compiler.is_compiling():
            if self.choosers <= 1 and self.overrides == 0:
                return Call(self._adapter(self.active))
            choice = _outside_the_graph(self)
            return Call(self._adapter(choice.name or self.active) if choice.enabled else None, None, choice.masses)
        choice = self.choice()
        return Call(self.active_adapter if choice.enabled else None, _kept_with(cache), choice.masses)

    def _replicate_for_data_parallel(self) -> Any:
        choice = self.choice()
        if (choice.name or self.active) != self.active or not choice.enabled:
            raise ValueError(
                "torch.nn.DataParallel runs the model in threads of its own, where this thread's choice of adapter "
                "does not hold; call the model itself inside disabled(), or activate in the thread that attached it"
            )
        return super()._replicate_for_data_parallel()

    def __getstate__(self) -> dict:
        # A copy starts with the adapter that is active here as its default, and no choices.
        active = self.current() if len(self) else ""
        return {**self.__dict__, "active": active, "home": -1, "choosers": 0, "overrides": 0}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.key = next(KEYS)


@torch.compiler.disable
def _outside_the_graph(switch: Switch) -> Choice:
    return switch.choice()


def _kept_with(cache: Any) -> dict | None:
    """What is kept for the text of this cache; nothing is when the text begins, or where there is no cache."""
    if cache is None:
        return None
    if cache.get_seq_length() == 0:
        _kept[cache] = kept = {}
        return kept
    return _kept.setdefault(cache, {})
