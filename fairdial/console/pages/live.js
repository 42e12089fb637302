// What is so now: calls in progress, the latest decisions, and whether we hear of changes.
//
// The table of calls is read once, then kept by the stream of events (Server-Sent Events) from where the table was read.
// Where events were missed, after a gap or because FairDial was started again, the table is read anew; what comes
// meanwhile waits and is applied after it. Time left is of the server's moment: it is put on this machine's monotonic
// clock, so that neither a wrong clock here nor one that is set matters.
import { ask, bound, path, read, scope, session } from "./api.js";
import { batch, signal } from "./lib.js";
import { say } from "./ui.js";
import { words } from "./format.js";

const DECISIONS_MAX = 500;
const CALLS_MAX = 5_000;
const FLUSH_MS = 120;
const TICK_MS = 1_000;
const LOOK_MS = 10_000;
const RETRY_MS = 2_000;
const RETRY_MS_MAX = 15_000;
const QUEUE_MAX = 20_000;
const NAMES = ["decision", "call", "call_gone", "answered", "renewed", "settled", "case", "notice", "standing", "policy", "part", "missed"];

/** "connecting", "live" or "lost". */
export const stream = signal("connecting");
/** Calls in progress, the newest first: {id, call}, `call` a signal of its row; `at`, `began`, `ends` are on tick's clock. */
export const calls = signal([]);
/** The latest decisions, the newest first. */
export const decisions = signal([]);
/** Parts that are unwell, by name; their loss and return are events. */
export const parts = signal({});
/** `GET /v1/status`, every ten seconds; null where it did not answer or may not be asked. */
export const status = signal(null);
/** Milliseconds on the monotonic clock, each second while the page is seen. */
export const tick = signal(performance.now());
/** Raised whenever something happened to what the name says: cases, notices, standing, policies. */
export const changed = { case: signal(0), notice: signal(0), standing: signal(0), policy: signal(0), room: signal(0) };

let known = new Map();
let source = null;
let lastId = 0;
let queue = [];
let flushing = null;
let reading = false;
let retry = null;
let waits = RETRY_MS;
let offset = null;
let running = 0;
let timers = [];

/** Begin to look on, for who is signed in. */
export function start() {
  stop();
  running += 1;
  stream.value = "connecting";
  timers = [setInterval(ticked, TICK_MS), setInterval(look, LOOK_MS)];
  document.addEventListener("visibilitychange", seen);
  window.addEventListener("online", reopen);
  look();
  resync(running);
}

/** Look on no more, and forget what was seen. */
export function stop() {
  running += 1;
  close();
  clearTimeout(retry);
  clearTimeout(flushing);
  flushing = null;
  timers.forEach(clearInterval);
  document.removeEventListener("visibilitychange", seen);
  window.removeEventListener("online", reopen);
  known = new Map();
  queue = [];
  offset = null;
  reading = false;
  batch(() => {
    calls.value = [];
    decisions.value = [];
    parts.value = {};
    status.value = null;
  });
}

function close() {
  source?.close();
  source = null;
}

const ticked = () => {
  if (!document.hidden) tick.value = performance.now();
};

let hiddenSince = null;
function seen() {
  if (document.hidden) {
    hiddenSince = performance.now();
    return;
  }
  ticked();
  // A machine that slept has a connection that only seems to be there.
  if (hiddenSince !== null && performance.now() - hiddenSince > 60_000) reopen();
}

function reopen() {
  if (lastId) open(running);
}

async function look() {
  // Looking on is a use of the session while somebody can see it.
  if (document.hidden) return;
  try {
    // The server's state is the provider's; whether it answers is seen by asking anything.
    if (bound()) await read("/session");
    else status.value = await read(path(["status"]));
  } catch (error) {
    status.value = null;
    if (error.status === 0) lost();
  }
}

/** Read the table, then follow it from there. */
async function resync(turn) {
  if (reading) return;
  reading = true;
  try {
    const began = performance.now();
    const answer = await ask("GET", path(["calls"], scope()));
    const rows = await answer.json();
    const at = (began + performance.now()) / 2;
    const past = await read(path(["decisions"], { limit: 100, ...scope() }));
    if (turn !== running) return;
    const since = Number(answer.headers.get("Event-Id"));
    batch(() => {
      known = new Map(rows.slice(0, CALLS_MAX).map((row) => [row.call, entry(row, at)]));
      arrange();
      adopt(past.items);
    });
    queue = queue.filter((event) => event.id > since);
    if (source === null || source.readyState === EventSource.CLOSED) {
      lastId = since;
      open(turn);
    }
    reading = false;
    flush();
  } catch {
    reading = false;
    if (turn === running) {
      lost();
      later(turn, () => resync(turn));
    }
  }
}

function later(turn, work) {
  clearTimeout(retry);
  retry = setTimeout(() => turn === running && work(), waits);
  waits = Math.min(RETRY_MS_MAX, waits * 1.5);
}

