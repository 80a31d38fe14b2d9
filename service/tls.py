"""TLS between the programs of one machine."""

import ssl
from pathlib import Path

END = "-----END CERTIFICATE-----"


def trust_only(certificate: Path) -> ssl.SSLContext:
    """For the API of this machine, which is reached by its address, whatever name it is for.

    Args:
        certificate: a PEM file. Its first certificate is the API's, and the only one trusted: those
            that may follow have signed others' as well.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    first, _, _ = certificate.read_text().partition(END)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=first + END)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
