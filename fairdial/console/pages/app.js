// The page: who is signed in, which view is shown, and what stands around it.
import { accounts, bound, chosen, farewell, resume, session, signIn, signOut } from "./api.js";
import { html, render, signal, useEffect, useRef, useState } from "./lib.js";
import { calls, parts, start, stop, stream } from "./live.js";
import { Aloud, Notes, Question, attempt } from "./ui.js";

// Each view is a module of its own, loaded when it is first looked at. `bound`: also for who sees single accounts alone.
const VIEWS = {
  calls: { name: "Calls", bound: true, load: () => import("./views/calls.js") },
  decisions: { name: "Decisions", bound: true, load: () => import("./views/decisions.js") },
  why: { name: "Why", load: () => import("./views/why.js") },
  account: { name: "Accounts", bound: true, load: () => import("./views/account.js") },
  conferences: { name: "Conferences", load: () => import("./views/conferences.js") },
  cases: { name: "Cases", load: () => import("./views/cases.js") },
  policies: { name: "Policies", load: () => import("./views/policies.js") },
  replay: { name: "Replay", load: () => import("./views/replay.js") },
  health: { name: "Health", load: () => import("./views/health.js") },
};
// What is reached from a view that is there, so that it has no place in the menu of who is bound.
const REACHED = new Set(["why"]);

const place = signal(parse(location.hash));
window.addEventListener("hashchange", () => {
  place.value = parse(location.hash);
});

/** "#/account/acme?tab=x" as {view, rest: ["acme"], query}. */
function parse(hash) {
  const [way, search = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...rest] = way.split("/").map(decoded);
  return { view: Object.hasOwn(VIEWS, view) ? view : "calls", rest: rest.filter(Boolean), query: new URLSearchParams(search) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const allowed = (view) => !bound() || VIEWS[view].bound || REACHED.has(view);

// --- sign in ------------------------------------------------------------------------------------------

function SignIn() {
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const field = useRef(null);
  useEffect(() => {
    document.title = "Sign in – FairDial";
    field.current.focus();
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setFault("");
    try {
      await signIn(field.current.value.trim());
    } catch (error) {
      setFault(error.status === 401 ? "Nobody holds this token. Check that it was copied whole." : error.message);
      setBusy(false);
      field.current.select();
    }
  };
  return html`
    <main class="sign-in">
      <article>
        <h1><${Mark} /> FairDial</h1>
        ${farewell.value && html`<p role="status">${farewell.value}</p>`}
        <form onSubmit=${submit}>
          <input type="text" name="username" autocomplete="username" value="FairDial" hidden />
          <label for="token">Token</label>
          <input
            id="token" ref=${field} type="password" autocomplete="current-password" spellcheck=${false} required
            aria-invalid=${fault ? "true" : null} aria-describedby="token-help"
          />
          <small id="token-help">One that <code>fairdial token add NAME --role operator</code> printed.</small>
          <p class="fault" role="alert">${fault}</p>
          <button type="submit" aria-busy=${busy} disabled=${busy}>Sign in</button>
        </form>
      </article>
    </main>
  `;
}

const Mark = () => html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><circle cx="16" cy="16" r="15" /><path d="M16 6v10l7 5" /></svg>`;

// --- the frame ----------------------------------------------------------------------------------------

const STREAM = {
  connecting: "Connecting …",
  live: "Live",
  lost: "Connection lost: what is shown may be old. Trying again …",
};

function Connection() {
  const unwell = Object.values(parts.value).filter((each) => !each.well);
  return html`
    <p class=${`connection ${stream.value}`} id="connection"><span class="dot" aria-hidden="true"></span>${STREAM[stream.value]}</p>
    ${unwell.map((each) => html`<p key=${each.part} class="connection lost"><a href="#/health">${each.part}: ${each.text}</a></p>`)}
  `;
}

const THEMES = ["system", "light", "dark"];

function Theme() {
  const [chosen, choose] = useState(document.documentElement.dataset.theme ?? "system");
  const next = () => {
    const theme = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("fairdial-theme", theme);
    } catch {
      // It holds for as long as the page is open.
    }
    choose(theme);
    window.dispatchEvent(new Event("fairdial-theme"));
  };
  return html`<button type="button" class="plain small" onClick=${next}>Theme: ${chosen}</button>`;
}

function Menu({ view }) {
  const names = Object.entries(VIEWS).filter(([name, each]) => !bound() || each.bound || name === view);
  const counts = { calls: calls.value.length };
  return html`
    <nav class="menu" aria-label="Views">
      <ul>
        ${names.map(
          ([name, each]) => html`<li key=${name}>
            <a href=${`#/${name}`} aria-current=${name === view ? "page" : null}>
              ${each.name}${counts[name] ? html` <span class="count">${counts[name]}</span>` : null}
            </a>
          </li>`,
        )}
      </ul>
    </nav>
  `;
}

function Frame() {
  const { view, rest, query } = place.value;
  const [shown, setShown] = useState(null);
  const heading = useRef(null);
  const first = useRef(true);
  useEffect(() => {
    start();
    return stop;
  }, [chosen.value]);
  useEffect(() => {
    let here = true;
    document.title = `${VIEWS[view].name} – FairDial`;
    if (allowed(view))
      attempt(VIEWS[view].load).then((module) => here && module && setShown(() => ({ view, draw: module.default })));
    else setShown({ view, draw: null });
    return () => {
      here = false;
    };
  }, [view]);
  useEffect(() => {
    // Whoever moves to another view by keyboard or reads it aloud goes on at its heading.
    if (shown && !first.current) heading.current?.focus();
    if (shown) first.current = false;
  }, [shown]);
  const who = session.value;
  const Draw = shown?.view === view ? shown.draw : undefined;
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      heading.current?.focus();
    }}>Skip to content</a>
    <header class="top">
      <a class="home" href="#/calls"><${Mark} /> FairDial</a>
      <${Connection} />
      <div class="who">
        <span title="Who is signed in">${who.name} <span class="faint">${accounts().length === 1 ? `${who.role} of ${accounts()[0]}` : who.role}</span></span>
        ${accounts().length > 1 && html`<label class="of">Account
          <select value=${chosen.value ?? accounts()[0]} onChange=${(event) => {
            chosen.value = event.currentTarget.value;
          }}>${accounts().map((each) => html`<option key=${each} value=${each}>${each}</option>`)}</select>
        </label>`}
        <${Theme} />
        <button type="button" class="plain small" onClick=${() => attempt(signOut)}>Sign out</button>
      </div>
    </header>
    <div class="body">
      <${Menu} view=${view} />
      <main id="main">
        <h1 ref=${heading} tabindex="-1">${VIEWS[view].name}</h1>
        ${Draw === null && html`<p class="fault">Your token sees single accounts alone; this is about all of them.</p>`}
        ${Draw === undefined && html`<p aria-busy="true">Loading …</p>`}
        ${Draw && html`<${Draw} key=${view} rest=${rest} query=${query} />`}
      </main>
    </div>
    <${Notes} />
    <${Aloud} />
    <${Question} />
  `;
}

function App() {
  if (session.value === undefined) return html`<p class="starting" aria-busy="true">FairDial is loading …</p>`;
  if (session.value === null) {
    chosen.value = null;
    return html`<${SignIn} />`;
  }
  return html`<${Frame} key=${session.value.name} />`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
attempt(resume).then((done) => {
  if (done === undefined) {
    farewell.value = "FairDial does not answer.";
    session.value = null;
  }
});

