// Times, sizes and counts in words.

const relative = new Intl.RelativeTimeFormat("en-GB", { numeric: "auto" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

/** 1:03:22 or 52:10 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const total = Math.round(seconds);
  const [h, m, s] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** "about 2 h 10 min", "about 40 s" */
export function roughly(seconds) {
  if (seconds < 90) return `${Math.max(5, Math.round(seconds / 5) * 5)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
}

/** An interval of seconds: "9 to 14 min left". */
export function timeLeft(low, high) {
  if (high < 90) return `about ${roughly((low + high) / 2)} left`;
  const [from, to] = [Math.max(1, Math.round(low / 60)), Math.round(high / 60)];
  if (to >= 120) return `about ${roughly(low)} to ${roughly(high)} left`;
  return from === to ? `about ${to} min left` : `${from} to ${to} min left`;
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${count < 10 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** "14:02" today, else "12 May 2031" */
export function when(text) {
  if (!text) return "–";
  const time = new Date(text);
  return time.toDateString() === new Date().toDateString() ? clock.format(time) : day.format(time);
}

/** "3 minutes ago", "yesterday" */
export function ago(text) {
  const seconds = (new Date(text) - Date.now()) / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return relative.format(Math.round(seconds / size), unit);
  }
  return "just now";
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
