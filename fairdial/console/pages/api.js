// Asks FairDial: who is signed in, reads, changes, and errors as people can read them.
//
// The session is a cookie that no script can read. Whatever changes something sends the session's CSRF token. Sessions
// end when FairDial is started again; so that a page which is open all day comes back by itself, the token that was
// typed in is kept in this module's memory for as long as a session may last, and nowhere else: a reload forgets it.
import { signal } from "./lib.js";

/** {name, role, account, csrf}; null: nobody is signed in; undefined: not known yet. */
export const session = signal(undefined);
/** Why nobody is signed in any more, for the form. */
export const farewell = signal("");

const RANK = { viewer: 0, operator: 1, admin: 2 };
const WAIT_MS = 20_000;
// As the server has it: a session lasts for 12 hours, and ends after one in which nothing was asked.
const LASTS_MS = 12 * 3_600_000;
const IDLE_MS = 3_600_000;

let kept = null;
let keptSince = 0;
let askedAt = 0;
let signingIn = null;

let ahead = null;

/** The server's clock, UTC milliseconds, to the second: by the header `Date` of its answers, not by the clock here. */
export const serverNow = () => performance.now() + (ahead ?? Date.now() - performance.now());

/** An answer that is an error: `status` (0 where none came), and what is wrong. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    this.status = status;
    this.title = title;
  }
}

/** Whether who is signed in has that role or a higher one. */
export const may = (role) => Boolean(session.value) && RANK[session.value.role] >= RANK[role];

/** Whether who is signed in sees single accounts alone. */
export const bound = () => accounts().length > 0;

/** The accounts that who is signed in is bound to; empty: all. */
export const accounts = () => session.value?.accounts ?? [];

/** Of those, the one that is looked at: lists and the stream are of it. */
export const chosen = signal(null);

/** What narrows a list to it; nothing where it goes without saying. */
export const scope = () => (accounts().length > 1 ? { account: chosen.value ?? accounts()[0] } : {});

/** A path below /v1: segments are escaped, and parameters without a value left out. */
export function path(segments, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = new URLSearchParams(given).toString();
  return `/v1/${segments.map((each) => encodeURIComponent(each)).join("/")}${search ? `?${search}` : ""}`;
}

async function fetched(method, url, { body, type, signal: ending } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET" && session.value) headers["X-CSRF-Token"] = session.value.csrf;
  let sent = body;
  if (type) headers["Content-Type"] = type;
  else if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    sent = JSON.stringify(body);
  }
  const ends = ending ?? (type ? undefined : AbortSignal.timeout(WAIT_MS));
  try {
    const answer = await fetch(url, { method, headers, body: sent, signal: ends, credentials: "same-origin", cache: "no-store" });
    const dated = Date.parse(answer.headers.get("Date") ?? "");
    if (dated) ahead = dated + 500 - performance.now();
    return answer;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", "FairDial does not answer. Is it running, and is the network up?");
  }
}

async function problemOf(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // Not of FairDial: a proxy's page.
  }
  return new Problem(answer.status, told.title ?? `Status ${answer.status}`, told.detail ?? "");
}

/** The answer (a Response) to a request. Signs in once more where the session has ended. Raises Problem. */
export async function ask(method, url, options = {}) {
  let answer = await fetched(method, url, options);
  if (answer.status === 401 && (await again())) answer = await fetched(method, url, options);
  let problem = answer.ok ? null : await problemOf(answer);
  if (answer.status === 403 && problem.message.includes("X-CSRF-Token")) {
    // Another tab has signed in meanwhile: the cookie is of its session.
    await resume();
    answer = await fetched(method, url, options);
    problem = answer.ok ? null : await problemOf(answer);
  }
  if (problem) throw problem;
  askedAt = performance.now();
  return answer;
}

/** What is read there, as JSON. */
export const read = async (url, options) => (await ask("GET", url, options)).json();

/** Change something; the answer as JSON, null where it has none. */
export async function change(method, url, body, options = {}) {
  const answer = await ask(method, url, { ...options, body });
  return answer.status === 204 ? null : answer.json();
}

/** The session is over: sign in again with the token that is remembered. Whether somebody is signed in now. */
export async function again() {
  const now = performance.now();
  if (kept === null || now - keptSince > LASTS_MS || now - askedAt > IDLE_MS) {
    leave("Your session has ended. Sign in again.");
    return false;
  }
  signingIn ??= begin(kept)
    .then(() => true)
    .catch((error) => {
      if (error.status === 401) leave("Your token is not valid any more.");
      return false;
    })
    .finally(() => {
      signingIn = null;
    });
  return signingIn;
}

/** Begin a session with a token that was typed in. Raises Problem. */
export async function signIn(token) {
  await begin(token);
  kept = token;
  keptSince = askedAt = performance.now();
  farewell.value = "";
}

async function begin(token) {
  const answer = await fetched("POST", "/session", { body: { token } });
  if (!answer.ok) throw await problemOf(answer);
  session.value = await answer.json();
  hint.set(true);
}

// Whether it is worth asking for a session: there was one in this browser, and nobody ended it. It lets nobody in.
const HINT = "fairdial-signed-in";
const hint = {
  get: () => {
    try {
      return localStorage.getItem(HINT) !== null;
    } catch {
      return true;
    }
  },
  set: (on) => {
    try {
      if (on) localStorage.setItem(HINT, "1");
      else localStorage.removeItem(HINT);
    } catch {
      // Storage is switched off: the server is asked.
    }
  },
};

/** Take up the session of this browser, if there is one. */
export async function resume() {
  if (!hint.get()) {
    session.value = null;
    return;
  }
  const answer = await fetched("GET", "/session");
  if (answer.ok) session.value = await answer.json();
  else leave("");
}

/** End the session. */
export async function signOut() {
  kept = null;
  try {
    await fetched("DELETE", "/session");
  } finally {
    leave("You have signed out.");
  }
}

function leave(why) {
  kept = null;
  hint.set(false);
  farewell.value = why;
  session.value = null;
}
