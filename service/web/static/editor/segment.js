// One segment: what the service knows of it, and its element. Its text is a single text node.

const UNSPACED = /[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f]/;
export const isUnspaced = (character) => UNSPACED.test(character);

/** White space counts as one space, as the service counts it. */
export const normal = (text) => text.trim().split(/\s+/).join(" ");

/** JavaScript counts UTF-16 units, the service code points. */
export const codePoints = (text) => { let n = 0; for (const _ of text) n += 1; return n; };

export class Segment {
  constructor(view, version) {
    this.element = null;  // .segment
    this.p = null;  // .said
    this.busy = 0;  // structural changes of it that the service has not answered
    this.conflict = null;
    this.remote = null;  // another person's change, while this one is being edited
    this.snapshots = [];  // texts since the last save, for undo
    this.adopt(view, version);
  }

  /** Take over what the service answered. The element is not touched. */
  adopt(view, version) {
    this.id = view.id;
    this.speaker = view.speaker;
    this.start = view.start;
    this.end = view.end;
    this.saved = view.text;
    this.checkedBy = view.checked_by;
    this.words = view.words;
    this.version = version;
    this._offsets = null;
  }

  get text() { return this.p ? this.p.textContent : this.saved; }
  set text(text) {
    const node = this.node;
    if (node.data !== text) node.data = text;
  }

  /** The text node; there is exactly one, also after browsers have made others of it. */
  get node() {
    const { p } = this;
    const [first] = p.childNodes;
    if (p.childNodes.length === 1 && first.nodeType === Node.TEXT_NODE) return first;
    const selection = getSelection();
    const hasCaret = selection.rangeCount > 0 && p.contains(selection.focusNode);
    const before = document.createRange();
    before.setStart(p, 0);
    if (hasCaret) before.setEnd(selection.focusNode, selection.focusOffset);
    const caret = before.toString().length;
    const node = document.createTextNode(p.textContent);
    p.replaceChildren(node);
    if (hasCaret) selection.collapse(node, Math.min(caret, node.data.length));
    return node;
  }

  get isDirty() { return normal(this.text) !== normal(this.saved); }

  /** Where each word begins and ends in the text, in UTF-16 units; null while the text is changed. */
  get offsets() {
    if (this.p && this.text !== this.saved) return null;
    if (!this._offsets) {
      const raw = this.words.map((word) => word.text).join("");
      const offsets = new Int32Array(2 * this.words.length);
      let at = raw.trimStart().length - raw.length;
      this.words.forEach((word, i) => {
        const core = word.text.trimStart();
        const start = at + word.text.length - core.length;
        offsets[2 * i] = Math.max(0, start);
        offsets[2 * i + 1] = Math.max(0, start + core.trimEnd().length);
        at += word.text.length;
      });
      this._offsets = offsets;
    }
    return this._offsets;
  }

  /** Index of the word that is heard at a time, or -1. */
  wordAt(time) {
    const { words } = this;
    let low = 0, high = words.length - 1, found = -1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (words[middle].start <= time) { found = middle; low = middle + 1; } else high = middle - 1;
    }
    return found;
  }

  /** Index of the word at a place in the text, or -1. */
  wordAtOffset(offset) {
    const { offsets } = this;
    if (!offsets) return -1;
    for (let i = 0; i < this.words.length; i += 1) if (offset <= offsets[2 * i + 1]) return i;
    return this.words.length - 1;
  }

  range(word) {
    const { offsets } = this;
    if (!offsets) return null;
    const node = this.node;
    return this.span(node, offsets[2 * word], offsets[2 * word + 1]);
  }

  span(node, start, end) {
    const most = node.data.length;
    return new StaticRange({
      startContainer: node, startOffset: Math.min(start, most), endContainer: node, endOffset: Math.min(end, most),
    });
  }
}
