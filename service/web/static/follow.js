// A study's changes: server-sent events, or polling where a proxy breaks them.

const POLL = 10_000; // ms
const TRIES = 3;

/**
 * handlers: { job(view), recording(change), reload() }. `reload` is called at every connection, as
 * changes may have been missed, and while polling. Hidden pages do not follow, because browsers
 * allow only six connections to a service.
 */
export function followStudy(study, handlers) {
  let source = null, timer = null, failures = 0, opened = false;

  function connect() {
    source = new EventSource(`/v1/events?study=${encodeURIComponent(study)}`);
    source.onopen = () => { failures = 0; stopPolling(); if (opened) handlers.reload(); opened = true; };
    source.addEventListener("job", (event) => handlers.job(JSON.parse(event.data)));
    source.addEventListener("recording", (event) => handlers.recording(JSON.parse(event.data)));
    source.onerror = () => {
      failures += 1;
      if (source.readyState === EventSource.CLOSED || failures >= TRIES) { source.close(); source = null; poll(); }
    };
  }
  function poll() {
    if (timer) return;
    opened = true;
    let rounds = 0;
    timer = setInterval(() => {
      handlers.reload();
      rounds += 1;
      if (rounds % 6 === 0) { failures = 0; connect(); } // perhaps it works again
    }, POLL);
  }
  function stopPolling() { clearInterval(timer); timer = null; }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { source?.close(); source = null; stopPolling(); }
    else if (!source && !timer) { opened = true; connect(); }
  });
  connect();
}
