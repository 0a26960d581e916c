// What a capture is: one sentence, hosts, flows; exports and corrections.
import { html, Heading, Meter } from "/page/view.js";
import { FlowTable, chosenRows } from "/page/table.js";
import { count, share, size, span, utc } from "/page/words.js";
import { download } from "/page/api.js";

const FORMATS = {
  jsonl: "JSON lines", csv: "CSV", parquet: "Parquet", zeek: "Zeek log", eve: "Suricata EVE", ecs: "Elastic (ECS)",
  notice: "Zeek notices", intel: "Zeek intel", stix: "STIX 2.1",
};
const SUFFIX = { zeek: "log", notice: "log", intel: "dat", eve: "json", ecs: "ndjson", stix: "json" };
const ALERTS = new Set(["notice", "intel", "stix"]);
const BINS = 60;
const FIRST_HOSTS = 10;

/** 1 for a notable verdict, 2 for an unknown one, 0 for all others. */
export const severityOf = (begin) => (row) => {
  const notable = begin.notable[row.task] || [];
  if (notable.includes(row.label) || notable.includes(row.umbrella)) return 1;
  return row.label === "unknown" || row.label === "not covered" ? 2 : 0;
};

function Facts({ capture, name, hosts }) {
  const lasted = capture.first === null ? "" : `, ${span(capture.last - capture.first)} from ${utc(capture.first).slice(0, 19)} UTC`;
  const odd = [
    capture.truncated && `${count(capture.truncated, "packet")} cut short`, capture.non_ip && `${count(capture.non_ip, "frame")} not IP`,
    ...Object.entries(capture.not_read || {}).map(([what, frames]) => `${what}: ${count(frames, "frame")} not read`),
  ].filter(Boolean);
  return html`<p class="note">${name}: ${count(capture.packets, "packet")}, ${size(capture.bytes)}, ${count(capture.flows, "flow")}, ${count(hosts, "host")}${lasted}.
    ${odd.length ? ` ${odd.join("; ")}.` : ""}</p>`;
}

function Hosts({ end, begin, filter, refilter, all, showAll }) {
  const shown = all ? end.hosts : end.hosts.slice(0, FIRST_HOSTS);
  const notable = (host) => (begin.notable[host.task] || []).includes(host.umbrella);
  const labels = (host) => Object.entries(host.labels).slice(0, 3).map(([label, n]) => `${label} ${n.toLocaleString("en")}`).join(", ");
  if (!end.hosts.length) return null;
  return html`<section aria-labelledby="hosts"><h2 id="hosts">Hosts</h2>
    <div class="wide" tabindex="0" role="region" aria-label="Table of hosts"><table>
    <thead><tr><th scope="col">Host</th><th scope="col">Answer</th><th scope="col" class="n">Probability</th><th scope="col" class="n">Flows</th><th scope="col">Verdicts of its flows</th><th scope="col">First seen (UTC)</th></tr></thead>
    <tbody>${shown.map((host) => html`<tr key=${host.task + host.host} class=${notable(host) ? "alarm" : ""}>
      <td><button type="button" class="link" aria-pressed=${filter.host === host.host} onClick=${() => refilter({ host: filter.host === host.host ? "" : host.host })}>${host.host}</button></td>
      <td class=${notable(host) ? "bad" : ""}>${notable(host) ? "⚠ " : ""}${host.umbrella}</td><td class="n">${share(host.umbrella_probability)}</td>
      <td class="n">${host.flows.toLocaleString("en")}</td><td>${labels(host)}</td><td>${utc(host.first).slice(0, 19)}</td></tr>`)}</tbody></table></div>
    ${end.hosts.length > FIRST_HOSTS && html`<button type="button" onClick=${showAll}>${all ? "Show fewer" : `Show all ${count(end.hosts_total, "host")}`}</button>`}
    ${all && end.hosts_total > end.hosts.length && html`<p class="note">The first ${end.hosts.length.toLocaleString("en")} are shown; the export has the flows of all.</p>`}</section>`;
}

