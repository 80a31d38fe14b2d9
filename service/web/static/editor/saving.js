// Sends changes one after another, again and again while the service cannot be reached. Nothing is dropped.
import * as api from "../api.js";

const PAUSE = 800;  // ms after the last key
const MOST = 2000;  // ms after the first key that is not saved, if somebody types without a pause
const WAITS = [1, 2, 5, 10, 20, 30];  // s between attempts

const isTemporary = (problem) =>
  problem instanceof api.Problem
  && (problem.status === 0 || problem.status >= 500 || [401, 408, 423, 429].includes(problem.status));

function reason(problem) {
  if (problem.status === 401) return "you are signed out";
  if (problem.status === 0) return navigator.onLine ? "the service does not answer" : "no connection";
  if (problem.code === "disk_full") return "the disk of the service is full";
  return "the service cannot save at the moment";
}

/** Dispatches "state". `state`: clean, saved, saving or waiting; `reason` says why it waits. */
export class Saver extends EventTarget {
  /** save(segment): sends its text. */
  constructor(save) {
    super();
    this.save = save;
    this.queue = [];
    this.working = false;
    this.state = "clean";
    this.reason = "";
    this.savedAt = null;
    this.timers = new Map();  // by segment
    this.since = new Map();  // by segment: when what is not saved began
    const wake = () => { this._woken = true; this._wake?.(); };
    window.addEventListener("online", wake);
    api.events.addEventListener("signed-in", wake);
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.flush(); });
    window.addEventListener("pagehide", () => this.flush());
    window.addEventListener("beforeunload", (event) => { if (this.isPending) event.preventDefault(); });
  }

  get isPending() { return this.timers.size > 0 || this.queue.some((operation) => !operation.quiet); }

  /** A segment's text has changed: save it after a pause, or while typing goes on. */
  touch(segment) {
    clearTimeout(this.timers.get(segment));
    if (!this.since.has(segment)) this.since.set(segment, Date.now());
    const left = this.since.get(segment) + MOST - Date.now();
    this.timers.set(segment, setTimeout(() => this.flush(segment), Math.max(0, Math.min(PAUSE, left))));
    if (this.state !== "waiting") this._show("saving");
  }

  /** Save at once: one segment, or all. */
  flush(segment) {
    for (const each of segment ? [segment] : [...this.timers.keys()]) {
      if (!this.timers.has(each)) continue;
      clearTimeout(this.timers.get(each));
      this.timers.delete(each);
      this.since.delete(each);
      this.add(() => this.save(each), { of: each });
    }
    if (!segment) this._wake?.();
  }

  /**
   * Do something after everything before it. Resolves with its result, or null if it failed; then
   * failed(problem) has been called.
   * quiet: it saves nothing, so nobody need wait for it. of: a segment whose text it sends.
   */
  add(run, { failed = () => {}, quiet = false, of = null } = {}) {
    const last = this.queue.at(-1);
    if (of && last?.of === of && this.queue.length > 1) return last.done;  // the newest text is sent
    const operation = { run, failed, quiet, of };
    operation.done = new Promise((resolve) => { operation.resolve = resolve; });
    this.queue.push(operation);
    this._work();
    return operation.done;
  }

  /** Resolves when everything is saved. */
  async settle() {
    this.flush();
    await this.add(() => {}, { quiet: true });
  }

  async _work() {
    if (this.working) return;
    this.working = true;
    let attempt = 0;
    while (this.queue.length) {
      const [operation] = this.queue;
      if (!operation.quiet && this.state !== "waiting") this._show("saving");
      try {
        const result = await operation.run();
        operation.resolve(result ?? null);
        if (!operation.quiet) this.savedAt = new Date();
        if (this.state === "waiting") this._show("saving");
      } catch (problem) {
        if (isTemporary(problem) && !operation.quiet) {
          this.reason = reason(problem);
          this._show("waiting");
          await this._pause(WAITS[Math.min(attempt, WAITS.length - 1)]);
          attempt += 1;
          continue;
        }
        operation.resolve(null);
        try { operation.failed(problem); } catch (error) { console.error(error.name); }
      }
      attempt = 0;
      this.queue.shift();
    }
    this.working = false;
    if (this.timers.size) return;
    this._show(this.savedAt ? "saved" : "clean");
  }

  /** Wait, unless the connection or the sign-in has come back since the attempt began. */
  _pause(seconds) {
    if (this._woken) { this._woken = false; return Promise.resolve(); }
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this._wake = () => { clearTimeout(timer); this._wake = null; this._woken = false; resolve(); };
    });
  }

  _show(state) {
    const changed = state !== this.state || state === "saved" || state === "waiting";
    this.state = state;
    if (changed) this.dispatchEvent(new Event("state"));
  }
}
