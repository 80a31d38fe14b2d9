import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models import weights
from models.weights import (
    AccessDenied,
    CannotWriteWeights,
    ChecksumMismatch,
    KnownFile,
    KnownModel,
    ModelMissing,
    NetworkUnavailable,
    NoSpace,
    UnknownModel,
    UnsafeBundle,
    WeightsCorrupt,
    find_pipeline,
    find_whisper,
)

WHISPER = b"a Whisper checkpoint " * 1000
CONFIG, SEGMENTATION = b"pipeline: {}", b"a segmentation model " * 100


@dataclass
class Server:
    """Serves files on loopback and remembers what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    status: int = 200
    knows_ranges: bool = True
    break_off_after: int | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def asked_for(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, headers in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append((handler.path, dict(handler.headers)))
        if handler.path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[handler.path])
            handler.end_headers()
            return
        content, status, start = self.files.get(handler.path, b""), self.status, 0
        asked = handler.headers.get("Range")
        if status == 200 and self.knows_ranges and asked is not None:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(content) else 416
        handler.send_response(status)
        if status == 206:
            last = len(content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][: self.break_off_after])


def serve() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        http.shutdown()
        thread.join()


server = pytest.fixture(serve)
other_server = pytest.fixture(serve)


def known_model(
    name: str, kind: weights.Kind, url: str, files: dict[str, bytes], *, gated: bool = False
) -> KnownModel:
    known = tuple(
        KnownFile(path, hashlib.sha256(content).hexdigest(), len(content), f"{url}/{path}")
        for path, content in files.items()
    )
    return KnownModel(name, kind, known, "https://model.page", "abc", "MIT", gated)


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, KnownModel]:
    """A Whisper model and a gated pipeline that the loopback server has, in place of the real."""
    whisper = {"whisper/small.pt": WHISPER}
    folder = f"pyannote/{weights.DEFAULT_PIPELINE}"
    pipeline = {f"{folder}/config.yaml": CONFIG, f"{folder}/segmentation/a.bin": SEGMENTATION}
    server.files = {f"/{path}": content for path, content in {**whisper, **pipeline}.items()}
    known = {
        "small": known_model("small", "whisper", server.url, whisper),
        weights.DEFAULT_PIPELINE: known_model(
            weights.DEFAULT_PIPELINE, "pyannote", server.url, pipeline, gated=True
        ),
    }
    monkeypatch.setattr(weights, "KNOWN", known)
    return known


@pytest.fixture
def small(published: dict[str, KnownModel]) -> KnownModel:
    return published["small"]


@pytest.fixture
def pipeline(published: dict[str, KnownModel]) -> KnownModel:
    return published[weights.DEFAULT_PIPELINE]


def install(model: KnownModel, folder: Path) -> Path:
    """Fetch it; the path of its first file."""
    weights.fetch(model, folder)
    return folder / model.files[0].path


# --- what exists


def test_the_checksums_are_those_of_the_installed_whisper():
    from whisper import _MODELS

    urls = {name: weights.KNOWN[name].files[0].url for name in weights.KNOWN if name in _MODELS} | {
        alias: weights.KNOWN[name].files[0].url for alias, name in weights.ALIASES.items()
    }
    assert urls == _MODELS
    assert all(file.sha256 in file.url for file in weights.KNOWN["large-v3"].files)


def test_asking_what_is_installed_does_not_import_torch():
    code = "import sys, models.weights; sys.exit('torch' in sys.modules)"
    root = Path(weights.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("device", "name"), [("cpu", "small"), ("cuda", "large-v3-turbo"), ("cuda:1", "large-v3-turbo")]
)
def test_the_default_suits_the_device(device, name):
    assert weights.default_whisper(device) == name


def test_the_demo_weights_go_with_each_other_only():
    assert weights.default_pipeline("demo") == "demo"
    assert weights.default_pipeline("small") == weights.DEFAULT_PIPELINE


def test_an_unknown_name_gets_the_known_ones_and_is_not_repeated(tmp_path):
    with pytest.raises(UnknownModel, match="large-v3-turbo, demo") as caught:
        find_whisper("eva-muster", tmp_path)
    assert caught.value.code == "unknown_model"
    assert "eva" not in str(caught.value)


def test_a_pipeline_is_no_whisper_model(tmp_path):
    with pytest.raises(UnknownModel):
        find_whisper(weights.DEFAULT_PIPELINE, tmp_path)
    with pytest.raises(UnknownModel):
        find_pipeline("small", tmp_path)


# --- where it lies


@pytest.mark.parametrize("name", ["large-v3-turbo", "turbo"])
def test_a_missing_model_says_how_to_get_it(tmp_path, name):
    with pytest.raises(ModelMissing, match="`fieldscribe models fetch large-v3-turbo`") as caught:
        find_whisper(name, tmp_path)
    assert caught.value.code == "model_missing"


def test_nothing_at_a_path_is_a_missing_model_and_the_path_is_not_repeated(tmp_path):
    for find, path in [(find_whisper, "eva/muster.pt"), (find_pipeline, "eva/muster")]:
        with pytest.raises(ModelMissing) as caught:
            find(str(tmp_path / path), tmp_path)
        assert "muster" not in str(caught.value)


def test_files_that_were_copied_there_by_hand_are_found(small, tmp_path):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "small.pt").write_bytes(WHISPER)

    found = find_whisper("small", tmp_path)

    assert found.path == tmp_path / "whisper" / "small.pt"
    assert found.sha256 == hashlib.sha256(WHISPER).hexdigest()
    assert not found.demo


def test_a_damaged_file_is_not_found(small, tmp_path):
    install(small, tmp_path).write_bytes(WHISPER[:-1] + b"?")

    with pytest.raises(WeightsCorrupt, match="fetch small") as caught:
        find_whisper("small", tmp_path)
    assert caught.value.code == "weights_corrupt"


def test_an_installed_file_is_not_read_at_every_start(small, tmp_path, monkeypatch):
    install(small, tmp_path)
    monkeypatch.setattr(weights, "sha256_of", None)

    assert find_whisper("small", tmp_path).sha256 == hashlib.sha256(WHISPER).hexdigest()


def test_a_file_with_another_time_is_read_again(small, tmp_path):
    path = install(small, tmp_path)
    path.write_bytes(WHISPER[:-1] + b"?")  # same size
    os.utime(path, ns=(1, 1))

    with pytest.raises(WeightsCorrupt):
        find_whisper("small", tmp_path)


def test_a_manifest_with_another_checksum_is_not_believed(small, tmp_path):
    path = install(small, tmp_path)
    path.write_bytes(b"something else")
    status = path.stat()
    file = {
        "path": "whisper/small.pt",
        "sha256": hashlib.sha256(b"something else").hexdigest(),
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }
    (tmp_path / "whisper" / "small.json").write_text(json.dumps({"files": [file]}))

    with pytest.raises(WeightsCorrupt):
        find_whisper("small", tmp_path)


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": [{}]}', '{"files": 3}'])
def test_a_bad_manifest_only_costs_time(small, tmp_path, manifest):
    install(small, tmp_path)
    (tmp_path / "whisper" / "small.json").write_text(manifest)

    assert find_whisper("small", tmp_path).name == "small"


def test_verify_finds_damage_that_the_time_does_not_show(small, tmp_path):
    path = install(small, tmp_path)
    before = path.stat().st_mtime_ns
    path.write_bytes(WHISPER[:-1] + b"?")
    os.utime(path, ns=(before, before))

    with pytest.raises(WeightsCorrupt):
        weights.verify(small, tmp_path)


def test_after_verify_a_copied_file_is_not_read_at_every_start(small, tmp_path, monkeypatch):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "small.pt").write_bytes(WHISPER)
    weights.verify(small, tmp_path)
    monkeypatch.setattr(weights, "sha256_of", None)

    assert find_whisper("small", tmp_path).name == "small"


def test_a_checkpoint_of_ones_own_is_named_after_its_checksum(tmp_path):
    (tmp_path / "eva-muster.pt").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()

    found = find_whisper(str(tmp_path / "eva-muster.pt"), tmp_path)

    assert (found.name, found.sha256) == (f"checkpoint-{sha256[:12]}", sha256)


@pytest.mark.parametrize("name", ["small", "own.pt"])
def test_weights_of_another_user_are_missing_not_a_crash(small, tmp_path, monkeypatch, name):
    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = install(small, tmp_path)
    os.utime(path, ns=(1, 1))
    (tmp_path / "own.pt").write_bytes(b"")
    monkeypatch.setattr(weights, "sha256_of", refuse)
    with pytest.raises(ModelMissing, match="may not read"):
        find_whisper(name if name == "small" else str(tmp_path / name), tmp_path)


def own_pipeline(folder: Path, config: bytes = CONFIG) -> Path:
    (folder / "segmentation").mkdir(parents=True)
    (folder / "config.yaml").write_bytes(config)
    (folder / "segmentation" / "a.bin").write_bytes(SEGMENTATION)
    return folder


def test_a_pipeline_s_checksum_is_of_its_visible_files_wherever_they_lie(pipeline, tmp_path):
    install(pipeline, tmp_path)
    installed = find_pipeline(weights.DEFAULT_PIPELINE, tmp_path)
    own = own_pipeline(tmp_path / "own")
    (own / ".gitattributes").write_text("not loaded")
    changed = own_pipeline(tmp_path / "changed", config=b"pipeline: {x}")

    found = find_pipeline(str(own), tmp_path)

    assert found.sha256 == installed.sha256 != find_pipeline(str(changed), tmp_path).sha256
    assert found.name == f"pipeline-{found.sha256[:12]}"


# --- fetch


def test_fetched_weights_are_whole_and_for_this_user_alone(pipeline, tmp_path):
    folder = tmp_path / "new" / "weights"
    assert weights.fetch(pipeline, folder)

    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {"config.yaml", "a.bin", "speaker-diarization-community-1.json"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*/")} == {0o700}
    manifest = json.loads(files["speaker-diarization-community-1.json"].read_text())
    assert manifest["revision"] == "abc"
    assert manifest["files"][1]["size"] == len(SEGMENTATION)


def test_what_is_installed_is_not_fetched_again(small, server, tmp_path):
    assert weights.fetch(small, tmp_path)
    assert not weights.fetch(small, tmp_path)
    assert len(server.requests) == 1


def test_fetch_replaces_a_damaged_file(small, tmp_path):
    path = install(small, tmp_path)
    path.write_bytes(b"damaged")

    assert weights.fetch(small, tmp_path)
    assert path.read_bytes() == WHISPER


def partial(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "whisper" / "small.pt.partial"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_a_download_goes_on_where_it_broke_off(small, server, tmp_path):
    server.break_off_after = 5000
    with pytest.raises(NetworkUnavailable, match="run the same command again"):
        weights.fetch(small, tmp_path)
    server.break_off_after = None
    assert not (tmp_path / "whisper" / "small.pt").exists()

    weights.fetch(small, tmp_path)

    assert server.asked_for("Range") == [None, "bytes=5000-"]
    assert (tmp_path / "whisper" / "small.pt").read_bytes() == WHISPER


def test_a_server_that_ignores_ranges_starts_anew(small, server, tmp_path):
    server.knows_ranges = False
    partial(tmp_path, WHISPER[:7])

    weights.fetch(small, tmp_path)

    assert (tmp_path / "whisper" / "small.pt").read_bytes() == WHISPER


def test_a_beginning_longer_than_the_file_starts_anew(small, server, tmp_path):
    partial(tmp_path, WHISPER + b"more")

    weights.fetch(small, tmp_path)

    assert server.asked_for("Range") == [f"bytes={len(WHISPER) + 4}-", None]
    assert (tmp_path / "whisper" / "small.pt").read_bytes() == WHISPER


@pytest.mark.parametrize("content", [b"?" + WHISPER[1:], WHISPER * 5])
def test_a_download_that_is_not_the_published_file_is_thrown_away(small, server, tmp_path, content):
    server.files["/whisper/small.pt"] = content

    with pytest.raises(ChecksumMismatch) as caught:
        weights.fetch(small, tmp_path)

    assert caught.value.code == "checksum_mismatch"
    assert list((tmp_path / "whisper").iterdir()) == []


def test_a_machine_without_network_is_told_about_bundles(small, server, tmp_path):
    nobody = known_model("small", "whisper", "http://127.0.0.1:1", {"whisper/small.pt": WHISPER})

    with pytest.raises(NetworkUnavailable, match="fieldscribe models export") as caught:
        weights.fetch(nobody, tmp_path)
    assert caught.value.code == "network_unavailable"


def test_a_server_in_trouble_is_named_by_its_answer(small, server, tmp_path):
    server.status = 503
    with pytest.raises(NetworkUnavailable, match="answered 503"):
        weights.fetch(small, tmp_path)


@pytest.mark.parametrize(
    ("status", "token", "problem"),
    [
        (401, None, "registered users only"),
        (401, "hf_wrong", "token is not valid"),
        (403, "hf_right", "has not accepted the conditions"),
    ],
)
def test_a_gated_model_explains_how_to_get_in(pipeline, server, tmp_path, status, token, problem):
    server.status = status
    with pytest.raises(AccessDenied, match=problem) as caught:
        weights.fetch(pipeline, tmp_path, token=token)

    assert caught.value.code == "access_denied"
    message = str(caught.value)
    assert all(step in message for step in ("https://model.page", "--token-stdin"))
    assert "hf_" not in message


def test_the_token_goes_to_gated_models_only_and_is_not_kept(published, server, tmp_path):
    for model in published.values():
        weights.fetch(model, tmp_path, token="hf_secret")

    assert server.asked_for("Authorization") == [None, "Bearer hf_secret", "Bearer hf_secret"]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in content for content in kept)


def test_the_token_follows_a_redirect_on_its_host_but_not_to_another(
    pipeline, server, other_server, tmp_path
):
    config, model = (f"/{file.path}" for file in pipeline.files)
    server.redirects = {config: "/cache/config", model: f"{other_server.url}/blob"}
    server.files["/cache/config"] = CONFIG
    other_server.files["/blob"] = SEGMENTATION

    weights.fetch(pipeline, tmp_path, token="hf_secret")

    assert server.asked_for("Authorization") == ["Bearer hf_secret"] * 3
    assert other_server.asked_for("Authorization") == [None]


def test_a_redirect_out_of_tls_is_refused():
    request = urllib.request.Request("https://model.page/file")
    with pytest.raises(NetworkUnavailable, match="without TLS"):
        weights._TokenStaysAtItsHost().redirect_request(
            request, io.BytesIO(), 302, "Found", {}, "http://model.page/file"
        )


def test_too_little_space_is_said_before_the_download(small, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(NoSpace) as caught:
        weights.fetch(small, tmp_path)
    assert caught.value.code == "no_space"
    assert server.requests == []


def test_a_disk_that_fills_up_is_an_error_of_its_own(small, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "_open_private", full)
    with pytest.raises(NoSpace, match="disk is full"):
        weights.fetch(small, tmp_path)


def test_a_folder_that_cannot_be_written_is_a_named_error(small, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CannotWriteWeights) as caught:
        weights.fetch(small, tmp_path / "file" / "weights")
    assert caught.value.code == "cannot_write_weights"
    assert str(tmp_path) not in str(caught.value)


# --- bundles


@pytest.fixture
def bundle(published, tmp_path):
    """Of both models."""
    for model in published.values():
        weights.fetch(model, tmp_path / "here")
    weights.export(list(published.values()), tmp_path / "here", tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_a_bundle_carries_weights_to_a_machine_without_network(published, bundle, tmp_path):
    there = tmp_path / "there"

    models = weights.import_bundle(bundle, there)

    assert models == tuple(published.values())
    assert find_whisper("small", there).path.read_bytes() == WHISPER
    assert find_pipeline(weights.DEFAULT_PIPELINE, there).folder.is_dir()
    assert not list(there.glob(".import-*"))
    assert {path.stat().st_mode & 0o777 for path in there.rglob("*.*") if path.is_file()} == {0o600}


def test_weights_that_are_not_installed_are_not_exported(small, tmp_path):
    with pytest.raises(ModelMissing):
        weights.export([small], tmp_path, tmp_path / "bundle.tar")


def test_damaged_weights_are_not_exported(small, tmp_path):
    path = install(small, tmp_path)
    status = path.stat()
    path.write_bytes(b"?" + WHISPER[1:])
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))  # only reading it shows the damage

    with pytest.raises(WeightsCorrupt):
        weights.export([small], tmp_path, tmp_path / "bundle.tar")
    assert not list(tmp_path.glob("bundle*"))


def test_a_bundle_is_not_overwritten(published, bundle, tmp_path):
    with pytest.raises(CannotWriteWeights, match="exists already"):
        weights.export(list(published.values()), tmp_path / "here", bundle)


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
        weights.import_bundle(bundle, tmp_path / "there")
    assert caught.value.code == "unsafe_bundle"
    assert list((tmp_path / "there").iterdir()) == []


def test_a_bundle_with_the_same_file_twice_installs_nothing(bundle, tmp_path):
    contents = members(bundle)
    rewrite(bundle, [*contents, contents[1]])
    with pytest.raises(UnsafeBundle):
        weights.import_bundle(bundle, tmp_path / "there")


def test_a_bundle_with_a_file_that_is_too_large_is_not_unpacked(bundle, tmp_path):
    contents = members(bundle)
    rewrite(bundle, [contents[0], (contents[1][0], WHISPER * 3), *contents[2:]])
    with pytest.raises(UnsafeBundle):
        weights.import_bundle(bundle, tmp_path / "there")


def test_a_bundle_with_another_file_under_a_known_name_installs_nothing(bundle, tmp_path):
    contents = members(bundle)
    rewrite(bundle, [contents[0], (contents[1][0], b"?" + WHISPER[1:]), *contents[2:]])
    with pytest.raises(ChecksumMismatch):
        weights.import_bundle(bundle, tmp_path / "there")
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
        "too large": contents[0][1] + b" " * weights.MAX_MANIFEST_BYTES,
    }


@pytest.mark.parametrize("what", [*hostile_manifests([(a_member("m"), b'{"models": [{}, {}]}')])])
def test_a_bundle_with_a_hostile_manifest_installs_nothing(bundle, tmp_path, what):
    contents = members(bundle)
    rewrite(bundle, [(contents[0][0], hostile_manifests(contents)[what]), *contents[1:]])
    with pytest.raises(UnsafeBundle):
        weights.import_bundle(bundle, tmp_path / "there")


def test_a_bundle_without_a_manifest_installs_nothing(bundle, tmp_path):
    rewrite(bundle, members(bundle)[1:])
    with pytest.raises(UnsafeBundle, match="does not begin with a manifest"):
        weights.import_bundle(bundle, tmp_path / "there")


@pytest.mark.parametrize("kept", [5000, 1024, 100, 0])
def test_a_bundle_that_is_cut_short_installs_nothing(bundle, tmp_path, kept):
    bundle.write_bytes(bundle.read_bytes()[:kept])
    with pytest.raises((WeightsCorrupt, UnsafeBundle), match="cut short|begin with a manifest"):
        weights.import_bundle(bundle, tmp_path / "there")


def test_a_bundle_that_lacks_a_file_installs_nothing(bundle, tmp_path):
    rewrite(bundle, members(bundle)[:-1])
    with pytest.raises(WeightsCorrupt, match="cut short"):
        weights.import_bundle(bundle, tmp_path / "there")


def test_a_compressed_bundle_is_no_bundle(bundle, tmp_path):
    contents = members(bundle)
    with tarfile.open(bundle, "w:gz") as tar:
        for member, content in contents:
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(WeightsCorrupt):
        weights.import_bundle(bundle, tmp_path / "there")
