// The review that the page shows: the mentions, the text they are in, and the entities they name.
import * as api from "../api.js";
import { announce } from "../dom.js";
import { ORDER } from "./labels.js";

/** Dispatches "changed" when the review is another, and "refused" with the problem when a request fails. */
export class Review extends EventTarget {
  constructor(id) {
    super();
    this.id = id;
    this.path = `/v1/transcripts/${encodeURIComponent(id)}`;
    this.segments = new Map();
    this.entities = new Map(); // of this transcript, with their names
    this.last = []; // the mentions of the last decision
    this.speakers = {};
  }

  /** Fetch the code of the session, the study, and what can be played. */
  async describe() {
    const where = await api.get(`${this.path}/playback`);
    this.code = where.session; // null: the transcript belongs to no session
    this.session = where.session ?? "Transcript";
    this.study = where.study;
    this.recordings = where.recordings;
  }

  /** Fetch the review, the text if it was corrected, and the names that are new. Each reading of names is recorded. */
  async load({ names = false } = {}) {
    const view = await api.get(`${this.path}/review`);
    if (view.transcript_version !== this.view?.transcript_version) {
      const transcript = await api.get(this.path);
      this.speakers = transcript.names || {};
      this.segments = new Map(transcript.segments.map((segment) => [segment.id, { ...segment, points: [...segment.text] }]));
    }
    if (names || view.entities.some(({ id }) => !this.entities.has(id)) || !this.view) {
      const { items } = await api.get(`${this.path}/review/entities`);
      this.entities = new Map(items.map((entity) => [entity.id, entity]));
    }
    const known = new Set(view.entities.map(({ id }) => id));
    for (const id of this.entities.keys()) if (!known.has(id)) this.entities.delete(id);
    for (const entity of view.entities) Object.assign(this.entities.get(entity.id) ?? {}, entity);
    this.view = view;
    this.bySegment = new Map();
    for (const mention of view.mentions) {
      if (!this.bySegment.has(mention.segment)) this.bySegment.set(mention.segment, []);
      this.bySegment.get(mention.segment).push(mention);
    }
    this.dispatchEvent(new Event("changed"));
  }

  get open() { return this.view.mentions.filter((mention) => mention.state === "suggested"); }
  find(id) { return this.view.mentions.find((mention) => mention.id === id); }
  entityOf(mention) { return mention.entity_id ? this.entities.get(mention.entity_id) : undefined; }

  /** The speaker's code or pseudonym, else the label. */
  speakerOf(segment) {
    const named = this.speakers[segment.speaker];
    return named?.pseudonym || named?.code || segment.speaker || "";
  }

  /** Labels of speakers to whom nobody has given a code or a pseudonym. */
  unnamedSpeakers() {
    const labels = new Set([...this.segments.values()].map(({ speaker }) => speaker).filter((speaker) => /^SPEAKER_\d+$/.test(speaker ?? "")));
    return [...labels].filter((label) => !this.speakers[label]?.code && !this.speakers[label]?.pseudonym).sort();
  }

  /** What stands in the release in place of a mention. */
  replacement(mention) { return this.entityOf(mention)?.pseudonym || `[${mention.label}]`; }

  /** Mentions that seem to name the same, in the order of ORDER, the most frequent first. */
  groups() {
    const found = new Map();
    for (const mention of this.view.mentions) {
      const key = mention.entity_id || mention.hint || `${mention.label}:${mention.text.toLowerCase()}`;
      if (!found.has(key)) found.set(key, { key, label: mention.label, entity: this.entityOf(mention), mentions: [] });
      found.get(key).mentions.push(mention);
    }
    return [...found.values()].sort((a, b) => ORDER.indexOf(a.label) - ORDER.indexOf(b.label) || b.mentions.length - a.mentions.length);
  }

  /** Entities of the study that this transcript does not name: without names. */
  async elsewhere() {
    const all = await api.listAll(`/v1/studies/${encodeURIComponent(this.study)}/entities`);
    return all.filter((entity) => !this.entities.has(entity.id) && !entity.erased_at && entity.kind !== "allowed" && entity.pseudonym);
  }

  /** Decide on mentions, and add some; resolves with whether that worked. */
  async decide(decisions, said, additions = []) {
    try {
      const body = { decisions, additions, ...(additions.length ? { transcript_version: this.view.transcript_version } : {}) };
      const changed = await api.post(`${this.path}/review/decisions`, body);
      this.last = decisions.some(({ action }) => action === "reopen") ? [] : decisions.length ? decisions.map(({ mention }) => mention) : changed.mentions.filter(({ state }) => state === "accepted").map(({ id }) => id);
      await this.load();
      announce(`${said}. ${changed.n_open ? `${changed.n_open} left to decide` : "All decided"}`);
      return true;
    } catch (problem) {
      await this.load().catch(() => {});
      this.dispatchEvent(new CustomEvent("refused", { detail: problem }));
      return false;
    }
  }

  /** Take back the last decision made on this page. */
  async undo() {
    const mentions = this.last.map((id) => this.find(id)).filter((mention) => mention && mention.state !== "suggested");
    if (!mentions.length) { announce("There is nothing to undo"); return null; }
    const done = await this.decide(mentions.map(({ id, version }) => ({ mention: id, version, action: "reopen" })), "Undone");
    return done ? mentions[0].id : null;
  }
}
