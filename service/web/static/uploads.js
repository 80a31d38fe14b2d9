// Adding recordings: choosing, checking, uploading in parts, resuming.
//
// The browser stores nothing about files, not even their names. An unfinished upload is found again
// through the service, by the file's name and size, so it resumes in another browser too.
import "./vendor/tus/tus.min.js";
import * as api from "./api.js";
import { announce, ask, button, el, fill, icon, notice, sentence } from "./dom.js";
import { bytes, duration, plural, roughly } from "./format.js";
import { optionFields } from "./job_options.js";

const AUDIO = "aac ac3 aif aiff amr ape au caf dct ds2 dss dvf eac3 flac gsm m4a m4b mka mp2 mp3 mpa msv oga ogg opus ra spx vox wav wma wv";
const VIDEO = "3g2 3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv";
const KNOWN = new Set(`${AUDIO} ${VIDEO}`.split(" "));
const PART = 16 * 2 ** 20; // bytes; a proxy that limits bodies fails at the first part
const AT_ONCE = 2;
const DELAYS = [0, 1, 3, 5, 10, 20, 30, ...Array(28).fill(60)].map((seconds) => 1000 * seconds); // half an hour
const PREFIX = { interview: "INT", focus_group: "FG" };

export function mountUploads(box, { study, sessions, recordings, changed }) {
  const chosen = []; // { file, code, kind, edited, seconds }
  const running = []; // Transfer
  let wakeLock = null;

  // --- choosing -------------------------------------------------------------------------------------

  const input = el("input", { type: "file", id: "files", multiple: true, class: "visually-hidden", accept: `audio/*,video/*,${[...KNOWN].map((each) => `.${each}`).join(",")}` });
  const drop = el("div", { class: "drop" },
    icon("upload", "large"),
    el("p", {}, el("strong", {}, "Drop recordings here"), " or ", el("label", { for: "files", class: "button" }, icon("folder-open"), "Choose files"), input),
    el("p", { class: "muted small" }, "Sound or video from any recorder, phone or meeting. Whole folders too. Nothing is sent until you have seen the list."));
  const list = el("div"), progress = el("div"), unfinished = el("div");
  fill(box, unfinished, drop, list, progress);

  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", (event) => { if (!drop.contains(event.relatedTarget)) drop.classList.remove("over"); });
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(await droppedFiles(event.dataTransfer));
  });
  // A file dropped beside the panel would replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

  async function add(files) {
    const usable = files.filter((file) => KNOWN.has(extension(file)));
    others = files.filter((file) => !KNOWN.has(extension(file)) && !file.name.startsWith("."));
    const again = await resumeMatching(usable);
    for (const file of usable.filter((each) => !again.includes(each))) {
      if (chosen.some((each) => same(each.file, file))) continue;
      const item = { file, kind: "interview", code: "", edited: false, seconds: null };
      chosen.push(item);
      lengthOf(file).then((seconds) => { item.seconds = seconds; drawTotals(); item.showLength?.(); });
    }
    suggest();
    draw();
    list.querySelector("input")?.focus();
  }

  /** Codes that nobody has typed: the next free ones, in order. */
  function suggest() {
    const taken = new Set([...sessions().map((session) => session.code), ...chosen.filter((each) => each.edited).map((each) => each.code)]);
    for (const item of chosen) {
      if (item.edited) continue;
      for (let n = 1; ; n += 1) {
        const code = item.kind === "interview" ? `INT-${String(n).padStart(2, "0")}` : `FG-${n}`;
        if (!taken.has(code)) { item.code = code; taken.add(code); break; }
      }
    }
  }

  // --- the list before upload -----------------------------------------------------------------------

  const options = optionFields(study, null, "batch");
  const start = el("input", { type: "checkbox", id: "start-now", checked: true });
  const totals = el("p", { class: "muted", id: "totals" });
  const problem = el("p", { class: "problem", role: "alert" });

  let others = []; // files of the last choice that are no recordings
  function draw() {
    if (!chosen.length) return fill(list, leftOut());
    const rows = chosen.map(row);
    fill(list, el("form", { class: "panel stack batch", onsubmit: begin },
      el("h2", {}, "Before you upload"),
      leftOut(),
      el("table", { class: "stacked" },
        el("thead", {}, el("tr", {}, ["File", "Length", "Size", "Kind", "Session", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Actions"))))),
        el("tbody", {}, rows)),
      el("p", { class: "small muted" }, "Two files with the same session become one transcript, in this order. Use codes, never names: they appear in addresses and logs."),
      el("details", {}, el("summary", {}, "Language, people, names and rare words"), el("div", { class: "narrow-left" }, options.fields)),
      el("div", { class: "choice" }, start, el("label", { for: "start-now" }, "Transcribe each session as soon as it is uploaded")),
      totals, problem,
      el("div", { class: "row" }, el("button", { class: "primary" }, icon("upload"), `Upload ${plural(chosen.length, "recording")}`),
        button("Cancel", { onclick: () => { chosen.length = 0; others = []; draw(); input.focus(); } }))));
    drawTotals();
  }

  function leftOut() {
    if (!others.length) return null;
    return notice("warning", el("p", {}, `Left out, because they are not recordings: ${others.slice(0, 8).map((file) => file.name).join(", ")}${others.length > 8 ? ` and ${others.length - 8} more` : ""}.`));
  }

  function row(item, index) {
    const code = el("input", { value: item.code, maxlength: "13", required: true, pattern: "[A-Z]{1,8}-[0-9]{1,4}", title: "Letters, a hyphen and a number, such as INT-07", autocomplete: "off", spellcheck: "false", class: "code", "aria-label": `Session of ${item.file.name}` });
    code.addEventListener("input", () => { code.value = code.value.toUpperCase(); item.code = code.value; item.edited = true; });
    const kind = el("select", { "aria-label": `Kind of ${item.file.name}` },
      [["interview", "Interview"], ["focus_group", "Focus group"]].map(([value, name]) => el("option", { value, selected: value === item.kind }, name)));
    kind.addEventListener("change", () => { item.kind = kind.value; suggest(); draw(); list.querySelectorAll("select")[index]?.focus(); });
    const length = el("td", { "data-label": "Length", class: "nowrap" });
    item.showLength = () => { length.textContent = item.seconds ? `about ${duration(item.seconds)}` : item.seconds === 0 ? "not known" : "…"; };
    item.showLength();
    const move = (by, label, name) => button(`${label} ${item.file.name}`, { icon: name, iconOnly: true, disabled: !chosen[index + by], onclick: () => {
      [chosen[index], chosen[index + by]] = [chosen[index + by], chosen[index]];
      suggest(); draw();
    } });
    return el("tr", {},
      el("th", { scope: "row", class: "file" }, item.file.name),
      length,
      el("td", { "data-label": "Size", class: "nowrap" }, bytes(item.file.size)),
      el("td", { "data-label": "Kind" }, kind),
      el("td", { "data-label": "Session" }, code),
      el("td", { class: "nowrap" }, move(-1, "Move up", "arrow-up"), move(1, "Move down", "arrow-down"),
        button(`Remove ${item.file.name}`, { icon: "x", iconOnly: true, onclick: () => { chosen.splice(index, 1); suggest(); draw(); } })));
  }

  function drawTotals() {
    const size = chosen.reduce((sum, each) => sum + each.file.size, 0);
    const seconds = chosen.reduce((sum, each) => sum + (each.seconds || 0), 0);
    totals.textContent = [plural(chosen.length, "file"), seconds ? `about ${roughly(seconds)}` : null, bytes(size)].filter(Boolean).join(", ");
  }

  async function begin(event) {
    event.preventDefault();
    problem.textContent = "";
    others = [];
    const items = chosen.splice(0);
    const settings = { options: options.read(), start: start.checked };
    const bySession = new Map();
    for (const item of items) bySession.set(item.code, [...(bySession.get(item.code) || []), item]);
    for (const [code, own] of bySession) {
      try {
        let session = sessions().find((each) => each.code === code);
        session ??= await api.post("/v1/sessions", { study: study.code, code, kind: own[0].kind, ...(settings.options.speakers ? { speakers: settings.options.speakers } : {}) });
        const batch = { code, left: own.length, failed: false, settings };
        for (const item of own) running.push(new Transfer(item.file, code, batch));
      } catch (error) {
        chosen.push(...own);
        problem.textContent = `${code}: ${error.message}`;
      }
    }
    draw();
    if (running.length) announce(`Uploading ${plural(items.length, "recording")}`);
    changed();
    next();
  }

  // --- uploading ------------------------------------------------------------------------------------

  class Transfer {
    constructor(file, code, batch, url = null) {
      Object.assign(this, { file, code, batch, id: url?.split("/").pop(), state: "waiting", sent: 0, quarter: 0, message: "" });
      this.upload = new window.tus.Upload(file, {
        endpoint: `/v1/uploads?study=${study.code}&session=${code}`,
        uploadUrl: url,
        chunkSize: PART,
        retryDelays: DELAYS,
        metadata: { filename: file.name },
        // The default would leave the file's name in the browser's storage.
        storeFingerprintForResuming: false,
        fingerprint: async () => null,
        onShouldRetry: (error) => {
          const status = error.originalResponse?.getStatus() || 0;
          return status === 0 || status >= 500 || [408, 409, 423, 429].includes(status);
        },
        onProgress: (sent) => { this.sent = sent; api.noteActivity(); this.draw(); },
        onSuccess: () => this.check(),
        onError: (error) => this.fail(error),
      });
      this.row = el("li");
      this.draw();
    }
    begin() {
      this.state = "uploading";
      this.began ??= { at: Date.now(), sent: this.sent };
      this.upload.start();
      this.draw();
    }
    async pause() { await this.upload.abort(); this.state = "paused"; this.draw(); next(); }
    resume() { this.state = "waiting"; this.draw(); next(); }
    async remove() {
      const sure = this.state === "refused" || this.state === "failed" || await ask("Stop this upload?", el("p", {}, "The part that has been uploaded will be deleted."), [{ label: "Stop and delete", value: true, danger: true }, { label: "Keep it", value: false }]);
      if (!sure) return;
      try { await this.upload.abort(true); } catch { /* nothing had arrived */ }
      running.splice(running.indexOf(this), 1);
      this.batch.left -= 1;
      drawProgress(); changed(); next();
    }
    async check() {
      this.state = "checking";
      this.draw();
      next();
      const id = this.upload.url.split("/").pop();
      try {
        let view = null;
        do view = await waitInTurn(() => api.get(`/v1/recordings/${id}?wait=10`, { background: true })); while (["receiving", "checking"].includes(view.state));
        if (view.state === "refused") {
          this.state = "refused"; this.message = view.refusal.detail; this.batch.failed = true;
          announce(`${this.code} was refused: ${this.message}`);
        } else {
          this.state = "done";
          announce(`${this.code} is uploaded`);
          await this.transcribe();
        }
      } catch (error) { this.state = "failed"; this.message = error.message; }
      this.draw(); drawProgress(); await changed(); drawUnfinished();
    }
    /** Submit the session's job when its last recording has been checked. */
    async transcribe() {
      this.batch.left -= 1;
      if (this.batch.left > 0 || this.batch.failed || !this.batch.settings.start) return;
      try { await api.post("/v1/jobs", { study: study.code, session: this.code, ...this.batch.settings.options }); }
      catch (error) { this.state = "stuck"; this.message = error.message; announce(`${this.code} cannot be transcribed: ${error.message}`); }
    }
    fail(error) {
      const answer = error.originalResponse;
      let body = {};
      try { body = JSON.parse(answer?.getBody() || "{}"); } catch { /* a proxy answered */ }
      if (answer?.getStatus() === 401) {
        this.state = "waiting"; this.message = "You are signed out. The upload resumes when you have signed in.";
        api.events.dispatchEvent(new CustomEvent("signed-out"));
        api.events.addEventListener("signed-in", () => { this.message = ""; next(); }, { once: true });
      } else if (answer?.getStatus() === 413 && !body.code) {
        this.state = "failed"; this.message = "A proxy between you and the service refuses parts of this size: tell your administrator (client_max_body_size).";
      } else if (!answer) {
        this.state = "paused"; this.message = "The connection is lost. The upload resumes when it is back, or when you choose Resume.";
      } else {
        this.state = "failed"; this.message = body.detail || "The service refused the upload: try again in a moment.";
      }
      this.draw(); next();
    }
    draw() {
      const size = this.file.size, share = size ? this.sent / size : 0;
      if (this.state === "uploading" && Math.floor(4 * share) > this.quarter) {
        this.quarter = Math.floor(4 * share);
        if (this.quarter < 4) announce(`${this.code}: ${25 * this.quarter} % uploaded`);
      }
      const now = Date.now();
      if (this.state === "uploading" && this.drawn && now - this.drawn < 250) return;
      this.drawn = this.state === "uploading" ? now : 0;
      const held = this.row.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
      const seconds = this.began && share > 0.01 ? ((now - this.began.at) / 1000) * ((size - this.sent) / Math.max(1, this.sent - this.began.sent)) : null;
      const words = {
        waiting: "Waiting for its turn", paused: "Paused", checking: "Uploaded. Checking the recording", done: "Uploaded", refused: "Refused", failed: "Not uploaded", stuck: "Uploaded, but it cannot be transcribed yet",
        uploading: `${bytes(this.sent)} of ${bytes(size)}${seconds && isFinite(seconds) ? `, about ${roughly(seconds)} left` : ""}`,
      }[this.state];
      const act = (label, name, run) => button(label, { icon: name, "aria-label": `${label}: ${this.code}`, onclick: run });
      fill(this.row,
        el("div", { class: "spread" },
          el("div", {}, el("strong", {}, this.code), " ", el("span", { class: "muted" }, this.file.name)),
          el("div", { class: "row" },
            this.state === "uploading" ? act("Pause", "pause", () => this.pause()) : null,
            this.state === "paused" ? act("Resume", "play", () => this.resume()) : null,
            this.state === "failed" ? act("Try again", "rotate-ccw", () => { this.message = ""; this.resume(); }) : null,
            this.state === "stuck" ? act("Dismiss", "x", () => { this.state = "done"; drawProgress(); }) : null,
            ["done", "checking", "stuck"].includes(this.state) ? null : act("Remove", "x", () => this.remove()))),
        ["uploading", "paused", "waiting"].includes(this.state) ? el("progress", { max: "1", value: String(share), "aria-label": `Upload of ${this.code}` }) : null,
        el("p", { class: ["refused", "failed", "stuck"].includes(this.state) ? "problem small" : "muted small" }, words, this.message ? [". ", sentence(this.message)] : ""));
      if (held) this.row.querySelector(`[aria-label="${CSS.escape(held)}"]`)?.focus();
    }
  }

  // A browser has six connections to a service; one follows the study. Waiting must leave the others.
  let waits = 0;
  const turns = [];
  async function waitInTurn(run) {
    while (waits >= AT_ONCE) await new Promise((resolve) => turns.push(resolve));
    waits += 1;
    try { return await run(); } finally { waits -= 1; turns.shift()?.(); }
  }

  function next() {
    const busy = running.filter((each) => each.state === "uploading").length;
    for (const transfer of running.filter((each) => each.state === "waiting").slice(0, Math.max(0, AT_ONCE - busy))) transfer.begin();
    drawProgress();
    keepAwake();
  }

  function drawProgress() {
    const shown = running.filter((each) => each.state !== "done");
    fill(progress, shown.length ? el("div", { class: "panel stack" },
      el("h2", {}, "Uploads"),
      el("ul", { class: "transfers" }, shown.map((each) => each.row)),
      shown.some((each) => ["uploading", "waiting", "paused"].includes(each.state))
        ? el("p", { class: "small muted" }, "Keep this page open and the computer awake. If the page is closed, choose the same file again: the upload resumes where it stopped.") : null) : null);
  }

  window.addEventListener("online", () => {
    for (const transfer of running) if (transfer.state === "paused" && transfer.message) { transfer.message = ""; transfer.resume(); }
  });
  window.addEventListener("beforeunload", (event) => {
    if (running.some((each) => ["uploading", "waiting"].includes(each.state)) || chosen.length) event.preventDefault();
  });
  async function keepAwake() {
    const busy = running.some((each) => each.state === "uploading");
    try {
      if (busy && !wakeLock && !document.hidden) wakeLock = await navigator.wakeLock?.request("screen");
      if (!busy && wakeLock) { await wakeLock.release(); wakeLock = null; }
    } catch { wakeLock = null; }
  }
  document.addEventListener("visibilitychange", () => { wakeLock = null; keepAwake(); });

  // --- resuming -------------------------------------------------------------------------------------

  const isOpen = (recording) => recording.state === "receiving" && !running.some((each) => (each.id || each.upload.url || "").endsWith(recording.id));
  const codeOf = (recording) => sessions().find((session) => session.id === recording.session_id)?.code;

  /** Resume the unfinished uploads of these files, and return the files. */
  async function resumeMatching(files) {
    const found = [];
    for (const recording of recordings().filter(isOpen)) {
      const file = files.find((each) => each.size === recording.n_bytes && !found.includes(each));
      if (!file || !codeOf(recording)) continue;
      const view = await api.get(`/v1/recordings/${recording.id}`);
      if (view.metadata?.filename !== file.name || view.state !== "receiving") continue;
      const batch = { code: codeOf(recording), left: 1, failed: false, settings: { options: {}, start: true } };
      const transfer = new Transfer(file, batch.code, batch, `/v1/uploads/${recording.id}`);
      transfer.sent = view.n_received;
      running.push(transfer);
      found.push(file);
    }
    if (found.length) { announce(`Resuming ${plural(found.length, "upload")}`); next(); drawUnfinished(); }
    return found;
  }

  async function drawUnfinished() {
    const open = recordings().filter(isOpen);
    const views = await Promise.all(open.map((each) => api.get(`/v1/recordings/${each.id}`, { background: true }).catch(() => null)));
    fill(unfinished, views.filter((view) => view && view.state === "receiving").map((view) =>
      notice("info",
        el("p", {}, el("strong", {}, `${codeOf(view) || "A recording"}: upload not finished. `),
          `${bytes(view.n_received)} of ${bytes(view.n_bytes)} of ${view.metadata?.filename || "a file"} uploaded. Choose the same file again to continue.`),
        el("div", { class: "row" },
          el("label", { for: "files", class: "button" }, icon("folder-open"), "Choose the file"),
          button("Discard", { icon: "trash-2", onclick: async () => { await api.remove(`/v1/uploads/${view.id}`); await changed(); drawUnfinished(); } })))));
  }
  drawUnfinished();
  return { redraw: drawUnfinished };
}

const extension = (file) => file.name.toLowerCase().split(".").pop();
const same = (a, b) => a.name === b.name && a.size === b.size && a.lastModified === b.lastModified;

/** About how long a recording is, in seconds; 0 if this browser cannot tell. */
function lengthOf(file) {
  return new Promise((resolve) => {
    const audio = new Audio(), url = URL.createObjectURL(file);
    const done = (seconds) => { URL.revokeObjectURL(url); audio.removeAttribute("src"); resolve(Number.isFinite(seconds) ? seconds : 0); };
    const timer = setTimeout(() => done(0), 8000);
    audio.onloadedmetadata = () => { clearTimeout(timer); done(audio.duration); };
    audio.onerror = () => { clearTimeout(timer); done(0); };
    audio.preload = "metadata";
    audio.src = url;
  });
}

/** The files of a drop, those in folders too. */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  async function walk(entry) {
    if (entry.isFile) return files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100
      if (!some.length) return;
      for (const each of some) await walk(each);
    }
  }
  for (const entry of entries) await walk(entry);
  return files.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}
