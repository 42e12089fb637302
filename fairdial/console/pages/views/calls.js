// Calls in progress, as they come, go on and end.
import { change, may, path } from "../api.js";
import { clock, number, words } from "../format.js";
import { batch, html, useComputed, useEffect, useMemo, useRef, useSignal, useState } from "../lib.js";
import { calls, stream, tick } from "../live.js";
import { AccountLink, Badge, Empty, attempt, question } from "../ui.js";

const ORDERS = {
  newest: { name: "newest first", by: (a, b) => b.order - a.order },
  ends: { name: "ends soonest", by: (a, b) => (a.call.peek().ends ?? Infinity) - (b.call.peek().ends ?? Infinity) },
  longest: { name: "longest first", by: (a, b) => (a.call.peek().began ?? Infinity) - (b.call.peek().began ?? Infinity) },
};
// What a filter looks at.
const SEEN = ["account", "line", "dialled", "kind", "state", "call"];
const SOON_S = 60;

export default function Calls() {
  const [sought, seek] = useState("");
  const [order, setOrder] = useState("newest");
  const all = calls.value;
  const shown = useMemo(() => {
    const word = sought.trim().toLowerCase();
    const found = word
      ? all.filter(({ call }) => SEEN.some((key) => String(call.peek()[key] ?? "").toLowerCase().includes(word)))
      : [...all];
    return found.sort(ORDERS[order].by);
  }, [all, sought, order]);
  return html`
    <div class="tools">
      <label>Filter
        <input type="search" value=${sought} onInput=${(event) => seek(event.currentTarget.value)} placeholder="account, line, number, kind" />
      </label>
      <label>Order
        <select value=${order} onChange=${(event) => setOrder(event.currentTarget.value)}>
          ${Object.entries(ORDERS).map(([key, each]) => html`<option value=${key}>${each.name}</option>`)}
        </select>
      </label>
      <p class="sum"><strong>${number(shown.length)}</strong>${sought ? ` of ${number(all.length)}` : ""} ${all.length === 1 ? "call" : "calls"} in progress</p>
    </div>
    ${all.length === 0 && html`<${Empty}>${stream.value === "live" ? "No call is in progress. One that begins appears here by itself." : "Calls are shown as soon as FairDial answers."}<//>`}
    ${all.length > 0 && shown.length === 0 && html`<${Empty}>No call in progress fits the filter.<//>`}
    ${shown.length > 0 && html`<${Table} shown=${shown} />`}
  `;
}

const Table = ({ shown }) => html`
  <table role="table" class="cards calls" aria-label="Calls in progress">
    <thead role="rowgroup">
      <tr role="row">
        <th role="columnheader" scope="col">Account</th><th role="columnheader" scope="col">Line</th><th role="columnheader" scope="col">Number</th><th role="columnheader" scope="col">Kind</th>
        <th role="columnheader" scope="col">State</th><th role="columnheader" scope="col" class="figure">Up</th><th role="columnheader" scope="col" class="figure">Left</th>
        <th role="columnheader" scope="col"><span class="hidden">Actions</span></th>
      </tr>
    </thead>
    <tbody role="rowgroup">${shown.map((each) => html`<${Row} key=${each.id} of=${each.call} />`)}</tbody>
  </table>
`;

// Rows that are in sight, or nearly: the others need not tick.
const NEAR = "400px";
const sights = new WeakMap();
const sight = new IntersectionObserver(
  (entries) => batch(() => entries.forEach((each) => {
    const seen = sights.get(each.target);
    if (seen) seen.value = each.isIntersecting;
  })),
  { rootMargin: `${NEAR} 0px` },
);

function Row({ of }) {
  const call = of.value;
  const place = useRef(null);
  const seen = useSignal(false);
  useEffect(() => {
    const row = place.current;
    sights.set(row, seen);
    sight.observe(row);
    return () => sight.unobserve(row);
  }, []);
  // A row that came after the last tick is of its own moment.
  const now = useComputed(() => Math.max(seen.value ? tick.value : tick.peek(), of.value.at));
  const up = useComputed(() => (of.value.began === null ? "" : clock((now.value - of.value.began) / 1000)));
  const left = useComputed(() => (of.value.ends === null ? "no end" : clock((of.value.ends - now.value) / 1000)));
  const soon = useComputed(() =>
    of.value.ends !== null && of.value.ends - now.value < SOON_S * 1000 ? "figure soon" : "figure",
  );
  return html`
    <tr role="row" ref=${place} data-call=${call.call}>
      <td role="cell" data-label="Account"><${AccountLink} of=${call.account} /></td>
      <td role="cell" data-label="Line">${call.line}</td>
      <td role="cell" data-label="Number" class="number">${call.dialled}</td>
      <td role="cell" data-label="Kind">${words(call.kind)}</td>
      <td role="cell" data-label="State"><${Badge} of=${call.state} /></td>
      <td role="cell" data-label="Up" class="figure">${up}</td>
      <td role="cell" data-label="Left" class=${soon} data-left>${left}</td>
      <td role="cell" class="acts">
        <a class="small" href=${`#/why?q=${encodeURIComponent(call.call)}`} aria-label=${`Why: ${call.line} to ${call.dialled}`}>Why</a>
        ${may("operator") && html`<button type="button" class="small danger" aria-label=${`Hang up: ${call.line} to ${call.dialled}`} onClick=${() => hangUp(call)}>Hang up</button>`}
      </td>
    </tr>
  `;
}

async function hangUp(call) {
  const sure = await question({
    title: "Hang up this call?",
    text: `${call.line} (account ${call.account ?? "unknown"}) to ${call.dialled}. It ends on all its legs at once.`,
    yes: "Hang up",
    danger: true,
  });
  if (sure) await attempt(() => change("DELETE", path(["calls", call.call])), `Ended: ${call.line} to ${call.dialled}`);
}
