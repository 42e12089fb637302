// Parts that views share: questions before something is done, results, loading, tables, and what is said aloud.
import { html, signal, useEffect, useRef, useState } from "./lib.js";

// --- said aloud ---------------------------------------------------------------------------------------

const said = signal("");
const EVERY_MS = 8_000;
let queued = "";
let saidAt = -EVERY_MS;
let timer = null;

/** Tell who cannot see it. Where much happens the latest is told, at most every EVERY_MS; `now`: at once. */
export function say(text, now = false) {
  queued = text;
  const wait = now ? 0 : Math.max(0, saidAt + EVERY_MS - performance.now());
  clearTimeout(timer);
  timer = setTimeout(() => {
    saidAt = performance.now();
    said.value = queued;
  }, wait);
}

export const Aloud = () => html`<div class="hidden" role="status" aria-live="polite">${said}</div>`;

// --- results ------------------------------------------------------------------------------------------

const notes = signal([]);
const NOTES_MAX = 4;
const SHOWN_MS = 6_000;
let nextNote = 0;

/** Show what became of something that was done; errors stay until they are closed. */
export function note(text, bad = false) {
  const id = nextNote++;
  notes.value = [...notes.value, { id, text, bad }].slice(-NOTES_MAX);
  if (!bad) setTimeout(() => drop(id), SHOWN_MS);
}

const drop = (id) => {
  notes.value = notes.value.filter((each) => each.id !== id);
};

export const Notes = () => html`
  <div class="notes" role="log" aria-label="What was done">
    ${notes.value.map(
      (each) => html`<p key=${each.id} class=${each.bad ? "note bad" : "note"}>
        <span>${each.text}</span>
        <button type="button" class="plain" aria-label="Close this message" onClick=${() => drop(each.id)}>×</button>
      </p>`,
    )}
  </div>
`;

/** Do something, and tell what became of it; what it answers, or undefined. */
export async function attempt(work, done) {
  try {
    const answer = await work();
    if (done) note(typeof done === "function" ? done(answer) : done);
    return answer ?? true;
  } catch (error) {
    if (error.name !== "AbortError") note(error.message, true);
    return undefined;
  }
}

// --- questions ----------------------------------------------------------------------------------------

const asking = signal(null);

/**
 * Ask before something is done: {title, text, yes, danger, fields}, where a field is {name, label, value, required,
 * long, choices}. Answers with the fields by name, or null where it was not to be. The browser keeps the focus inside.
 */
export const question = (asked) =>
  new Promise((resolve) => {
    asking.value = { ...asked, resolve };
  });

export function Question() {
  const asked = asking.value;
  const place = useRef(null);
  useEffect(() => {
    if (asked) place.current.showModal();
  }, [asked]);
  if (!asked) return null;
  const close = (answer) => {
    asking.value = null;
    asked.resolve(answer);
  };
  const submit = (event) => {
    event.preventDefault();
    close(Object.fromEntries(new FormData(event.currentTarget)));
  };
  return html`
    <dialog ref=${place} aria-labelledby="question-title" onCancel=${() => close(null)} onClose=${() => asking.value === asked && close(null)}>
      <article>
        <h2 id="question-title">${asked.title}</h2>
        ${asked.text && html`<p>${asked.text}</p>`}
        <form onSubmit=${submit}>
          ${(asked.fields ?? []).map((field) => html`<${Field} key=${field.name} ...${field} />`)}
          <footer class="buttons">
            <button type="button" class="secondary" onClick=${() => close(null)}>Cancel</button>
            <button type="submit" class=${asked.danger ? "danger" : ""}>${asked.yes}</button>
          </footer>
        </form>
      </article>
    </dialog>
  `;
}

function Field({ name, label, value = "", required = false, long = false, choices, type = "text", max = 1000 }) {
  if (type === "checkbox")
    return html`<label><input type="checkbox" name=${name} value="yes" /> ${label}</label>`;
  if (choices)
    return html`<label>${label}
      <select name=${name}>${choices.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}</select>
    </label>`;
  return html`<label>${label}
    ${long
      ? html`<textarea name=${name} rows="3" required=${required} maxlength=${max}>${value}</textarea>`
      : html`<input name=${name} type=${type} defaultValue=${value} required=${required} maxlength=${max} autocomplete="off" />`}
  </label>`;
}

// --- reading ------------------------------------------------------------------------------------------

/** What `work(signal)` reads, anew where `keys` change: {data, error, busy, again}. What was read stays meanwhile. */
export function useRead(work, keys) {
  const [state, set] = useState({ busy: true });
  const [turn, next] = useState(0);
  useEffect(() => {
    const ending = new AbortController();
    set((before) => ({ ...before, busy: true }));
    work(AbortSignal.any([ending.signal, AbortSignal.timeout(20_000)])).then(
      (data) => !ending.signal.aborted && set({ data, busy: false }),
      (error) => !ending.signal.aborted && set((before) => ({ ...before, error, busy: false })),
    );
    return () => ending.abort();
  }, [...keys, turn]);
  return { ...state, again: () => next((before) => before + 1) };
}

/** What was read, or why it was not. */
export function Reading({ of, children }) {
  if (of.error && of.data === undefined)
    return html`<p class="fault" role="alert">${of.error.message} <button type="button" class="small" onClick=${of.again}>Try again</button></p>`;
  if (of.data === undefined) return html`<p aria-busy="true">Reading …</p>`;
  return html`${of.error && html`<p class="fault" role="alert">${of.error.message}</p>`}${children(of.data)}`;
}

// --- small things -------------------------------------------------------------------------------------

/** A table that scrolls within itself where it is wider than the page, by keyboard too. */
export const Wide = ({ label, children }) => html`<div class="wide" role="region" tabindex="0" aria-label=${label}>${children}</div>`;

const TONES = {
  allow: "good", active: "good", talking: "good", approved: "good", done: "good",
  refuse: "bad", failed: "bad", suspended: "bad", terminated: "bad",
  open: "warm", ringing: "warm", running: "warm", cancelled: "warm",
};

/** A state as a coloured word; the word alone says all. */
export const Badge = ({ of, text }) => html`<span class=${`badge ${TONES[of] ?? ""}`}>${text ?? of}</span>`;

/** A link to an account. */
export const AccountLink = ({ of }) =>
  of ? html`<a href=${`#/account/${encodeURIComponent(of)}`}>${of}</a>` : html`<span class="faint">none</span>`;

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;
