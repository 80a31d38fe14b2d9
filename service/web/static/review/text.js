// The text of a segment, with its mentions marked.
import { el } from "../dom.js";
import { duration } from "../format.js";

/** only: mark just this mention, and show what was said. Else accepted mentions show their replacements. */
export function textOf(review, segment, { only = null, focusable = false } = {}) {
  const parts = [];
  let at = 0;
  for (const mention of only ? [only] : review.bySegment.get(segment.id) ?? []) {
    if (mention.start < at) continue;
    parts.push(segment.points.slice(at, mention.start).join(""));
    const said = segment.points.slice(mention.start, mention.end).join("");
    const shown = !only && mention.state === "accepted" ? review.replacement(mention) : said;
    parts.push(el("mark", {
      class: mention.state, "data-start": mention.start, "data-end": mention.end, title: shown === said ? null : said,
      ...(focusable ? { "data-mention": mention.id, tabindex: mention.state === "suggested" ? "0" : "-1" } : {}),
    }, shown));
    at = mention.end;
  }
  parts.push(segment.points.slice(at).join(""));
  return parts;
}

/** A stretch of a segment with some words before and after it. */
export function around(segment, place, width = 60) {
  const from = Math.max(0, place.start - width), to = Math.min(segment.points.length, place.end + width);
  return [from ? "…" : "", segment.points.slice(from, place.start).join(""), el("mark", {}, segment.points.slice(place.start, place.end).join("")),
    segment.points.slice(place.end, to).join(""), to < segment.points.length ? "…" : ""];
}

/** A paragraph of the transcript. Its text can be reached with Tab, so that words in it can be selected by keyboard. */
export function paragraph(review, segment, ...text) {
  const who = review.speakerOf(segment);
  const time = segment.start === undefined ? "" : duration(segment.start);
  return el("section", { "data-segment": segment.id, "aria-label": [who, time].filter(Boolean).join(", ") || segment.id },
    el("p", { class: "who" }, el("span", { class: "mono" }, time), el("br"), who),
    el("p", { class: "said-text", tabindex: "0", dir: "auto" }, ...text));
}
