"""`farebox init`: a commented farebox.toml from what is found here, and the next command."""

from __future__ import annotations

import os
from pathlib import Path

import click

from farebox.errors import InputError
from farebox_worker.cli.options import say, unread
from farebox_worker.configuration import load
from farebox_worker.starter import Found, look_around, starter_text

NAME = "farebox.toml"
_TO_TRY = {"openai": "openai:gpt-5-mini", "anthropic": "anthropic:claude-haiku-4-5"}


@click.command()
@click.option("--print", "prints", is_flag=True, help="Write it to stdout instead of a file.")
@click.option("--config", "path", type=click.Path(path_type=Path), default=NAME, help="The file to write.")
@unread("--data-dir", "--redis")
def init(prints: bool, path: Path) -> None:
    """Write a commented farebox.toml here, from the keys in the environment and the model servers on this machine.

    It never replaces a file, and writes no key into it. Nothing needs this file: it is there to be changed.

    \b
    farebox init
    farebox init --print > elsewhere.toml
    """
    found = look_around(os.environ)
    if prints:
        click.echo(starter_text(found), nl=False)
        return
    path = path.absolute()
    above = next((one for folder in path.parent.parents if (one := folder / NAME).is_file()), None)
    text = starter_text(found)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} exists, and is left as it is. `farebox init --print` shows a new one.") from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    load(path)
    say(f"wrote {path}")
    if above:
        say(f"In this folder and below it goes before {above}, of which nothing is read here any more.")
    for line in _seen(found):
        say(line)


def _seen(found: Found) -> list[str]:
    """Say what was found, and what to do next."""
    said = [f"{vendor.variable} is set: provider {vendor.provider_id}" for vendor in found.vendors]
    said += [f"{name} answers on this machine, with {len(models)} models" for name, models in found.local.items()]
    if not said:
        said = ["no provider's key is in the environment: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or try it offline"]
    model, budget = _model(found)
    ask = f"  farebox run prompts.jsonl -m {model}{budget}"
    if (Path.cwd() / "prompts.jsonl").exists():  # what is there is not to be written over
        return [*said, "Next, ask; it costs no more than you say:", ask]
    return [
        *said,
        "Next, put prompts into a file, and ask; it costs no more than you say:",
        """  echo '{"prompt": "Is 91 a prime number? One word."}' > prompts.jsonl""",
        ask,
    ]


def _model(found: Found) -> tuple[str, str]:
    """A model to begin with, and the flag that bounds its cost."""
    for vendor in found.vendors:
        if vendor.provider_id in _TO_TRY:
            return _TO_TRY[vendor.provider_id], " --budget 1"
    for name, models in found.local.items():
        if models:
            return f"{name}:{models[0]}", ""
    if found.vendors:
        return f"{found.vendors[0].provider_id}:MODEL", " --budget 1     (`farebox models` lists them)"
    return "echo:echo", " --budget 1"
