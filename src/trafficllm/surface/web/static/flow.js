// One flow: what it is, why, its fields and packets, and what you know better.
import { html, Copy, Heading, Meter, Problem } from "/page/view.js";
import { PARTS, count, kindly, place, share, span, utc, wireshark } from "/page/words.js";
import { severityOf } from "/page/results.js";

const FIELDS = {
  conn_state: "Connection state (Zeek)", history: "History (Zeek)", orig_bytes: "Bytes sent by the client", resp_bytes: "Bytes sent by the server",
  orig_pkts: "Packets from the client", resp_pkts: "Packets from the server", tunnel: "Inside a tunnel", end_reason: "Why the flow ended",
};
const PACKET = { "frame.number": "Frame", "frame.time_epoch": "Time (UTC)", "frame.len": "Bytes", "ip.ttl": "TTL", "tcp.flags": "TCP flags", "tcp.seq_raw": "TCP seq", "tcp.len": "Payload", "udp.length": "UDP length" };

const evidence = (item) => `${PARTS[item.field] || item.field}${item.frame ? ` (frame ${item.frame})` : ""}`;

function Packets({ detail }) {
  const at = (name) => detail.fields.indexOf(name);
  const columns = Object.keys(PACKET).filter((name) => detail.packets.some((packet) => packet[at(name)]));
  const cell = (packet, name) => (name === "frame.time_epoch" ? utc(Number(packet[at(name)])).slice(11) : packet[at(name)]);
  const ways = (packet) => `${packet[at("ip.src")] || packet[at("ipv6.src")]} → ${packet[at("ip.dst")] || packet[at("ipv6.dst")]}`;
  return html`<div class="wide" tabindex="0" role="region" aria-label="First packets"><table><thead><tr>${columns.map((name) => html`<th scope="col" key=${name}>${PACKET[name]}</th>`)}<th scope="col">Direction</th></tr></thead>
    <tbody>${detail.packets.map((packet) => html`<tr key=${packet[0]}>${columns.map((name) => html`<td key=${name}>${cell(packet, name)}</td>`)}<td>${ways(packet)}</td></tr>`)}</tbody></table></div>`;
}

function Detail({ detail }) {
  if (!detail) return html`<p role="status">The evidence is being worked out…</p>`;
  const { flow, verdict } = detail;
  const lines = Object.entries(FIELDS).filter(([name]) => flow[name] !== "" && flow[name] !== undefined && flow[name] !== null);
  return html`<h2>Evidence</h2>
    ${verdict.evidence.length ? html`<ul>${verdict.evidence.map((item) => html`<li key=${evidence(item)}>${evidence(item)}: ${item.weight > 0 ? "speaks for" : "speaks against"} the likeliest label (${item.weight.toFixed(2)})</li>`)}</ul>` : html`<p>No single part of the flow decides.</p>`}
    <h2>Fields</h2><dl>${lines.map(([name, title]) => html`<div key=${name}><dt>${title}</dt><dd>${flow[name]}</dd></div>`)}</dl>
    <h2>First packets</h2><${Packets} detail=${detail}/>`;
}

function Nearest({ near }) {
  if (!near) return html`<h2 id="nearest">Nearest known flows</h2><p role="status">The known flows are being compared…</p>`;
  return html`<h2 id="nearest">Nearest known flows</h2>
    <div class="wide" tabindex="0" role="region" aria-labelledby="nearest"><table><thead><tr><th scope="col">Label</th><th scope="col" class="n">Distance</th><th scope="col">Capture</th></tr></thead>
      <tbody>${near.nearest.map((one) => html`<tr key=${one.file + one.uid}><th scope="row">${one.label}</th><td class="n">${one.distance.toFixed(3)}</td><td>${one.file}</td></tr>`)}</tbody></table></div>
    <p class="note">Of ${count(near.known_flows, "flow")} of the captures that come with the program. 0 means that the base model sees no difference; the label of a near flow is a lead, not a verdict.</p>`;
}

