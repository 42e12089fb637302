// An account: found by the beginning of its id; what it has used and may use, and what operators do about it.
import { accounts, bound, change, chosen, may, path, read } from "../api.js";
import { Bars } from "../chart.js";
import { clause, date, dayAndTime, money, number, span, title, units, words } from "../format.js";
import { html, useEffect, useMemo, useState } from "../lib.js";
import { asEvent, changed } from "../live.js";
import { Badge, Empty, Reading, Wide, attempt, question, useRead } from "../ui.js";
import { CaseTable } from "./cases.js";
import { DecisionTable } from "./decisions.js";
import { RequestTable } from "./requests.js";

const FOUND_MAX = 25;
const DAYS = 31;
const AGAIN_MS = 15_000;
const TYPING_MS = 200;
const SERVICES = ["outbound", "inbound", "internal", "conference", "callback", "collect", "voicemail", "message"];

export default function Accounts({ rest }) {
  const own = accounts();
  const account = bound() ? (chosen.value ?? own[0]) : rest[0];
  return html`
    ${!bound() && html`<${Search} of=${account} />`}
    ${account && html`<${Account} key=${account} account=${account} />`}
  `;
}

function Search({ of }) {
  const [typed, type] = useState("");
  const [sought, seek] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => seek(typed.trim()), TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const looking = Boolean(sought) || !of;
  const found = useRead(
    (ending) => (looking ? read(path(["accounts"], { starts: sought, limit: FOUND_MAX }), { signal: ending }) : Promise.resolve(null)),
    [sought, looking],
  );
  const go = (event) => {
    event.preventDefault();
    const first = found.data?.items.find((each) => each.account === typed.trim()) ?? found.data?.items[0];
    if (first) open(first.account);
  };
  const open = (account) => {
    type("");
    seek("");
    location.hash = `#/account/${encodeURIComponent(account)}`;
  };
  return html`
    <search><form class="tools" onSubmit=${go}>
      <label>Account
        <input type="search" value=${typed} onInput=${(event) => type(event.currentTarget.value)} placeholder="beginning of its id" autocomplete="off" />
      </label>
    </form></search>
    ${looking && html`<${Reading} of=${found}>
      ${(data) =>
        data &&
        (data.items.length === 0
          ? html`<${Empty}>${sought ? `No account's id begins with ${sought}.` : "There is no account yet: fairdial account add."}<//>`
          : html`<ul class="found" aria-label="Accounts found">
              ${data.items.map(
                (each) => html`<li key=${each.account}>
                  <a href=${`#/account/${encodeURIComponent(each.account)}`} onClick=${() => open(each.account)}>
                    <strong>${each.account}</strong> <span class="faint">${each.name || each.policy}</span> ${each.standing !== "active" && html`<${Badge} of=${each.standing} />`}
                  </a>
                </li>`,
              )}
              ${data.next && html`<li class="faint">and more: type further</li>`}
            </ul>`)}
    <//>`}
  `;
}

function Account({ account }) {
  const [turn, next] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && next((before) => before + 1), AGAIN_MS);
    return () => clearInterval(timer);
  }, []);
  const keys = [account, turn, changed.standing.value];
  const sheet = useRead((ending) => read(path(["accounts", account]), { signal: ending }), keys);
  return html`<${Reading} of=${sheet}>${(data) => html`<${Sheet} of=${data} again=${sheet.again} turn=${turn} />`}<//>`;
}

function Sheet({ of, again, turn }) {
  const id = of.account;
  return html`
    <section class="sheet-head">
      <div>
        <h2>${id} <${Badge} of=${of.standing} /> ${of.fraud && html`<${Badge} of="failed" text="fraud" />`}</h2>
        <p class="faint">${[of.name, `policy ${of.policy}`, of.plan && `plan ${of.plan}`, of.zone, of.countries.length ? `to ${of.countries.join(", ")}` : "", of.until_ms ? `until ${date(of.until_ms, of.zone)}` : ""].filter(Boolean).join(" · ")}</p>
      </div>
      <div class="buttons">
        <${StandingButtons} of=${of} again=${again} />
        <a role="button" class="secondary small" download href=${path(["accounts", id, "statement"], { format: "csv" })}>Statement (CSV)</a>
        <a role="button" class="secondary small" download href=${path(["accounts", id, "statement"], { format: "csv", period: "last" })}>Last cycle's (CSV)</a>
      </div>
    </section>
    <section aria-labelledby="used">
      <h3 id="used">Allowances</h3>
      <${Allowances} of=${of} />
      ${of.credit && html`<p>Credit: <strong>${money(of.credit.free, of.credit.currency)}</strong> free of ${money(of.credit.balance, of.credit.currency)}${Number(of.credit.reserved) ? `; calls in progress hold ${money(of.credit.reserved, of.credit.currency)}` : ""}.</p>`}
    </section>
    <${Days} account=${id} turn=${turn} />
    <${Services} of=${of} again=${again} />
    <${Parts} of=${of} turn=${turn} again=${again} />
  `;
}

