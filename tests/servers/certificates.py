"""An authority of the test's own, and certificates that it signs, all of them PEM files made by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = "2"
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Certificate:
    """Paths of a certificate, of its key, and of both in one file, as Kafka's brokers want it."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates.

    Attributes:
        certificate: what clients and servers are to trust.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl(
            "req", "-x509", *KEY, "-keyout", self._key, "-out", self.certificate, "-days", DAYS, "-subj", f"/CN={name}"
        )

    def issue(self, name: str) -> Certificate:
        """A certificate of this common name, for servers on the loopback address and for clients."""
        request, certificate, key, both = (
            self._folder / f"{name}.{kind}" for kind in ("csr", "pem", "key", "both.pem")
        )
        _openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions = self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName = IP:127.0.0.1, DNS:localhost\nbasicConstraints = CA:FALSE\n")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
            "-days", DAYS, "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        both.write_text(key.read_text() + certificate.read_text() + self.certificate.read_text())
        return Certificate(certificate, key, both)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
