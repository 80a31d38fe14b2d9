// The versions of the transcript by sitting, what each changed, and going back to one.
import * as api from "../api.js";
import { ask, button, el, fill, notice } from "../dom.js";
import { duration, plural, when } from "../format.js";
import { diffWords } from "./diff.js";

const SITTING = 30 * 60_000;  // ms without a change end it
const WHAT = {
  models: "Written by the models", text: "corrected", speaker: "speaker changed", check: "checked", split: "split", merge: "joined",
  insert: "added", delete: "deleted", speakers: "speakers named", import: "text imported", undo: "undone", restore: "earlier version restored",
};

/** Versions by one person without a long pause between them, newest first. */
export function sittings(versions) {
  const made = [];
  for (const each of versions) {
    const last = made.at(-1);
    const isSame = last && last.token === each.token_id && last.kind !== "models"
      && new Date(each.created_at) - new Date(last.to) < SITTING;
    if (isSame) {
      last.to = each.created_at;
      last.version = each.version;
      last.count += 1;
      for (const id of each.segments) last.segments.add(id);
      last.kinds.set(each.kind, (last.kinds.get(each.kind) ?? 0) + 1);
    } else {
      made.push({
        token: each.token_id, name: each.made_by, kind: each.kind, from: each.created_at, to: each.created_at,
        version: each.version, before: each.version - 1, count: 1, segments: new Set(each.segments), kinds: new Map([[each.kind, 1]]),
      });
    }
  }
  return made.reverse();
}

export async function showHistory(transcript, ownToken) {
  await transcript.saver.settle();
  const { items } = await api.get(`${transcript.path}/versions`);
  const [first] = items;
  const newest = items.at(-1).version;
  const pane = el("div", { class: "diff", tabindex: "0", role: "region", "aria-label": "Changes" });
  const restore = el("div", { class: "row" });
  let chosen = null;
  const who = (sitting) => (sitting.kind === "models" ? "The models" : sitting.token === ownToken ? "You" : sitting.name ?? "Another person");
  const list = el("ul", { class: "versions" }, sittings(items).map((sitting) => {
    const kinds = [...sitting.kinds].map(([kind, n]) => (n > 1 ? `${n} × ${WHAT[kind]}` : WHAT[kind])).join(", ");
    const entry = button("", { class: "quiet", onclick: () => choose(sitting, entry) });
    fill(entry,
      el("strong", {}, who(sitting)), " ", el("span", { class: "muted" }, when(sitting.to)),
      el("span", { class: "evidence" }, sitting.kind === "models" ? "The first version" : `${kinds}${sitting.segments.size ? ` in ${plural(sitting.segments.size, "segment")}` : ""}`));
    return el("li", {}, entry);
  }));

  async function choose(sitting, entry) {
    chosen = sitting;
    for (const each of list.querySelectorAll("[aria-current]")) each.removeAttribute("aria-current");
    entry.setAttribute("aria-current", "true");
    fill(pane, el("p", { class: "muted" }, "Comparing…"));
    const [a, b] = sitting.kind === "models"
      ? [sitting.version, newest]
      : [Math.max(first.version, sitting.before), sitting.version];
    const [older, newer] = await Promise.all([a, b].map((version) => api.get(`${transcript.path}?version=${version}`)));
    if (chosen !== sitting) return;
    fill(pane, ...describe(older, newer, sitting.kind === "models"));
    fill(restore, sitting.version === newest ? el("span", { class: "muted small" }, "This is the current version.")
      : button(`Go back to this version (${when(sitting.to)})`, { icon: "rotate-ccw", onclick: () => goBack(sitting) }));
  }

  async function goBack(sitting) {
    const done = await transcript.saver.add(async () => {
      await api.post(`${transcript.path}/restore`, { version: sitting.version }, { headers: { "If-Match": `"${newest}"` } });
      await transcript._sync(true);
      return true;
    }, { failed: (problem) => fill(restore, notice("error", problem.message)) });
    if (done) fill(restore, notice("done", "The earlier version is restored, as a new version. Undo reverts this."));
  }

  const content = el("div", { class: "history", "data-width": "wide" }, list, el("div", { class: "stack tight" }, pane, restore));
  list.querySelector("button")?.click();
  await ask("History", content, [{ label: "Close", value: null, primary: true }]);
}

function describe(older, newer, isAll) {
  const before = new Map(older.segments.map((each) => [each.id, each]));
  const after = new Map(newer.segments.map((each) => [each.id, each]));
  const rows = [];
  const row = (segment, ...content) => rows.push(el("div", { class: "diff-row" },
    el("span", { class: "mono" }, duration(segment.start)), " ", el("strong", {}, segment.speaker ?? "unknown"),
    el("p", { class: "said-small", dir: "auto" }, ...content)));
  const marked = (kind, text) => (kind === "same" ? text : el(kind === "gone" ? "del" : "ins", {}, text));
  for (const segment of newer.segments) {
    const old = before.get(segment.id);
    if (!old) row(segment, el("ins", {}, segment.text));
    else if (old.text !== segment.text) row(segment, ...diffWords(old.text, segment.text).map(([kind, text]) => marked(kind, text)));
    else if (old.speaker !== segment.speaker) row(segment, el("del", {}, old.speaker ?? "unknown"), " ", el("ins", {}, segment.speaker ?? "unknown"));
  }
  for (const segment of older.segments) if (!after.has(segment.id)) row(segment, el("del", {}, segment.text));
  const title = isAll ? "What people have changed since" : "What changed";
  return rows.length ? [el("p", { class: "muted small" }, `${title}: ${plural(rows.length, "segment")}`), ...rows]
    : [el("p", { class: "muted" }, "No changes.")];
}
