// What a session's recordings and job amount to, in words.
import { bytes, plural, timeLeft } from "./format.js";

const STAGE_WORDS = {
  ingest: "Reading the recording", segment: "Finding speech", transcribe: "Transcribing", align: "Timing the words",
  diarise: "Telling voices apart", attribute: "Assigning words to speakers", check: "Looking for doubtful places", handoff: "Handing over",
};

/**
 * { kind, label, detail, fraction, job, recording }; kind: empty, uploading, checking, refused, ready,
 * queued, running, waiting, failed, cancelled or done.
 */
export function stateOf(session, recordings, job) {
  const own = [...recordings.values()].filter((each) => each.session_id === session.id); // refused ones too
  const refused = own.find((recording) => recording.state === "refused");
  const active = job && !["failed", "cancelled", "succeeded", "erased"].includes(job.status);
  if (!own.length && !job) return { kind: "empty", label: "No recording" };
  if (!active) {
    const receiving = own.find((recording) => recording.state === "receiving");
    if (receiving) return { kind: "uploading", label: "Upload not finished", detail: bytes(receiving.n_bytes), recording: receiving };
    if (own.some((recording) => recording.state === "checking")) return { kind: "checking", label: "Checking the recording" };
    if (refused) return { kind: "refused", label: "Refused", recording: refused };
  }
  if (!job) return { kind: "ready", label: "Ready to transcribe" };
  return { job, ...jobState(job) };
}

export function jobState(job) {
  switch (job.status) {
    case "queued": {
      const ahead = job.queue?.position;
      return { kind: "queued", label: "In the queue", detail: ahead ? `${plural(ahead, "recording")} before it` : "It is next" };
    }
    case "running": case "cancelling": {
      const eta = job.progress?.eta_seconds;
      return {
        kind: "running",
        label: job.status === "cancelling" ? "Stopping" : STAGE_WORDS[job.stage] || "Starting",
        detail: eta ? timeLeft(eta.low, eta.high) : null,
        fraction: job.progress?.fraction ?? job.fraction,
      };
    }
    case "waiting":
      return {
        kind: "waiting",
        label: job.waiting_for?.reason === "card" ? "Waiting for memory on the graphics card" : "Waiting for somebody",
        detail: job.waiting_for?.user_action,
      };
    case "succeeded": return { kind: "done", label: "Transcribed" };
    case "cancelled": return { kind: "cancelled", label: "Stopped" };
    case "failed": {
      const error = job.errors?.at(-1);
      return { kind: "failed", label: "Failed", reason: error?.title, detail: error?.user_action };
    }
    default: return { kind: "empty", label: "Deleted" };
  }
}
