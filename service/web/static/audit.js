// Who has read what in a study, and everything that happened to it.
import * as api from "./api.js";
import { announce, byId, el, fill, notice, ready, sentence } from "./dom.js";
import { user } from "./shell.js";
import { showTabs } from "./study_tabs.js";

const MOST = 1000;
const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/studies/${encodeURIComponent(code)}/audit`;
const box = byId("audit");
const results = el("div", { class: "stack", id: "results" });

try {
  await showTabs(code, "audit", me);
  fill(box, form(), results);
} catch (problem) { fill(box, notice("error", sentence(problem.message))); }
ready();

const when = (text) => text.slice(0, 16).replace("T", " ");

function field(id, label, attributes, hint) {
  const input = el("input", { id, autocomplete: "off", ...attributes });
  return el("div", { class: "field" }, el("label", { for: id }, label), input, hint ? el("p", { class: "hint" }, hint) : null);
}

function form() {
  const element = el("form", { class: "panel stack settings" }, el("h2", {}, "Who has read this?"),
    field("about", "About", { maxlength: "100" }, "A session (INT-07), a participant (P07), the name of an account, or an id. Empty: the whole study."),
    field("since", "From (such as 2031-01-07)", { maxlength: "10" }), field("until", "Before", { maxlength: "10" }),
    el("div", { class: "row" }, el("button", { class: "primary" }, "Show")));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await show(); } catch (problem) { fill(results, notice("error", sentence(problem.message))); announce(problem.message); }
  });
  return element;
}

async function show() {
  const query = new URLSearchParams({ limit: String(MOST) });
  for (const name of ["about", "since", "until"]) {
    const value = byId(name).value.trim();
    if (value) query.set(name, name === "about" ? value : `${value}T00:00:00Z`);
  }
  const { items, next_cursor } = await api.get(`${path}?${query}`);
  const readers = summarise(items.filter((entry) => entry.is_reading));
  fill(results,
    el("section", { class: "stack" }, el("h2", {}, "Who has read it"),
      readers.length ? table(["Who", "Role", "Times", "First (UTC)", "Last (UTC)"], readers) : el("p", {}, "Nobody.")),
    el("section", { class: "stack" }, el("h2", {}, "Everything that happened"),
      next_cursor ? notice("info", `These are the first ${MOST} entries. Choose later days, or use fieldscribe audit.`) : null,
      items.length ? table(["When (UTC)", "Who", "Session", "What", "Reason"],
        items.map((entry) => [when(entry.at), entry.who, entry.session ?? "–", entry.what, (entry.reason ?? "–").replaceAll("_", " ")])) : el("p", {}, "The trail has no entry about this.")));
  announce(`${items.length} entries`);
}

/** A row for each reader. */
function summarise(readings) {
  const found = new Map();
  for (const entry of readings) {
    const key = `${entry.token_id} ${entry.role}`;
    const known = found.get(key) ?? { who: entry.who, role: entry.role ?? "–", times: 0, first: entry.at };
    found.set(key, { ...known, times: known.times + 1, last: entry.at });
  }
  return [...found.values()].map((each) => [each.who, each.role, String(each.times), when(each.first), when(each.last)]);
}

function table(titles, rows) {
  return el("div", { class: "panel" }, el("table", { class: "stacked" },
    el("thead", {}, el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) => el("td", { "data-label": titles[i] }, cell)))))));
}