function StandingButtons({ of, again }) {
  if (!may("operator")) return null;
  const set = (standing, sure) => async () => {
    if (sure && !(await question(sure))) return;
    const done = await attempt(
      () => change("PUT", path(["accounts", of.account, "standing"]), { standing }),
      (answer) => `${of.account} is ${answer.standing}${answer.calls_cut ? `; ${answer.calls_cut} calls were ended` : ""}`,
    );
    if (done) again();
  };
  if (of.standing === "active")
    return html`<button type="button" class="small danger" onClick=${set("suspended", {
      title: `Suspend ${of.account}?`,
      text: "Its calls in progress end within a second, and it places no others until it is restored. Emergency calls go through.",
      yes: "Suspend",
      danger: true,
    })}>Suspend</button>`;
  // A portal's token never gives standing back; the server refuses it.
  if (bound()) return null;
  return html`<button type="button" class="small" onClick=${set("active", { title: `Restore ${of.account}?`, text: "It may call again at once.", yes: "Restore" })}>Restore</button>`;
}

function Allowances({ of }) {
  if (of.usage.length === 0) return html`<${Empty}>The plan has no allowance: it limits neither minutes nor messages.<//>`;
  return html`<ul class="allowances">${of.usage.map((each) => html`<${Allowance} key=${`${each.allowance} ${each.start_ms}`} of=${each} zone=${of.zone} />`)}</ul>`;
}

