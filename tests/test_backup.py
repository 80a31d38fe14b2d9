"""Backups, and their restore onto a machine with empty folders and an empty database."""

import errno
import io
import json
import os
import shutil
import tarfile
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from scripts.stand_in.jobs import make_job, read_job, read_stages
from service import backup
from service.backup import (
    BackupDamaged,
    BackupMismatch,
    BackupNotReadable,
    DatabaseToolFailed,
    KeysNotApart,
    NotEmpty,
    UnsafeBackup,
    back_up,
    restore,
)
from service.commands.main import app
from service.database import DataNotReachable
from service.database.embedded import EmbeddedPostgres
from service.database.tables import Recording, Session, StoredTranscript, Study, Table
from service.domain import audit, audit_heads, checking
from service.domain.recordings import identified
from service.domain.strays import remove_strays
from service.errors import OutputNotWritable
from service.services import create_root_keys, open_services
from service.settings import Settings
from service.vault import ArtefactClass
from service.vault.errors import DiskFull, Erased
from service.vault.files import files_below
from tests.api import delete_all_rows, metadata, open_api, tone
from tests.deidentified import accept_all, open_case, suggest
from tests.finished import age, finish_job, write

PEOPLE = (("I1", "interviewer"), ("P07", "participant"))


@pytest.fixture
def alone(settings):
    """Without rows of other tests, whose files are elsewhere."""
    services = open_services(settings)
    with services.sessionmaker.begin() as session:
        delete_all_rows(session)
    services.close()


