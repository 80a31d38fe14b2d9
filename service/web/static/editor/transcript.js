// The transcript on the page: segments in order, their elements, and every change of them.
import * as api from "../api.js";
import { announce, el } from "../dom.js";
import { duration } from "../format.js";
import { codePoints, isUnspaced, normal, Segment } from "./segment.js";

const FIRST_SCREEN = 40;  // segments drawn before all others
const AT_ONCE = 150;
const HEADING_EVERY = 300;  // s
const COLOURS = 6;  // the seventh is grey, for those who ask

const inWords = (seconds) => {
  const total = Math.floor(seconds), hours = Math.floor(total / 3600), minutes = Math.floor(total / 60) % 60;
  const parts = [hours ? `${hours} h` : "", minutes || hours ? `${minutes} min` : "", `${total % 60} s`];
  return parts.filter(Boolean).join(" ");
};

/**
 * Dispatches "changed" (detail: segments), "list" (segments added or removed), "caret" (detail: where it belongs
 * now), "conflict", "remote", "undone", "refused" and "speakers".
 */
export class Transcript extends EventTarget {
  constructor(id, container, template) {
    super();
    this.path = `/v1/transcripts/${id}`;
    this.container = container;
    this.template = template;
    this.saver = null;
    this.segments = [];
    this.byId = new Map();
    this.byElement = new WeakMap();
    this.focused = null;  // the segment that the caret is in
    this.known = 0;  // every change up to this version is on the page
    this.redo = [];  // versions that undid something
    this.leaving = new Set();  // off the page, but the service has not answered yet
  }

  // --- drawing ---------------------------------------------------------------------------------

  /** Draw a transcript; the first screen first. Resolves when all of it is drawn. */
  async show(view) {
    this.known = view.version;
    this.language = view.language;
    this.setSpeakers(view.speakers, view.names);
    this.segments = view.segments.map((each) => new Segment(each, view.version));
    this._index();
    this.container.replaceChildren();
    this._last = null;
    this._draw(0, FIRST_SCREEN);
    for (let i = FIRST_SCREEN; i < this.segments.length; i += AT_ONCE) {
      await new Promise((resolve) => { setTimeout(resolve); });
      this._draw(i, i + AT_ONCE);
    }
    this._emit("list");
  }

  setSpeakers(speakers, names) {
    this.speakers = speakers;
    this.names = names;
    let next = 0;
    this.colours = new Map(speakers.map((speaker) => {
      const asks = ["interviewer", "moderator"].includes(names[speaker]?.role);
      return [speaker, asks ? COLOURS + 1 : (next++ % COLOURS) + 1];
    }));
  }

  colour(speaker) { return this.colours.get(speaker) ?? COLOURS + 1; }

  _draw(from, to) {
    const fragment = document.createDocumentFragment();
    for (const segment of this.segments.slice(from, to)) {
      const heading = this._heading(segment);
      if (heading) {
        // A key then costs the layout of one part, and not of all segments.
        this._last = el("div", { class: "part" }, heading);
        fragment.append(this._last);
      }
      this._last.append(this._element(segment));
    }
    this.container.append(fragment);
  }

  /** Screen readers jump from heading to heading: one every five minutes. */
  _heading(segment) {
    const part = Math.floor(segment.start / HEADING_EVERY);
    if (this._part !== undefined && part <= this._part && segment !== this.segments[0]) return null;
    this._part = part;
    return el("h2", { class: "visually-hidden" }, `From ${inWords(part * HEADING_EVERY)}`);
  }

  _element(segment) {
    const element = this.template.content.firstElementChild.cloneNode(true);
    segment.element = element;
    segment.p = element.querySelector(".said");
    segment.p.append(document.createTextNode(segment.saved));
    segment.p.lang = this.language;
    this.byElement.set(element, segment);
    this.refresh(segment);
    return element;
  }

  /** Show the speaker, the time and who has checked it; the text is left alone. */
  refresh(segment) {
    const { element, p } = segment;
    const [time, who, check] = element.querySelectorAll("button");
    const at = duration(segment.start);
    time.textContent = at;
    time.setAttribute("aria-label", `Play from ${at}`);
    who.textContent = segment.speaker ?? "unknown";
    who.className = `who speaker-${this.colour(segment.speaker)}`;
    who.setAttribute("aria-label", `${segment.speaker ?? "unknown"}: change the speaker`);
    element.setAttribute("aria-label", `${segment.speaker ?? "unknown"}, ${inWords(segment.start)}${segment.checkedBy ? ", checked" : ""}`);
    if (p.isContentEditable) p.setAttribute("aria-label", element.getAttribute("aria-label"));
    element.classList.toggle("checked", Boolean(segment.checkedBy));
    check.setAttribute("aria-pressed", String(Boolean(segment.checkedBy)));
    check.title = segment.checkedBy ? `Checked by ${segment.checkedBy}` : "Mark as checked";
  }

