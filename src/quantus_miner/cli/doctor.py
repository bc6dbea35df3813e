"""``quantus-miner doctor``."""

from __future__ import annotations

import sys

import click

from quantus_miner.cli.options import settings_options
from quantus_miner.cli.output import echo_json, json_option


@click.command("doctor")
@json_option
@settings_options
def doctor(as_json: bool, **given: str | None) -> None:
    """Check for common faults of the service. The exit code is 1 if something is wrong."""
    from quantus_miner import doctor as doctor_
    from quantus_miner.cli.installed import find_service, installed_settings

    host = find_service()
    findings = list(doctor_.examine(host, lambda: installed_settings(given, host.environ)))
    if as_json:
        echo_json(doctor_.report(findings))
    else:
        for line in (line for finding in findings for line in finding.lines()):
            click.echo(line)
    sys.exit(any(finding.verdict == "wrong" for finding in findings))
