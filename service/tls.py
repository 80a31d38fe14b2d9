"""TLS between the programs of one machine."""

import ssl
from pathlib import Path

END = "-----END CERTIFICATE-----"


def trust_only(certificate: Path) -> ssl.SSLContext:
    """A context that trusts this machine's API, whatever host name its certificate is for.

    Args:
        certificate: a PEM file. Only its first certificate, the API's, is trusted: any that follow
            are of authorities, which have signed other servers' certificates too.

    Raises:
        OSError: the file cannot be read or does not hold a certificate.
    """
    first, _, _ = certificate.read_text().partition(END)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=first + END)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
