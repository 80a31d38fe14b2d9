// The sound around the place that is heard, large enough to see words and pauses. It is for the mouse: the
// waveform of the whole session is the slider that the keyboard moves.
import { duration } from "../format.js";

const SECONDS = 20;  // shown at once
const FRAME = 30;  // ms between two drawings while it plays
const STILL = 4;  // px; a press that moves less is a click
const LABEL_EVERY = 5;  // s
const LANE = 4;  // px
const HEAD = 13;  // px, for the times

export class Zoom {
  /** waveform: has the peaks, the speakers' colours and the ticks. */
  constructor(player, waveform, box) {
    Object.assign(this, { player, waveform, box });
    this.canvas = box.querySelector("canvas");
    this._drawn = NaN;
    new ResizeObserver(() => this.draw()).observe(box);
    player.addEventListener("time", () => this.move());
    box.addEventListener("pointerdown", (event) => this._press(event));
  }

  get _shown() { return Math.min(SECONDS, this.player.duration); }
  /** The time at the left edge. */
  get _from() { return this.player.time - this._shown / 2; }

  move() {
    if (Math.abs(this.player.time - this._drawn) < 0.004) return;
    if (!this.player.playing || performance.now() - this._drawnAt > FRAME) this.draw();
  }

  draw() {
    const { box, canvas, player, waveform } = this;
    const width = box.clientWidth, height = box.clientHeight;
    if (!width || !player.duration) return;
    const scale = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const from = this._from, to = from + this._shown, per = width / this._shown;
    this._drawn = player.time;
    this._drawnAt = performance.now();
    const { wave, ink, accent, line, doubt, font } = waveform.colours();
    const tall = height - HEAD - LANE - 4, middle = HEAD + tall / 2;

    const { levels, step } = waveform;
    context.beginPath();  // one shape is drawn faster than 200
    for (let n = Math.max(0, Math.floor(from / step)); n < levels.length && n * step < to; n += 1) {
      const h = Math.max(1, levels[n] * tall);
      context.rect((n * step - from) * per, middle - h / 2, Math.max(1, step * per - 1), h);
    }
    context.fillStyle = wave;
    context.fill();
    for (const { start, end, speaker } of waveform.turns()) {
      if (start > to) break;
      if (end < from) continue;
      context.fillStyle = waveform.colourOf(speaker);
      context.fillRect((start - from) * per, height - LANE, Math.max(1, (end - start) * per - 1), LANE);
    }
    context.font = font;
    for (let n = Math.ceil(Math.max(0, from) / LABEL_EVERY); n * LABEL_EVERY < Math.min(to, player.duration); n += 1) {
      const x = (n * LABEL_EVERY - from) * per;
      context.fillStyle = line;
      context.fillRect(x, 0, 1, height - LANE);
      context.fillStyle = ink;
      context.fillText(duration(n * LABEL_EVERY), x + 4, 10);
    }
    context.fillStyle = doubt;
    for (const time of waveform.marks) if (time >= from && time <= to) context.fillRect((time - from) * per - 1, 0, 2, 6);
    context.fillStyle = accent;
    context.fillRect(width / 2 - 1, 0, 2, height);
  }

  /** Drag the sound under the mark, or click to go to a place. */
  _press(event) {
    const { box, player } = this;
    if (event.button !== 0 || !player.duration) return;
    event.preventDefault();  // the caret stays in the text
    const perPixel = this._shown / box.clientWidth;
    const begun = player.time, x = event.clientX;
    let isDrag = false;
    box.setPointerCapture(event.pointerId);
    box.onpointermove = (move) => {
      isDrag ||= Math.abs(move.clientX - x) >= STILL;
      if (isDrag) player.seek(begun - (move.clientX - x) * perPixel);
    };
    box.onpointerup = () => {
      box.onpointermove = box.onpointerup = box.onpointercancel = null;
      if (!isDrag) player.seek(begun + (x - box.getBoundingClientRect().left - box.clientWidth / 2) * perPixel);
    };
    box.onpointercancel = () => { box.onpointermove = box.onpointerup = box.onpointercancel = null; };
  }
}
