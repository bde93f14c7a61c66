"""The C module. Each area of the binding keeps its functions together."""

from typing import TypedDict

class Error(Exception):
    """A file, a model or an object is not what the call needs."""

# ---- process (module.c)

class _Config(TypedDict):
    isa: str
    isa_supported: list[str]
    cpu: str
    threads: int
    cpus: int
    compiler: str
    build: str

def get_num_threads() -> int: ...
def set_num_threads(number: int, /) -> None: ...
def config() -> _Config: ...
def _alloc_calls() -> int: ...
def _alloc_live() -> int: ...
def _alloc_fail_at(number: int, /) -> None: ...
def _busy(seconds: float, /) -> None: ...
