// Texts, numbers and times as people read them. What comes from outside is only ever text, and never changes its surroundings.

const NUMBER = new Intl.NumberFormat();
const ONE_DIGIT = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
// Control characters, what turns the direction of a line, and what takes no room: they are shown by their names.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

/** Return a text with each character that can't be seen as `‹U+202E›`. */
export function visible(text) {
  const name = (character) => `‹U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;
  return String(text ?? "").replace(HIDDEN, name);
}

export const number = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));

/** Return a number with its noun: `1 study`, `2 studies`. */
export const counted = (value, one, many) => `${number(value)} ${value === 1 ? one : many}`;

/** Return bytes as `1.2 GB`. */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let left = Number(value) || 0;
  let unit = 0;
  while (left >= 999.5 && unit < units.length - 1) {
    left /= 1000;
    unit += 1;
  }
  return `${left < 100 && unit ? ONE_DIGIT.format(left) : NUMBER.format(Math.round(left))} ${units[unit]}`;
}

/** Return seconds as `12 s`, `5 min`, `3 h`, `2 days`: of what is long, the largest unit is enough. */
export function duration(seconds) {
  const left = Math.max(0, Math.round(Number(seconds) || 0));
  if (left < 60) {
    return `${left} s`;
  }
  if (left < 3600) {
    return `${Math.floor(left / 60)} min`;
  }
  if (left < 86_400) {
    const minutes = Math.floor((left % 3600) / 60);
    return `${Math.floor(left / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  }
  const days = Math.floor(left / 86_400);
  return `${days} ${days === 1 ? "day" : "days"}`;
}

/** Return the moment that a text of a script names (ISO 8601, or Orthanc's `20260131T130000`, in UTC), or null. */
export function moment(text) {
  const compact = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)/.exec(String(text ?? ""));
  const found = new Date(compact ? `${compact.slice(1, 4).join("-")}T${compact.slice(4, 7).join(":")}Z` : text ?? NaN);
  return Number.isNaN(found.getTime()) ? null : found;
}

/** Return the first moment of a day (`2026-01-31`) of the viewer's, or of one so many `days` later; what is no day as it is. */
export function beginOf(day, days = 0) {
  const [, year, month, date] = /^(\d{4})-(\d\d)-(\d\d)$/.exec(day ?? "") ?? [];
  return date ? new Date(Number(year), Number(month) - 1, Number(date) + days).toISOString() : day;
}

/** Return a moment in the viewer's zone; of today only its time. */
export function local(when) {
  const today = DAY.format(new Date()) === DAY.format(when);
  return today ? TIME.format(when) : `${DAY.format(when)}, ${TIME.format(when)}`;
}

/** Return a moment as the server's clock shows it: `2026-01-31 14:00:00 (UTC+01:00)`. */
export function atServer(when, offsetSeconds) {
  const shifted = new Date(when.getTime() + offsetSeconds * 1000).toISOString().replace("T", " ").slice(0, 19);
  const size = Math.abs(offsetSeconds);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${shifted} (UTC${offsetSeconds < 0 ? "−" : "+"}${two(size / 3600)}:${two((size % 3600) / 60)})`;
}

/** Return how long ago a moment is: `5 min ago`; of the future, `in 5 min`. */
export function ago(when, now = Date.now()) {
  const seconds = (now - when.getTime()) / 1000;
  return seconds < -1 ? `in ${duration(-seconds)}` : seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}
