"""What `pip install farebox` alone gives: no SDK, no arq, a command that says how to get the rest."""

import copy
import importlib.util
import pickle
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("hand_on", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        farebox.InputError("wrong"),
        farebox.JobConflictError(["a", "b"]),
        farebox.CostLimitExceededError(1.0, 2.0),
        farebox.ProviderRateLimitError("openai", retry_after=5.0, status_code=429),
        farebox.ModelNotFoundError("a:b", ["a:c"]),
        farebox.UntranslatableError("anthropic", ["seed"]),
    ],
)
def test_an_error_is_handed_on_by_task_queues_and_process_pools_as_it_is(error, hand_on):
    same = hand_on(error)
    assert type(same) is type(error)
    assert (str(same), vars(same)) == (str(error), vars(error))


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
