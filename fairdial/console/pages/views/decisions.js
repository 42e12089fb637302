// Decisions as they are made: what was allowed, what was refused, and the clause behind it.
import { number, clause, timeOfDay, machine, words } from "../format.js";
import { html, useMemo, useState } from "../lib.js";
import { decisions } from "../live.js";
import { AccountLink, Badge, Empty } from "../ui.js";

const WHICH = { all: "all", allow: "allowed", refuse: "refused", failed: "failed" };
const SEEN = ["account", "line", "dialled", "e164", "reason", "kind", "country", "number_class"];
const SHOWN_MAX = 300;

export default function Decisions() {
  const [held, hold] = useState(null);
  const [sought, seek] = useState("");
  const [which, choose] = useState("all");
  const live = decisions.value;
  const all = held ?? live;
  const shown = useMemo(() => {
    const word = sought.trim().toLowerCase();
    return all
      .filter((each) => which === "all" || each.decision === which)
      .filter((each) => !word || SEEN.some((key) => String(each[key] ?? "").toLowerCase().includes(word)) || clause(each.clause).toLowerCase().includes(word))
      .slice(0, SHOWN_MAX);
  }, [all, sought, which]);
  const since = held === null ? 0 : held.length === 0 ? live.length : live.findIndex((each) => each.id === held[0].id);
  return html`
    <div class="tools">
      <label>Filter
        <input type="search" value=${sought} onInput=${(event) => seek(event.currentTarget.value)} placeholder="account, line, number, reason" />
      </label>
      <label>Which
        <select value=${which} onChange=${(event) => choose(event.currentTarget.value)}>
          ${Object.entries(WHICH).map(([key, name]) => html`<option value=${key}>${name}</option>`)}
        </select>
      </label>
      <button type="button" class="secondary" aria-pressed=${held !== null} onClick=${() => hold(held === null ? live : null)}>
        ${held === null ? "Pause" : `Go on${since > 0 ? ` (${number(since)} new)` : ""}`}
      </button>
    </div>
    ${shown.length === 0
      ? html`<${Empty}>${all.length ? "No decision fits the filter." : "No decision yet. Each dial appears here as it is decided."}<//>`
      : html`<${DecisionTable} of=${shown} label="Decisions, newest first" />`}
  `;
}

/** Decisions as events have them; each leads to why. */
export const DecisionTable = ({ of, label, withAccount = true }) => html`
  <table role="table" class="cards decisions" aria-label=${label}>
    <thead role="rowgroup">
      <tr role="row">
        <th role="columnheader" scope="col">Time</th>${withAccount && html`<th role="columnheader" scope="col">Account</th>`}<th role="columnheader" scope="col">Line</th><th role="columnheader" scope="col">Number</th>
        <th role="columnheader" scope="col">Kind</th><th role="columnheader" scope="col">Decision</th><th role="columnheader" scope="col">Reason</th><th role="columnheader" scope="col">Clause</th>
        <th role="columnheader" scope="col"><span class="hidden">Actions</span></th>
      </tr>
    </thead>
    <tbody role="rowgroup">${of.map((each) => html`<${Row} key=${each.id} of=${each} withAccount=${withAccount} />`)}</tbody>
  </table>
`;

const Row = ({ of, withAccount }) => html`
  <tr role="row" data-decision=${of.call}>
    <td role="cell" data-label="Time"><time datetime=${machine(of.at_ms)} title=${machine(of.at_ms)}>${timeOfDay(of.at_ms)}</time></td>
    ${withAccount && html`<td role="cell" data-label="Account"><${AccountLink} of=${of.account} /></td>`}
    <td role="cell" data-label="Line">${of.line}</td>
    <td role="cell" data-label="Number" class="number">${of.dialled}</td>
    <td role="cell" data-label="Kind">${words(of.kind)}</td>
    <td role="cell" data-label="Decision"><${Badge} of=${of.decision} text=${{ allow: "allowed", refuse: "refused", failed: "failed" }[of.decision] ?? of.decision} /></td>
    <td role="cell" data-label="Reason">${words(of.reason)}</td>
    <td role="cell" data-label="Clause">${clause(of.clause)}</td>
    <td role="cell" class="acts"><a class="small" href=${`#/why?q=${encodeURIComponent(of.call)}`} aria-label=${`Why: ${of.line} to ${of.dialled}, ${words(of.reason)}`}>Why</a></td>
  </tr>
`;
