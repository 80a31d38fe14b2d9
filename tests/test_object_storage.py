"""The vault in a bucket of a real S3 server, whose answers are disturbed on their way.

test_vault_store.py and test_vault_uploads.py run over both kinds of storage, and
`scripts/test --storage s3 tests/test_uploads.py` runs the tests of a service with its vault there.
"""

import hashlib
import logging
import os
import ssl
import time
from pathlib import Path
from uuid import UUID, uuid4

import obstore
import pytest
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from models.environment import child_environment
from scripts.stand_in.installation import Installation, wait_until
from scripts.stand_in.jobs import make_job, read_job
from service import doctor, storage
from service.backup import NotEmpty, back_up, restore
from service.commands.main import app
from service.database.engine import create_database
from service.domain import strays
from service.domain.recordings import identified
from service.services import bucket_address, check_root_keys, open_store, open_vault
from service.settings import Settings, read_settings
from service.storage import CopyDiffers, StorageInUse, copy_vault, read_checksum
from service.vault import ArtefactClass, bucket
from service.vault.bucket import FIRST_READ, BucketAddress, BucketObjects
from service.vault.errors import ArtefactMissing, RootKeyUnusable, StorageUnreachable
from service.vault.store import Artefact, Store
from service.vault.streaming import Key
from tests.api import open_api, tone
from tests.certificates import make_certificate
from tests.s3 import (
    BUCKET,
    KEY_ID,
    SECRET_KEY,
    Disturbed,
    FaultyProxy,
    bucket_objects,
    bucket_store,
    cut_off,
    lose_answer,
    lose_request,
    slow,
    unavailable,
    with_bucket,
)

KEY = Key(os.urandom(32))
SMALL = b"my name is Eva Muster and I live in Musterdorf"
LARGE = hashlib.shake_128(b"recording").digest(20 * 2**20)  # sent in three parts


@pytest.fixture
def proxy(s3_server):
    proxy = FaultyProxy(s3_server.port)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(bucket, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(bucket, "N_RETRIES", 1)


@pytest.fixture
def vault(proxy, tmp_path):
    return bucket_store(proxy.url, tmp_path / "identified")


@pytest.fixture
def empty_too(postgres, empty, tmp_path):
    """Settings of a second empty machine."""
    create_database(postgres.url("postgres"), name := f"empty_{uuid4().hex}")
    url = postgres.url(name).render_as_string(hide_password=False)
    return empty.model_copy(
        update={"data": tmp_path / "2/d", "keys": tmp_path / "2/k", "database_url": SecretStr(url)}
    )


@pytest.fixture
def in_bucket(settings, proxy):
    return with_bucket(settings, proxy.url)


def artefact():
    return Artefact(study_id=uuid4(), subject_id=uuid4(), kind="recording")


def put(vault, content, into=None):
    into = into or artefact()
    with vault.write(into, KEY) as file:
        file.write(content)
    return into


def read(vault, artefact):
    with vault.open(artefact, KEY) as file:
        return file.read()


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [unavailable, slow, lose_request, lose_answer, cut_off])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_write_survives_a_disturbed_answer(vault, proxy, content, fault):
    proxy.disturb("PUT", fault)

    written = put(vault, content)

    assert proxy.faults == []
    assert read(vault, written) == content


@pytest.mark.parametrize("fault", [unavailable, lose_request, lose_answer, cut_off])
@pytest.mark.parametrize("request_", ["POST", "?uploadId="])
def test_a_large_write_survives_faults_at_its_beginning_and_end(vault, proxy, request_, fault):
    """`?uploadId=` completes it: after a lost answer, S3 no longer knows the upload."""
    proxy.disturb(request_, fault)

    written = put(vault, LARGE)

    assert proxy.faults == []
    assert read(vault, written) == LARGE
    assert list(vault.ids()) == [written.id]


@pytest.mark.parametrize("fault", [unavailable, slow, lose_request, lose_answer, cut_off])
def test_a_read_survives_a_disturbed_answer(vault, proxy, fault):
    written = put(vault, LARGE)
    for _ in range(3):
        proxy.disturb("GET", fault)

    assert read(vault, written) == LARGE
    assert proxy.faults == []


