"""`farebox completion`: the script by which a shell completes commands, flags, batches and models.

The scripts are click's, but for bash's: it breaks words at the colons of model_refs. Batches and models, which people
cannot remember, are offered without asking the command, whose import takes longer than they can wait for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from farebox_worker.cli import suggest
from farebox_worker.cli.options import common, unread
from farebox_worker.settings import Settings

VARIABLE = "_FAREBOX_COMPLETE"
_HOW = {
    "bash": 'eval "$(farebox completion bash)"          # in ~/.bashrc (bash 4.4 or newer)',
    "zsh": 'eval "$(farebox completion zsh)"           # in ~/.zshrc, after compinit',
    "fish": "farebox completion fish | source            # in ~/.config/fish/config.fish",
}
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_OF_BATCHES = dict.fromkeys(("status", "watch", "results", "cancel"), suggest.batches)
_OF_BATCHES |= dict.fromkeys(("retry", "export"), suggest.batches_or_files)
_OF_LINES: Mapping[str, suggest.Suggest] = dict.fromkeys(("-m", "--model", "--fallback"), suggest.models) | {
    "--provider": suggest.providers
}
SOON: dict[str, Mapping[str, suggest.Suggest]] = {  # by command, what follows a flag, or the command itself
    **{name: {"": offer} for name, offer in _OF_BATCHES.items()},
    **dict.fromkeys(("run", "submit", "estimate"), _OF_LINES),
}


class _Soon(ShellComplete):
    """Offers what SOON names at once, and leaves the rest to the command."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        """Offer what may stand at the cursor."""
        if args and args[0] in SOON and not incomplete.startswith("-"):
            ctx = _place.make_context("", args[1:], resilient_parsing=True)
            last = args[-1] if ctx.args or args[-1].startswith("-") else ""
            if offer := SOON[args[0]].get(last):
                return offer(ctx, _place.params[0], incomplete)
        return super().get_completions(args, incomplete)


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@common
def _place(settings: Settings) -> None:
    """Stand for any command: of its flags, those alone count that say where the bus is."""
    del settings


@add_completion_class
class SoonZsh(_Soon, ZshComplete):
    """Completes in zsh."""


@add_completion_class
class SoonFish(_Soon, FishComplete):
    """Completes in fish."""


@add_completion_class
class ColonBash(_Soon, BashComplete):
    """Completes whole words in bash, which takes a colon for the end of one and replaces what is behind it alone."""

    source_template: ClassVar[str] = _BASH
    _cut = 0

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one at it."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
        self._cut = value.rfind(":") + 1 if ":" in os.environ.get("COMP_BREAKS", "") else 0
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Leave out what stands before the last colon already."""
        return f"{item.type},{item.value[self._cut :]}"


_SHELLS: dict[str, type[ShellComplete]] = {"bash": ColonBash, "fish": SoonFish, "zsh": SoonZsh}


@click.command(epilog="\b\n" + "\n".join(_HOW.values()))
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
@unread("--config", "--data-dir", "--redis")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes Farebox's commands, flags, batches and models.

    To have it always, put the line of your shell into its start-up file:
    """
    script = _SHELLS[shell](ctx.find_root().command, {}, "farebox", VARIABLE)
    click.echo(f"# {_HOW[shell]}")
    click.echo(script.source())
