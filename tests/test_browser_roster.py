"""A study's roster in Chromium: importing, adding, finding, looking up names."""

import pytest

from tests.browser import check_page, settle, shoot, tab_through

pytestmark = pytest.mark.browser

CSV = (
    "kind,code,name,aliases,always\n"
    "person,P07,Siobhan Gallagher,Shiv;Von,\n"
    "place,,Coffs Harbour,Coffs,\n"
    "organisation,ORG-4,Riverbend Peer Collective,,yes\n"
    "person,,Hope,,\n"
)


@pytest.fixture
def study(site):
    return site.study()


@pytest.fixture
def filled(site, study):
    """A study with four entries on its roster."""
    answer = site.post(f"/v1/studies/{study['code']}/roster", json={"csv": CSV})
    assert answer.status_code == 200, answer.text
    return study


def entities(site, study, query=""):
    return site.get(f"/v1/studies/{study['code']}/entities{query}").json()["items"]


def row(page, text):
    return page.locator("tbody tr").filter(has_text=text)


def test_a_spreadsheet_is_imported_and_its_doubtful_entries_are_named(visit, site, study, tmp_path):
    page = visit(f"/studies/{study['code']}/roster")
    page.get_by_role("heading", name="The roster is empty").wait_for()
    shoot(page, "roster-empty")
    check_page(page)
    (tmp_path / "names.xlsx").write_bytes(b"PK\x03\x04")
    page.get_by_label("A CSV or text file").set_input_files(tmp_path / "names.xlsx")
    page.get_by_text("names.xlsx is a workbook").wait_for()
    (tmp_path / "names.csv").write_bytes(CSV.replace("Hope", "Zoë").encode("windows-1252"))
    page.get_by_label("A CSV or text file").set_input_files(tmp_path / "names.csv")
    page.get_by_text("A table with 4 entries.").wait_for()
    assert "Zoë" in page.get_by_label("Or type or paste").input_value()
    page.get_by_label("Or type or paste").fill(CSV)
    page.get_by_role("button", name="Import").click()

    page.get_by_text("4 added, 0 changed, 0 unchanged.").last.wait_for()
    page.get_by_text("Entry 4: one of its names is also a common word").wait_for()
    assert page.get_by_label("Or type or paste").input_value() == ""
    assert row(page, "P07").get_by_text("Participant").count() == 1
    assert row(page, "ORG-4").get_by_text("always replaced").count() == 1
    assert "Siobhan" not in page.locator("#roster").inner_text().split("Import a list")[0]
    shoot(page, "roster-imported")
    check_page(page)
    assert {each["pseudonym"] for each in entities(site, study)} == {"P07", "ORG-4", None}


def test_a_typed_list_is_imported_without_a_table(visit, site, study):
    page = visit(f"/studies/{study['code']}/roster")
    area = page.get_by_label("Or type or paste")
    area.fill("P07; Siobhan Gallagher; Shiv\nTomasz\n\n")
    page.get_by_text("A list with 2 entries.").wait_for()
    page.get_by_role("button", name="Import").click()
    page.get_by_text("2 added, 0 changed, 0 unchanged.").last.wait_for()
    area.fill("Lifeline")
    page.get_by_label("These are").select_option("allowed")
    page.get_by_role("button", name="Import").click()
    page.get_by_text("1 added, 0 changed, 0 unchanged.").last.wait_for()

    page.get_by_label("Show", exact=True).select_option("allowed")
    assert page.locator("tbody tr").count() == 1
    assert [each["pseudonym"] for each in entities(site, study, "?kind=participant")] == ["P07"]


def test_a_mistake_in_the_list_is_explained_and_the_text_is_kept(visit, study):
    visit.expected.append("422")
    page = visit(f"/studies/{study['code']}/roster")
    page.get_by_label("Or type or paste").fill("kind,name\nanimal,Rex\n")
    page.get_by_role("button", name="Import").click()
    page.get_by_text("Entry 1 of the roster: the kind must be one of").wait_for()
    assert page.get_by_label("Or type or paste").input_value() == "kind,name\nanimal,Rex\n"
    assert page.get_by_role("button", name="Import").is_enabled()


