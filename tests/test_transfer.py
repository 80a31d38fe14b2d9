"""Fetching weights from a loopback server, and bundles."""

import errno
import io
import json
import os
import shutil
import tarfile
import urllib.request
from pathlib import Path

import pytest

from models.weights import catalogue, transfer
from models.weights.catalogue import KnownModel, find_pipeline, find_whisper
from models.weights.errors import (
    AccessDenied,
    CannotWriteWeights,
    ChecksumMismatch,
    ModelMissing,
    NetworkUnavailable,
    NoSpace,
    UnsafeBundle,
    WeightsCorrupt,
)
from models.weights.transfer import export, fetch, import_bundle
from tests.published_weights import (
    CONFIG,
    SEGMENTATION,
    WHISPER,
    known_model,
    publish,
    serve,
)

server = pytest.fixture(serve)
other_server = pytest.fixture(serve)
published = pytest.fixture(publish)


@pytest.fixture
def small(published: dict[str, KnownModel]) -> KnownModel:
    return published["small"]


@pytest.fixture
def pipeline(published: dict[str, KnownModel]) -> KnownModel:
    return published[catalogue.DEFAULT_PIPELINE]


def install(model: KnownModel, folder: Path) -> Path:
    """Fetch a model and return the path of its first file."""
    fetch(model, folder)
    return folder / model.files[0].path


# --- fetch


