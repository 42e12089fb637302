// Cases of suspected abuse: the list, and one with its evidence and all that was done about it.
import { bound, change, may, path, read } from "../api.js";
import { Bars } from "../chart.js";
import { clause, dayAndTime, number, timeOfDay, title, words } from "../format.js";
import { html, useMemo, useState } from "../lib.js";
import { changed } from "../live.js";
import { AccountLink, Badge, Empty, Reading, Wide, attempt, question, useRead } from "../ui.js";

const STATES = { open: "open", closed: "closed", dismissed: "dismissed", "": "all" };
const PAGE = 50;

export default function Cases({ rest }) {
  return rest[0] ? html`<${One} key=${rest[0]} id=${rest[0]} />` : html`<${List} />`;
}

function List() {
  const [state, choose] = useState("open");
  const found = useRead((ending) => read(path(["cases"], { state, limit: PAGE }), { signal: ending }), [state, changed.case.value]);
  return html`
    <div class="tools">
      <label>State
        <select value=${state} onChange=${(event) => choose(event.currentTarget.value)}>
          ${Object.entries(STATES).map(([key, name]) => html`<option value=${key}>${name}</option>`)}
        </select>
      </label>
    </div>
    <${Reading} of=${found}>
      ${(data) =>
        data.items.length === 0
          ? html`<${Empty}>No case${state && ` is ${STATES[state]}`}. Detectors of the policies open them; <code>fairdial case flag</code> does by hand.<//>`
          : html`<${CaseTable} of=${data.items} />${data.next && html`<p class="faint">The newest ${PAGE} are shown.</p>`}`}
    <//>
  `;
}

export const CaseTable = ({ of, withAccount = true }) => html`
  <${Wide} label="Cases">
    <table>
      <thead><tr><th scope="col">Case</th>${withAccount && html`<th scope="col">Account</th>`}<th scope="col">Detector</th><th scope="col">Found</th><th scope="col">State</th><th scope="col">Step</th><th scope="col">Clause</th><th scope="col">Opened</th></tr></thead>
      <tbody>
        ${of.map(
          (each) => html`<tr key=${each.case}>
            <td><a href=${`#/cases/${each.case}`} aria-label=${`Case ${each.case}`}>${each.case}</a></td>
            ${withAccount && html`<td><${AccountLink} of=${each.account} /></td>`}
            <td>${words(each.detector)}</td><td>${each.found}</td>
            <td><${Badge} of=${each.state} />${each.shadow ? html` <${Badge} of="shadow" />` : ""}</td>
            <td>${words(each.step) || "none"}</td><td>${clause(each.clause)}</td><td>${dayAndTime(each.opened_ms)}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  <//>
`;

function One({ id }) {
  const found = useRead((ending) => read(path(["cases", id]), { signal: ending }), [id, changed.case.value]);
  return html`
    <p><a href="#/cases">All cases</a></p>
    <${Reading} of=${found}>${(data) => html`<${Whole} of=${data} again=${found.again} />`}<//>
  `;
}

function Whole({ of, again }) {
  return html`
    <section class="sheet-head">
      <div>
        <h2>Case ${of.case}: ${words(of.detector)} <${Badge} of=${of.state} />${of.shadow ? html` <${Badge} of="shadow" />` : ""}</h2>
        <p class="faint">Account <${AccountLink} of=${of.account} /> · ${clause(of.clause)}, version ${of.clause.version} · opened ${dayAndTime(of.opened_ms)} · seen last ${dayAndTime(of.seen_ms)}</p>
      </div>
      <${Judging} of=${of} again=${again} />
    </section>
    <p class="lead">${of.found}</p>
    ${of.shadow && html`<p>The detector runs in shadow: the case is written down, and nothing is done.</p>`}
    <dl class="facts">
      <div><dt>Measured</dt><dd>${number(of.value)}</dd></div>
      <div><dt>Threshold</dt><dd>${number(of.threshold)}</dd></div>
      <div><dt>Times found</dt><dd>${number(of.hits)}</dd></div>
      <div><dt>Ladder</dt><dd>${words(of.step) || "no step yet"}</dd></div>
      ${of.deadline_ms && html`<div><dt>Customer may answer until</dt><dd>${dayAndTime(of.deadline_ms)}</dd></div>`}
      <div><dt>Services</dt><dd>${of.services.map(words).join(", ")}</dd></div>
    </dl>
    <${Evidence} of=${of} />
    <section aria-labelledby="done"><h3 id="done">What was done</h3>
      <ol class="entries">
        ${of.entries.map(
          (each, at) => html`<li key=${at}>
            <strong>${title(each.what)}</strong> by ${each.by}, ${dayAndTime(each.at_ms)}${each.clause ? ` (${each.clause})` : ""}
            ${each.services.length ? html`<br />${each.services.map(words).join(", ")}` : ""}${each.note ? html`<br /><q>${each.note}</q>` : ""}
          </li>`,
        )}
      </ol>
    </section>
  `;
}

const CALLS_MAX = 25;

/** The calls behind it, each as it is on record; where they have lengths, a chart of them. */
function Evidence({ of }) {
  const ids = of.calls.slice(-CALLS_MAX);
  const found = useRead(async (ending) => {
    const pages = await Promise.all(ids.map((call) => read(path(["decisions"], { call, limit: 1 }), { signal: ending })));
    return pages.flatMap((page) => page.items);
  }, [ids.join(" ")]);
  if (ids.length === 0) return html`<section><h3>Evidence</h3><p>It rests on no single call.</p></section>`;
  return html`
    <section aria-labelledby="evidence"><h3 id="evidence">Evidence: ${number(of.calls.length)} ${of.calls.length === 1 ? "call" : "calls"}</h3>
      <${Reading} of=${found}>${(records) => html`<${EvidenceShown} records=${records} all=${of.calls.length} />`}<//>
    </section>
  `;
}

function EvidenceShown({ records, all }) {
  const { labels, series } = useMemo(() => {
    const talks = records.filter((each) => each.used_s !== null).sort((a, b) => a.at_ms - b.at_ms);
    return { labels: talks.map((each) => timeOfDay(each.at_ms).slice(0, 5)), series: [{ name: "seconds", values: talks.map((each) => each.used_s) }] };
  }, [records]);
  return html`
    ${labels.length > 1 && html`<${Bars} labels=${labels} series=${series} unit="s" label="Seconds of talk of each call, in the order in which they were dialled" />`}
    ${all > records.length && html`<p class="faint">${number(records.length)} of ${number(all)} are shown.</p>`}
    <${Wide} label="Calls of the case">
      <table>
        <thead><tr><th scope="col">Dialled</th><th scope="col">Line</th><th scope="col">Number</th><th scope="col">Kind</th><th scope="col">Decision</th><th scope="col" class="figure">Talk</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>
          ${records.map(
            (each) => html`<tr key=${each.call_id}>
              <td>${dayAndTime(each.at_ms)}</td><td>${each.line_id}</td><td class="number">${each.dialled}</td><td>${words(each.kind)}</td>
              <td>${words(each.reason)}</td><td class="figure">${each.used_s === null ? "–" : `${number(each.used_s)} s`}</td>
              <td class="acts"><a class="small" href=${`#/why?q=${encodeURIComponent(each.call_id)}`} aria-label=${`Why: ${each.dialled}`}>Why</a></td>
            </tr>`,
          )}
        </tbody>
      </table>
    <//>
  `;
}

function Judging({ of, again }) {
  if (!may("operator") || bound() || of.state !== "open") return null;
  const judge = (verdict, asked) => async () => {
    const given = await question(asked);
    if (!given) return;
    const body = { note: given.note, undo: given.undo === "yes" };
    if (await attempt(() => change("POST", path(["cases", String(of.case), verdict]), body), `Case ${of.case} is ${verdict === "close" ? "closed" : "dismissed"}`)) again();
  };
  const fields = [
    { name: "note", label: "Note", long: true, required: true },
    { name: "undo", label: "Take back what was done for it to the account", type: "checkbox" },
  ];
  return html`
    <div class="buttons">
      <button type="button" class="small" onClick=${judge("close", { title: `Close case ${of.case}?`, text: "It was true, and is done with.", yes: "Close the case", fields })}>Close</button>
      <button type="button" class="small secondary" onClick=${judge("dismiss", { title: `Dismiss case ${of.case}?`, text: "It was none: the same evidence opens no other.", yes: "Dismiss", fields })}>Dismiss</button>
    </div>
  `;
}
