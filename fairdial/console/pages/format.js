// Instants, lengths of time, money and FairDial's own words, as people read them.

const two = (value) => String(value).padStart(2, "0");

/** Seconds as 4:05 or 1:02:03. */
export function clock(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.max(0, Math.floor(seconds));
  const hours = Math.floor(whole / 3600);
  const rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest.replace(/^0/, "");
}

/** Seconds in words: 90 s, 2,400 min. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "no limit";
  return seconds < 120 ? `${number(Math.round(seconds))} s` : `${number(Math.floor(seconds / 60))} min`;
}

export const number = (value) => new Intl.NumberFormat("en-GB").format(value);

/** Units of a meter: seconds or messages. */
export function units(value, unit) {
  if (value === null || value === undefined) return "";
  if (unit === "s") return span(value);
  return unit === "messages" ? `${number(value)} ${value === 1 ? "message" : "messages"}` : number(value);
}

const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY_TIME = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

/** UTC milliseconds as the time of day here. */
export const timeOfDay = (ms) => TIME.format(ms);
/** UTC milliseconds as day and time here. */
export const dayAndTime = (ms) => (ms === null || ms === undefined ? "" : DAY_TIME.format(ms));
/** UTC milliseconds as a date, in a zone or here. */
export const date = (ms, timeZone) =>
  timeZone ? new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone }).format(ms) : DATE.format(ms);

/** For machines: the attribute `datetime`. */
export const machine = (ms) => new Date(ms).toISOString();

/** A decimal text with its currency. */
export const money = (amount, currency) => `${amount} ${currency ?? ""}`.trim();

/** A slug as words: class_not_covered as "class not covered". */
export const words = (slug) => String(slug ?? "").replaceAll("_", " ").replaceAll("-", " ");

/** The same, as the beginning of a sentence. */
export const title = (slug) => {
  const said = words(slug);
  return said.charAt(0).toUpperCase() + said.slice(1);
};

/** A clause as "kryptotel K2". */
export const clause = (found) => (found ? `${found.policy} ${found.id ?? ""}`.trim() : "");