def test_a_read_that_is_cut_again_and_again_fails_and_returns_nothing_false(vault, proxy):
    written = put(vault, LARGE)
    with vault.open(written, KEY) as file:
        start = file.read(2**20)
        proxy.disturb("GET", cut_off, times=100)
        with pytest.raises(StorageUnreachable):
            file.read()

    assert start == LARGE[: 2**20]


@pytest.mark.parametrize("fault", [unavailable, lose_request])
def test_storage_that_stays_away_is_reported_without_secrets(vault, proxy, caplog, fault):
    caplog.set_level(logging.DEBUG)
    written = put(vault, SMALL)
    proxy.disturb("/", fault, times=1000)

    for attempt in (
        lambda: put(vault, SMALL),
        lambda: vault.open(written, KEY),
        lambda: vault.delete(written.id),
        lambda: written.id in vault,
        lambda: list(vault.ids()),
    ):
        with pytest.raises(StorageUnreachable) as raised:
            attempt()
        said = f"{raised.value} {raised.value.__cause__} {caplog.text}"
        assert SECRET_KEY not in said and KEY_ID not in said

    proxy.faults.clear()
    assert read(vault, written) == SMALL


def test_a_failed_write_leaves_the_old_artefact(vault, proxy):
    written = put(vault, SMALL)
    proxy.disturb("PUT", unavailable, times=1000)
    proxy.disturb("POST", unavailable, times=1000)

    with pytest.raises(StorageUnreachable):
        put(vault, LARGE, into=written)

    proxy.faults.clear()
    assert read(vault, written) == SMALL


