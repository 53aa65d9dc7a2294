"""What `pip install farebox` alone gives: no SDK, no arq, a command that says how to get the rest."""

import importlib.util
import subprocess
import sys

import farebox


def test_importing_the_client_imports_no_sdk():
    code = "import farebox, farebox.sync, farebox.batch, farebox.ledger, farebox.connection, sys; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"arq", "openai", "anthropic", "aiohttp", "click", "rich", "genai_prices", "farebox_worker"}


def test_everything_exported_is_there():
    assert [name for name in farebox.__all__ if not hasattr(farebox, name)] == []
    assert sorted(set(farebox.__all__)) == sorted(farebox.__all__)


def test_without_the_worker_the_command_says_how_to_install_it():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name in ('arq', 'click') else find(name, *rest)\n"
        "from farebox.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "farebox[worker]"' in done.stderr
    assert importlib.util.find_spec("farebox.batch")