  of(node) {
    const element = node?.nodeType === Node.ELEMENT_NODE ? node.closest?.(".segment") : node?.parentElement?.closest(".segment");
    return element ? this.byElement.get(element) ?? null : null;
  }
  before(segment) { return this.segments[this.segments.indexOf(segment) - 1] ?? null; }
  after(segment) { return this.segments[this.segments.indexOf(segment) + 1] ?? null; }

  /** The segment that is heard at a time, or null. */
  at(time) {
    let low = 0, high = this.segments.length - 1, found = -1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (this.segments[middle].start <= time) { found = middle; low = middle + 1; } else high = middle - 1;
    }
    for (let i = found; i >= Math.max(0, found - 4); i -= 1) if (time < this.segments[i].end + 0.3) return this.segments[i];
    return null;
  }

  _index() {
    this.byId.clear();
    for (const segment of [...this.leaving, ...this.segments]) if (segment.id) this.byId.set(segment.id, segment);
  }
  _emit(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  // --- saving ----------------------------------------------------------------------------------

  /** The version that a change of these segments is based on: what this page has shown of all of them. */
  _ifMatch(...segments) {
    // While another person's change of it waits, a segment is still based on the version before that.
    const versions = segments.map(({ remote, version }) => (remote ? version : Math.max(version, this.known)));
    return { "If-Match": `"${Math.min(...versions)}"` };
  }

  _options(segment) {
    return { headers: this._ifMatch(segment), keepalive: document.hidden || undefined };
  }

  /** Take over the answer to a change. */
  accept(answer) {
    const changed = [];
    for (const view of answer.segments) {
      const segment = this.byId.get(view.id);
      if (!segment) continue;
      const newSpeaker = view.speaker && !this.speakers.includes(view.speaker);
      segment.adopt(view, answer.version);
      segment.remote = null;
      this.refresh(segment);
      changed.push(segment);
      if (newSpeaker) this._emit("speakers");
    }
    this._noteVersion(answer.version);
    if (changed.length) this._emit("changed", changed);
    return answer;
  }

  _noteVersion(version) {
    if (version === this.known + 1) this.known = version;
    else if (version > this.known) this.sync();  // others have changed something meanwhile
  }

  /** Send the text of a segment, merged with another person's change if there was one. */
  async saveText(segment) {
    for (let attempt = 0; attempt < 20; attempt += 1) {
      if (segment.busy || segment.conflict || segment.gone || !segment.id) return;
      const text = segment.text;
      if (normal(text) === segment.saved) { segment.snapshots = []; return; }
      try {
        this.accept(await api.patch(`${this.path}/segments/${segment.id}`, { text }, this._options(segment)));
        segment.snapshots = [];
        this.redo = [];
        if (segment.text !== text) this.saver.touch(segment);
        return;
      } catch (problem) {
        if (problem.code === "segment_changed") {
          if (!this._merge(segment, text, problem.body.conflict)) return;
        } else if (problem.code === "segment_not_found") {
          this._conflict(segment, { version: this.known, theirs: null });
          return;
        } else if (problem.status === 422 || problem.status === 413) {
          announce(problem.message);
          this._emit("refused", problem);
          return;
        } else throw problem;
      }
    }
  }

  /** Whether the text can be sent again, based on the other person's change. */
  _merge(segment, sent, conflict) {
    if (conflict.merged === null || conflict.theirs === null) { this._conflict(segment, conflict); return false; }
    if (segment.text !== sent) return true;  // typed meanwhile: ask again with all of it
    this.setText(segment, conflict.merged);
    this._basedOn(segment, conflict);
    announce("Another person has also changed this segment. It now has both changes.");
    this._emit("merged", segment);
    return true;
  }

  _basedOn(segment, { version, theirs }) {
    segment.version = version;
    segment.saved = theirs;
    segment.words = [];
    segment._offsets = null;
    segment.remote = null;
  }

  _conflict(segment, conflict) {
    segment.conflict = conflict;
    segment.remote = null;
    this._emit("conflict", segment);
  }

  /** choice: mine, theirs or both. The text that is given up stays in the history. */
  async settle(segment, choice) {
    const { conflict } = segment;
    const mine = segment.text, { theirs } = conflict;
    segment.conflict = null;
    if (theirs === null) {
      if (choice === "mine" && !await this._insertAgain(segment, mine)) { this._conflict(segment, conflict); return; }
      this._drop(segment);
      this._emit("list");
      return;
    }
    const { remote } = segment;  // changed once more while the person was choosing
    this._basedOn(segment, conflict);
    segment.remote = remote;
    if (choice === "both") this.setText(segment, `${theirs} ${mine}`);
    this.saver.add(() => this.saveText(segment), { of: segment });
    if (choice !== "theirs") return;
    await this.saver.add(() => {});
    if (segment.conflict) return;
    this.setText(segment, theirs);
    this.saver.add(() => this.saveText(segment), { of: segment });
  }

  /** Add the text of a deleted segment again, after the nearest one that still exists. */
  _insertAgain(segment, text) {
    const earlier = this.segments.slice(0, this.segments.indexOf(segment)).filter(({ id, remote }) => id && !remote?.removed);
    let place = earlier.length - 1;
    return this.saver.add(async () => {
      for (; ; place -= 1) {
        try {
          const body = { after: earlier[place]?.id ?? null, text, speaker: segment.speaker };
          const answer = await api.post(`${this.path}/segments`, body);
          this._noteVersion(answer.version);
          break;
        } catch (problem) {
          if (problem.code !== "segment_not_found" || place < 0) throw problem;
        }
      }
      this.reload();
      return true;
    }, { failed: (problem) => this._failed(problem) });
  }

  /** Replace the text and keep the caret where it is in the words. */
  setText(segment, text) {
    const old = segment.text;
    if (old === text) return;
    const selection = getSelection();
    const hasCaret = segment === this.focused && selection.rangeCount && segment.p.contains(selection.anchorNode);
    const caret = hasCaret ? selection.anchorOffset : 0;
    let head = 0;
    while (head < Math.min(old.length, text.length) && old[head] === text[head]) head += 1;
    let tail = 0;
    while (tail < Math.min(old.length, text.length) - head && old.at(-1 - tail) === text.at(-1 - tail)) tail += 1;
    segment.text = text;
    if (!hasCaret) return;
    const moved = caret <= head ? caret : caret >= old.length - tail ? text.length - (old.length - caret) : text.length - tail;
    selection.collapse(segment.node, Math.max(0, Math.min(moved, text.length)));
  }

  // --- changes by the person -------------------------------------------------------------------

  /** Split at a place in the text; returns the second part, or null if there is nothing to split. */
  split(segment, offset) {
    const text = segment.text;
    const isInside = (i) => i > 0 && i < text.length && !/\s/.test(text[i - 1]) && !/\s/.test(text[i])
      && !isUnspaced(text[i - 1]) && !isUnspaced(text[i]);
    let at = offset;
    while (isInside(at)) at -= 1;  // never through a word
    const head = text.slice(0, at).trimEnd(), tail = text.slice(at).trimStart();
    if (!head.trim() || !tail) return null;
    const start = codePoints(normal(head)) + (/\s/.test(text.slice(head.length, at + 1)[0] ?? "") ? 1 : 0);
    const second = new Segment({
      id: null, speaker: segment.speaker, start: this._timeAt(segment, at), end: segment.end, text: tail, checked_by: null, words: [],
    }, segment.version);
    segment.text = head;
    this._insertAfter(segment, second);
    segment.busy += 1;
    second.busy += 1;
    this.saver.flush(segment);
    this.saver.add(async () => {
      if (normal(text) !== segment.saved) {
        const answer = await api.patch(`${this.path}/segments/${segment.id}`, { text }, this._options(segment));
        segment.adopt(answer.segments[0], answer.version);
        this._noteVersion(answer.version);
      }
      const answer = await api.post(`${this.path}/segments/${segment.id}/split`, { at: start }, this._options(segment));
      second.id = answer.segments[1].id;
      this._index();
      this.redo = [];
      this.accept(answer);
      this._release(segment, second);
    }, { failed: (problem) => {
      const hadCaret = this.focused === second, offset = segment.text.length + 1;
      const caret = hadCaret ? getSelection().focusOffset : 0;
      this.setText(segment, `${segment.text} ${second.text}`);
      this._drop(second);
      if (hadCaret) this._emit("caret", { segment, offset: offset + caret });
      this._release(segment);
      this._failed(problem);
      this._emit("list");
    } });
    this._emit("list");
    return second;
  }

  _timeAt(segment, offset) {
    const word = segment.wordAtOffset(offset);
    return word >= 0 ? segment.words[word].start : segment.start;
  }

  /** Join a segment to the one before it; returns that and the place where they meet. */
  merge(segment, speaker) {
    const first = this.before(segment);
    if (!first) return null;
    const [head, tail] = [first.text, segment.text];
    const glue = !head || !tail || /\s$/.test(head) || (isUnspaced(head.at(-1)) && isUnspaced(tail[0])) ? "" : " ";
    const sendFirst = async (each, text) => {
      if (!each.id || normal(text) === each.saved) return;
      const answer = await api.patch(`${this.path}/segments/${each.id}`, { text }, this._options(each));
      each.adopt(answer.segments[0] ?? { ...each, text: each.saved, checked_by: each.checkedBy }, answer.version);
      this._noteVersion(answer.version);
    };
    this.saver.flush(first);
    this.saver.flush(segment);
    first.busy += 1;
    first.text = head + glue + tail;
    segment.busy += 1;
    this.leaving.add(segment);
    this._drop(segment);
    this.saver.add(async () => {
      await sendFirst(first, head);
      await sendFirst(segment, tail);
      const body = speaker === undefined ? {} : { speaker };
      const answer = await api.post(`${this.path}/segments/${segment.id}/merge`, body, { headers: this._ifMatch(first, segment) });
      this.redo = [];
      this.leaving.delete(segment);
      this._index();
      this.accept(answer);
      this._release(first);
    }, { failed: (problem) => {
      // Take them apart again, with what was typed meanwhile. Typed into the second part, it is in both.
      const joined = first.text, at = joined.lastIndexOf(tail);
      const caret = this.focused === first ? getSelection().focusOffset : -1;
      if (at >= 0) {
        segment.text = tail + joined.slice(at + tail.length);
        this.setText(first, joined.slice(0, at).trimEnd() || head);
      }
      this._putBack(segment, first);
      if (at >= 0 && caret > at) this._emit("caret", { segment, offset: caret - at });
      this._release(first, segment);
      this._failed(problem);
    } });
    this._emit("list");
    return { segment: first, offset: head.length + glue.length };
  }

  setSpeaker(segment, speaker) {
    if (segment.speaker === speaker) return;
    segment.speaker = speaker;
    this.refresh(segment);
    this._change(segment, { speaker });
  }

  /** The segments of its speaker from this one to the end. */
  fromHere(segment) {
    return this.segments.slice(this.segments.indexOf(segment)).filter(({ speaker }) => speaker === segment.speaker);
  }

  /** Give them to another speaker, as one version. Resolves with the answer, or null if it failed. */
  async setSpeakerFrom(segment, speaker) {
    await this.saver.settle();
    const before = segment.speaker;
    const chosen = this.fromHere(segment).filter(({ id, conflict, remote, busy }) => id && !conflict && !remote && !busy);
    const show = (name) => { for (const each of chosen) { each.speaker = name; this.refresh(each); } };
    show(speaker);
    return this.saver.add(async () => {
      const edits = chosen.map(({ id }) => ({ id, speaker }));
      const answer = this.accept(await api.patch(`${this.path}/segments`, { edits }, { headers: this._ifMatch(...chosen) }));
      this.redo = [];
      return answer;
    }, { failed: (problem) => { show(before); this._failed(problem); } });
  }

  setChecked(segment, code) {
    this.saver.flush(segment);
    segment.checkedBy = code;
    this.refresh(segment);
    this._emit("changed", [segment]);
    this._change(segment, { checked_by: code });
  }

  _change(segment, body) {
    this.saver.add(async () => {
      for (let attempt = 0; ; attempt += 1) {
        try {
          this.accept(await api.patch(`${this.path}/segments/${segment.id}`, body, this._options(segment)));
          this.redo = [];
          return;
        } catch (problem) {
          if (problem.code !== "segment_changed" || attempt === 3) throw problem;
          await this._sync();
          if (segment.remote) return this._showRemote(segment);
        }
      }
    }, { failed: (problem) => this._failed(problem) });
  }

  async insertAfter(segment, text, times = null) {
    let made = null;
    this.saver.flush();
    await this.saver.add(async () => {
      const body = { after: segment?.id ?? null, text, speaker: segment?.speaker ?? null, ...times };
      const answer = await api.post(`${this.path}/segments`, body);
      [made] = answer.segments;
      this.redo = [];
      await this._sync(true);
    }, { failed: (problem) => this._failed(problem) });
    return made ? this.byId.get(made.id) : null;
  }

  remove(segment) {
    const before = this.before(segment);
    this.saver.flush(segment);
    this.leaving.add(segment);
    this._drop(segment);
    this._emit("list");
    this.saver.add(async () => {
      const answer = await api.remove(`${this.path}/segments/${segment.id}`, { headers: this._ifMatch(segment) });
      this.redo = [];
      this.leaving.delete(segment);
      this._index();
      this._noteVersion(answer.version);
    }, { failed: (problem) => { this._putBack(segment, before); this._release(segment); this._failed(problem); } });
    segment.busy += 1;
  }

  /** A structural change has ended: save what was typed meanwhile, or show what others did. */
  _release(...segments) {
    for (const segment of segments) {
      segment.busy = Math.max(0, segment.busy - 1);
      if (segment.busy) continue;
      if (segment.isDirty) this.saver.touch(segment);
      else if (segment.remote && segment !== this.focused) this.useRemote(segment);
    }
  }

  /** Show a segment again whose removal has failed. */
  _putBack(segment, before) {
    segment.gone = false;
    this.leaving.delete(segment);
    let place = before ? this.segments.indexOf(before) + 1 : 0;
    if (before && !place) place = this.segments.findLastIndex(({ start }) => start <= segment.start) + 1;  // it is gone, too
    if (place) this.segments[place - 1].element.after(segment.element); else this._prepend(segment.element);
    this.segments.splice(place, 0, segment);
    this._index();
    this._emit("list");
  }

  /** Change many texts as one version. texts: Map of segments to texts, made from a version. */
  async replaceTexts(texts, version) {
    this.saver.flush();
    return this.saver.add(async () => {
      const edits = [...texts].map(([segment, text]) => ({ id: segment.id, text }));
      const answer = await api.patch(`${this.path}/segments`, { edits }, { headers: { "If-Match": `"${version}"` } });
      this.redo = [];
      for (const view of answer.segments) this.byId.get(view.id) && this.setText(this.byId.get(view.id), view.text);
      this.accept(answer);
      return answer;
    }, { failed: (problem) => this._failed(problem) });
  }

  // --- undo ------------------------------------------------------------------------------------

  /** Undo the last change, from this page or an earlier one; never another person's. */
  undo() {
    const segment = this.focused;
    if (segment?.isDirty && segment.snapshots.length) {
      segment.future = [...(segment.future ?? []), segment.text];
      this.setText(segment, segment.snapshots.pop());
      this.saver.touch(segment);
      return;
    }
    this._takeBack({});
  }

  again() {
    const segment = this.focused;
    if (segment?.future?.length) {
      segment.snapshots.push(segment.text);
      this.setText(segment, segment.future.pop());
      this.saver.touch(segment);
      return;
    }
    const version = this.redo.pop();
    if (version !== undefined) { this._takeBack({ version }, true); return; }
    this.saver.flush();
    this.saver.add(async () => {
      const undone = await this._lastUndo();
      if (undone === null) announce("There is nothing to redo.");
      else this._takeBack({ version: undone }, true);
    }, { quiet: true });
  }

  /** The version with which this person undid their last change, also on an earlier page; or null. */
  async _lastUndo() {
    const [{ items }, token] = await Promise.all([api.get(`${this.path}/versions`), api.get("/v1/token")]);
    const own = items.filter((each) => each.token_id === token.id);
    const last = own.findLast((each) => !each.undone);
    return last?.kind === "undo" && !items.find((each) => each.version === last.undoes)?.undoes ? last.version : null;
  }

  _takeBack(body, isRedo = false) {
    this.saver.flush();
    this.saver.add(async () => {
      const answer = await api.post(`${this.path}/undo`, body);
      if (!isRedo) this.redo.push(answer.version);
      await this._sync(true);
      const [view] = answer.segments;
      announce(isRedo ? "Redone." : "Undone.");
      this._emit("undone", view ? this.byId.get(view.id) : null);
    }, { failed: (problem) => {
      announce(problem.message);
      this._emit("refused", problem);
    } });
  }

  // --- changes by others -----------------------------------------------------------------------

  /** Fetch what others have changed. */
  sync() { return this.saver.add(() => this._sync(), { quiet: true }); }
  reload() { return this.saver.add(() => this._sync(true), { quiet: true }); }

  /** isOwn: the person asked for it, so the text with the caret changes too. */
  async _sync(isOwn = false) {
    const changes = await api.get(`${this.path}/changes?since=${this.known}`, { background: true });
    const changed = [];
    for (const view of changes.segments) {
      const segment = this.byId.get(view.id);
      if (!segment) continue;
      if (segment.busy || segment.conflict) { segment.remote = view; continue; }
      const newText = view.text !== segment.saved;
      if (newText && !isOwn && (segment === this.focused || segment.isDirty)) {
        segment.remote = view;
        this._showRemote(segment);
        continue;
      }
      if (newText && segment.isDirty) { segment.remote = view; continue; }
      segment.adopt(view, changes.version);
      segment.remote = null;
      if (newText) this.setText(segment, view.text);  // otherwise leave what is being typed
      this.refresh(segment);
      changed.push(segment);
    }
    for (const id of changes.removed) {
      const segment = this.byId.get(id);
      if (!segment || segment.busy) continue;
      if (!isOwn && (segment.isDirty || segment === this.focused)) segment.remote = { removed: true };
      else this._drop(segment);
    }
    if (changes.order) this._reorder(changes.order, new Map(changes.segments.map((view) => [view.id, view])), changes.version);
    this.known = Math.max(this.known, changes.version);
    const speakers = changes.segments.some((view) => view.speaker && !this.speakers.includes(view.speaker));
    if (speakers) this._emit("speakers");
    this._emit(changes.order ? "list" : "changed", changed);
  }

  _showRemote(segment) { this._emit("remote", segment); }

  /** Show another person's change of the segment that the caret is in, or was in. */
  useRemote(segment) {
    const view = segment.remote;
    if (!view || segment.isDirty || segment.busy || segment.gone) return;
    if (view.removed) { this._drop(segment); this._emit("list"); return; }
    segment.remote = null;
    segment.adopt(view, this.known);
    this.setText(segment, view.text);
    this.refresh(segment);
    this._emit("changed", [segment]);
  }

  _reorder(order, views, version) {
    const kept = new Map();  // segments that the service does not have (yet), by the one before them
    this.segments.forEach((segment, i) => {
      if (!segment.id || !order.includes(segment.id)) kept.set(this.segments[i - 1] ?? null, segment);
    });
    const list = [];
    const add = (segment) => {
      list.push(segment);
      const following = kept.get(segment);
      if (following) { kept.delete(segment); add(following); }
    };
    if (kept.has(null)) add(kept.get(null));
    for (const id of order) {
      let segment = this.byId.get(id);
      if (segment?.gone) continue;
      if (!segment && views.has(id)) {
        segment = new Segment(views.get(id), version);
        this._element(segment);
      }
      if (segment) add(segment);
    }
    let place = null;
    for (const segment of list) {
      const next = place ? this._next(place) : this.container.querySelector(".segment");
      if (next !== segment.element) {
        if (place) place.after(segment.element);
        else this._prepend(segment.element);
      }
      place = segment.element;
    }
    this.segments = list;
    this._index();
  }

  _prepend(element) { (this.container.querySelector(".part") ?? this.container).prepend(element); }

  /** The element of the segment that follows on the page, in this part of the transcript or a later one. */
  _next(element) {
    let next = element.nextElementSibling, parent = element.parentElement;
    for (;;) {
      while (next && !next.classList.contains("segment")) next = next.nextElementSibling;
      if (next || parent === this.container) return next;
      parent = parent.nextElementSibling;
      if (!parent) return null;
      if (parent.classList.contains("segment")) return parent;
      next = parent.firstElementChild;
    }
  }

  _insertAfter(segment, added) {
    segment.element.after(this._element(added));
    this.segments.splice(this.segments.indexOf(segment) + 1, 0, added);
    this._index();
  }

  _drop(segment) {
    if (segment.gone) return;
    segment.gone = true;  // first: removing an element that has the focus ends the editing of it
    segment.element.remove();
    this.segments = this.segments.filter((each) => each !== segment);
    this._index();
    if (this.focused === segment) this.focused = null;
  }

  _failed(problem) {
    announce(problem.message);
    this._emit("refused", problem);
  }
}
