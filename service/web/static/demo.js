// A study with two demo recordings, which come with the service, and the demo models.
import * as api from "./api.js";

const RECORDINGS = [
  ["demo/interview.flac", { code: "INT-01", kind: "interview", speakers: { min: 2, max: 2 } }],
  ["demo/focus-group.flac", { code: "FG-1", kind: "focus_group", speakers: { min: 6, max: 6 } }],
];

/** Create the study DEMO, or the next free DEMO-2, and start transcribing. Returns the study. */
export async function startDemo() {
  const taken = new Set((await api.listAll("/v1/studies")).map((study) => study.code));
  let code = "DEMO";
  for (let n = 2; taken.has(code); n += 1) code = `DEMO-${n}`;
  const study = await api.post("/v1/studies", { code, language: "en", model: "demo" });
  await fillDemo(code);
  return study;
}

/** Add the two recordings to a study. */
export async function fillDemo(code) {
  for (const [file, session] of RECORDINGS) {
    const sound = await (await fetch(new URL(file, import.meta.url))).arrayBuffer();
    const made = await api.post("/v1/sessions", { study: code, ...session });
    const answer = await fetch(`/v1/uploads?study=${code}&session=${made.code}`, {
      method: "POST", headers: { "Content-Type": "application/offset+octet-stream" }, body: sound,
    });
    const recording = await answer.json();
    if (!answer.ok) throw new api.Problem(recording, answer.status);
    let view = recording;
    while (["receiving", "checking"].includes(view.state)) view = await api.get(`/v1/recordings/${recording.id}?wait=20`);
    if (view.state !== "ready") throw new Error(view.refusal.detail);
    await api.post("/v1/jobs", { study: code, session: made.code, model: "demo", language: "en" });
  }
}