@pytest.fixture
def api(settings):
    with open_api(settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


def folders(tmp_path):
    made = tmp_path / "backups", tmp_path / "backups of keys"
    for folder in made:
        folder.mkdir(exist_ok=True)
    return made


def backed_up(settings, tmp_path):
    made = back_up(settings, *folders(tmp_path))
    assert made.data is not None
    return made.data, made.keys


def finished(api, study):
    job_id = make_job(api.services, UUID(study))
    return job_id, finish_job(api.services, job_id)


def recording_of(api, job_id):
    return api.get(f"/v1/jobs/{job_id}").json()["recordings"][0]


def test_a_restore_onto_an_empty_machine_brings_everything_back(
    api, study, settings, empty, tmp_path
):
    job_id, transcript_id = finished(api, study)
    settings.sign_on_key.write_bytes(b"k" * 32)
    data, keys = backed_up(settings, tmp_path)
    done = restore(empty, data, keys)

    assert (done.artefacts, done.erased_again) == (6, 0)
    assert empty.sign_on_key.read_bytes() == b"k" * 32
    with open_api(empty) as restored:
        text = restored.get(f"/v1/transcripts/{transcript_id}?format=txt").text
        assert "My name is Eva Muster." in text
        assert restored.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
        sound = restored.get(f"/v1/recordings/{recording_of(restored, job_id)}/audio")
        assert sound.content == b"{}"
    same = settings.owner_token.read_text()
    assert empty.owner_token.read_text() == same


def test_a_recording_that_is_merged_during_a_backup_is_in_it(
    api, study, settings, empty, tmp_path, monkeypatch
):
    """Its parts were gone by the time they were listed, and recordings had been listed before."""
    sound = tone()
    begin = {"Upload-Length": str(len(sound))}
    location = api.post(f"/v1/uploads?study={study}", headers=begin).headers["Location"]
    id = location.rpartition("/")[2]
    files_named = backup.files_named
    monkeypatch.setattr(checking.Checker, "_find_waiting", lambda self: [])  # not yet
    part = {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
    }
    assert api.request("PATCH", location, content=sound, headers=part).status_code == 204

    def list_files_then_merge(*arguments):
        listed = list(files_named(*arguments))
        checking.check(api.services, UUID(id))
        return listed

    monkeypatch.setattr(backup, "files_named", list_files_then_merge)
    data, keys = backed_up(settings, tmp_path)
    monkeypatch.undo()
    restore(empty, data, keys)

    with open_api(empty) as restored:
        assert restored.checked(id)["state"] == "ready"


def test_neither_archive_contains_speech_or_is_readable_by_others(api, study, settings, tmp_path):
    finished(api, study)
    data, keys = backed_up(settings, tmp_path)

    for path in (data, keys):
        assert b"Muster" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    with tarfile.open(data) as archive:
        assert not [name for name in archive.getnames() if name.endswith((".key", ".token"))]


def test_jobs_and_recordings_erased_since_the_backup_are_erased_again(
    api, study, settings, empty, tmp_path
):
    (job, transcript), (kept, _), (other, _) = (finished(api, study) for _ in range(3))
    data, keys = backed_up(settings, tmp_path)
    recording = recording_of(api, other)
    assert api.request("DELETE", f"/v1/jobs/{job}").status_code == 200
    assert api.request("DELETE", f"/v1/recordings/{recording}").status_code == 204
    newest = back_up(settings, None, tmp_path / "backups of keys")

    done = restore(empty, data, newest.keys)

    assert done.erased_again == 3
    with open_api(empty) as restored:
        for path in (
            f"/v1/jobs/{job}",
            f"/v1/transcripts/{transcript}",
            f"/v1/jobs/{other}",
            f"/v1/recordings/{recording}",
        ):
            assert restored.get(path).status_code == 410, path
        assert restored.get(f"/v1/jobs/{kept}").status_code == 200
        keyring = restored.services.vault.keyrings[ArtefactClass.IDENTIFIED]
        with pytest.raises(Erased):
            keyring.data_key(UUID(study), UUID(recording))


def test_releases_are_restored_and_those_withdrawn_since_the_backup_are_erased_again(
    api, settings, empty, tmp_path
):
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    path = f"/v1/transcripts/{case.transcript_id}/releases"
    kept, withdrawn = (api.post(path, json={}).json()["id"] for _ in range(2))
    text = api.get(f"/v1/releases/{kept}/files/txt").text
    data, _ = backed_up(settings, tmp_path)
    assert api.request("DELETE", f"/v1/releases/{withdrawn}").status_code == 204
    newest = back_up(settings, None, tmp_path / "backups of keys")

    done = restore(empty, data, newest.keys)

    assert done.erased_again == 1
    with open_api(empty) as restored:
        assert restored.get(f"/v1/releases/{kept}/files/txt").text == text
        for rest in ("", "/files/txt", "/report"):
            assert restored.get(f"/v1/releases/{withdrawn}{rest}").status_code == 410
        found = restored.post(f"/v1/studies/{case.study_id}/release-check").json()
        assert (found["releases"], found["found"]) == (1, [])


def test_a_refused_recording_deleted_after_the_backup_stays_deleted(
    api, study, settings, empty, tmp_path
):
    refused = api.upload(study, tone(level=0.0))["id"]
    data, _ = backed_up(settings, tmp_path)
    assert api.request("DELETE", f"/v1/recordings/{refused}").status_code == 204
    newest = back_up(settings, None, tmp_path / "backups of keys")

    assert restore(empty, data, newest.keys).erased_again == 1

    with open_api(empty) as restored:
        assert restored.get(f"/v1/recordings/{refused}").status_code == 410


def test_a_ledger_on_the_machine_is_kept_when_an_older_backup_is_restored(
    api, study, settings, empty, tmp_path
):
    job, _ = finished(api, study)
    data, keys = backed_up(settings, tmp_path)
    api.request("DELETE", f"/v1/jobs/{job}")
    empty.keys.mkdir(parents=True)
    settings.ledger.rename(empty.ledger)

    assert restore(empty, data, keys).erased_again == 1
    services = open_services(empty)
    assert read_job(services, job).status == "erased"
    services.close()


@pytest.mark.folder
def test_foreign_files_in_the_folders_do_not_spoil_a_backup(api, study, settings, empty, tmp_path):
    """A restore refuses unknown files, so a backup that contained them could not be restored."""
    _, transcript_id = finished(api, study)
    vault = settings.vault / "identified"
    for path in (vault / ".DS_Store", settings.root_keys / "identified.key~", vault / "lost+found"):
        path.write_text("somebody else's")
    (vault / "artefacts/ab").mkdir(exist_ok=True)
    (vault / "artefacts/ab/passwd").symlink_to("/etc/passwd")
    data, keys = backed_up(settings, tmp_path)

    assert restore(empty, data, keys).artefacts == 6
    with open_api(empty) as restored:
        assert restored.get(f"/v1/transcripts/{transcript_id}?format=txt").status_code == 200


def test_a_study_erased_since_the_backup_is_erased_again(api, study, settings, empty, tmp_path):
    job_id, _ = finished(api, study)
    api.post("/v1/sessions", json={"study": study})
    data, keys = backed_up(settings, tmp_path)
    assert api.request("DELETE", f"/v1/studies/{study}").status_code == 204
    empty.keys.mkdir(parents=True)
    settings.ledger.rename(empty.ledger)

    restore(empty, data, keys)

    with open_api(empty) as restored:
        for path in (f"/v1/studies/{study}", f"/v1/jobs/{job_id}"):
            assert restored.get(path).status_code == 410
        assert restored.get("/v1/sessions").json()["items"] == []
        assert not list(restored.services.vault.stores[ArtefactClass.IDENTIFIED].ids())


def test_a_session_erased_since_the_backup_is_erased_again(api, study, settings, empty, tmp_path):
    """The ledger listed only keys, and a session has none, so its code and roster came back."""
    body = {"study": study, "roster": [{"code": code, "role": role} for code, role in PEOPLE]}
    gone, kept = (api.post("/v1/sessions", json=body).json()["id"] for _ in range(2))
    data, _ = backed_up(settings, tmp_path)
    assert api.request("DELETE", f"/v1/sessions/{gone}").status_code == 204
    newest = back_up(settings, None, tmp_path / "backups of keys")

    assert restore(empty, data, newest.keys).erased_again == 1
    with open_api(empty) as restored:
        assert restored.get(f"/v1/sessions/{gone}").status_code == 410
        assert [each["id"] for each in restored.get("/v1/sessions").json()["items"]] == [kept]
        with restored.services.sessionmaker() as session:
            assert session.get_one(Session, UUID(gone)).roster == []


def test_the_error_of_a_failed_database_tool_quotes_nothing(api, settings, tmp_path):
    """Such a tool writes data to standard error, for instance a row."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "pg_dump").write_text("#!/bin/sh\necho 'DETAIL: Eva Muster' >&2\nexit 3\n")
    (tools / "pg_dump").chmod(0o755)
    settings = settings.model_copy(update={"postgres_programs": tools})
    out, keys_out = folders(tmp_path)

    with pytest.raises(DatabaseToolFailed) as raised:
        back_up(settings, out, keys_out)
    assert raised.value.code == "database_tool_failed"
    assert str(raised.value) == "pg_dump ended with status 3"
    assert list(out.iterdir()) == list(keys_out.iterdir()) == []  # not even a partial archive


def test_keys_and_data_cannot_be_backed_up_into_one_folder(settings, tmp_path):
    with pytest.raises(KeysNotApart):
        back_up(settings, tmp_path, tmp_path / "x" / "..")


@pytest.mark.parametrize("which", ["data", "keys"])
def test_an_unwritable_folder_is_reported_before_anything_is_written(settings, tmp_path, which):
    """A file takes the folder's place, so that root, whom no mode stops, fails too."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("a file")
    targets = (bad, good) if which == "data" else (good, bad / "below")

    with pytest.raises(OutputNotWritable, match=which):
        back_up(settings, *targets)
    assert not good.exists() or list(good.iterdir()) == []


def test_another_users_installation_is_not_backed_up(settings, tmp_path, monkeypatch):
    def read_text(path):
        raise PermissionError(13, "Permission denied")

    own = settings.model_copy(update={"database_url": None})
    monkeypatch.setattr(type(own.database), "read_text", read_text)
    with pytest.raises(DataNotReachable):
        back_up(own, *folders(tmp_path))


def test_an_installation_is_not_overwritten(api, settings, empty, tmp_path):
    data, keys = backed_up(settings, tmp_path)
    with pytest.raises(NotEmpty):
        restore(settings, data, keys)
    in_use = empty.model_copy(update={"database_url": settings.database_url})
    with pytest.raises(NotEmpty):
        restore(in_use, data, keys)
    assert not in_use.keys.exists()


def test_a_restore_whose_dump_does_not_fit_on_the_disk_says_so(
    api, settings, empty, tmp_path, monkeypatch
):
    """It goes to the system's temporary folder, and ended in a traceback."""
    data, keys = backed_up(settings, tmp_path)

    class FullDisk(io.BytesIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backup.tempfile, "TemporaryFile", FullDisk)  # type: ignore[attr-defined]
    with pytest.raises(DiskFull):
        restore(empty, data, keys)


def test_keys_of_another_installation_are_refused(api, settings, empty, tmp_path):
    data, keys = backed_up(settings, tmp_path)
    update = {"keys": tmp_path / "other keys", "data": tmp_path / "other data"}
    other = settings.model_copy(update=update)
    create_root_keys(other)
    theirs = back_up(other, None, tmp_path)

    with pytest.raises(BackupMismatch):
        restore(empty, data, theirs.keys)


def rewritten(archive, change):
    """A copy of the archive with `change` applied to its list of (TarInfo, content)."""
    with tarfile.open(archive) as old:
        members = [
            (member, file.read() if (file := old.extractfile(member)) else b"")
            for member in old.getmembers()
        ]
    members = change(members)
    path = archive.with_name("changed.tar")
    with tarfile.open(path, "w") as new:
        for member, content in members:
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return path


def added(name, **fields):
    def change(members):
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        manifest, content = members[-1]
        values = json.loads(content)
        values["n_files"] += 1
        return [*members[:-1], (member, b""), (manifest, json.dumps(values).encode())]

    return change


A, B = "vault/identified/artefacts/ab/cd", "12345678-1234-4234-8234-123456789012"


@pytest.mark.parametrize(
    "change",
    [
        added(f"{A}/{B}", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        added(f"{A}/{B}", type=tarfile.LNKTYPE, linkname="database.dump"),
        added(f"{A}/{B}", type=tarfile.FIFOTYPE),
        added("vault/identified/artefacts/../../../outside"),
        added("/etc/cron.d/outside"),
        added("vault/../../outside"),
        added("root/identified.key"),
        added("database.dump"),
        added("vault/identified"),
    ],
    ids=["link", "hard link", "pipe", "up", "absolute", "up 2", "a key", "twice", "a folder"],
)
def test_a_backup_with_links_and_paths_is_refused_before_anything_is_written(
    api, settings, empty, tmp_path, change
):
    data, keys = backed_up(settings, tmp_path)

    with pytest.raises(UnsafeBackup):
        restore(empty, rewritten(data, change), keys)
    assert not empty.data.exists() and not empty.keys.exists()


def test_a_damaged_backup_is_refused(api, study, settings, empty, tmp_path):
    finished(api, study)
    data, keys = backed_up(settings, tmp_path)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data.read_bytes()[:-12_000])
    noise = tmp_path / "noise.tar"
    noise.write_bytes(b"noise" * 1000)

    with pytest.raises(BackupDamaged):
        restore(empty, cut, keys)
    with pytest.raises(BackupDamaged):
        restore(empty, rewritten(data, lambda members: members[1:]), keys)
    with pytest.raises(UnsafeBackup):
        restore(empty, keys, keys)
    for path in (noise, tmp_path / "none.tar"):
        with pytest.raises(BackupNotReadable):
            restore(empty, path, keys)
    assert not empty.data.exists()


def test_the_time_of_a_backup_is_recorded_for_the_doctor(api, settings, tmp_path):
    back_up(settings, *folders(tmp_path))

    assert "at" in json.loads((settings.data / "backup.json").read_text())


def test_the_password_of_the_database_is_in_no_command_line(api, settings, tmp_path, monkeypatch):
    seen = []
    run = backup.subprocess.run  # type: ignore[attr-defined]

    def watched(command, **options):
        seen.append(" ".join(map(str, command)))
        return run(command, **options)

    monkeypatch.setattr("service.backup.subprocess.run", watched)
    back_up(settings, *folders(tmp_path))
    password = backup.database_url(settings).password  # type: ignore[attr-defined]
    assert seen and password and not any(password in line for line in seen)


def set_vocabulary(api, study, *words):
    path = f"/v1/studies/{study}/vocabulary"
    assert api.request("PUT", path, json={"words": words}).status_code == 200


def test_a_vocabulary_that_is_replaced_during_a_backup_is_in_it(
    alone, api, study, settings, empty, tmp_path, monkeypatch
):
    """The study took no jobs after the restore: its row named a file that had been deleted."""
    set_vocabulary(api, study, "Eva")
    age(api.services)
    run_tool = backup.run_tool

    def replace_after_the_dump(*arguments, **options):
        run_tool(*arguments, **options)
        set_vocabulary(api, study, "Seroquel")
        remove_strays(api.services)

    monkeypatch.setattr(backup, "run_tool", replace_after_the_dump)
    data, keys = backed_up(settings, tmp_path)
    monkeypatch.setattr(backup, "run_tool", run_tool)

    assert restore(empty, data, keys).missing == ()
    with open_api(empty) as restored:
        words = restored.get(f"/v1/studies/{study}/vocabulary").json()["words"]
    assert words == ["Eva"]


@pytest.mark.folder
def test_no_strays_are_deleted_while_a_backup_runs(api, study, settings, tmp_path, monkeypatch):
    job_id, _ = finished(api, study)
    stray = write(api.services, job_id, "stage_segment", b"found")
    age(api.services)
    run_tool = backup.run_tool

    def tidy_after_the_dump(*arguments, **options):
        run_tool(*arguments, **options)
        remove_strays(api.services)
        assert stray in identified(api.services)[0]

    monkeypatch.setattr(backup, "run_tool", tidy_after_the_dump)
    backed_up(settings, tmp_path)

    remove_strays(api.services)
    assert stray not in identified(api.services)[0]


def test_a_backup_that_loses_the_database_fails(api, settings, tmp_path, monkeypatch):
    run_tool = backup.run_tool

    def end_connections(*arguments, **options):
        run_tool(*arguments, **options)
        with api.services.engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks "
                    "WHERE locktype = 'advisory' AND mode = 'ShareLock'"
                )
            )

    monkeypatch.setattr(backup, "run_tool", end_connections)
    with pytest.raises(DatabaseToolFailed, match="back up again"):
        back_up(settings, *folders(tmp_path))
    assert not list(folders(tmp_path)[0].glob("*.tar"))


