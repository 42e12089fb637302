// Requests for higher limits, and minute plans that were proposed: approved or declined, with a reason.
import { bound, change, may, path } from "../api.js";
import { clause, dayAndTime, money, title, units, words } from "../format.js";
import { html } from "../lib.js";
import { Badge, Wide, attempt, question } from "../ui.js";

const wanted = (each) =>
  each.plan
    ? `${each.plan}: adds ${units(each.adds, each.unit)} for ${money(each.price, each.currency)} a ${each.period}`
    : `${words(each.rule.replace("allowances.", ""))}: ${units(each.limit, each.unit ?? "")}`;

export const RequestTable = ({ of, again }) => html`
  <${Wide} label="Requests">
    <table>
      <thead><tr><th scope="col">Request</th><th scope="col">Asked</th><th scope="col">For</th><th scope="col">Why</th><th scope="col">State</th><th scope="col">Clause</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
      <tbody>
        ${of.map(
          (each) => html`<tr key=${each.request}>
            <td>${each.request}</td><td>${dayAndTime(each.asked_ms)} by ${each.asked_by}</td><td>${wanted(each)}</td><td>${each.why}</td>
            <td><${Badge} of=${each.state} text=${words(each.state)} /></td><td>${clause(each.clause)}</td>
            <td class="acts">${may("admin") && !bound() && each.state === "open" && html`
              <button type="button" class="small" onClick=${() => approve(each, again)}>Approve</button>
              <button type="button" class="small secondary" onClick=${() => decline(each, again)}>Decline</button>`}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  <//>
`;

const REASON = { name: "reason", label: "Reason, which the customer is told", required: true, long: true, max: 500 };

async function approve(of, again) {
  const given = await question({
    title: `Approve request ${of.request}?`,
    text: wanted(of),
    yes: "Approve",
    fields: [
      REASON,
      { name: "cycles", label: "For how long", value: of.asked_until_ms ? "" : "1", choices: [...(of.asked_until_ms ? [["", "as it was asked for"]] : []), ["1", "this billing cycle"], ["2", "two billing cycles"], ["3", "three billing cycles"], ["endless", "without end"]] },
    ],
  });
  if (!given) return;
  const body = { reason: given.reason };
  if (given.cycles === "endless") body.endless = true;
  else if (given.cycles) body.cycles = Number(given.cycles);
  if (await attempt(() => change("POST", path(["requests", String(of.request), "approve"]), body), `${title("request")} ${of.request} is approved`)) again();
}

async function decline(of, again) {
  const given = await question({ title: `Decline request ${of.request}?`, text: wanted(of), yes: "Decline", danger: true, fields: [REASON] });
  if (!given) return;
  if (await attempt(() => change("POST", path(["requests", String(of.request), "decline"]), { reason: given.reason }), `Request ${of.request} is declined`)) again();
}
