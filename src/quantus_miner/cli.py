"""The command ``quantus-miner``: flags from the settings table, one module a command."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from quantus_miner import __version__, logs, units
from quantus_miner.errors import EngineUnavailableError, MinerError, explain
from quantus_miner.model import Pow
from quantus_miner.settings import SETTINGS, Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantus_miner.engines import Engine

Command = TypeVar("Command", bound="Callable[..., Any]")


class _Group(click.Group):
    """Runs ``serve`` where no subcommand is given, so that a service's command line needs none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, "--help", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click's own
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone: nothing is left to say. click would make that exit code 1.
            ctx.exit(0)


def settings_options(command: Command) -> Command:
    """Adds every row of the settings table as an option, and --config."""
    for setting in reversed(SETTINGS):
        default = "unset" if setting.default is None else setting.default
        command = click.option(
            *filter(None, (setting.short, setting.flag)),
            setting.name,
            metavar=setting.metavar or None,
            multiple=setting.many,
            is_flag=setting.switch,
            flag_value="on" if setting.switch else None,
            help=f"{setting.help}  [env: {', '.join(setting.environment)}; default: {default}]",
        )(command)
    return click.option("--config", metavar="FILE", help="TOML file with settings, named as the flags.")(command)


def load_settings(given: dict[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings from the given flags, the environment and the config file; the log is set up by them."""
    config = given.pop("config", None)
    flags = {
        name: ",".join(text) if isinstance(text, tuple) else text
        for name, text in given.items()
        if text is not None and text != ()
    }
    warnings: list[str] = []
    settings = load(flags, environ, Path(config) if config else None, warnings.append)
    logs.configure(settings.log, settings.log_format)
    for warning in warnings:
        logging.getLogger("miner").warning("%s", warning)
    return settings


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """The command line with ``***`` in place of secrets, for whoever lists processes."""
    secrets = {setting.flag for setting in SETTINGS if setting.secret}
    shown = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        flag, equals, _ = argument.partition("=")
        shown.append("***" if before in secrets else f"{flag}=***" if equals and flag in secrets else argument)
    return shown


@click.group(cls=_Group, context_settings={"max_content_width": 120})
@click.version_option(__version__, prog_name="quantus-miner")
def cli() -> None:
    """External proof-of-work miner for the Quantus network. Without a command: serve."""


@cli.command()
@settings_options
def serve(**given: str | None) -> None:
    """Run the mining service (the default)."""
    from quantus_miner.host.signals import Signals

    signals = Signals()
    try:
        settings = load_settings(given)
        from quantus_miner.host.process_name import rename_process
        from quantus_miner.service import run

        rename_process("quantus-miner", without_secrets(sys.argv[1:]))
        run(settings, signals)
    finally:
        signals.ignore()


@cli.command()
@click.option("--engine", metavar="NAME[,NAME]", default="cpu-baseline,cpu-fast", show_default=True, help="Engines.")
@click.option("--kernel", metavar="NAME", help="CPU kernel of the fast engines; unset: the fastest.")
@click.option(
    "--pow", "pow_", type=click.Choice([pow_.value for pow_ in Pow]), default=Pow.POSEIDON2.value, show_default=True
)
@click.option("--workers", metavar="N", help="CPU worker threads; unset: as the service.")
@click.option("--gpu-devices", metavar="ID[,ID]", help="GPUs of the gpu engines; unset: all.")
@click.option("--state-dir", metavar="DIR", help="As of the service; unset: the user's state folder.")
@click.option("--seconds", type=click.FloatRange(0.1, 86400), default=5.0, show_default=True, help="For each engine.")
@click.option("--tune", is_flag=True, help="First find the launches that suit each GPU best, and keep them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def bench(pow_: str, seconds: float, tune: bool, as_json: bool, **given: str | None) -> None:
    """Measure the hash rate of each engine, and of each GPU."""
    settings = load_settings({**given, "log": "warn"})
    import msgspec

    from quantus_miner import bench as bench_
    from quantus_miner.engines import create_engines
    from quantus_miner.engines.gpu import GpuEngine
    from quantus_miner.gpu import tuning
    from quantus_miner.service import choose_workers, detect_cpus

    live = sys.stderr.isatty() and not as_json
    count = choose_workers(settings.workers, detect_cpus())
    results = []
    # One at a time: each engine gets all the workers, and none disturbs another's measurement.
    engines: list[Engine] = []
    unavailable = []
    for name in settings.engine:
        try:
            engines += create_engines(replace(settings, engine=(name,)), count)
        except EngineUnavailableError as error:
            unavailable.append(error)
    if not engines:
        raise unavailable[0]
    for reason in unavailable:
        click.echo(f"quantus-miner: {reason}", err=True)
    proof = Pow(pow_)
    if tune and not any(isinstance(part, GpuEngine) for part in engines):
        raise click.UsageError("--tune goes with --engine gpu-cuda or gpu-opencl")
    for part in engines:
        if part.kernel(proof) is None:
            raise MinerError(f"--pow: engine {part.name} has no kernel for {proof}")
        if part.fault is not None:
            raise MinerError(f"engine {part.name} cannot run {part.kernel(proof)}: {part.fault}")

        if tune and isinstance(part, GpuEngine):
            blocks = bench_.tune(
                part, seconds, lambda blocks, result: click.echo(bench_.tried(blocks, result), err=True)
            )
            try:
                tuning.save(settings.state_dir, part.name, part.device, blocks)
            except OSError as error:
                raise MinerError(f"--tune: cannot keep it in {settings.state_dir}: {error.strerror}") from None

        def progress(elapsed: float, rate: float, name: str = part.name) -> None:
            if live:
                click.echo(f"\r  {name:22} {units.hash_rate(rate):>12}  {elapsed:4.1f} s ", nl=False, err=True)

        results.append(bench_.measure(part, proof, seconds, progress))
        if live:
            click.echo("\r\x1b[K", nl=False, err=True)
        if not as_json:
            click.echo(bench_.row(results[-1], results))
    if as_json:
        click.echo(msgspec.json.encode(bench_.BenchReport(results)))


@cli.command()
@click.option(
    "--pow", "pow_", type=click.Choice([pow_.value for pow_ in Pow]), help="Default: by --difficulty or --threshold."
)
@click.option("--header", metavar="HEX", help="Mining hash, 64 hex digits.")
@click.option("--nonce", metavar="HEX", help="Nonce, 1 to 128 hex digits.")
@click.option("--difficulty", metavar="N", help="Decimal; qpow-poseidon2: valid if hash < (2^512 - 1) / difficulty.")
@click.option("--threshold", metavar="N", help="Decimal; qpow-sha3: valid if distance <= threshold.")
@click.option("--block", metavar="FILE", help="JSON file with a sealed block or its header, as nodes reply with it.")
@click.option("--rpc", metavar="URL", help="A node's JSON-RPC server, http or https: take the block from there.")
@click.option("--height", metavar="N", type=click.IntRange(0, 2**32 - 1), help="With --rpc: the number of the block.")
def verify(**given: Any) -> None:  # noqa: ANN401 - click's values
    """Check a nonce or a sealed block with the reference implementation.

    Exit code 0: valid; 1: not valid; 4: no difficulty is known to compare the hash with.
    """
    from quantus_miner.verify import verdict

    result = verdict(**given)
    for line in result.lines():
        click.echo(line)
    sys.exit(result.exit_code)


@cli.command()
def devices() -> None:
    """Show the processor, its kernels, and which engines can run here."""
    from quantus_miner.devices import describe

    for line in describe():
        click.echo(line)


@cli.command()
@settings_options
def doctor(**given: str | None) -> None:
    """Look for what usually goes wrong with the service; exit code 1 if something is."""
    from quantus_miner import doctor as doctor_
    from quantus_miner import unit

    properties = unit.unit_properties()
    environ = unit.service_environment(os.environ, properties)

    def settings() -> Settings:
        extra = serve.make_context("serve", unit.extra_flags(environ)).params
        flags = {name: text for part in (extra, given) for name, text in part.items() if text}
        return load_settings({"log": "warn"} | flags, environ)

    findings = list(doctor_.examine(unit.Host(environ, properties), settings))
    for finding in findings:
        for line in finding.lines():
            click.echo(line)
    sys.exit(any(finding.advice and finding.wrong for finding in findings))


@cli.group(invoke_without_command=True)
@click.pass_context
def service(context: click.Context) -> None:
    """About the systemd service."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)


@service.command("print")
@click.option("--shared", is_flag=True, help="For a machine that also runs a node.")
@click.option("--dedicated", is_flag=True, help="For a machine that only mines.")
def service_print(shared: bool, dedicated: bool) -> None:
    """Print a drop-in fitted to the CPUs of this machine."""
    from quantus_miner import drop_in
    from quantus_miner.host import cpus

    if shared == dedicated:
        raise click.UsageError(f"{'only ' if shared else ''}one of --shared and --dedicated is needed")
    write = drop_in.shared if shared else drop_in.dedicated
    for line in write(cpus.detect().cpus):
        click.echo(line)


@cli.command()
@click.option("--state-dir", metavar="DIR", help="As of the service; unset: the user's state folder.")
@click.option("--last", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead.")
def history(state_dir: str | None, last: int, as_json: bool) -> None:
    """Show the blocks and shares that were found."""
    settings = load_settings({"state_dir": state_dir, "log": "warn"})
    import msgspec

    from quantus_miner.store import history as history_

    entries = history_.latest(settings.state_dir, last)
    # JSON is UTF-8, whatever the locale.
    for line in map(msgspec.json.encode, entries) if as_json else history_.lines(entries):
        click.echo(line)


@cli.command("dev-node")
@click.option("--miner", metavar="URL", help="Base URL of a running miner's job API; unset: start one for this run.")
@click.option("--api-token", metavar="TOKEN", envvar="MINER_API_TOKEN", help="Bearer token that the miner requires.")
@click.option(
    "--pow", "pow_", type=click.Choice([pow_.value for pow_ in Pow]), default=Pow.POSEIDON2.value, show_default=True
)
@click.option("--block-time", type=click.FloatRange(0.05, 3600), default=3.0, show_default=True, help="Target seconds.")
@click.option("--difficulty", type=click.IntRange(1, 2**128), default=100_000, show_default=True, help="Of block 1.")
@click.option("--blocks", type=click.IntRange(1), help="Stop after so many blocks; unset: on Ctrl-C.")
@click.option("--poll-ms", type=click.IntRange(1, 60_000), default=500, show_default=True, help="Between two polls.")
@click.option("--quic", is_flag=True, help="Play a node of the QUIC era, which miners connect to.")
@click.option(
    "--listen",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="With --quic: UDP port to wait for miners on; unset: start one for this run.",
)
@click.option(
    "--base-path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --quic: where the node keeps token and certificate; unset: a temporary folder.",
)
@click.option(
    "--misbehave",
    type=click.Choice(["drop", "garbage", "slow-job", "stall", "wrong-pin"]),
    help="With --quic: what to do wrong.",
)
def dev_node(
    miner: str | None,
    api_token: str | None,
    pow_: str,
    block_time: float,
    difficulty: int,
    blocks: int | None,
    poll_ms: int,
    quic: bool,
    listen: int | None,
    base_path: Path | None,
    misbehave: str | None,
) -> None:
    """Play a node: give a miner headers, check the blocks it finds, retarget."""
    from quantus_miner.dev import http_node
    from quantus_miner.dev.chain import Chain

    chain = Chain(Pow(pow_), difficulty, block_time)
    if quic:
        if miner is not None or chain.pow is not Pow.POSEIDON2:
            raise click.UsageError(
                f"--quic goes with --pow {Pow.POSEIDON2} and without --miner, for miners connect to it"
            )
        from quantus_miner.dev import quic_node

        sys.exit(quic_node.run(chain, base_path, listen, blocks, misbehave))
    if listen is not None or base_path is not None or misbehave is not None:
        raise click.UsageError("--listen, --base-path and --misbehave go with --quic")
    sys.exit(http_node.run(chain, miner, api_token, blocks, poll_ms / 1000))


@cli.command("dev-pool")
@click.option(
    "--listen",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Port of 127.0.0.1 to wait for miners on; unset: start one for this run.",
)
@click.option("--tls", is_flag=True, help="Speak TLS, with a certificate made for this run.")
@click.option("--share-time", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="Target seconds.")
@click.option(
    "--share-difficulty", type=click.IntRange(1, 2**128), default=20_000, show_default=True, help="Of the first job."
)
@click.option(
    "--block-time", type=click.FloatRange(0.05, 3600), default=12.0, show_default=True, help="Target seconds."
)
@click.option("--difficulty", type=click.IntRange(1, 2**128), default=1_000_000, show_default=True, help="Of block 1.")
@click.option("--shares", type=click.IntRange(1), help="Stop after so many accepted shares; unset: on Ctrl-C.")
@click.option(
    "--misbehave",
    type=click.Choice(
        [
            "busy",
            "drop",
            "flood",
            "forget",
            "garbage",
            "no-reply",
            "one-job",
            "quiet",
            "refuse-login",
            "refuse-shares",
            "slow-job",
            "stall",
            "wrong-pin",
            "wrong-target",
        ]
    ),
    help="What to do wrong.",
)
def dev_pool(
    listen: int | None,
    tls: bool,
    share_time: float,
    share_difficulty: int,
    block_time: float,
    difficulty: int,
    shares: int | None,
    misbehave: str | None,
) -> None:
    """Play a pool: give miners jobs over stratum, check their shares, adjust their difficulty."""
    from quantus_miner.dev import pool
    from quantus_miner.dev.chain import Chain
    from quantus_miner.dev.misbehaviour import Misbehaviour

    chain = Chain(Pow.POSEIDON2, difficulty, block_time)
    misbehaviour = Misbehaviour(misbehave) if misbehave else None
    if misbehaviour is Misbehaviour.WRONG_PIN and not tls:
        raise click.UsageError("--misbehave wrong-pin goes with --tls")
    sys.exit(pool.run(chain, share_difficulty, share_time, listen, shares, tls=tls, misbehaviour=misbehaviour))


def main() -> None:
    """Entry point: whatever goes wrong ends in one line on stderr."""
    message, code = "", 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the locale cannot show is escaped, as it is on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli(standalone_mode=False) or 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except click.ClickException as error:
        message, code = error.format_message(), 2
    except MinerError as error:
        message, code = str(error), error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        logging.getLogger("miner").debug("Traceback", exc_info=error)
        message, code = explain(error), 1
    if message:
        logs.report(f"quantus-miner: {message}")
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritable(stream)
    sys.exit(code)


def _give_up_unwritable(stream: TextIO | None) -> None:
    """Leave nothing in its buffer: Python would try to write that at its end, fail, and change the exit code to 120."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
