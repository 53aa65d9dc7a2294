"""The command `farebox simulate`: one flag for each field of `Options`, so the two cannot drift apart."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from farebox_worker.simulate.options import Options
from farebox_worker.simulate.serving import serve

HELP = {
    "host": "Address to listen on.",
    "port": "Port to listen on; 0 takes a free one.",
    "models": "A model to offer, repeatable; '*' accepts any name.",
    "latency_ms": "Milliseconds until an answer.",
    "latency_jitter_ms": "How far the latency swings, up and down, evenly.",
    "output_tokens": "Range of output tokens, LOW-HIGH; the request's cap cuts it.",
    "input_usd_per_mtok": "Price of a million input tokens, in dollars.",
    "output_usd_per_mtok": "Price of a million output tokens, in dollars.",
    "cost_usd": "Price of every billed call, in dollars, instead of prices by token.",
    "rpm": "Requests per minute; 0, the default, is no limit.",
    "tpm": "Tokens per minute, output counted by the cap; 0, the default, is no limit.",
    "concurrency": "Calls in flight; 0, the default, is no limit.",
    "retry_after_s": "Seconds that a 429 of --share-429 or --concurrency says in retry-after.",
    "share_429": "Share of requests answered 429, not billed.",
    "share_500": "Share of requests answered 500, not billed.",
    "share_overloaded": "Share of requests answered 503 (OpenAI) or 529 (Anthropic), not billed.",
    "share_dropped": "Share of calls billed, then disconnected without an answer.",
    "share_hung": "Share of calls billed, then never answered.",
    "share_malformed": "Share of calls billed, then answered with half a body.",
    "share_refused": "Share of calls the model refuses, billed.",
    "share_filtered": "Share of calls cut by a content filter, billed.",
    "share_tool_call": "Share of calls with tools that call the first one, billed.",
    "share_flex_full": "Share of flex requests answered 429 resource_unavailable, not billed.",
    "share_flex_default": "Share of flex requests served at the default tier, at its price.",
    "seed": "Same seed, same requests: same answers and fates.",
    "api_key": "The only API key to accept; any is without it.",
    "account_empty_after_usd": "Refuse as an empty account once so many dollars are billed.",
    "journal": "Write each billed call to this file before answering; rebuild the bill from it at start.",
}
_PORT = 8900
_UNITS = {
    "share_": "SHARE",
    "_ms": "MS",
    "_usd": "USD",
    "_usd_per_mtok": "USD",
    "_s": "S",
    **dict.fromkeys(("port", "rpm", "tpm", "concurrency", "seed"), "N"),
    "host": "ADDRESS",
    "api_key": "KEY",
}


class _Range(click.ParamType[tuple[int, int]]):
    """`20-200`, or `50` for exactly fifty."""

    name = "low-high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return (low, high)."""
        if isinstance(value, tuple):
            return value
        low, dash, high = str(value).partition("-")
        try:
            return int(low), int(high if dash else low)
        except ValueError:
            self.fail(f"{value!r} is not a range such as 20-200", param, ctx)


def _option(name: str, default: Any) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    if name == "models":
        return click.Option(
            [flag, "--model", name], multiple=True, default=default, show_default=True, metavar="NAME", help=HELP[name]
        )
    if name == "port":
        default = _PORT
    kinds: dict[str, Any] = {"output_tokens": _Range(), "journal": click.Path(dir_okay=False, path_type=Path)}
    kind = kinds.get(name, str if name == "api_key" else float if default is None else type(default))
    is_said = name in {"latency_ms", "latency_jitter_ms", "seed"} or bool(default)  # HELP says what no limit is
    return click.Option(
        [flag, name], type=kind, default=_shown(default), show_default=is_said, metavar=_unit(name), help=HELP[name]
    )


def _shown(default: Any) -> Any:
    """Write a default as people would give it: 20-200, 0 and not 0.0."""
    if isinstance(default, tuple):
        return "-".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else default


def _unit(name: str) -> str | None:
    """Say what an option counts; None where its type says it."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end) or name.startswith(end)), None)


def _run(ready_file: Path | None, **values: Any) -> None:
    try:
        options = Options(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        serve(options, ready_file)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


command = click.Command(
    "simulate",
    callback=_run,
    params=[
        *[_option(field.name, field.default) for field in fields(Options)],
        click.Option(
            ["--ready-file"],
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write the URL to this file once it listens.",
        ),
    ],
    help="Run a local OpenAI- and Anthropic-compatible server with its own bill, to rehearse with no money.\n\n"
    "A SHARE is a fraction of all requests, 0 to 1, and 0 where it is not given; together they are at most 1.",
    epilog="\b\nfarebox simulate --port 8900\nfarebox simulate --latency-ms 800 --rpm 600 --share-500 0.02",
)
