"""What the Python tests share: the real data beside the project, and a folder that is cleaned."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A shell without job control starts what runs behind it deaf to Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; skips where it is absent."""
    root = Path(os.environ.get("DEEPSEEK_DET_DATA", ROOT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root} (set DEEPSEEK_DET_DATA)")
    return root


@pytest.fixture(scope="session")
def models_root(data_root: Path) -> Path:
    """The folder of foreign models beside the data; skips where it is absent."""
    root = data_root.parent / "models"
    if not root.is_dir():
        pytest.skip(f"no models at {root}")
    return root
