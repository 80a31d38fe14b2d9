// Plays the place of a mention, two seconds before and after it.
import { announce } from "../dom.js";

const AROUND = 2; // s
const sound = new Audio();
let stopAt = 0;
sound.preload = "none";
sound.addEventListener("timeupdate", () => { if (sound.currentTime >= stopAt) sound.pause(); });

export const canPlay = (review) => review.recordings.some((part) => part.state === "ready");

export function play(review, place) {
  const segment = review.segments.get(place.segment);
  // The text of a segment is that of its words, so their characters say which of them it covers.
  let passed = 0, from = segment.start, to = segment.end;
  for (const word of segment.words) {
    const next = passed + [...word.text].length;
    if (passed <= place.start) from = word.start;
    if (passed < place.end) to = word.end;
    passed = next;
  }
  const part = review.recordings.findLast((each) => each.state === "ready" && each.start <= from);
  if (!part) return announce("There is no sound to play");
  const address = `/v1/recordings/${part.recording_id}/playback`;
  const begin = () => {
    sound.currentTime = Math.max(0, from - part.start - AROUND);
    stopAt = to - part.start + AROUND;
    sound.play().catch(() => announce("This recording cannot be played"));
  };
  if (sound.dataset.address === address) return begin();
  sound.dataset.address = address;
  sound.src = address;
  sound.addEventListener("loadedmetadata", begin, { once: true });
  sound.load();
}
