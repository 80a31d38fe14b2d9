// Exports by program: what to download, and how to import it there.
import * as api from "./api.js";
import { announce, button, byId, el, fill, icon, notice, ready } from "./dom.js";
import { bytes, plural, when } from "./format.js";
import { canRead, seesReleasesOnly, user } from "./shell.js";
import { showTabs } from "./study_tabs.js";

// The formats of each program are those of `fieldscribe export --for`; a test compares them.
export const PROGRAMS = [
  { id: "nvivo", name: "NVivo", formats: ["nvivo", "docx"],
    how: "Import the recording, open it, switch on Edit, choose Transcript > Import Rows and the table (.nvivo.docx). To code the text alone, import the other document and choose Auto Code > Speaker name." },
  { id: "maxqda", name: "MAXQDA", formats: ["maxqda"],
    how: "Choose Import > Focus Group Transcripts > Transcripts with Timestamps, then the text, then its recording: every speaker becomes a code." },
  { id: "atlas", name: "ATLAS.ti", formats: ["atlas"],
    how: "Add the recording, open it and choose Import Transcript. For a code per speaker: Search & Code > Focus Group Coding with the pattern @Name:." },
  { id: "qualcoder", name: "QualCoder", formats: ["qdpx"],
    how: "Choose Project > REFI-QDA project import: the project has the text, and a case for each speaker." },
  { id: "word", name: "Word", formats: ["docx"],
    how: "Open it, read and print it. Word numbers the lines, so that people can cite them." },
  { id: "coding", name: "Coding line by line", formats: ["lines", "lines-csv"],
    how: "A table of numbered lines with an empty column for codes, for paper, Word or a spreadsheet. Three people can code the same lines." },
  { id: "subtitles", name: "Subtitles", formats: ["vtt", "srt"],
    how: "Give the file the same name as the video and put it in the same folder: players then find it." },
  { id: "f4", name: "f4transkript", formats: ["f4"], how: "Open the text in f4transkript and choose the recording." },
  { id: "elan", name: "ELAN", formats: ["eaf"], how: "Open the file and link the recording. Each speaker has a tier." },
  { id: "praat", name: "Praat", formats: ["textgrid"], how: "Open it together with the recording. Each speaker has a tier." },
];
const FORMAT_WORDS = {
  nvivo: "Table to import", docx: "Text", maxqda: "Text", atlas: "Text", qdpx: "Project", lines: "Numbered lines", "lines-csv": "Spreadsheet",
  vtt: "WebVTT", srt: "SubRip", f4: "Text", eaf: "ELAN file", textgrid: "TextGrid",
};
const PAPERS = [
  { id: "methods", name: "Methods", says: "models, corrections, measured accuracy, de-identification" },
  { id: "data_management", name: "Data management", says: "storage, access, backups, formats" },
  { id: "ethics", name: "Ethics annex", says: "approvals, consents, who can read what, withdrawal" },
  { id: "participants", name: "For participants", says: "a text for the information sheet" },
];
const PROFILES = ["nvivo", "maxqda", "atlas", "qualcoder"];

const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const box = byId("exports");
let releases = [], transcripts = [];
let program = PROGRAMS[0], kind = "releases";
const options = { clean: false, timestamps: "turn", overlaps: true };

try {
  await showTabs(code, "exports", me);
  await load();
  // The editor's link names the session whose transcript is wanted.
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (canRead(me) && (wanted || !releases.length)) kind = "identified";
  draw();
  const row = [...box.querySelectorAll("tbody th")].find(({ textContent }) => textContent === wanted)?.parentElement;
  row?.scrollIntoView({ block: "center" });
  row?.querySelector("a").focus();
} catch (problem) { fill(box, notice("error", problem.message)); }
ready();

async function load() {
  const at = encodeURIComponent(code);
  const listed = await api.listAll(`/v1/releases?study=${at}`);
  const newest = new Map();
  for (const release of listed) if (!newest.has(release.session)) newest.set(release.session, release); // newest first
  releases = [...newest.values()].sort((a, b) => a.session.localeCompare(b.session, "en", { numeric: true }));
  if (!canRead(me)) return;
  const [sessions, jobs] = await Promise.all([api.listAll(`/v1/sessions?study=${at}`), api.listAll(`/v1/jobs?study=${at}&status=succeeded`)]);
  const found = new Map();
  for (const job of jobs) if (job.transcript_id && job.session_id && !found.has(job.session_id)) found.set(job.session_id, job);
  transcripts = sessions.filter((session) => found.has(session.id)).map((session) => ({ session: session.code, id: found.get(session.id).transcript_id, at: found.get(session.id).finished_at }));
}

function draw() {
  const rule = byId("class-rule");
  const identified = kind === "identified";
  rule.hidden = false;
  rule.classList.toggle("released", !identified);
  fill(rule, icon(identified ? "shield" : "shield-check"), identified ? "Identified: contains names" : "De-identified releases");
  fill(box,
    canRead(me) ? kindChoice() : null,
    programChoice(),
    el("section", { class: "stack", "aria-labelledby": "files-title" },
      el("h2", { id: "files-title" }, `Files for ${program.name}`),
      el("p", { class: "prose" }, program.how),
      identified ? identifiedOptions() : null,
      table(),
      identified ? notice("warning", "These files hold everything that people said, with names. Keep them with the recordings, and release a transcript before you share it.") : null),
    canRead(me) ? papers() : null);
}