/** Follow from `lastId`. The browser comes again by itself where a connection breaks; not where an answer is an error. */
function open(turn) {
  close();
  const opened = new EventSource(path(["events"], { after: lastId, ...scope() }));
  source = opened;
  opened.onopen = () => {
    waits = RETRY_MS;
    if (stream.value === "lost") say("The connection is back.", true);
    stream.value = "live";
  };
  opened.onerror = () => {
    if (turn !== running || source !== opened) return;
    lost();
    if (opened.readyState === EventSource.CLOSED)
      later(turn, async () => {
        // Who is not let in is asked for the token, or comes in by the one that is remembered.
        try {
          await read("/session");
        } catch (error) {
          if (error.status === 401) return;
        }
        if (turn === running && session.value) open(turn);
      });
  };
  for (const name of NAMES) opened.addEventListener(name, hear);
}

function lost() {
  if (stream.value === "live") say("The connection is lost. What is shown may be old.", true);
  if (stream.value !== "connecting") stream.value = "lost";
}

function hear(message) {
  const event = JSON.parse(message.data);
  event.heard = performance.now();
  if (event.id) lastId = event.id;
  queue.push(event);
  if (queue.length > QUEUE_MAX) {
    queue = [{ event: "missed", heard: event.heard }];
  }
  flushing ??= setTimeout(flush, FLUSH_MS);
}

function flush() {
  flushing = null;
  if (reading || queue.length === 0) return;
  const events = queue;
  queue = [];
  let arranged = false;
  const fresh = [];
  batch(() => {
    for (const event of events) {
      if (event.event === "missed") {
        resync(running);
        // The rest is applied to the table that is read now.
        queue = events.slice(events.indexOf(event) + 1);
        break;
      }
      arranged = apply(event, fresh) || arranged;
    }
    if (arranged) arrange();
    if (fresh.length) decisions.value = [...fresh.reverse(), ...decisions.value].slice(0, DECISIONS_MAX);
  });
  tellRefusals(fresh);
}

/** Note an event; whether a call came or went. */
function apply(event, fresh) {
  switch (event.event) {
    case "call": {
      const at = moment(event);
      const held = known.get(event.call);
      if (event.kind === "conference") changed.room.value += 1;
      if (held) {
        held.call.value = row(event, at, held.call.value);
        return false;
      }
      if (known.size < CALLS_MAX) known.set(event.call, entry(event, at));
      return true;
    }
    case "call_gone":
      changed.room.value += 1;
      return known.delete(event.call);
    case "decision":
      fresh.push(event);
      return false;
    case "part":
      parts.value = { ...parts.value, [event.part]: event };
      say(event.well ? `${event.part} is back.` : `${event.part} is lost: ${event.text}`, true);
      return false;
    default:
      if (changed[event.event]) changed[event.event].value += 1;
      return false;
  }
}

/** When an event happened, on the monotonic clock: the quickest that came yet gives the distance of the two clocks. */
function moment(event) {
  const distance = event.heard - event.at_ms;
  offset = offset === null ? distance : Math.min(offset, distance);
  return event.at_ms + offset;
}

function row(told, at, before) {
  return {
    ...before,
    ...told,
    at,
    began: told.up_s === null ? null : at - told.up_s * 1000,
    ends: told.left_s === null ? null : at + told.left_s * 1000,
  };
}

let order = 0;
const entry = (told, at) => ({ id: told.call, order: order++, call: signal(row(told, at)) });

function arrange() {
  calls.value = [...known.values()].sort((a, b) => b.order - a.order);
}

/** Decisions of before as events have them, without those that are there. */
function adopt(items) {
  const there = new Set(decisions.value.map((each) => `${each.call} ${each.dialled}`));
  const past = items.map(asEvent).filter((each) => !there.has(`${each.call} ${each.dialled}`));
  decisions.value = [...decisions.value, ...past].sort((a, b) => b.at_ms - a.at_ms).slice(0, DECISIONS_MAX);
}

/** A record of a decision as the event tells it. */
export const asEvent = (record) => ({
  id: `${record.id ?? ""} ${record.call_id}`,
  at_ms: record.at_ms,
  account: record.account_id,
  call: record.call_id,
  line: record.line_id,
  kind: record.kind,
  dialled: record.dialled,
  e164: record.e164,
  number_class: record.number_class,
  country: record.country,
  decision: record.decision,
  reason: record.reason,
  clause: record.clause_id
    ? { policy: record.clause_policy, version: record.clause_version, id: record.clause_id }
    : null,
  limit_s: record.limit_s,
});

function tellRefusals(fresh) {
  const refused = fresh.filter((each) => each.decision !== "allow");
  if (refused.length === 0) return;
  const [latest] = refused.slice(-1);
  say(
    refused.length === 1
      ? `Refused: ${latest.line} to ${latest.dialled}, ${words(latest.reason)}.`
      : `${refused.length} calls refused, the last for ${words(latest.reason)}.`,
  );
}