def test_a_restore_names_what_is_missing_and_how_to_mend_it(
    alone, api, study, settings, empty, tmp_path
):
    set_vocabulary(api, study, "Eva")
    job_id, transcript_id = finished(api, study)
    store, _ = identified(api.services)
    with api.services.sessionmaker() as session:
        row = session.get_one(Study, UUID(study))
        segment = read_stages(api.services, job_id)["segment"].artefact_id
        transcript = session.get_one(StoredTranscript, transcript_id).artefact_id
        recording = UUID(recording_of(api, job_id))
        for id in (row.vocabulary_artefact_id, segment, transcript, recording):
            assert id is not None
            store.delete(id)
    data, keys = backed_up(settings, tmp_path)

    missing = restore(empty, data, keys).missing

    assert missing == (
        f"the audio of recording {recording}: upload it again",
        f"the vocabulary of study {row.code}: set it again with PUT "
        f"/v1/studies/{row.code}/vocabulary; until then its jobs run without one",
        f"the result of segment of job {job_id}: if it has not ended, it computes it again; "
        "otherwise rerun it from this stage or an earlier one",
        f"transcript {transcript_id}: make it again with `fieldscribe rerun "
        f"{job_id} --from ingest`",
    )


def test_erased_jobs_and_recordings_are_not_reported_as_missing(
    alone, api, study, settings, empty, tmp_path
):
    """The row of an erased transcript names its file for ever."""
    (before, _), (after, _) = finished(api, study), finished(api, study)
    assert api.request("DELETE", f"/v1/jobs/{before}").status_code == 200
    data, _ = backed_up(settings, tmp_path)
    recording = recording_of(api, after)
    assert api.request("DELETE", f"/v1/recordings/{recording}").status_code == 204
    keys = back_up(settings, None, folders(tmp_path)[1]).keys

    restored = restore(empty, data, keys)

    assert restored.missing == ()
    assert restored.erased_again == 2