function Allowance({ of, zone }) {
  const name = of.allowance;
  const limit = of.limit_units;
  const taken = of.used_units + of.reserved_units;
  const said = limit === null ? `${units(of.used_units, of.unit)} used, without a limit` : `${units(of.used_units, of.unit)} of ${units(limit, of.unit)} used`;
  return html`
    <li>
      <div class="allowance-name"><strong>${words(name)}</strong> <span class="faint">${date(of.start_ms, zone)} to ${date(of.end_ms - 1, zone)}</span></div>
      ${limit !== null && html`<meter min="0" max=${Math.max(limit, 1)} low=${limit * 0.8} high=${limit * 0.999} optimum="0" value=${Math.min(taken, limit)} aria-label=${`${words(name)}: ${said}`}></meter>`}
      <div class="allowance-said">
        ${said}${of.reserved_units ? `; calls in progress hold ${units(of.reserved_units, of.unit)}` : ""}${of.left_units !== null && limit !== null ? `; ${units(of.left_units, of.unit)} left` : ""}${of.over_units ? html`; <strong class="over">${units(of.over_units, of.unit)} past it</strong>` : ""}
        ${of.requests?.length ? html` <span class="faint">(raised by request ${of.requests.join(", ")}; the policy's own is ${units(of.policy_units, of.unit)})</span>` : ""}
      </div>
    </li>
  `;
}

function Days({ account, turn }) {
  const days = useRead((ending) => read(path(["accounts", account, "days"], { days: DAYS }), { signal: ending }), [account, turn]);
  return html`
    <section aria-labelledby="days">
      <h3 id="days">Usage by day</h3>
      <${Reading} of=${days}>${(data) => html`<${DaysShown} of=${data} />`}<//>
    </section>
  `;
}

function DaysShown({ of }) {
  const stamp = JSON.stringify(of.days);
  const { kinds, labels, series } = useMemo(() => {
    const totals = {};
    for (const day of of.days) for (const [kind, used] of Object.entries(day.kinds)) totals[kind] = (totals[kind] ?? 0) + used.seconds;
    const kinds = Object.keys(totals).sort((a, b) => totals[b] - totals[a]).slice(0, 5);
    return {
      kinds,
      labels: of.days.map((day) => day.date.slice(8).replace(/^0/, "") + (day.date.endsWith("-01") ? ` ${new Intl.DateTimeFormat("en-GB", { month: "short", timeZone: "UTC" }).format(Date.parse(day.date))}` : "")),
      series: kinds.map((kind) => ({ name: words(kind), values: of.days.map((day) => Math.round((day.kinds[kind]?.seconds ?? 0) / 6) / 10) })),
    };
  }, [stamp]);
  if (kinds.length === 0) return html`<${Empty}>No call in the last ${of.days.length} days.<//>`;
  return html`
    <${Bars} labels=${labels} series=${series} unit="min" label=${`Minutes of talk a day, days of ${of.zone}`} />
    <details>
      <summary>The same as a table</summary>
      <${Wide} label="Usage by day">
        <table>
          <thead><tr><th scope="col">Day</th>${kinds.map((kind) => html`<th scope="col" class="figure">${title(kind)}</th>`)}<th scope="col" class="figure">Refused</th><th scope="col" class="figure">Charged</th></tr></thead>
          <tbody>
            ${[...of.days].reverse().map(
              (day) => html`<tr key=${day.date}>
                <th scope="row">${day.date}</th>
                ${kinds.map((kind) => html`<td class="figure">${day.kinds[kind] ? `${number(day.kinds[kind].calls)} calls, ${span(day.kinds[kind].seconds)}` : "–"}</td>`)}
                <td class="figure">${number(day.refused)}</td>
                <td class="figure">${Object.entries(day.charged).map(([currency, amount]) => money(amount, currency)).join(", ") || "–"}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      <//>
    </details>
  `;
}

function Services({ of, again }) {
  const taken = new Set(of.restricted);
  const toggle = (service) => async () => {
    const lift = taken.has(service);
    if (!lift && !(await question({ title: `Take ${words(service)} calls from ${of.account}?`, text: "Those in progress end within a second.", yes: "Restrict", danger: true }))) return;
    const done = await attempt(
      () => change(lift ? "DELETE" : "PUT", path(["accounts", of.account, "restrictions", service])),
      lift ? `${of.account} has ${words(service)} again` : `${words(service)} was taken from ${of.account}`,
    );
    if (done) again();
  };
  if (!may("operator"))
    return taken.size ? html`<section><h3>Restricted services</h3><p>${[...taken].map(words).join(", ")}</p></section>` : null;
  return html`
    <section aria-labelledby="services">
      <h3 id="services">Services</h3>
      <p class="faint">A service that is restricted is refused; its calls in progress end. Emergency calls always go through.</p>
      <div class="switches">
        ${SERVICES.map(
          (service) => html`<button
            type="button" key=${service} class=${`small ${taken.has(service) ? "danger" : "secondary"}`}
            aria-pressed=${taken.has(service)} disabled=${bound() && taken.has(service)} onClick=${toggle(service)}
          >${words(service)}${taken.has(service) ? ": restricted" : ""}</button>`,
        )}
      </div>
    </section>
  `;
}

function Parts({ of, turn, again }) {
  const id = of.account;
  const decided = useRead((ending) => read(path(["decisions"], { account: id, limit: 20 }), { signal: ending }), [id, turn]);
  const cases = useRead((ending) => read(path(["cases"], { account: id, limit: 20 }), { signal: ending }), [id, turn, changed.case.value]);
  const requests = useRead((ending) => read(path(["requests"], { account: id, limit: 20 }), { signal: ending }), [id, turn]);
  return html`
    ${of.charges.length > 0 && html`<section aria-labelledby="charges">
      <h3 id="charges">Latest charges</h3>
      <${Wide} label="Charges">
        <table>
          <thead><tr><th scope="col">When</th><th scope="col">For</th><th scope="col" class="figure">Units</th><th scope="col" class="figure">Amount</th><th scope="col">Clause</th></tr></thead>
          <tbody>${of.charges.slice(0, 10).map((each, at) => html`<tr key=${at}>
            <td>${dayAndTime(each.at_ms)}</td><td>${words(each.mode)}</td><td class="figure">${number(each.charged_units)}</td>
            <td class="figure">${money(each.amount, each.currency)}</td><td>${clause(each.clause)}</td>
          </tr>`)}</tbody>
        </table>
      <//>
    </section>`}
    <section aria-labelledby="cases"><h3 id="cases">Cases</h3>
      <${Reading} of=${cases}>${(data) => (data.items.length ? html`<${CaseTable} of=${data.items} withAccount=${false} />` : html`<${Empty}>No case.<//>`)}<//>
    </section>
    <section aria-labelledby="requests"><h3 id="requests">Requests for higher limits</h3>
      <${Reading} of=${requests}>${(data) => (data.items.length ? html`<${RequestTable} of=${data.items} again=${() => { requests.again(); again(); }} />` : html`<${Empty}>No request.<//>`)}<//>
    </section>
    <section aria-labelledby="decisions"><h3 id="decisions">Newest decisions</h3>
      <${Reading} of=${decided}>${(data) => (data.items.length ? html`<${DecisionTable} of=${data.items.map(asEvent)} label="Newest decisions" withAccount=${false} />` : html`<${Empty}>No call was decided yet.<//>`)}<//>
    </section>
    <section aria-labelledby="lines"><h3 id="lines">Lines and numbers</h3>
      <p>${of.lines.length ? of.lines.map((each) => `${each.line}${each.standing === "active" ? "" : ` (${each.standing})`}`).join(", ") : "No line."}</p>
      <p>${of.numbers.length ? of.numbers.map((each) => `${each.number}${each.line ? ` rings ${each.line}` : ""}`).join(", ") : "No number."}</p>
    </section>
  `;
}
