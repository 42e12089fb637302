// Conferences: rooms with their seats, and who is in them since when.
import { change, may, path, read, serverNow } from "../api.js";
import { clock, timeOfDay, machine } from "../format.js";
import { html, useComputed } from "../lib.js";
import { changed, tick } from "../live.js";
import { AccountLink, Badge, Empty, Reading, attempt, question, useRead } from "../ui.js";

export default function Conferences() {
  const found = useRead((ending) => read(path(["conferences"]), { signal: ending }), [changed.room.value]);
  return html`
    <${Reading} of=${found}>
      ${(rooms) =>
        rooms.length === 0
          ? html`<${Empty}>Nobody is in a conference. A room appears here when its first member joins.<//>`
          : html`<div class="rooms">${rooms.map((each) => html`<${Room} key=${`${each.account} ${each.room}`} of=${each} again=${found.again} />`)}</div>`}
    <//>
  `;
}

function Room({ of, again }) {
  const up = (member) => tick.value && (serverNow() - member.since_ms) / 1000;
  const party = useComputed(() => clock(of.members.reduce((sum, each) => sum + Math.max(0, up(each)), 0)));
  const full = of.seats_max !== null && of.seats_max !== undefined && of.seats >= of.seats_max;
  const end = async (member) => {
    const sure = await question({ title: "Take this member out?", text: `${member.line} leaves room ${of.room} at once.`, yes: "Hang up", danger: true });
    if (sure && (await attempt(() => change("DELETE", path(["calls", member.call])), `${member.line} has left room ${of.room}`))) again();
  };
  return html`
    <article class="room">
      <header>
        <h2>Room ${of.room}</h2>
        <p><${AccountLink} of=${of.account} /> · since <time datetime=${machine(of.since_ms)}>${timeOfDay(of.since_ms)}</time></p>
      </header>
      <p>
        ${of.seats_max ? html`<meter min="0" max=${of.seats_max} high=${of.seats_max - 0.5} optimum="0" value=${of.seats} aria-label="Seats taken"></meter>` : null}
        <strong>${of.seats}${of.seats_max ? ` of ${of.seats_max}` : ""}</strong> seats taken ${full && html`<${Badge} of="refuse" text="full" />`}
        · party time <strong>${party}</strong>
      </p>
      <ul class="members">
        ${of.members.map((each) => html`<${Member} key=${each.call} of=${each} up=${up} end=${end} />`)}
      </ul>
    </article>
  `;
}

function Member({ of, up, end }) {
  const since = useComputed(() => clock(up(of)));
  return html`
    <li>
      <span>${of.number ?? of.line}${of.host ? html` <${Badge} of="host" />` : ""}</span>
      <span class="figure">${since}</span>
      ${may("operator") && html`<button type="button" class="small danger" aria-label=${`Take ${of.line} out`} onClick=${() => end(of)}>Hang up</button>`}
    </li>
  `;
}
