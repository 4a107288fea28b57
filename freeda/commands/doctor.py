"""`freeda doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import chain

import click

__all__ = ["doctor_command"]

_MARKS = {"ok": "ok    ", "note": "note  ", "broken": "BROKEN"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Report what is installed, which devices and models are available, what is broken, and how to fix it.

    Exit code 1 where something is broken.
    """
    from freeda.doctor.findings import Finding
    from freeda.doctor.packages import package_findings

    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            _print(finding.subject, finding.status, finding.found, finding.cure)

    for finding in package_findings():
        tell(finding)
    if not any(item.status == "broken" for item in found):
        # What follows imports the packages that were looked at.
        from freeda.doctor.machine import machine_findings
        from freeda.doctor.models import model_findings

        for finding in chain(machine_findings(), model_findings()):
            tell(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    if any(item.status == "broken" for item in found):
        sys.exit(1)


def _print(subject: str, status: str, found: str, cure: str) -> None:
    click.echo(f"{_MARKS[status]} {subject:20} {found}")
    if cure:
        click.echo(f"{'':28}{cure}")
