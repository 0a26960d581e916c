// The models: trained on what, how good, how often wrong elsewhere, which version is live.
import { html, Heading, Problem } from "/page/view.js";
import * as api from "/page/api.js";
import { count, kindly } from "/page/words.js";

const number = (value) => (typeof value === "number" ? value.toFixed(3) : "not measured");
const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)} %` : "not measured");

const BASELINES = { lightgbm: "LightGBM", random_forest: "random forest", knn: "k-nearest neighbours", majority: "most frequent label" };
const PROBES = new Set(["identifier_probe", "artefact_probe"]);

/** The baseline with the highest macro-F1; probes are no rivals. */
function best(baselines) {
  const [first] = Object.entries(baselines).filter(([name]) => !PROBES.has(name)).sort((a, b) => b[1].macro_f1 - a[1].macro_f1);
  return first ? `${BASELINES[first[0]] || first[0]}: macro-F1 ${number(first[1].macro_f1)}` : "";
}

function Card({ card }) {
  const manifest = card.manifest;
  const quality = manifest.quality || {};
  const elsewhere = (manifest.umbrella || {}).left_out || {};
  const task = manifest.task_definition || {};
  const learnt = Object.entries(manifest.origins || {}).map(([source, licence]) => `${source} (${licence})`);
  const background = manifest.background || {};
  const lines = [
    ["Experimental", manifest.experimental || ""],
    ["Asks", task.umbrella_question ? `${task.umbrella_question} ${task.positive} or ${task.negative}` : task.title || ""],
    ["Trained on", learnt.join(", ") || task.dataset || ""],
    ["Beside everyday flows", background.flows ? `${count(background.flows, "flow")} of ${count(Object.keys(background.sources || {}).length, "other source")}` : ""],
    ["Labels", (manifest.labels || []).join(", ")],
    ["Macro-F1 (mean over labels of F1: 1 is perfect)", quality.macro_f1 === undefined ? "not measured" : `${number(quality.macro_f1)}, 95 % interval ${(quality.ci95 || []).map(number).join(" to ")}`],
    ["The best tree or neighbour on the same flows", best(manifest.baselines || {})],
    ["Judged on", quality.n_test === undefined ? "" : `${quality.n_test} flows, split by ${quality.split}, mask ${quality.mask}`],
    ["False alarms elsewhere (share of flows of sources it has not learnt)", elsewhere.flow ? `${percent(elsewhere.flow.rate)}, worst source ${percent(elsewhere.flow.worst)}` : "not measured"],
    ["False alarms elsewhere (share of hosts)", elsewhere.host ? `${percent(elsewhere.host.rate)}, worst source ${percent(elsewhere.host.worst)}` : ""],
    ["What bounds them", elsewhere.flow ? elsewhere.flow.guarantee : ""],
    ["Leaks", quality.leaky && quality.leaky.length ? `LEAKY: ${quality.leaky.join("; ")}` : ""],
    ["Seed", manifest.seed === undefined ? "" : String(manifest.seed)],
  ].filter(([, value]) => value !== "");
  return html`<section aria-labelledby="card"><h2 id="card">${card.task} ${card.version}</h2><dl>${lines.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <details><summary>The whole manifest</summary><pre tabindex="0">${JSON.stringify(manifest, null, 1)}</pre></details></section>`;
}

/** The tab of adapters. */
export function Models({ state, actions }) {
  actions.loadAdapters = async () => {
    try {
      actions.update({ adapters: await api.getJson("/v1/adapters") });
    } catch (tabError) {
      if (tabError.status === 401) actions.fail(tabError);
      else actions.update({ tabError });
    }
  };
  const guarded = (work) => async () => {
    try {
      await work();
    } catch (tabError) {
      actions.update({ tabError });
    }
  };
  const show = (row) => guarded(async () => actions.update({ card: await api.getJson(`/v1/adapters/${encodeURIComponent(row.task)}?version=${row.version}`) }));
  const change = (row, path, body) => guarded(async () => {
    await api.postJson(`/v1/adapters/${encodeURIComponent(row.task)}/${path}`, body);
    actions.say(`${row.task}: done`);
    await actions.loadAdapters();
  });
  const locked = state.limits && !state.limits.key;
  const rows = state.adapters ? state.adapters.adapters : [];
  return html`<${Heading}>Models</${Heading}>
    ${state.tabError && html`<${Problem} text=${kindly(state.tabError)}/>`}
    ${!state.adapters && !state.tabError && html`<p role="status">The list is being read…</p>`}
    ${state.adapters && !rows.length && html`<p>No adapter is registered. <code>trafficllm quickstart</code> makes two.</p>`}
    ${rows.length > 0 && html`<div class="wide" tabindex="0" role="region" aria-label="Adapters"><table><thead><tr><th scope="col">Task</th><th scope="col">Version</th><th scope="col">Status</th><th scope="col" class="n">Macro-F1</th><th scope="col">Source</th><th scope="col">Actions</th></tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.task + row.version} class=${row.status === "live" ? "ours" : ""}><td>${row.task}</td><td>${row.version}</td><td>${row.status}${row.laboratory_only ? ", laboratory only: nothing bounds its false alarms elsewhere" : ""}</td>
        <td class="n">${row.macro_f1 === null ? "" : number(row.macro_f1)}</td><td>${row.source}</td><td class="buttons">
        <button type="button" class="small" onClick=${show(row)} aria-label=${`Card of ${row.task} ${row.version}`}>Card</button>
        ${row.status === "live" ? html`<button type="button" class="small" disabled=${locked} onClick=${change(row, "rollback", {})} aria-label=${`Roll back ${row.task}`}>Roll back</button>`
          : html`<button type="button" class="small" disabled=${locked} onClick=${change(row, "promote", { version: row.version })} aria-label=${`Promote ${row.task} ${row.version}`}>Promote</button>`}</td></tr>`)}</tbody></table></div>
      <p class="note">Macro-F1: the mean over labels of F1, measured on flows kept apart; 1 is perfect.${locked ? " Promoting and rolling back needs a server with an API key (TRAFFICLLM_API_KEY)." : ""}</p>`}
    ${state.card && html`<${Card} card=${state.card}/>`}`;
}