function Timeline({ rows, capture, severity }) {
  if (!rows.length || capture.first === null) return null;
  const from = rows.reduce((least, row) => Math.min(least, row.ts), Infinity);
  const width = Math.max(rows.reduce((most, row) => Math.max(most, row.ts), from) - from, 1e-6);
  const bins = Array.from({ length: BINS }, () => [0, 0, 0]);
  for (const row of rows) bins[Math.min(BINS - 1, Math.floor(((row.ts - from) / width) * BINS))][severity(row)] += 1;
  const most = Math.max(...bins.map((bin) => bin[0] + bin[1] + bin[2]));
  const total = (kind) => bins.reduce((sum, bin) => sum + bin[kind], 0).toLocaleString("en");
  const bar = (bin, k) => {
    let y = 60;
    return [1, 2, 0].map((kind) => {
      const tall = (58 * bin[kind]) / most;
      y -= tall;
      return tall > 0 && html`<rect class=${`s${kind}`} x=${k * 10} y=${y} width="9" height=${tall}><title>${`${utc(from + (k * width) / BINS).slice(0, 19)}: ${bin[kind]}`}</title></rect>`;
    });
  };
  return html`<section aria-labelledby="time"><h2 id="time">Verdicts over time</h2>
    <svg class="own timeline" viewBox="0 0 600 60" preserveAspectRatio="none" role="img" aria-label=${`Flows that began, in ${BINS} equal parts of ${span(width)}: ${total(1)} notable, ${total(2)} without an answer, ${total(0)} others`}>${bins.map(bar)}</svg>
    <p class="note legend"><span>${utc(from).slice(0, 19)}</span><span><i class="key s1"></i>notable ${total(1)} <i class="key s2"></i>no answer ${total(2)} <i class="key s0"></i>others ${total(0)}</span><span>${utc(from + width).slice(0, 19)}</span></p></section>`;
}

function Filters({ end, filter, refilter, shown }) {
  const tasks = Object.keys(end.verdicts);
  const chips = Object.entries(end.verdicts[filter.task || tasks[0]] || {}).slice(0, 12);
  return html`<div class="filters" role="search" aria-label="Filter flows">
    <label>Filter <input type="search" value=${filter.text} placeholder="address, port, protocol, verdict" onInput=${(event) => refilter({ text: event.currentTarget.value })}/></label>
    ${filter.host && html`<button type="button" class="chip on" onClick=${() => refilter({ host: "" })}>only ${filter.host} ✕</button>`}
    ${tasks.length > 1 && html`<label>Task <select value=${filter.task} onChange=${(event) => refilter({ task: event.currentTarget.value })}><option value="">all</option>${tasks.map((task) => html`<option value=${task}>${task}</option>`)}</select></label>`}
    <span class="chips">${chips.map(([label, n]) => html`<button type="button" key=${label} class=${`chip${filter.label === label ? " on" : ""}`} aria-pressed=${filter.label === label}
      onClick=${() => refilter({ label: filter.label === label ? "" : label })}>${label} ${n.toLocaleString("en")}</button>`)}</span>
    <span class="note" role="status">${count(shown, tasks.length > 1 && !filter.task ? "verdict" : "flow")} shown</span></div>`;
}

function Exports({ file, tasks, fail, say }) {
  const save = (task, format) => async () => {
    say(`${FORMATS[format]} is being made`);
    try {
      await download(`/v1/files/${file.id}/export?task=${encodeURIComponent(task)}&format=${format}`, `${ALERTS.has(format) ? format : "verdicts"}-${task}.${SUFFIX[format] || format}`);
      say(`${FORMATS[format]} saved`);
    } catch (error) {
      fail(error);
    }
  };
  return html`<section aria-labelledby="exports" class="no-print"><h2 id="exports">Exports</h2>${tasks.map((task) => html`<p key=${task}>${tasks.length > 1 ? `${task}: ` : ""}
    ${Object.entries(FORMATS).map(([format, name]) => html`<button type="button" key=${format} onClick=${save(task, format)}>${name}</button> `)}</p>`)}
    <p class="note">All flows, whatever the filter; Zeek notices, Zeek intel and STIX hold the alerts alone. The capture is judged again while the file is made.</p></section>`;
}