/** Documents about the study itself. */
function papers() {
  return el("section", { class: "stack", "aria-labelledby": "papers-title" },
    el("h2", { id: "papers-title" }, "Papers about the study"),
    el("p", { class: "prose" }, "Word documents, filled in from what the service knows about the study. Gaps are marked: read them before you use them."),
    el("div", { class: "stack tight", role: "list" }, PAPERS.map((paper) => el("div", { class: "row", role: "listitem" },
      el("a", { class: "button", href: `/v1/studies/${encodeURIComponent(code)}/papers/${paper.id}`, download: true }, icon("download"), paper.name),
      el("span", { class: "muted" }, paper.says)))));
}

function kindChoice() {
  const choice = (value, label, hint) => {
    const id = `kind-${value}`;
    const input = el("input", { type: "radio", name: "kind", id, value, checked: kind === value, "aria-describedby": `${id}-hint` });
    input.addEventListener("change", () => { kind = value; draw(); byId(id).focus(); });
    return el("div", { class: "choice" }, input, el("div", {}, el("label", { for: id }, label), el("p", { class: "hint small muted", id: `${id}-hint` }, hint)));
  };
  return el("fieldset", { class: "stack tight" }, el("legend", {}, "What to export"),
    choice("releases", "De-identified releases", releases.length ? `${plural(releases.length, "session")} released. For coding, sharing and archives.` : "None yet: review a transcript and release it first."),
    choice("identified", "Identified transcripts", `${plural(transcripts.length, "transcript")} with names. For the study team only.`));
}

function programChoice() {
  const group = el("div", { class: "programs", role: "group", "aria-label": "Program" });
  for (const each of PROGRAMS) {
    group.append(button(each.name, { "aria-pressed": String(each.id === program.id), "data-program": each.id, onclick: () => {
      program = each;
      draw();
      box.querySelector(`[data-program="${each.id}"]`).focus();
      announce(`Files for ${each.name}`);
    } }));
  }
  return group;
}

function identifiedOptions() {
  const check = (name, label) => {
    const input = el("input", { type: "checkbox", id: `option-${name}`, checked: options[name] });
    input.addEventListener("change", () => { options[name] = input.checked; draw(); byId(`option-${name}`).focus(); });
    return el("div", { class: "choice" }, input, el("label", { for: `option-${name}` }, label));
  };
  return el("div", { class: "row" }, check("clean", "Leave out hesitations and false starts"), check("overlaps", "Mark where people speak at the same time"));
}

/** Address of a file of an item, or null if it has none. */
function fileOf(item, format) {
  if (kind === "releases") {
    const file = item.files.find((each) => each.format === format);
    return file ? { href: `/v1/releases/${item.id}/files/${format}`, size: file.n_bytes } : null;
  }
  const query = new URLSearchParams({ format, wording: options.clean ? "clean" : "verbatim", overlaps: String(options.overlaps) });
  if (format === "qdpx" && PROFILES.includes(program.id)) query.set("project", program.id);
  return { href: `/v1/transcripts/${item.id}?${query}`, size: null };
}

function table() {
  const items = kind === "releases" ? releases : transcripts;
  if (!items.length) {
    return el("div", { class: "panel empty" }, icon("file-text"),
      el("h3", {}, kind === "releases" ? "Nothing has been released yet" : "No transcripts yet"),
      el("p", {}, kind === "releases"
        ? seesReleasesOnly(me) ? "Transcripts appear here once researchers have reviewed and released them." : "Review a session’s transcript, then release it."
        : "The files of a session appear here once it is transcribed."));
  }
  const links = [];
  const rows = items.map((item) => el("tr", {},
    el("th", { scope: "row" }, item.session),
    el("td", { "data-label": kind === "releases" ? "Released" : "Transcribed" }, kind === "releases" ? `release ${item.number}, ${when(item.created_at)}` : when(item.at)),
    el("td", {}, el("div", { class: "row end" },
      program.formats.map((format) => {
        const file = fileOf(item, format);
        if (!file) return null;
        const link = el("a", { class: "button", href: file.href, download: true, "aria-label": `${FORMAT_WORDS[format]} of ${item.session}` }, icon("download"), FORMAT_WORDS[format], file.size ? el("span", { class: "muted small" }, bytes(file.size)) : null);
        links.push(link);
        return link;
      }),
      kind === "releases" ? el("a", { class: "button quiet", href: `/v1/releases/${item.id}/files/report`, download: true, "aria-label": `Report on ${item.session}` }, "Report") : null))));
  return el("div", { class: "stack" },
    el("div", { class: "panel" }, el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Session", kind === "releases" ? "Released" : "Transcribed", "Files"].map((name) => el("th", { scope: "col", class: name === "Files" ? "numeric" : null }, name)))),
      el("tbody", {}, rows))),
    items.length > 1 ? el("div", { class: "row" }, button(`Download all ${links.length} files`, { icon: "download", onclick: () => downloadAll(links) })) : null);
}

/** One after another: browsers ask once whether the page may download several files. */
async function downloadAll(links) {
  for (const link of links) { link.click(); await new Promise((resolve) => setTimeout(resolve, 500)); }
  announce(`${plural(links.length, "file")} downloaded`);
}
