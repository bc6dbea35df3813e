"""The command ``quantus-miner``: flags from the settings table, one module a command."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantus_miner import __version__, logs, units
from quantus_miner.errors import MinerError
from quantus_miner.model import Pow
from quantus_miner.settings import SETTINGS, Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Command = TypeVar("Command", bound="Callable[..., Any]")


class _Group(click.Group):
    """Runs ``serve`` where no subcommand is given, so that a service's command line needs none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, "--help", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


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
    settings = load(flags, environ, Path(config) if config else None)
    logs.configure(settings.log, settings.log_format)
    return settings


@click.group(cls=_Group, context_settings={"max_content_width": 120})
@click.version_option(__version__, prog_name="quantus-miner")
def cli() -> None:
    """External proof-of-work miner for the Quantus network. Without a command: serve."""


@cli.command()
@settings_options
def serve(**given: str | None) -> None:
    """Run the mining service (the default)."""
    settings = load_settings(given)
    from quantus_miner.service import run

    run(settings)


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
    engines = [part for name in settings.engine for part in create_engines(replace(settings, engine=(name,)), count)]
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
@click.option("--block", metavar="FILE", help="JSON file with a sealed block header, instead of header and nonce.")
def verify(**given: str | None) -> None:
    """Check a nonce with the reference implementation; exit code 0 if it is valid, 1 if not."""
    from quantus_miner.verify import verdict

    result = verdict(**given)
    for line in result.lines():
        click.echo(line)
    sys.exit(0 if result.valid else 1)


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

    unit = doctor_.unit_properties()
    environ = doctor_.service_environment(os.environ, unit)

    def settings() -> Settings:
        extra = serve.make_context("serve", doctor_.extra_flags(environ)).params
        flags = {name: text for part in (extra, given) for name, text in part.items() if text}
        return load_settings({"log": "warn"} | flags, environ)

    findings = list(doctor_.examine(doctor_.Host(environ, unit), settings))
    for finding in findings:
        for line in finding.lines():
            click.echo(line)
    sys.exit(any(finding.advice and finding.wrong for finding in findings))


@cli.group()
def service() -> None:
    """About the systemd service."""


@service.command("print")
@click.option("--shared", "kind", flag_value="shared", help="For a machine that also runs a node.")
@click.option("--dedicated", "kind", flag_value="dedicated", help="For a machine that only mines.")
def service_print(kind: str | None) -> None:
    """Print a drop-in fitted to the CPUs of this machine."""
    from quantus_miner import drop_in
    from quantus_miner.host import cpus

    if kind is None:
        raise click.UsageError("one of --shared and --dedicated is needed")
    write = drop_in.shared if kind == "shared" else drop_in.dedicated
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
    for line in [msgspec.json.encode(entry).decode() for entry in entries] if as_json else history_.lines(entries):
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
    """Entry point: errors that a user can mend are one line on stderr."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        message, code = error.format_message(), 2
    except MinerError as error:
        message, code = str(error), error.exit_code
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.stderr.write(f"quantus-miner: {message}\n")
    sys.exit(code)
