// Why a call was allowed or refused: found by the number dialled or by the call's id, told in words.
import { path, read } from "../api.js";
import { clause, dayAndTime, money, span, title, words } from "../format.js";
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
    <form class="tools" role="search" onSubmit=${submit} key=${sought}>
      <label>Number dialled, or id of the call
        <input type="search" name="q" defaultValue=${sought} required placeholder="09098790000 or 1795262400.17" />
      </label>
      <button type="submit">Explain</button>
    </form>
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
  return { items, chosen, told: await read(path(["decisions", String(chosen.id ?? chosen.call_id)]), options) };
}

function Found({ of, sought }) {
  if (of.items.length === 0)
    return html`<${Empty}>No decision about ${sought} is on record. Dials in a flood are refused without a record, and a call's id is not its number.<//>`;
  return html`
    <${Told} of=${of.told} record=${of.chosen} />
    ${of.items.length > 1 && html`<h2>${of.items.length >= FOUND_MAX ? `The latest ${FOUND_MAX}` : `All ${of.items.length}`}</h2>
      <${DecisionTable} of=${of.items.map(asEvent)} label="Decisions that were found" />`}
  `;
}

const SAID = { allow: "Allowed", refuse: "Refused", failed: "No decision could be made" };

function Told({ of, record }) {
  const all = { ...record, ...of };
  const reason = all.reason_text ?? all.text ?? title(all.reason);
  const quoted = typeof all.clause === "object" ? all.clause : null;
  return html`
    <article class="why" aria-labelledby="why-title">
      <h2 id="why-title"><${Badge} of=${all.decision} text=${SAID[all.decision] ?? all.decision} /> ${all.dialled}</h2>
      <p class="lead">${reason}</p>
      ${quoted?.text && html`<blockquote>${quoted.text}<footer>${clause(clauseOf(all))}, version ${clauseOf(all)?.version}</footer></blockquote>`}
      ${!quoted?.text && clauseOf(all) && html`<p>Clause ${clause(clauseOf(all))}, version ${clauseOf(all).version}</p>`}
      ${all.cure && html`<p class="cure"><strong>What to do:</strong> ${all.cure}</p>`}
      <dl class="facts">
        <${Fact} name="When">${dayAndTime(all.at_ms)}<//>
        <${Fact} name="Account"><${AccountLink} of=${all.account_id ?? all.account} /><//>
        <${Fact} name="Line">${all.line_id ?? all.line}<//>
        <${Fact} name="Kind">${words(all.kind)}<//>
        <${Fact} name="Number">${all.e164 || all.dialled}${all.number_class ? `, ${words(all.number_class)}` : ""}${all.country ? `, ${all.country}` : ""}<//>
        ${all.decision === "allow" && html`<${Fact} name="Limit">${span(all.limit_s)}<//>`}
        ${all.used_s !== null && all.used_s !== undefined && html`<${Fact} name="Used">${span(all.used_s)}<//>`}
        ${all.cut_by && html`<${Fact} name="Cut by">${words(all.cut_by)}<//>`}
        ${all.charge?.amount && html`<${Fact} name="Charge">${money(all.charge.amount, all.charge.currency)}<//>`}
        ${all.flag && html`<${Fact} name="Flagged">${words(all.flag)}<//>`}
        <${Fact} name="Call"><code>${all.call_id ?? all.call}</code><//>
        ${all.sip_call_id && html`<${Fact} name="SIP Call-ID"><code>${all.sip_call_id}</code><//>`}
      </dl>
    </article>
  `;
}

const clauseOf = (all) =>
  all.clause_id ? { policy: all.clause_policy, version: all.clause_version, id: all.clause_id } : all.clause ?? null;

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;
