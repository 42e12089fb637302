"""TLS to the switch: the context that a client connects with, and what a failed handshake means, with its cure.

Certificates are verified, by name too, and nothing below TLS 1.2 is spoken (RFC 8996 deprecates 1.0 and 1.1). Leaves
to the clients when to connect.
"""

import ssl
from pathlib import Path
from typing import Final

from fairdial.config import Ami, Ari

_MISMATCHES: Final = frozenset({62, 63, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH, _IP_ADDRESS_MISMATCH (x509_vfy.h)."""
_OUT_OF_DATE: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""


class TlsError(ValueError):
    """The file of trusted certificates cannot be used; the text names setting and cure."""


def client_context(section: str, ca_file: Path | None, *, check_hostname: bool) -> ssl.SSLContext:
    """A context that trusts the certificates of `ca_file` (PEM), or the machine's own where it is None.

    section: of our configuration, for errors. check_hostname: False accepts a trusted certificate for another name.
    Raises TlsError.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise TlsError(
            f"{section}.ca_file: {ca_file} holds no certificate in PEM form ({error}); put the certificate"
            " there that signed the switch's"
        ) from error
    except OSError as error:
        raise TlsError(
            f"{section}.ca_file: {ca_file} cannot be read ({error.strerror}); see its path and its mode"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    return context


def ari_context(ari: Ari) -> ssl.SSLContext | None:
    """For ARI as configured; None for http. Raises TlsError."""
    if not ari.url.startswith("https:"):
        return None
    return client_context("ari", ari.ca_file, check_hostname=ari.check_hostname)


def ami_context(ami: Ami) -> ssl.SSLContext | None:
    """For AMI as configured; None without TLS. Raises TlsError."""
    return client_context("ami", ami.ca_file, check_hostname=ami.check_hostname) if ami.tls else None


def explained(error: BaseException, section: str, file: str) -> tuple[str, str] | None:
    """What a failed handshake means, and how to mend it; None where the error is not about TLS.

    section: of our configuration, as "ami"; file: the switch's, as "manager.conf".
    """
    fault = _tls_fault(error)
    if fault is None:
        return None
    if not isinstance(fault, ssl.SSLCertVerificationError):
        return (
            f"no TLS 1.2 or later is spoken there ({fault})",
            f"set tlsenable=yes in {file}, and the port in [{section}] to that of its tlsbindaddr",
        )
    if fault.verify_code in _MISMATCHES:
        cure = (
            f"name the switch in [{section}] as its certificate does, or set {section}.check_hostname = false"
        )
    elif fault.verify_code in _OUT_OF_DATE:
        cure = f"renew the certificate that tlscertfile names in {file}, and see both clocks"
    else:
        cure = f"set {section}.ca_file to the certificate that signed the switch's (tlscertfile in {file})"
    return f"the switch's certificate is not trusted: {fault.verify_message}", cure


def _tls_fault(error: BaseException) -> ssl.SSLError | None:
    """The TLS fault in an error, or behind it: aiohttp wraps it in one of its own that knows less."""
    fault: ssl.SSLError | None = None
    behind: BaseException | None = error
    while behind is not None:
        fault = behind if isinstance(behind, ssl.SSLError) else fault
        behind = behind.__cause__
    return fault
