// Plays the recordings of a session as one timeline. Recordings in order follow one another; recordings of
// one speaker each, made at the same time, are played together.
import * as api from "../api.js";
import { set, settings } from "./settings.js";

const TOO_FAR = 0.08;  // s; recordings that play together are put right beyond this
const SPEEDS = { least: 0.5, most: 2, step: 0.1 };

export class Player extends EventTarget {
  /** transcriptId: its recordings are looked up, again and again until they can be played. */
  constructor(transcriptId) {
    super();
    this.path = `/v1/transcripts/${transcriptId}/playback`;
    this.parts = [];
    this.playing = false;
    this.state = "preparing";  // preparing, ready, failed
    this._time = 0;
    this._stopAt = Infinity;
    this._tick = this._tick.bind(this);
    api.events.addEventListener("signed-in", () => this._reload());
    window.addEventListener("online", () => this._reload());
  }

  /** Ask where the recordings lie, until all can be played or have failed. */
  async load() {
    let timeline;
    try {
      timeline = await api.get(this.path, { background: true });
    } catch (problem) {
      if (problem.status && problem.status !== 401 && problem.status < 500 && problem.status !== 429) throw problem;
      setTimeout(() => this.load(), 3000);
      return null;
    }
    const known = new Map(this.parts.map((part) => [part.recording_id, part]));
    this.parts = timeline.recordings.map((part) => Object.assign(known.get(part.recording_id) ?? { audio: null }, part));
    const states = this.parts.map((part) => part.state);
    this.state = states.includes("preparing") ? "preparing" : states.includes("ready") ? "ready" : "failed";
    if (this.state === "preparing") setTimeout(() => this.load(), 2000);
    this._prepare();
    this._emit("state");
    if (this._wanted) this.play({ stopAt: this._stopAt });
    return timeline;
  }

  get duration() { return Math.max(0, ...this.parts.map((part) => part.start + part.duration)); }
  get rate() { return settings.speed; }
  get time() {
    const [part] = this.playing ? this._at(this._time) : [];
    if (part?.audio && !part.audio.seeking) this._time = part.start + part.audio.currentTime;
    return this._time;
  }

  setRate(rate) {
    const { least, most } = SPEEDS;
    set("speed", Math.round(Math.min(most, Math.max(least, rate)) * 10) / 10);
    for (const { audio } of this.parts) if (audio) audio.playbackRate = settings.speed;
    this._emit("rate");
  }
  slower() { this.setRate(settings.speed - SPEEDS.step); }
  faster() { this.setRate(settings.speed + SPEEDS.step); }
  setVolume(volume) {
    set("volume", volume);
    for (const { audio } of this.parts) if (audio) audio.volume = volume;
  }

  /** stopAt: pause there, as after a segment that is played again. */
  seek(time, { stopAt = Infinity } = {}) {
    this._time = Math.min(Math.max(0, time), this.duration || Infinity);
    this._stopAt = stopAt;
    if (this.playing) this._start(); else this._prepare();
    this._emit("time");
  }

  async play({ stopAt = Infinity } = {}) {
    if (this.state === "failed") return;
    this._stopAt = stopAt;
    if (!this._at(this._time).some((part) => part.state === "ready")) {  // as soon as it can be played
      this._wanted = true;
      return;
    }
    this._wanted = false;
    this.playing = true;
    this._emit("play");
    await this._start();
    requestAnimationFrame(this._tick);
  }

  pause() {
    this._time = this.time;
    this.playing = false;
    for (const { audio } of this.parts) audio?.pause();
    this._emit("play");
  }

  /** Play, a little earlier than where it stopped; or pause. */
  toggle() {
    if (this.playing) return this.pause();
    if (this.duration && this._time >= this.duration - 0.05) this._time = 0;
    this.seek(this._time - settings.backStep);
    return this.play();
  }

  skip(seconds) { this.seek(this.time + seconds); }

  _emit(name) { this.dispatchEvent(new Event(name)); }
  _at(time) {
    const here = this.parts.filter((part) => part.start <= time && time < part.start + part.duration);
    return here.length ? here : this.parts.filter((part) => part.start > time).slice(0, 1);
  }

  _audio(part) {
    if (part.audio || part.state !== "ready") return part.audio;
    const audio = new Audio();
    audio.preload = "auto";
    audio.preservesPitch = true;
    audio.volume = settings.volume;
    audio.src = `/v1/recordings/${part.recording_id}/playback`;
    audio.playbackRate = audio.defaultPlaybackRate = settings.speed;
    audio.addEventListener("ended", () => this._advance(part));
    audio.addEventListener("timeupdate", () => this._watch());  // also in a background tab
    audio.addEventListener("error", () => this._failed(part));
    part.audio = audio;
    return audio;
  }

  _prepare() {
    for (const part of this._at(this._time)) {
      const audio = this._audio(part);
      const place = Math.max(0, this._time - part.start);
      if (audio && Math.abs(audio.currentTime - place) > 0.001) audio.currentTime = place;
    }
  }

  async _start() {
    const here = this._at(this._time);
    if (here.length && here[0].start > this._time) this._time = here[0].start;
    for (const part of this.parts) if (!here.includes(part)) part.audio?.pause();
    this._prepare();
    await Promise.all(here.map(async (part) => {
      if (!part.audio) return;
      part.audio.playbackRate = settings.speed;
      try { await part.audio.play(); } catch (error) {
        if (error.name === "NotAllowedError") this.pause();  // the browser wants a click first
      }
    }));
  }

  _tick() {
    if (!this.playing) return;
    this._watch();
    this._emit("time");
    requestAnimationFrame(this._tick);
  }

  /** Stop where asked; start recordings that begin here, and keep those that play together in step. */
  _watch() {
    if (!this.playing) return;
    const { time } = this;
    if (time >= this._stopAt) { this._stopAt = Infinity; this.pause(); this._emit("time"); return; }
    const [first, ...others] = this._at(time);
    if (!first) { this.pause(); return; }
    for (const part of others) {
      const audio = this._audio(part);
      if (!audio) continue;
      if (audio.paused) { audio.currentTime = time - part.start; audio.play().catch(() => {}); }
      else if (Math.abs(audio.currentTime - (time - part.start)) > TOO_FAR) audio.currentTime = time - part.start;
    }
    const following = this.parts.find((part) => part.start > time && part.start < time + 20);
    if (following) this._audio(following);
  }

  /** A recording has ended: go on with the next, unless another one still plays. */
  _advance(part) {
    if (!this.playing || this.parts.some(({ audio }) => audio && !audio.paused)) return;
    this._time = Math.max(this._time, part.start + part.duration);
    if (this._time >= this.duration - 0.05) { this.pause(); this._emit("time"); } else this._start();
  }

  async _failed(part) {
    const wasPlaying = this.playing;
    this._time = this.time;
    this.pause();
    part.audio = null;
    // A media element does not say why. Asking again makes the page sign in, if that is the reason.
    try {
      await api.send("HEAD", `/v1/recordings/${part.recording_id}/playback`);
      this._retries = (this._retries ?? 0) + 1;
      if (this._retries < 5) setTimeout(() => { this._prepare(); if (wasPlaying) this.play(); }, 1000 * this._retries);
    } catch (problem) {
      this._emit("unreachable");
      if (problem.status === 409) this.load();
    }
  }

  _reload() {
    this._retries = 0;
    this._prepare();
  }
}
