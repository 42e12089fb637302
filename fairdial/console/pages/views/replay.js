// Replay: recorded calls (Asterisk's Master.csv) put through a policy, or through one against another.
import { ask, change, may, path, read } from "../api.js";
import { dayAndTime, number, words } from "../format.js";
import { html, useEffect, useState } from "../lib.js";
import { Badge, Empty, Reading, Wide, attempt, question, useRead } from "../ui.js";

const LOOK_MS = 1_000;

export default function Replay({ rest }) {
  const [turn, next] = useState(0);
  const list = useRead((ending) => read(path(["replays"]), { signal: ending }), [turn]);
  const runs = list.data?.some((each) => each.state === "running");
  useEffect(() => {
    if (!runs) return undefined;
    const timer = setInterval(() => next((before) => before + 1), LOOK_MS);
    return () => clearInterval(timer);
  }, [runs]);
  return html`
    ${may("admin") ? html`<${Upload} busy=${runs} done=${list.again} />` : html`<p>An admin uploads call records here; you can look at what came of it.</p>`}
    <${Reading} of=${list}>
      ${(data) => (data.length === 0 ? html`<${Empty}>No replay yet. They are kept for a day.<//>` : html`<${List} of=${data} again=${list.again} />`)}
    <//>
    ${rest[0] && html`<${Report} key=${rest[0]} id=${rest[0]} of=${list.data?.find((each) => each.replay === rest[0])} />`}
  `;
}

function Upload({ busy, done }) {
  const policies = useRead((ending) => read(path(["policies"]), { signal: ending }), []);
  const [sending, send] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    send(true);
    const started = await attempt(
      async () =>
        (
          await ask("POST", path(["replays"], { policy: form.get("policy"), against: form.get("against") }), {
            body: form.get("file"),
            type: "text/csv",
          })
        ).json(),
      "The records are being replayed",
    );
    send(false);
    if (started) {
      location.hash = `#/replay/${encodeURIComponent(started.replay)}`;
      done();
    }
  };
  return html`
    <form class="upload" onSubmit=${submit}>
      <label>Call records (Master.csv) <input type="file" name="file" accept=".csv,text/csv" required /></label>
      <${Reading} of=${policies}>${(data) => html`
        <label>Policy <select name="policy"><option value="">each account's own</option>${data.map((each) => html`<option value=${each.policy}>${each.policy}</option>`)}</select></label>
        <label>Against <select name="against"><option value="">no other</option>${data.map((each) => html`<option value=${each.policy}>${each.policy}</option>`)}</select></label>`}
      <//>
      <button type="submit" disabled=${busy || sending} aria-busy=${sending}>${busy ? "One is running" : "Replay"}</button>
    </form>
    <p class="faint">It runs beside live calls at the lowest priority, and changes nothing: what would have been refused, cut and charged.</p>
  `;
}

function List({ of, again }) {
  const remove = (each) => async () => {
    const runs = each.state === "running";
    const sure = await question({ title: runs ? "Cancel this replay?" : "Remove this replay?", text: runs ? "It ends at once, without a report." : "Its report goes with it.", yes: runs ? "Cancel the replay" : "Remove", danger: true });
    if (sure && (await attempt(() => change("DELETE", path(["replays", each.replay])), runs ? "The replay is cancelled" : "The replay is removed"))) again();
  };
  return html`
    <${Wide} label="Replays">
      <table>
        <thead><tr><th scope="col">Started</th><th scope="col">Policy</th><th scope="col">By</th><th scope="col">State</th><th scope="col">Records</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>
          ${of.map(
            (each) => html`<tr key=${each.replay}>
              <td>${dayAndTime(each.started_ms)}</td>
              <td>${each.policy ?? "each account's own"}${each.against ? ` against ${each.against}` : ""}</td><td>${each.by}</td>
              <td><${Badge} of=${each.state} text=${words(each.state)} />${each.error ? html`<br />${each.error}` : ""}</td>
              <td>${each.state === "running"
                ? html`<progress aria-label="Records replayed" max=${each.rows ?? null} value=${each.rows ? each.rows_done : null}></progress> ${number(each.rows_done ?? 0)}${each.rows ? ` of ${number(each.rows)}` : ""}`
                : number(each.rows_done ?? each.rows ?? 0)}</td>
              <td class="acts">
                ${each.state === "done" && html`<a class="small" href=${`#/replay/${encodeURIComponent(each.replay)}`}>Report</a>`}
                ${may("admin") && html`<button type="button" class="small secondary" onClick=${remove(each)}>${each.state === "running" ? "Cancel" : "Remove"}</button>`}
              </td>
            </tr>`,
          )}
        </tbody>
      </table>
    <//>
  `;
}

/** The report is a page of its own; it gets no rights here: no origin, no cookies, no way out of its frame. */
function Report({ id, of }) {
  if (!of || of.state !== "done") return null;
  return html`
    <section aria-labelledby="report">
      <h2 id="report">Report</h2>
      <iframe class="report" title="Report of the replay" sandbox="" src=${path(["replays", id, "report"])}></iframe>
    </section>
  `;
}