function Correct({ row, labels, correction, actions }) {
  const send = (event) => {
    event.preventDefault();
    const label = new FormData(event.currentTarget).get("label").trim();
    if (label) actions.correct(row.uid, { label, was: row.label, task: row.task, n: row.n, community_id: row.community_id, who: `${place(row.orig_h, row.orig_p)} → ${place(row.resp_h, row.resp_p)}` });
  };
  return html`<section aria-labelledby="correct" class="no-print"><h2 id="correct">Do you know better?</h2>
    <form onSubmit=${send}><label>This flow is <input name="label" list="labels" required maxlength="128" pattern="[\\w][\\w .\\(\\)&+,\\-]*" title="letters, digits, space and . ( ) & + , -" autocomplete="off" defaultValue=${correction ? correction.label : ""}/></label>
    <datalist id="labels">${labels.map((label) => html`<option value=${label} key=${label}></option>`)}</datalist> <button>Save as label</button></form>
    ${correction && html`<p role="status">Saved: ${correction.label}. <a href=${`#/capture/${actions.fileId()}`}>See all corrections.</a></p>`}</section>`;
}

/** The view of one flow; `detail` comes later than the rest. */
export function Flow({ state, actions, row }) {
  const { begin, file } = state;
  if (!row) return html`<${Heading}>No such flow</${Heading}><p><a href=${`#/capture/${file.id}`}>Back to the capture</a></p>`;
  const alarming = severityOf(begin)(row) === 1;
  const step = (by, name) => (state.rows[row.n + by] ? html`<a href=${`#/capture/${file.id}/flow/${row.n + by}`}>${name}</a> ` : "");
  const labels = [...new Set([...row.all, ...Object.keys(state.end.verdicts[row.task] || {}), ...Object.keys(state.end.above[row.task] || {})])].filter((label) => label !== "unknown" && label !== "not covered");
  return html`<nav aria-label="Flows"><a href=${`#/capture/${file.id}`}>← All flows</a> ${step(-1, "Previous")}${step(1, "Next")}</nav>
    <${Heading}>${place(row.orig_h, row.orig_p)} → ${place(row.resp_h, row.resp_p)}: <span class=${alarming ? "bad" : ""}>${alarming ? "⚠ " : ""}${row.label}</span></${Heading}>
    <p>${row.proto}, ${count(row.packets, "packet")} in ${span(row.duration)} from ${utc(row.ts)} UTC. Task ${row.task}, adapter version ${row.version}${row.source === "shipped" ? " (shipped)" : ""}.
      ${row.umbrella ? ` First step: ${row.umbrella}${row.umbrella_probability === null ? "" : ` (probability of the positive answer ${share(row.umbrella_probability)})`}.` : ""}</p>
    <h2>Likeliest labels</h2>
    <table class="narrow"><tbody>${row.likeliest.map(([label, p]) => html`<tr key=${label}><th scope="row">${label}</th><td><${Meter} value=${p}/></td><td class="n">${share(p)}</td></tr>`)}</tbody></table>
    ${row.label === row.umbrella ? html`<p class="note">The first step answers ${row.umbrella}; these labels are the likeliest ones were it wrong.</p>` : row.labels_90.length > 0 && html`<p class="note">With 90 % probability one of: ${row.labels_90.join(", ")}.</p>`}
    <dl><div><dt>Wireshark filter</dt><dd><${Copy} label="Wireshark filter" text=${wireshark(row)} say=${actions.say}/></dd></div>
      <div><dt>Community ID</dt><dd><${Copy} label="Community ID" text=${row.community_id} say=${actions.say}/></dd></div>
      <div><dt>First frames</dt><dd>${row.frames.join(", ")}</dd></div></dl>
    ${state.detailError ? html`<${Problem} text=${kindly(state.detailError)} retry=${() => actions.loadDetail(row)}/>` : html`<${Detail} detail=${state.detail && state.detail.verdict.uid === row.uid ? state.detail : null}/>`}
    ${state.nearError ? html`<h2>Nearest known flows</h2><${Problem} text=${kindly(state.nearError)} retry=${() => actions.loadNearest(row)}/>` : html`<${Nearest} near=${state.near && state.near.uid === row.uid ? state.near : null}/>`}
    <${Correct} row=${row} labels=${labels} correction=${state.corrections[row.uid]} actions=${actions} key=${row.uid}/>`;
}
