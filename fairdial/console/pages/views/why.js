// Why a call was allowed or refused: found by the number dialled or by the call's id, told in words.
import { path, read } from "../api.js";
import { clause, dayAndTime, span, words } from "../format.js";
import { html } from "../lib.js";
import { asEvent } from "../live.js";
import { AccountLink, Badge, Empty, Reading, useRead } from "../ui.js";
import { DecisionTable } from "./decisions.js";

const FOUND_MAX = 50;

export default function Why({ query }) {
  const sought = query.get("q") ?? "";
  const found = useRead((ending) => (sought ? search(sought, ending) : Promise.resolve(null)), [sought]);
  const submit = (event) => {
    event.preventDefault();
    location.hash = `#/why?q=${encodeURIComponent(new FormData(event.currentTarget).get("q").trim())}`;
  };
  return html`
    <search><form class="tools" onSubmit=${submit} key=${sought}>
      <label>Number dialled, or id of the call
        <input type="search" name="q" defaultValue=${sought} required placeholder="09098790000 or 1795262400.17" />
      </label>
      <button type="submit">Explain</button>
    </form></search>
    ${!sought && html`<${Empty}>Give the number as it was dialled or in full (+44 …), or the id of a call as lists and logs have it.<//>`}
    ${sought && html`<${Reading} of=${found}>${(data) => data && html`<${Found} of=${data} sought=${sought} />`}<//>`}
  `;
}

/** Decisions about a number or a call, the newest first, and the whole of the newest that was refused, else the newest. */
async function search(sought, ending) {
  const options = { signal: ending };
  const [byCall, byNumber] = await Promise.all(
    ["call", "number"].map(async (key) =>
      key === "number" && !/^[+*#0-9][0-9*#() .-]*$/.test(sought)
        ? []
        : (await read(path(["decisions"], { [key]: sought, limit: FOUND_MAX }), options)).items,
    ),
  );
  const items = byCall.length ? byCall : byNumber;
  if (items.length === 0) return { items, told: null };
  const chosen = items.find((each) => each.decision !== "allow") ?? items[0];
  return { items, told: await read(path(["decisions", chosen.call_id]), options) };
}

function Found({ of, sought }) {
  if (of.items.length === 0)
    return html`<${Empty}>No decision about ${sought} is on record. Dials in a flood are refused without a record, and a call's id is not its number.<//>`;
  return html`
    <${Told} of=${of.told} />
    ${of.items.length > 1 && html`<h2>${of.items.length >= FOUND_MAX ? `The latest ${FOUND_MAX}` : `All ${of.items.length}`}</h2>
      <${DecisionTable} of=${of.items.map(asEvent)} label="Decisions that were found" />`}
  `;
}

const SAID = { allow: "Allowed", refuse: "Refused", failed: "No decision could be made" };

function Told({ of }) {
  const ruled = of.clause_id ? { policy: of.clause_policy, version: of.clause_version, id: of.clause_id } : null;
  return html`
    <article class="why" aria-labelledby="why-title">
      <h2 id="why-title"><${Badge} of=${of.decision} text=${SAID[of.decision] ?? of.decision} /> ${of.dialled}</h2>
      <p class="lead">${of.text}</p>
      <${Clause} of=${ruled} rules=${of.rules} />
      ${of.cut_by && html`<p>The call was cut by <strong>${words(of.cut_by)}</strong>.</p>
        <${Clause} of=${of.cut_clause && { ...ruled, id: of.cut_clause }} rules=${of.cut_rules} />`}
      ${of.cure && html`<p class="cure"><strong>What to do:</strong> ${of.cure}</p>`}
      <dl class="facts">
        <${Fact} name="When">${dayAndTime(of.at_ms)}<//>
        <${Fact} name="Account"><${AccountLink} of=${of.account_id} /><//>
        <${Fact} name="Line">${of.line_id}<//>
        <${Fact} name="Kind">${of.kind_text}<//>
        <${Fact} name="Number">${[of.e164 ?? of.dialled, of.class_text, of.country].filter(Boolean).join(", ")}<//>
        ${of.shown && html`<${Fact} name="Shown to who is called">${of.shown}<//>`}
        ${of.verified && html`<${Fact} name="The network vouches for the caller">${of.verified}<//>`}
        ${of.decision === "allow" && html`<${Fact} name="May last">${span(of.limit_s)}<//>`}
        ${of.used_s !== null && html`<${Fact} name="Lasted">${span(of.used_s)}<//>`}
        ${of.cause > 0 && html`<${Fact} name="Q.850 cause">${of.cause}<//>`}
        ${of.flag && html`<${Fact} name="Flagged">${words(of.flag)}<//>`}
        <${Fact} name="Call"><code>${of.call_id}</code><//>
        ${of.sip_call_id && html`<${Fact} name="SIP Call-ID"><code>${of.sip_call_id}</code><//>`}
      </dl>
    </article>
  `;
}

/** What the policy says under a clause, in the version that decided. */
const Clause = ({ of, rules }) =>
  of &&
  html`<blockquote>
    ${rules.map((each, at) => html`<p key=${at}><span class="faint">${words(each.section)}, ${words(each.rule)}:</span> ${each.says}</p>`)}
    <footer>${clause(of)}, version ${of.version}</footer>
  </blockquote>`;

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;
