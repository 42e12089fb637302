// Policies: their versions, which is in force, what one says, and what another changes, in words.
import { path, read } from "../api.js";
import { words } from "../format.js";
import { html, useState } from "../lib.js";
import { changed } from "../live.js";
import { Badge, Empty, Reading, Wide, useRead } from "../ui.js";

export default function Policies({ rest }) {
  const found = useRead((ending) => read(path(["policies"]), { signal: ending }), [changed.policy.value]);
  return html`
    <${Reading} of=${found}>
      ${(data) => {
        if (data.length === 0) return html`<${Empty}>No policy is loaded.<//>`;
        const chosen = data.find((each) => each.policy === rest[0]);
        if (!chosen) return html`<${List} of=${data} />`;
        const version = rest[1] ?? chosen.version ?? chosen.versions[0].version;
        return html`<p><a href="#/policies">All policies</a></p><${Policy} key=${`${chosen.policy} ${version}`} of=${chosen} version=${version} />`;
      }}
    <//>
  `;
}

const place = (policy, version) => `#/policies/${encodeURIComponent(policy)}/${encodeURIComponent(version)}`;
const starts = (effective) => (effective === "at_once" ? "at once" : `from ${effective}`);

const List = ({ of }) => html`
  <${Wide} label="Policies">
    <table>
      <thead><tr><th scope="col">Policy</th><th scope="col">Version</th><th scope="col">Title</th><th scope="col">Published</th><th scope="col">Takes effect</th><th scope="col">State</th></tr></thead>
      <tbody>
        ${of.flatMap((policy) =>
          policy.versions.map(
            (each) => html`<tr key=${`${policy.policy} ${each.version}`}>
              <th scope="row">${policy.policy}</th>
              <td><a href=${place(policy.policy, each.version)} aria-label=${`${policy.policy} ${each.version}`}>${each.version}</a></td>
              <td>${each.title}</td><td>${each.published}</td><td>${starts(each.effective)}</td>
              <td>${each.version === policy.version ? html`<${Badge} of="active" text="in force" />` : ""}</td>
            </tr>`,
          ),
        )}
      </tbody>
    </table>
  <//>
`;

function Policy({ of, version }) {
  const others = of.versions.map((each) => each.version).filter((each) => each !== version);
  const [against, compare] = useState("");
  const shown = useRead((ending) => read(path(["policies", of.policy, "versions", version]), { signal: ending }), [of.policy, version]);
  return html`
    <section aria-labelledby="policy">
      <h2 id="policy">${of.policy} ${version}</h2>
      ${others.length > 0 && html`<label class="narrow">What it changes against
        <select value=${against} onChange=${(event) => compare(event.currentTarget.value)}>
          <option value="">choose a version</option>
          ${others.map((each) => html`<option value=${each}>${each}</option>`)}
        </select>
      </label>`}
      ${against && html`<${Difference} policy=${of.policy} version=${version} against=${against} />`}
      <${Reading} of=${shown}>${(data) => html`
        <p class="lead">${data.title}</p>
        <table role="table" class="cards rules" aria-label="Rules">
          <thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Section</th><th role="columnheader" scope="col">Rule</th><th role="columnheader" scope="col">Says</th><th role="columnheader" scope="col">Clause</th></tr></thead>
          <tbody role="rowgroup">${data.rules.map((each, at) => html`<tr role="row" key=${at}>
            <td role="cell" data-label="Section">${words(each.section)}</td><td role="cell" data-label="Rule">${words(each.rule)}</td><td role="cell" data-label="Says">${each.says}</td><td role="cell" data-label="Clause">${each.clause}</td>
          </tr>`)}</tbody>
        </table>`}
      <//>
    </section>
  `;
}

function Difference({ policy, version, against }) {
  const found = useRead((ending) => read(path(["policies", policy, "versions", version, "diff"], { against }), { signal: ending }), [policy, version, against]);
  return html`
    <article class="difference" aria-label=${`What ${version} changes against ${against}`}>
      <${Reading} of=${found}>${(data) => html`
        <p><strong>${data.old}</strong> to <strong>${data.new}</strong>. ${data.takes_effect}</p>
        ${data.changes.length === 0 ? html`<p>Nothing changes for a customer.</p>` : html`<ul>${data.changes.map((each) => html`<li key=${each}>${each}</li>`)}</ul>`}`}
      <//>
    </article>
  `;
}
