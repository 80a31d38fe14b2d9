"""Encrypted archives for handing files over: zip with AES-256, or age.

The times of the files are those of nothing: 1980, where zip's calendar begins.
"""

import io
import zipfile
from collections.abc import Mapping

import pyrage
import pyzipper

EPOCH = (1980, 1, 1, 0, 0, 0)


def zip_with_password(files: Mapping[str, bytes], password: str) -> bytes:
    """An archive of AES-256 (WinZip's AE-2), which 7-Zip, WinZip and macOS's Keka open.

    The names of the files in it can be read without the password.
    """
    content = io.BytesIO()
    with pyzipper.AESZipFile(
        content, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES
    ) as archive:
        archive.setpassword(password.encode())
        archive.setencryption(pyzipper.WZ_AES, nbits=256)
        for name, file in files.items():
            info = archive.zipinfo_cls(name, date_time=EPOCH)
            info.compress_type = pyzipper.ZIP_DEFLATED
            archive.writestr(info, file)
    return content.getvalue()


def zip_for_recipients(files: Mapping[str, bytes], recipients: list[str]) -> bytes:
    """An age file with a zip in it, which only the holders of the recipients' keys can open.

    Raises:
        ValueError: one of them is not an age recipient, `age1...`.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            info = zipfile.ZipInfo(name, date_time=EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, file)
    try:
        keys = [pyrage.x25519.Recipient.from_str(one) for one in recipients]
    except pyrage.RecipientError:
        raise ValueError("not an age recipient") from None
    encrypted: bytes = pyrage.encrypt(content.getvalue(), keys)
    return encrypted
