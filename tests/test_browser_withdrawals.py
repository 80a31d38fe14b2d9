"""A study's withdrawals in Chromium: what exists, confirming, progress, the certificate."""

import json

import pytest

from tests.browser import check_page, shoot
from tests.withdrawing import open_group, places_of

pytestmark = pytest.mark.browser


def test_a_participant_is_withdrawn_on_the_page(visit, site):
    study = open_group(site.services, mention=False)
    visit.expected.append("404")  # of a code that nobody has
    page = visit(f"/studies/{study.study}/withdrawals")
    check_page(page)
    page.get_by_label("The participant’s code").fill("P99")
    page.get_by_role("button", name="Show what exists").click()
    page.get_by_text("Nobody in the study has the code P99").wait_for()
    page.get_by_label("The participant’s code").fill("P07")
    page.get_by_role("button", name="Show what exists").click()
    page.get_by_role("heading", name=f"P07 in {study.study}").wait_for()

    assert page.get_by_role("row", name="FG-1").get_by_text("only this voice leaves").count() == 1
    shoot(page, "withdrawal-preview")
    check_page(page)
    submit = page.get_by_role("button", name="Withdraw P07")
    assert submit.is_disabled()
    page.get_by_label("Remove all data").check()
    page.get_by_label("Type P07 to confirm").fill("P05")
    assert submit.is_disabled()
    page.get_by_label("Type P07 to confirm").fill("P07")
    submit.click()
    page.get_by_role("heading", name="P07 has withdrawn").wait_for(timeout=60_000)
    shoot(page, "withdrawal-done")
    check_page(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Signed file (JSON) of P07").first.click()
    signed = json.loads(download.value.path().read_text())
    assert '"subject": "P07"' in signed["document"]
    assert places_of(study, study.words["P07"]) == []


def test_a_group_whose_speakers_nobody_has_named_cannot_be_withdrawn_from(visit, site):
    study = open_group(site.services, named=False)
    page = visit(f"/studies/{study.study}/withdrawals#P07")
    page.get_by_role("button", name="Show what exists").click()
    page.get_by_text("nobody has said who spoke").wait_for()
    check_page(page)
    page.get_by_label("Remove all data").check()
    page.get_by_label("Type P07 to confirm").fill("P07")

    assert page.get_by_role("button", name="Withdraw P07").is_disabled()
    page.get_by_label("Take no further part").check()
    assert page.get_by_role("button", name="Withdraw P07").is_enabled()