def test_every_column_that_names_a_file_is_checked_after_a_restore():
    columns = {
        column
        for table in Table.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("artefact_id")
    }
    assert {column.property.columns[0] for column in backup.MISSING} == columns


def test_an_erasure_that_a_backup_caught_half_way_is_completed(
    alone, api, study, settings, empty, tmp_path
):
    """Rows of recordings pointed at file names that had been deleted just after the dump."""
    headers = {"Upload-Metadata": metadata(filename="a.wav")}
    id = api.upload(study, tone(), headers=headers)["id"]
    assert api.request("DELETE", f"/v1/recordings/{id}").status_code == 204
    with api.services.sessionmaker.begin() as session:  # as it was between the two commits
        row = session.get_one(Recording, UUID(id))
        row.metadata_artefact_id, row.erased_at = uuid4(), None
    data, keys = backed_up(settings, tmp_path)

    assert restore(empty, data, keys).missing == ()


def test_folders_that_vanish_while_they_are_listed_do_not_stop_a_backup(tmp_path):
    """An upload's folder is deleted when its parts have been merged."""
    folder = tmp_path / "vault/identified/uploads"
    for name in ("aa", "bb", "cc"):
        (folder / name).mkdir(parents=True)
        (folder / name / "part").touch()
    listed = files_below(folder)
    next(listed)
    for name in ("aa", "bb", "cc"):
        shutil.rmtree(folder / name)

    assert list(listed) == []