def test_entries_are_added_changed_and_erased_by_keyboard_alone(visit, site, study):
    page = visit(f"/studies/{study['code']}/roster")
    page.locator("#add-entity").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Name", exact=True).focus()
    page.keyboard.type("Siobhan Gallagher")
    page.keyboard.press("Tab")
    page.keyboard.type("Shiv")
    page.get_by_label("Pseudonym").focus()
    page.keyboard.type("PERSON-5")
    shoot(page, "roster-add")
    check_page(page)
    page.get_by_role("dialog").get_by_role("button", name="Add", exact=True).focus()
    page.keyboard.press("Enter")
    row(page, "PERSON-5").wait_for()

    def choose(action):
        row(page, "PERSON-5").locator("summary").focus()
        page.keyboard.press("Enter")
        for _ in range(8):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText") == action:
                break
        page.keyboard.press("Enter")

    def finished():
        page.locator("[data-entity] summary:focus").wait_for()

    choose("Add a spelling")
    page.keyboard.type("Von")
    page.get_by_role("dialog").get_by_role("button", name="Add").focus()
    page.keyboard.press("Enter")
    finished()
    choose("Remove a spelling")
    page.keyboard.type("Shiv")
    page.get_by_role("dialog").get_by_role("button", name="Remove").focus()
    page.keyboard.press("Enter")
    finished()
    choose("Change")
    page.get_by_label("Chosen name", exact=True).fill("Alex")
    page.get_by_label("Always replace").check()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    row(page, "always replaced").wait_for()
    finished()

    page.get_by_label("Find by name").fill("Von")
    page.keyboard.press("Enter")
    page.get_by_text("1 entry found.").first.wait_for()
    page.get_by_label("Find by name").fill("Shiv")
    page.keyboard.press("Enter")
    page.get_by_text("0 entries found.").first.wait_for()
    page.get_by_role("button", name="Show all entries").click()
    choose("Erase the names")
    page.get_by_role("dialog").get_by_role("button", name="Erase the names").click()
    row(page, "names erased").wait_for()
    assert entities(site, study)[0]["erased_at"] is not None


def test_names_are_shown_for_a_reason_that_is_recorded(visit, site, filled):
    page = visit(f"/studies/{filled['code']}/roster", role="custodian", studies=[filled["code"]])
    assert "Siobhan" not in page.content()
    page.get_by_label("Choose P07").check()
    page.get_by_role("button", name="Show names").click()
    page.get_by_label("Reason").select_option("withdrawal")
    shoot(page, "roster-look-up")
    check_page(page)
    page.get_by_role("button", name="Show the names").click()
    row(page, "Siobhan Gallagher; Shiv; Von").wait_for()
    assert "Coffs" not in page.locator("tbody").inner_text()
    page.get_by_text("Who has looked up names").click()
    page.get_by_text("P07. A participant withdraws.").wait_for()
    shoot(page, "roster-names")
    check_page(page)
    looked_up = site.get(f"/v1/studies/{filled['code']}/look-ups").json()["items"]
    assert [each["reason"] for each in looked_up] == ["withdrawal"]


def test_a_researcher_adds_names_but_cannot_read_them(visit, filled):
    page = visit(f"/studies/{filled['code']}/roster", role="researcher", studies=[filled["code"]])
    page.get_by_text("only a custodian can look them up").wait_for()
    assert page.get_by_role("button", name="Show names").count() == 0
    page.get_by_label("Find by name").fill("Coffs Harbour")
    page.keyboard.press("Enter")
    page.get_by_text("1 entry found.").first.wait_for()
    assert page.locator("tbody tr").count() == 1


def test_two_entries_are_merged_and_one_is_split(visit, site, filled):
    page = visit(f"/studies/{filled['code']}/roster")
    page.get_by_label("Choose P07").check()
    page.get_by_label("Choose other person").check()
    page.get_by_role("button", name="Show names").click()
    page.get_by_role("button", name="Show the names").click()
    row(page, "Hope").locator("summary").click()
    page.get_by_role("button", name="Merge").click()
    page.get_by_label("is the same as").select_option("Siobhan Gallagher (P07)")
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    row(page, "Other person").wait_for(state="detached")

    row(page, "P07").locator("summary").click()
    page.get_by_role("button", name="Split").click()
    page.get_by_label("Names that belong to the new entry").fill("Hope")
    page.get_by_role("dialog").get_by_role("button", name="Split").click()
    row(page, "Other person").wait_for()
    assert len(entities(site, filled)) == 4


def test_markup_in_names_stays_text(visit, filled):
    page = visit(f"/studies/{filled['code']}/roster")
    page.get_by_label("Or type or paste").fill("<img src=x onerror=alert(1)>; \u202etxet")
    page.get_by_role("button", name="Import").click()
    page.get_by_text("1 added").last.wait_for()
    page.get_by_label("Choose other person").first.check()
    page.get_by_role("button", name="Show names").click()
    page.get_by_role("button", name="Show the names").click()
    page.get_by_text("<img src=x").wait_for()
    assert page.locator("main img").count() == 0


def test_the_roster_fits_400_pixels_and_text_of_twice_the_size(visit, filled):
    page = visit(f"/studies/{filled['code']}/roster", size="narrow")
    shoot(page, "roster-narrow")
    check_page(page)
    names = tab_through(page)
    assert "Add an entry" in names
    assert any(name.startswith("Actions for") for name in names)
    row(page, "P07").locator("summary").click()
    shoot(page, "roster-menu-narrow")
    check_page(page)
    page.set_viewport_size({"width": 640, "height": 450})
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