def test_fetched_weights_are_complete_and_private_to_this_user(pipeline, tmp_path):
    folder = tmp_path / "new" / "weights"
    assert fetch(pipeline, folder)

    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {"config.yaml", "a.bin", "speaker-diarization-community-1.json"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*/")} == {0o700}
    manifest = json.loads(files["speaker-diarization-community-1.json"].read_text())
    assert manifest["revision"] == "abc"
    assert manifest["files"][1]["size"] == len(SEGMENTATION)


def test_installed_weights_are_not_fetched_again(small, server, tmp_path):
    assert fetch(small, tmp_path)
    assert not fetch(small, tmp_path)
    assert len(server.requests) == 1


def test_fetch_replaces_a_damaged_file(small, tmp_path):
    path = install(small, tmp_path)
    path.write_bytes(b"damaged")

    assert fetch(small, tmp_path)
    assert path.read_bytes() == WHISPER


def partial(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "whisper" / "small.pt.partial"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_an_interrupted_download_resumes(small, server, tmp_path):
    server.drop_after = 5000
    with pytest.raises(NetworkUnavailable, match="run the same command again"):
        fetch(small, tmp_path)
    server.drop_after = None
    assert not (tmp_path / "whisper" / "small.pt").exists()

    fetch(small, tmp_path)

    assert server.request_headers("Range") == [None, "bytes=5000-"]
    assert (tmp_path / "whisper" / "small.pt").read_bytes() == WHISPER


def test_a_server_that_ignores_ranges_restarts_the_download(small, server, tmp_path):
    server.supports_ranges = False
    partial(tmp_path, WHISPER[:7])

    fetch(small, tmp_path)

    assert (tmp_path / "whisper" / "small.pt").read_bytes() == WHISPER


def test_a_partial_file_longer_than_the_whole_restarts_the_download(small, server, tmp_path):
    partial(tmp_path, WHISPER + b"more")

    fetch(small, tmp_path)

    assert server.request_headers("Range") == [f"bytes={len(WHISPER) + 4}-", None]
    assert (tmp_path / "whisper" / "small.pt").read_bytes() == WHISPER


@pytest.mark.parametrize("content", [b"?" + WHISPER[1:], WHISPER * 5])
def test_a_download_that_is_not_the_published_file_is_discarded(small, server, tmp_path, content):
    server.files["/whisper/small.pt"] = content

    with pytest.raises(ChecksumMismatch) as caught:
        fetch(small, tmp_path)

    assert caught.value.code == "checksum_mismatch"
    assert list((tmp_path / "whisper").iterdir()) == []


def test_the_error_on_a_machine_without_a_network_mentions_bundles(small, server, tmp_path):
    unreachable = known_model(
        "small", "whisper", "http://127.0.0.1:1", {"whisper/small.pt": WHISPER}
    )

    with pytest.raises(NetworkUnavailable, match="fieldscribe models export") as caught:
        fetch(unreachable, tmp_path)
    assert caught.value.code == "network_unavailable"


def test_the_error_of_a_failing_server_gives_its_status(small, server, tmp_path):
    server.status = 503
    with pytest.raises(NetworkUnavailable, match="answered 503"):
        fetch(small, tmp_path)


@pytest.mark.parametrize(
    ("status", "token", "problem"),
    [
        (401, None, "registered users only"),
        (401, "hf_wrong", "token is not valid"),
        (403, "hf_right", "has not accepted the conditions"),
    ],
)
def test_the_error_for_a_gated_model_explains_how_to_get_access(
    pipeline, server, tmp_path, status, token, problem
):
    server.status = status
    with pytest.raises(AccessDenied, match=problem) as caught:
        fetch(pipeline, tmp_path, token=token)

    assert caught.value.code == "access_denied"
    message = str(caught.value)
    assert all(step in message for step in ("https://model.page", "--token-stdin"))
    assert "hf_" not in message


def test_the_token_is_sent_for_gated_models_only_and_not_stored(published, server, tmp_path):
    for model in published.values():
        fetch(model, tmp_path, token="hf_secret")

    assert server.request_headers("Authorization") == [None, "Bearer hf_secret", "Bearer hf_secret"]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in content for content in kept)


def test_the_token_follows_redirects_on_its_host_but_not_to_another(
    pipeline, server, other_server, tmp_path
):
    config, model = (f"/{file.path}" for file in pipeline.files)
    server.redirects = {config: "/cache/config", model: f"{other_server.url}/blob"}
    server.files["/cache/config"] = CONFIG
    other_server.files["/blob"] = SEGMENTATION

    fetch(pipeline, tmp_path, token="hf_secret")

    assert server.request_headers("Authorization") == ["Bearer hf_secret"] * 3
    assert other_server.request_headers("Authorization") == [None]


def test_a_redirect_from_tls_to_plain_http_is_refused():
    request = urllib.request.Request("https://model.page/file")
    with pytest.raises(NetworkUnavailable, match="without TLS"):
        transfer._KeepTokenOnHost().redirect_request(
            request, io.BytesIO(), 302, "Found", {}, "http://model.page/file"
        )


def test_a_lack_of_space_is_reported_before_the_download(small, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(NoSpace) as caught:
        fetch(small, tmp_path)
    assert caught.value.code == "no_space"
    assert server.requests == []


def test_a_full_disk_is_a_named_error(small, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "open_private", full)
    with pytest.raises(NoSpace, match="disk is full"):
        fetch(small, tmp_path)


def test_a_folder_that_cannot_be_written_is_a_named_error(small, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CannotWriteWeights) as caught:
        fetch(small, tmp_path / "file" / "weights")
    assert caught.value.code == "cannot_write_weights"
    assert str(tmp_path) not in str(caught.value)


# --- bundles


@pytest.fixture
def bundle(published, tmp_path):
    """A bundle with both models."""
    for model in published.values():
        fetch(model, tmp_path / "here")
    export(list(published.values()), tmp_path / "here", tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_a_bundle_brings_weights_to_a_machine_without_a_network(published, bundle, tmp_path):
    there = tmp_path / "there"

    models = import_bundle(bundle, there)

    assert models == tuple(published.values())
    assert find_whisper("small", there).path.read_bytes() == WHISPER
    assert find_pipeline(catalogue.DEFAULT_PIPELINE, there).folder.is_dir()
    assert not list(there.glob(".import-*"))
    assert {path.stat().st_mode & 0o777 for path in there.rglob("*.*") if path.is_file()} == {0o600}


def test_weights_that_are_not_installed_are_not_exported(small, tmp_path):
    with pytest.raises(ModelMissing):
        export([small], tmp_path, tmp_path / "bundle.tar")


def test_damaged_weights_are_not_exported(small, tmp_path):
    path = install(small, tmp_path)
    status = path.stat()
    path.write_bytes(b"?" + WHISPER[1:])
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))  # only reading it shows the damage

    with pytest.raises(WeightsCorrupt):
        export([small], tmp_path, tmp_path / "bundle.tar")
    assert not list(tmp_path.glob("bundle*"))


def test_a_bundle_is_not_overwritten(published, bundle, tmp_path):
    with pytest.raises(CannotWriteWeights, match="already exists"):
        export(list(published.values()), tmp_path / "here", bundle)


def members(bundle: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(bundle) as tar:
        return [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]


def rewrite(bundle: Path, contents: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(bundle, "w") as tar:
        for member, content in contents:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def a_member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return member


def manifest_of(contents: list[tuple[tarfile.TarInfo, bytes]], **changes: object) -> bytes:
    return json.dumps(json.loads(contents[0][1]) | changes).encode()


HOSTILE_MEMBERS = {
    "symbolic link": a_member("whisper/small.pt", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": a_member("whisper/small.pt", tarfile.LNKTYPE, "manifest.json"),
    "device": a_member("whisper/small.pt", tarfile.CHRTYPE),
    "fifo": a_member("whisper/small.pt", tarfile.FIFOTYPE),
    "folder": a_member("whisper", tarfile.DIRTYPE),
    "absolute path": a_member("/tmp/small.pt"),
    "path that leads out": a_member("../small.pt"),
    "file not in the manifest": a_member("whisper/other.pt"),
}


@pytest.mark.parametrize("what", HOSTILE_MEMBERS)
def test_a_bundle_with_a_hostile_member_installs_nothing(bundle, tmp_path, what):
    contents = members(bundle)
    rewrite(bundle, [contents[0], (HOSTILE_MEMBERS[what], b""), *contents[1:]])

    with pytest.raises(UnsafeBundle) as caught:
        import_bundle(bundle, tmp_path / "there")
    assert caught.value.code == "unsafe_bundle"
    assert list((tmp_path / "there").iterdir()) == []


def test_a_bundle_with_a_duplicate_file_installs_nothing(bundle, tmp_path):
    contents = members(bundle)
    rewrite(bundle, [*contents, contents[1]])
    with pytest.raises(UnsafeBundle):
        import_bundle(bundle, tmp_path / "there")


def test_a_bundle_with_an_oversized_file_is_not_extracted(bundle, tmp_path):
    contents = members(bundle)
    rewrite(bundle, [contents[0], (contents[1][0], WHISPER * 3), *contents[2:]])
    with pytest.raises(UnsafeBundle):
        import_bundle(bundle, tmp_path / "there")


def test_a_bundle_with_the_wrong_content_under_a_known_name_installs_nothing(bundle, tmp_path):
    contents = members(bundle)
    rewrite(bundle, [contents[0], (contents[1][0], b"?" + WHISPER[1:]), *contents[2:]])
    with pytest.raises(ChecksumMismatch):
        import_bundle(bundle, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def hostile_manifests(contents: list[tuple[tarfile.TarInfo, bytes]]) -> dict[str, bytes]:
    first, second = json.loads(contents[0][1])["models"]
    return {
        "not JSON": b"{",
        "deep JSON": b"[" * 100_000,
        "not a manifest": b"[]",
        "another version": manifest_of(contents, fieldscribe_weights=2),
        "unknown name": manifest_of(contents, models=[first | {"name": "../evil"}, second]),
        "other files": manifest_of(contents, models=[first | {"files": {"a": "b"}}, second]),
        "a model twice": manifest_of(contents, models=[first, first, second]),
        "too large": contents[0][1] + b" " * transfer.MAX_MANIFEST_BYTES,
    }


@pytest.mark.parametrize("what", [*hostile_manifests([(a_member("m"), b'{"models": [{}, {}]}')])])
def test_a_bundle_with_a_hostile_manifest_installs_nothing(bundle, tmp_path, what):
    contents = members(bundle)
    rewrite(bundle, [(contents[0][0], hostile_manifests(contents)[what]), *contents[1:]])
    with pytest.raises(UnsafeBundle):
        import_bundle(bundle, tmp_path / "there")


def test_a_bundle_without_a_manifest_installs_nothing(bundle, tmp_path):
    rewrite(bundle, members(bundle)[1:])
    with pytest.raises(UnsafeBundle, match="does not begin with a manifest"):
        import_bundle(bundle, tmp_path / "there")


@pytest.mark.parametrize("kept", [5000, 1024, 100, 0])
def test_a_truncated_bundle_installs_nothing(bundle, tmp_path, kept):
    bundle.write_bytes(bundle.read_bytes()[:kept])
    with pytest.raises((WeightsCorrupt, UnsafeBundle), match="truncated|begin with a manifest"):
        import_bundle(bundle, tmp_path / "there")


def test_a_bundle_that_lacks_a_file_installs_nothing(bundle, tmp_path):
    rewrite(bundle, members(bundle)[:-1])
    with pytest.raises(WeightsCorrupt, match="truncated"):
        import_bundle(bundle, tmp_path / "there")


def test_a_compressed_bundle_is_refused(bundle, tmp_path):
    contents = members(bundle)
    with tarfile.open(bundle, "w:gz") as tar:
        for member, content in contents:
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(WeightsCorrupt):
        import_bundle(bundle, tmp_path / "there")
