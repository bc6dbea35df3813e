"""Bills of materials in CycloneDX: what a wheel has inside (PEP 770), and what an installation consists of."""

from __future__ import annotations

import subprocess
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from source import ReleaseError

if TYPE_CHECKING:
    from source import Source

VERSION: Final = SchemaVersion.V1_6


def of_wheel(source: Source, compiler: str) -> str:
    """Return the bill of a wheel: the miner, and the part of the compiler's run-time library that is linked into it."""
    release = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    miner = Component(
        type=ComponentType.APPLICATION,
        name="quantus-miner",
        version=source.version,
        bom_ref="quantus-miner",
        purl=PackageURL("pypi", name="quantus-miner", version=source.version),
        licenses=[LicenseExpression("Apache-2.0")],
    )
    libgcc = Component(
        type=ComponentType.LIBRARY,
        name="libgcc",
        version=release,
        bom_ref="libgcc",
        description=f"128-bit division, linked statically by {compiler}",
        licenses=[LicenseExpression("GPL-3.0-or-later WITH GCC-exception-3.1")],
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri("https://gcc.gnu.org"))],
    )
    bill = Bom(
        components=[libgcc],
        serial_number=uuid.uuid5(
            uuid.NAMESPACE_URL, f"quantus-miner {source.version} {source.commit} {compiler} {release}"
        ),
        metadata=BomMetaData(component=miner, timestamp=datetime.fromtimestamp(source.epoch, UTC), tools=[]),
    )
    bill.register_dependency(miner, [libgcc])
    return make_outputter(bill, OutputFormat.JSON, VERSION).output_as_string(indent=2)


def validate(bill: str, name: str) -> None:
    """Raise ReleaseError if ``bill`` does not match the schema."""
    if error := JsonStrictValidator(VERSION).validate_str(bill):
        raise ReleaseError(f"{name} is not valid CycloneDX {VERSION.to_version()}: {error}")