function Corrected({ state, actions }) {
  const fixed = Object.entries(state.corrections);
  if (!fixed.length) return null;
  const tasks = [...new Set(fixed.map(([, item]) => item.task))];
  return html`<section aria-labelledby="corrected"><h2 id="corrected">Your corrections</h2>
    <ul>${fixed.map(([uid, item]) => html`<li key=${uid}><a href=${`#/capture/${state.file.id}/flow/${item.n}`}>${item.who}</a>: ${item.label} <span class="note">(was ${item.was}, ${item.community_id})</span>
      <button type="button" class="small" onClick=${() => actions.correct(uid, null)} aria-label=${`Forget the correction of ${item.who}`}>Forget</button></li>`)}</ul>
    ${tasks.map((task) => html`<p key=${task}><button type="button" onClick=${() => actions.saveCorrections(task)}>Save for ${task}</button> Then teach them:</p>
      <pre tabindex="0">unzip corrections-${task}.zip -d corrections${"\n"}trafficllm adapter update corrections/labelled --task ${task}</pre>`)}
    <p class="note">Flows that you call by a task's negative answer (benign) lie in <code>corrections/background</code>: add <code>--background corrections/background</code>. The update is taken only if old data is answered as well as before.</p></section>`;
}

function Route({ route, tasks, filters }) {
  const only = filters ? ` Only flows ${filters}.` : "";
  if (!route) return html`<p class="note">Judged by ${tasks.join(", ")}.${only}</p>`;
  return html`<p class="note">The question went to ${route.tasks.map((task) => `${task.id} (probability ${share(task.probability)})`).join(", ")}.${only}</p>`;
}

const cell = (value) => (value === null ? "" : typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 3 }) : value);

/** A question that was answered by counting. */
export function Fact({ fact, verdicts }) {
  return html`<${Heading}><span class="sentence">${fact.sentence}</span></${Heading}>
    <p class="note">Understood as: ${fact.asked} (probability ${share(fact.probability)}). Counted from the capture; no model took part.${fact.filters ? ` Only flows ${fact.filters}.` : ""}</p>
    ${fact.rows.length > 0 && html`<div class="wide" tabindex="0" role="region" aria-label="Answer as a table"><table>
      <thead><tr>${fact.columns.map((name) => html`<th scope="col" key=${name}>${name}</th>`)}</tr></thead>
      <tbody>${fact.rows.map((row, k) => html`<tr key=${k}>${row.map((value, at) => html`<td key=${at} class=${typeof value === "number" ? "n" : ""}>${fact.columns[at] === "port" ? value : cell(value)}</td>`)}</tr>`)}</tbody></table></div>`}
    ${fact.total > fact.shown && html`<p class="note">The first ${fact.shown.toLocaleString("en")} of ${fact.total.toLocaleString("en")}.</p>`}
    <p class="no-print"><button type="button" onClick=${verdicts}>Show the verdicts</button></p>`;
}

const BY = { model: (base) => `${base}, its own words`, choice: (base) => `chosen by ${base}`, template: () => "template" };

/** The view of one analysed capture. */
export function Results({ state, actions }) {
  const { begin, end, rows, filter, sort, file } = state;
  const severity = severityOf(begin);
  const shown = actions.once("shown", [rows, filter, sort], () => chosenRows(rows, filter, sort));
  const hosts = actions.once("hosts", [rows], () => new Set(rows.flatMap((row) => [row.orig_h, row.resp_h])).size);
  return html`<${Heading}><span class="sentence">${end.sentence}</span></${Heading}>
    ${end.words && html`<p class="words">${end.words.text} <span class="note">(${BY[end.words.by](end.words.base)})</span></p>`}
    <${Facts} capture=${begin.capture} name=${file.name} hosts=${hosts}/>
    <${Route} route=${begin.route} tasks=${begin.tasks} filters=${begin.filters}/>
    ${Object.entries(end.uncovered).map(([task, n]) => html`<p class="note" key=${task}>${task} has not learnt the kind of ${count(n, "flow")}: no answer.</p>`)}
    <${Hosts} end=${end} begin=${begin} filter=${filter} refilter=${actions.refilter} all=${state.allHosts} showAll=${actions.showAllHosts}/>
    ${rows.length > 0 && html`<section aria-labelledby="flows"><h2 id="flows">Flows</h2>
      <${Filters} end=${end} filter=${filter} refilter=${actions.refilter} shown=${shown.length}/>
      <${FlowTable} rows=${shown} sort=${sort} resort=${actions.resort} open=${actions.open} place=${state.place} tasks=${begin.tasks.length} severity=${severity}/></section>`}
    <${Timeline} rows=${rows} capture=${begin.capture} severity=${severity}/>
    <${Corrected} state=${state} actions=${actions}/>
    <${Exports} file=${file} tasks=${begin.tasks} fail=${actions.fail} say=${actions.say}/>`;
}

export { Meter };