def test_a_deletion_that_took_no_effect_is_an_error(vault, proxy):
    written = put(vault, SMALL)

    def pretend(request):
        request.answer(204, [], b"")
        return True

    proxy.disturb("DELETE", pretend)
    with pytest.raises(StorageUnreachable, match="has not deleted"):
        vault.delete(written.id)

    vault.delete(written.id)
    assert written.id not in vault


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_artefact_that_changes_while_it_is_read_is_not_mixed(vault, change):
    written = put(vault, LARGE)
    with vault.open(written, KEY) as file:
        file.read(FIRST_READ // 2)
        if change == "replaced":
            put(vault, LARGE[::-1], into=written)
        else:
            vault.delete(written.id)
        with pytest.raises(ArtefactMissing):
            file.read()


# --- reading and listing --------------------------------------------------------------------------


def test_a_player_that_jumps_fetches_little(vault, proxy):
    written = put(vault, LARGE)
    proxy.seen.clear()

    with vault.open(written, KEY) as file:
        file.seek(15 * 2**20)
        assert file.read(1000) == LARGE[15 * 2**20 :][:1000]

    assert len(proxy.seen) <= 3  # the beginning, the end, and the place


def test_reading_in_order_takes_few_requests(vault, proxy):
    written = put(vault, LARGE)
    proxy.seen.clear()

    assert read(vault, written) == LARGE
    assert len(proxy.seen) <= 10  # there are 321 segments


def test_foreign_objects_are_no_artefacts(vault):
    objects = vault.objects
    id = uuid4()
    for name in ("notes.txt", f"other/{id}", f"{id.hex[:2]}/{id.hex[2:4]}/nothing"):
        obstore.put(objects._store, objects._prefix + name, b"foreign")

    assert list(vault.ids()) == []


def test_an_empty_object_is_a_damaged_artefact(vault):
    with vault.objects.write(id := uuid4()):
        pass

    with vault.objects.open(id) as file:
        assert file.read() == b""


def test_an_artefact_that_is_kept_another_week_is_young_again(vault):
    written = put(vault, SMALL)
    time.sleep(1.1)  # S3 has whole seconds
    old = time.time()
    assert list(vault.ids(before=old)) == [written.id]

    vault.keep_another_week(written.id)

    assert list(vault.ids(before=old - 1)) == []
    assert read(vault, written) == SMALL


def test_only_ciphertext_leaves_the_machine(vault, proxy, monkeypatch):
    sent: list[bytes] = []
    forward = Disturbed.forward

    def watched(self):
        sent.append(self.path.encode() + str(self.headers).encode() + self.body)
        return forward(self)

    monkeypatch.setattr(Disturbed, "forward", watched)
    put(vault, SMALL * 100)

    assert sent
    assert not any(word in each for each in sent for word in (SMALL[:20], KEY.secret))


# --- settings and credentials ---------------------------------------------------------------------


def s3_settings(**others):
    return {
        "storage": "s3",
        "s3_bucket": BUCKET,
        "s3_endpoint": "https://s3.example.org",
        "s3_key_id": "id",
        "s3_secret_key": SECRET_KEY,
        **others,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"s3_endpoint": "http://s3.example.org"},  # without TLS
        {"s3_endpoint": "https://user:password@s3.example.org"},
        {"s3_endpoint": "s3.example.org"},
        {"s3_bucket": None},
        {"s3_bucket": "Ä"},
        {"s3_key_id": None},
        {"s3_secret_key": None},
        {"storage": "gcs"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_cannot_be_safe_or_complete_are_refused(tmp_path, change):
    with pytest.raises(ValidationError):
        Settings(data=tmp_path / "d", keys=tmp_path / "k", **s3_settings(**change))


def test_secrets_reach_child_processes_but_no_representation(tmp_path, monkeypatch):
    settings = Settings(data=tmp_path / "d", keys=tmp_path / "k", **s3_settings())

    assert settings.as_environment()["FIELDSCRIBE_S3_SECRET_KEY"] == SECRET_KEY
    address = bucket_address(settings, ArtefactClass.IDENTIFIED)
    assert SECRET_KEY not in repr(settings) + repr(address)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert SECRET_KEY not in str(child_environment())
    assert read_settings() == settings


def test_each_class_can_have_a_bucket_of_its_own(tmp_path):
    settings = Settings(
        data=tmp_path / "d", keys=tmp_path / "k", **s3_settings(s3_bucket="fs-{class}/one")
    )

    address = bucket_address(settings, ArtefactClass.LINKAGE)
    assert (address.bucket, address.prefix) == ("fs-linkage", "one/linkage/artefacts")


def test_variables_of_amazons_tools_change_nothing(s3_server, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT": "https://192.0.2.1",
        "AWS_ENDPOINT_URL": "https://192.0.2.1",
        "AWS_ACCESS_KEY_ID": "another",
        "AWS_SESSION_TOKEN": "another",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "eu-west-9",
    }.items():
        monkeypatch.setenv(name, value)

    vault = bucket_store(s3_server.url, tmp_path)

    assert read(vault, put(vault, SMALL)) == SMALL


def test_a_refused_key_is_reported_at_once(s3_server, tmp_path):
    address = BucketAddress(BUCKET, "p", s3_server.url, "us-east-1", KEY_ID, "wrong")
    objects = BucketObjects(address, tmp_path)

    for attempt in (objects.check, lambda: uuid4() in objects, lambda: list(objects.ids())):
        with pytest.raises(StorageUnreachable, match="FIELDSCRIBE_S3"):
            attempt()


def test_a_bucket_that_does_not_exist_is_reported_as_such(vault, proxy):
    """The first start of a service failed with a traceback."""

    def missing(request):
        request.answer(404, [], b"<Error><Code>NoSuchBucket</Code></Error>")
        return True

    for attempt in (vault.objects.check, lambda: list(vault.ids()), lambda: put(vault, SMALL)):
        proxy.disturb("/", missing, times=1)
        with pytest.raises(StorageUnreachable, match="FIELDSCRIBE_S3_BUCKET"):
            attempt()
        proxy.faults.clear()


def test_a_private_authority_can_be_trusted(proxy, tmp_path):
    authority = make_certificate(tmp_path, "authority")
    own = make_certificate(tmp_path, "localhost", by=authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.path, own.key)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    url = f"https://localhost:{proxy.server_port}"
    plain = bucket_objects(url, "tls", tmp_path / "spool")

    with pytest.raises(StorageUnreachable):
        plain.check()
    address = BucketAddress(
        BUCKET, "tls", url, "us-east-1", KEY_ID, SECRET_KEY, authority.path.read_text()
    )
    trusting = Store(ArtefactClass.IDENTIFIED, tmp_path, BucketObjects(address, tmp_path / "spool"))
    assert read(trusting, put(trusting, SMALL)) == SMALL


# --- a service ------------------------------------------------------------------------------------


def test_a_recording_is_uploaded_checked_played_and_erased(in_bucket, proxy):
    with open_api(in_bucket) as api:
        study, sound = api.study()["id"], tone(1.0)
        recording = api.upload(study, sound)
        assert recording["state"] == "ready"
        path = f"/v1/recordings/{recording['id']}/audio"
        assert api.get(path).content == sound
        part = api.get(path, headers={"Range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, sound[1000:2000])
        store = identified(api.services)[0]
        assert UUID(recording["id"]) in store
        assert not list((store.folder / "artefacts").rglob("*"))

        assert api.request("DELETE", f"/v1/recordings/{recording['id']}").is_success
        assert UUID(recording["id"]) not in store
        assert api.get(path).status_code == 410


def test_an_outage_of_the_storage_is_reported_and_passes(in_bucket, proxy):
    with open_api(in_bucket) as api:
        study = api.study()["id"]
        recording = api.upload(study, tone(1.0))
        assert api.get("/readyz").status_code == 200
        proxy.disturb("/", unavailable, times=10_000)

        answers = [api.get(path) for path in ("/readyz", f"/v1/recordings/{recording['id']}/audio")]
        assert [(each.status_code, each.json()["code"]) for each in answers] == [
            (503, "storage_unreachable")
        ] * 2
        (check,) = doctor.check_storage(in_bucket)
        assert check.status == "problem" and SECRET_KEY not in check.message

        proxy.faults.clear()
        assert api.get("/readyz").status_code == 200
        (check,) = doctor.check_storage(in_bucket)
        assert check.status == "ok"


def test_a_recording_whose_check_meets_an_outage_is_checked_again(in_bucket, proxy, monkeypatch):
    monkeypatch.setattr("service.domain.checking.RETRY_AFTER", 0.2)
    monkeypatch.setattr("service.domain.checking.CHECK_EVERY", 0.2)
    with open_api(in_bucket) as api:
        study = api.study()["id"]
        proxy.disturb("PUT", unavailable, times=20)

        assert api.upload(study, tone(1.0))["state"] == "ready"
        assert proxy.faults == []


def test_strays_in_a_bucket_are_removed(in_bucket, monkeypatch):
    with open_api(in_bucket) as api:
        recording = UUID(api.upload(api.study()["id"], tone(1.0))["id"])
        store = identified(api.services)[0]
        with store.objects.write(stray := uuid4()) as file:
            file.write(b"a crash left it")

        strays.remove_strays(api.services)
        assert stray in store  # its row may still come
        monkeypatch.setattr(strays, "STRAY_AFTER", -60.0)
        strays.remove_strays(api.services)

        assert stray not in store
        assert recording in store


def test_a_backup_of_a_bucket_can_be_restored_into_a_folder_and_back(
    in_bucket, empty, empty_too, tmp_path, s3_server
):
    with open_api(in_bucket) as api:
        recording = api.upload(api.study()["id"], sound := tone(1.0))["id"]
        made = back_up(in_bucket, tmp_path / "out", tmp_path / "keys-out")
    assert made.data is not None

    restore(empty, made.data, made.keys)
    with open_api(empty) as api:
        assert api.get(f"/v1/recordings/{recording}/audio").content == sound
        again = back_up(empty, tmp_path / "out2", tmp_path / "keys-out2")
    assert again.data is not None
    another = with_bucket(empty_too, s3_server.url)
    restore(another, again.data, again.keys)
    with open_api(another) as api:
        assert api.get(f"/v1/recordings/{recording}/audio").content == sound
    assert not (another.vault / "identified" / "artefacts").exists()
    with pytest.raises(NotEmpty):
        restore(
            another.model_copy(update=dict(data=tmp_path / "x", keys=tmp_path / "y")),
            again.data,
            again.keys,
        )


def test_new_root_keys_are_not_created_beside_a_bucket_in_use(in_bucket, tmp_path):
    vault = open_vault(in_bucket).stores[ArtefactClass.IDENTIFIED]
    put(vault, SMALL)
    lost = in_bucket.model_copy(update={"keys": tmp_path / "lost", "data": tmp_path / "new"})

    with pytest.raises(RootKeyUnusable):
        check_root_keys(lost)


def test_a_worker_reads_and_writes_the_bucket(database_url, s3_server, tmp_path):
    """With real processes: the engine child learns of the bucket, and no argument names its key."""
    options = with_bucket(Settings(), s3_server.url)
    names = ("storage", "s3_bucket", "s3_endpoint", "s3_key_id", "s3_secret_key")
    chosen = {name: getattr(options, name) for name in names}
    site = Installation(tmp_path, database_url, **chosen)
    services = site.open()
    try:
        site.start_api()
        site.start_worker()
        job_id = make_job(services)
        wait_until(lambda: read_job(services, job_id).status == "succeeded", 60, "the job")
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in site.pids()["engine"]]
        assert commands and SECRET_KEY not in "".join(commands)
    finally:
        site.stop()
    assert not (site.settings.vault / "identified" / "artefacts").exists()


# --- copying --------------------------------------------------------------------------------------


@pytest.fixture
def filled(in_bucket):
    """A vault in a folder, with a bucket that its settings name, and what it holds."""
    settings = in_bucket.model_copy(update={"storage": "folder"})
    made = [put(store, LARGE[: 2**20]) for store in open_vault(settings).stores.values()]
    return settings, made


def all_checksums(settings):
    stores = [open_store(settings, name) for name in ArtefactClass]
    return {id: read_checksum(each.objects, id) for each in stores for id in each.ids()}


def test_the_vault_moves_to_a_bucket_and_back(filled, proxy):
    settings, made = filled
    before = all_checksums(settings)
    assert len(before) == 3

    proxy.disturb("PUT", lose_answer)
    proxy.disturb("GET", cut_off)
    assert copy_vault(settings, "s3").copied == 3
    in_bucket = settings.model_copy(update={"storage": "s3"})
    assert all_checksums(in_bucket) == before
    stores = open_vault(in_bucket).stores.values()
    assert [read(store, each) for store, each in zip(stores, made, strict=True)] == [
        LARGE[: 2**20]
    ] * 3
    again = copy_vault(settings, "s3")
    assert (again.copied, again.present) == (0, 3)

    for store in open_vault(settings).stores.values():
        for id in list(store.ids()):
            store.delete(id)
    assert copy_vault(in_bucket, "folder").copied == 3
    assert all_checksums(settings) == before


def test_an_interrupted_copy_is_continued_and_a_changed_copy_replaced(filled, proxy):
    settings, made = filled
    proxy.disturb("PUT", unavailable, times=1000)
    with pytest.raises(StorageUnreachable):
        copy_vault(settings, "s3")
    proxy.faults.clear()
    in_bucket = settings.model_copy(update={"storage": "s3"})
    with open_store(in_bucket, ArtefactClass.IDENTIFIED).objects.write(made[0].id) as file:
        file.write(b"another content")

    assert copy_vault(settings, "s3").copied == 3
    assert all_checksums(in_bucket) == all_checksums(settings)


def test_a_copy_that_comes_back_changed_is_deleted_and_reported(filled, monkeypatch):
    settings, _ = filled
    calls: list[int] = []

    def changed(objects, id):
        calls.append(1)
        return str(len(calls))

    monkeypatch.setattr(storage, "read_checksum", changed)
    with pytest.raises(CopyDiffers):
        copy_vault(settings, "s3")
    monkeypatch.undo()

    assert all_checksums(settings.model_copy(update={"storage": "s3"})) == {}


def test_the_storage_in_use_is_never_copied_over(in_bucket):
    with pytest.raises(StorageInUse):
        copy_vault(in_bucket, "s3")


def test_the_copy_command_says_what_to_do_next(filled):
    settings, _ = filled
    answer = CliRunner().invoke(
        app, ["storage", "copy", "--to", "s3"], env=settings.as_environment()
    )

    assert answer.exit_code == 0, answer.output
    assert "copied 3 artefacts" in answer.output
    assert "FIELDSCRIBE_STORAGE=s3" in answer.output
