"""`farebox completion`: click's script, by which a shell completes commands and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_HOW = {
    "bash": 'eval "$(farebox completion bash)"          # in ~/.bashrc (bash 4.4 or newer)',
    "zsh": 'eval "$(farebox completion zsh)"           # in ~/.zshrc, after compinit',
    "fish": "farebox completion fish | source            # in ~/.config/fish/config.fish",
}


@click.command(epilog="\b\n" + "\n".join(_HOW.values()))
@click.argument("shell", type=click.Choice(sorted(_HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes Farebox's commands and flags.

    To have it always, put the line of your shell into its start-up file:
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"no completion for {shell}")
    script = made(ctx.find_root().command, {}, "farebox", "_FAREBOX_COMPLETE")
    click.echo(f"# {_HOW[shell]}")
    click.echo(script.source())