def test_leftovers_of_a_killed_backup_are_deleted_after_a_day(api, settings, tmp_path):
    out, keys_out = folders(tmp_path)
    for folder in (out, keys_out):
        (folder / ".abc.partial").touch()
        os.utime(folder / ".abc.partial", (0, 0))
        (folder / "notes.partial").touch()
        os.utime(folder / "notes.partial", (0, 0))
    back_up(settings, out, keys_out)

    assert [path.name for path in out.iterdir() if path.suffix != ".tar"] == ["notes.partial"]
    assert [path.name for path in keys_out.iterdir() if path.suffix != ".tar"] == ["notes.partial"]


@pytest.mark.slow
def test_the_commands_back_up_and_restore_the_embedded_database(data_folder, tmp_path, monkeypatch):
    """Both machines have an embedded database, which is not running before or after."""
    old = Settings(data=data_folder / "a/data", keys=data_folder / "a/keys", port=0)
    for folder in (data_folder / "a", data_folder / "b"):
        folder.mkdir()
        folder.chmod(0o711)  # whatever the umask: the database's user passes through
    server = EmbeddedPostgres(old.database)
    server.start()
    create_root_keys(old)
    from service.api.process import prepare

    prepare(old)
    with open_api(old) as api:
        job_id, transcript_id = finished(api, api.study()["id"])
    server.stop()

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    use(monkeypatch, old)
    out, keys_out = folders(tmp_path)
    made = run("backup", out, "--keys-to", keys_out)
    new = Settings(data=data_folder / "b/data", keys=data_folder / "b/keys", port=0)
    use(monkeypatch, new)
    assert run("restore", made["data"], "--keys-from", made["keys"])["artefacts"] == 6

    server = EmbeddedPostgres(new.database)
    server.start()
    with open_api(new) as api:
        assert "Muster" in api.get(f"/v1/transcripts/{transcript_id}?format=txt").text
    server.stop()


def use(monkeypatch, settings):
    monkeypatch.delenv("FIELDSCRIBE_DATABASE_URL", raising=False)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)


def position(session):
    head = audit.read_head(session)
    assert head is not None
    return head.position


def test_a_restore_tells_which_entries_of_the_audit_trail_are_lost(
    api, study, settings, empty, tmp_path
):
    data, keys = backed_up(settings, tmp_path)
    with api.services.sessionmaker() as session:
        begun = position(session) - 1  # the entry after the dump is not in it
    finished(api, study)
    audit_heads.record_head(api.services)
    with api.services.sessionmaker() as session:
        last = position(session)
    newest = back_up(settings, None, folders(tmp_path)[1])
    restored = restore(empty, data, newest.keys)

    assert restored.lost_audit_entries == last - begun > 1
    services = open_services(empty)
    checked = audit_heads.verify(services)
    services.close()
    assert checked.findings == ()
    assert f"Entries {begun + 1} to {last} of an earlier trail are lost" in checked.notes[0]
