// Health: whether calls can be decided, what is wrong and its cure, and how much there is of what.
import { path, read, session } from "../api.js";
import { number, title, words } from "../format.js";
import { html, useEffect, useState } from "../lib.js";
import { calls, decisions, status } from "../live.js";
import { Badge, Reading, Wide, useRead } from "../ui.js";

const AGAIN_MS = 5_000;

export default function Health() {
  const [turn, next] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && next((before) => before + 1), AGAIN_MS);
    return () => clearInterval(timer);
  }, []);
  const ready = useRead(readiness, [turn]);
  const differences = useRead((ending) => read(path(["differences"], { limit: 100 }), { signal: ending }), [Math.floor(turn / 6)]);
  return html`
    <${Reading} of=${ready}>
      ${(data) => html`
        <p class=${data.ready ? "verdict well" : "verdict ill"} role="status">${data.ready ? "Calls can be decided." : "Not all is well: calls may be left to the failure rules."}</p>
        <ul class="parts" aria-label="Parts">
          ${data.parts.map(
            (each) => html`<li key=${each.part} class=${each.well ? "" : "ill"}>
              <strong>${PARTS[each.part] ?? title(each.part)}</strong> <${Badge} of=${each.well ? "active" : "failed"} text=${each.well ? "well" : "fault"} />
              ${each.text && html`<p>${each.text}</p>`}
              ${each.cure && html`<p class="cure"><strong>Cure:</strong> ${each.cure}</p>`}
            </li>`,
          )}
        </ul>
      `}
    <//>
    <section aria-labelledby="counts"><h2 id="counts">Counts</h2><${Counts} /></section>
    <section aria-labelledby="differences"><h2 id="differences">Where switch and ledger disagreed</h2>
      <${Reading} of=${differences}>
        ${(data) =>
          data.length === 0
            ? html`<p>Nowhere.</p>`
            : html`<${Wide} label="Differences"><table>
                <thead><tr>${Object.keys(data[0]).map((key) => html`<th scope="col" key=${key}>${words(key)}</th>`)}</tr></thead>
                <tbody>${data.map((each, at) => html`<tr key=${at}>${Object.entries(each).map(([key, value]) => html`<td key=${key}>${key.endsWith("_ms") && value ? new Date(value).toLocaleString("en-GB") : String(value ?? "")}</td>`)}</tr>`)}</tbody>
              </table><//>`}
      <//>
    </section>
  `;
}

/** Ready or not is an answer either way (503 where not). */
async function readiness(ending) {
  const answer = await fetch("/readyz", { cache: "no-store", signal: ending });
  return answer.json();
}

function Counts() {
  const told = status.value;
  const refused = decisions.value.filter((each) => each.decision === "refuse").length;
  const counts = Object.entries(COUNTS).filter(([name]) => typeof told?.[name] === "number");
  return html`
    <dl class="counts">
      <div><dt>Calls in progress</dt><dd>${number(calls.value.length)}</dd></div>
      <div><dt>Refused of the latest ${number(decisions.value.length)} decisions</dt><dd>${number(refused)}</dd></div>
      ${counts.map(([name, said]) => html`<div key=${name}><dt>${said}</dt><dd>${number(told[name])}</dd></div>`)}
    </dl>
    ${session.value && told === null && html`<p class="fault">FairDial does not answer for its state.</p>`}
  `;
}

// What `GET /v1/status` counts that people act on.
const COUNTS = { unwritten: "Steps of calls that wait to be written", unwatched: "Ended calls that detectors have yet to look at" };
const PARTS = { store: "Ledger", ari: "Switch: ARI", ami: "Switch: AMI", policies: "Policies" };
