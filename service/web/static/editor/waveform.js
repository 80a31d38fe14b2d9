// The waveform of the whole session, with a lane for each speaker and a tick for each place to check.
import * as api from "../api.js";
import { duration } from "../format.js";

const HEADER = 24;  // bytes; see docs/developer/api.md#playback
const LANE = 3;  // px

export class Waveform {
  /** slider: the element with the role; canvas and playhead are inside it. Calls drawn() when it has changed. */
  constructor(player, slider, { turns, propertyOf, ticks, describe, drawn }) {
    Object.assign(this, { player, slider, turns, propertyOf, ticks, describe, drawn });
    this.step = 0.1;  // s
    this.levels = new Float32Array(0);  // 0 to 1, of each step of the session
    this.marks = [];  // the ticks as they were last drawn
    this.canvas = slider.querySelector("canvas");
    this.playhead = slider.querySelector(".playhead");
    this.peaks = new Map();  // by recording
    this.resize = new ResizeObserver(() => this.draw());
    this.resize.observe(slider);
    const repaint = () => { this._colours = null; this.draw(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    player.addEventListener("time", () => this.move());
    player.addEventListener("state", () => this.load());
    slider.addEventListener("keydown", (event) => this._key(event));
    slider.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      slider.setPointerCapture(event.pointerId);
      this._to(event);
      slider.onpointermove = (move) => this._to(move);
      slider.onpointerup = () => { slider.onpointermove = null; };
    });
    this.move();
  }

  async load() {
    await Promise.all(this.player.parts.map(async (part) => {
      if (part.state !== "ready" || this.peaks.has(part.recording_id)) return;
      this.peaks.set(part.recording_id, new Int8Array(0));
      try {
        const answer = await api.send("GET", `/v1/recordings/${part.recording_id}/peaks`, { background: true });
        const buffer = await answer.arrayBuffer();
        const header = new DataView(buffer);
        part.perSecond = header.getInt32(8, true) / header.getInt32(12, true);
        this.peaks.set(part.recording_id, new Int8Array(buffer, HEADER));
      } catch { this.peaks.delete(part.recording_id); }
    }));
    this.levels = Float32Array.from({ length: Math.ceil(this.player.duration / this.step) },
      (_, n) => this._loudest(n * this.step, (n + 1) * this.step - 1e-6));
    const loudest = this.levels.reduce((most, level) => Math.max(most, level), 0.05);
    this.levels.forEach((level, n) => { this.levels[n] = level / loudest; });
    this.draw();
  }

  /** The loudest amplitude, 0 to 1, of a stretch of the session. */
  _loudest(from, to) {
    let loudest = 0;
    for (const part of this.player.parts) {
      const pairs = this.peaks.get(part.recording_id);
      if (!pairs?.length) continue;
      const first = Math.max(0, Math.floor((from - part.start) * part.perSecond + 1e-6));
      const last = Math.min(pairs.length / 2, Math.ceil((to - part.start) * part.perSecond));
      for (let i = first; i < last; i += 1) loudest = Math.max(loudest, pairs[2 * i + 1], -pairs[2 * i]);
    }
    return loudest / 127;
  }

  colours() {
    if (!this._colours) {
      const style = getComputedStyle(this.slider);
      const read = (name) => style.getPropertyValue(name);
      this._colours = {
        wave: read("--wave"), ink: read("--ink-2"), accent: read("--accent"), line: read("--hair"), doubt: read("--doubt"),
        font: `11px ${read("--ui")}`, read,
      };
    }
    return this._colours;
  }
  colourOf(speaker) { return this.colours().read(this.propertyOf(speaker)); }

  draw() {
    const { canvas, slider } = this;
    const scale = window.devicePixelRatio || 1;
    const width = slider.clientWidth, height = slider.clientHeight;
    if (!width || !this.player.duration) return;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const { wave, doubt } = this.colours();
    const per = this.player.duration / width;
    const lanes = new Map();
    for (const { speaker } of this.turns()) if (!lanes.has(speaker)) lanes.set(speaker, lanes.size);
    const laneHeight = Math.min(LANE, 14 / Math.max(1, lanes.size));
    const tall = height - lanes.size * laneHeight - 8;
    context.fillStyle = wave;
    const amplitudes = new Float32Array(width);
    for (let x = 0; x < width; x += 1) amplitudes[x] = this._loudest(x * per, (x + 1) * per);
    const most = Math.max(0.05, ...amplitudes);  // quiet recordings fill the height, too
    for (let x = 0; x < width; x += 1) {
      const h = Math.max(1, (amplitudes[x] / most) * tall);
      context.fillRect(x, 6 + (tall - h) / 2, 0.75, h);
    }
    for (const { start, end, speaker } of this.turns()) {
      context.fillStyle = this.colourOf(speaker);
      const y = height - (lanes.size - lanes.get(speaker)) * laneHeight;
      context.fillRect(start / per, y, Math.max(1, (end - start) / per), laneHeight - 0.5);
    }
    context.fillStyle = doubt;
    this.marks = this.ticks();
    for (const time of this.marks) context.fillRect(time / per - 0.75, 0, 1.5, 5);
    this.move();
    this.drawn();
  }

  move() {
    const { player, slider } = this;
    const part = player.duration ? player.time / player.duration : 0;
    this.playhead.style.transform = `translateX(${part * slider.clientWidth}px)`;
    const second = Math.floor(player.time);
    if (second === this._second && player.duration === this._duration) return;
    this._second = second;
    this._duration = player.duration;
    slider.setAttribute("aria-valuemax", String(Math.round(player.duration)));
    slider.setAttribute("aria-valuenow", String(second));
    slider.setAttribute("aria-valuetext", this.describe(player.time));
    slider.title = duration(player.duration);
  }

  _to(event) {
    const box = this.slider.getBoundingClientRect();
    this.player.seek(((event.clientX - box.left) / box.width) * this.player.duration);
  }

  _key(event) {
    const steps = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, PageDown: -60, PageUp: 60 };
    const { player } = this;
    if (event.key in steps) player.skip(steps[event.key] / (event.shiftKey ? 10 : 1));
    else if (event.key === "Home") player.seek(0);
    else if (event.key === "End") player.seek(player.duration);
    else return;
    event.preventDefault();
  }
}
