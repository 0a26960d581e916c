// The page: state, addresses (#/...), uploads. Views are functions of the state.
import { render } from "/page/preact.module.js";
import * as api from "/page/api.js";
import { Flow } from "/page/flow.js";
import { Generate } from "/page/generate.js";
import { Models } from "/page/models.js";
import { Fact, Results } from "/page/results.js";
import { html, Heading, Problem } from "/page/view.js";
import { count, kindly, size } from "/page/words.js";

const NO_FILTER = { text: "", label: "", host: "", task: "" };
const state = {
  phase: "idle", progress: 0, judged: 0, file: null, question: "", task: "", error: null, begin: null, end: null, rows: [], fact: null, fresh: false,
  filter: NO_FILTER, sort: { by: "ts", down: false }, place: { top: 0, active: 0 }, allHosts: false, detail: null, detailError: null, near: null, nearError: null,
  corrections: {}, tasks: null, limits: null, needsKey: false, said: "", adapters: null, card: null, made: null, tabError: null, route: "", over: false,
};
let work = null;
const memo = {};

function update(change) {
  Object.assign(state, change);
  render(html`<${App}/>`, root);
}

const say = (said) => update({ said });
const address = (path) => { location.hash = path; };

/** A value that is made again only when what it depends on is another one. */
function once(name, needs, make) {
  const last = memo[name];
  if (!last || needs.some((value, k) => value !== last.needs[k])) memo[name] = { needs, value: make() };
  return memo[name].value;
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) update({ needsKey: true, phase: state.end ? "done" : "idle" });
  else if (error instanceof api.Failure) update({ error, phase: state.end ? "done" : "failed", said: kindly(error) });
  else throw error;
}

function keep(line) {
  const likeliest = Object.entries(line.probabilities).sort((a, b) => b[1] - a[1]);
  const { probabilities, evidence, ...row } = line;
  row.n = state.rows.length;
  row.likeliest = likeliest.slice(0, 3);
  row.all = once("labels" + line.task, [likeliest.length], () => likeliest.map(([label]) => label));
  row.search = `${row.orig_h}:${row.orig_p} ${row.resp_h}:${row.resp_p} ${row.proto} ${row.label} ${row.umbrella || ""} ${row.community_id}`.toLowerCase();
  state.rows.push(row);
}

async function analyze() {
  const { file, question, task } = state;
  work = new AbortController();
  update({ phase: "judging", judged: 0, fresh: false, fact: null, error: null, detail: null, said: "The capture is being judged." });
  const query = new URLSearchParams({ question, task });
  let shown = 0;
  try {
    await api.lines(`/v1/files/${file.id}/analyze?${query}`, (line) => {
      if (line.schema === "trafficllm.serve.fact/1") state.fact = line.fact;
      else if (line.schema === "trafficllm.serve.begin/1") update({ begin: line, fresh: true, end: null, rows: [], filter: NO_FILTER, place: { top: 0, active: 0 }, allHosts: false });
      else if (line.schema === "trafficllm.serve.end/1") state.end = line;
      else keep(line);
      if (performance.now() - shown > 200) {
        shown = performance.now();
        update({ judged: state.rows.length });
      }
    }, work.signal);
    recall();
    update({ phase: "done", said: (state.fact || state.end).sentence });
    if (!location.hash.startsWith(`#/capture/${file.id}`)) address(`/capture/${file.id}`);
  } catch (error) {
    fail(error);
  }
}

async function send(chosen) {
  work = new AbortController();
  update({ phase: "uploading", progress: 0, error: null, end: null, begin: null, fact: null, rows: [], said: "The file is being uploaded." });
  try {
    const stored = await api.upload(chosen, (progress) => update({ progress }), work.signal);
    update({ file: { id: stored.id, name: stored.filename, bytes: stored.bytes } });
    state.again = analyze;
    await analyze();
  } catch (error) {
    state.again = () => send(chosen);
    fail(error);
  }
}

function cancel() {
  work?.abort();
  if (state.phase === "judging" && state.file) api.remove(`/v1/files/${state.file.id}`).catch(() => {});
  update({ phase: "idle", rows: [], begin: null, end: null, fact: null, file: null, said: "Cancelled." });
  address("/");
}

// Corrections are kept in this tab, by capture.
const drawer = () => `trafficllm.corrections.${state.file.id}`;
const recall = () => update({ corrections: JSON.parse(sessionStorage.getItem(drawer()) || "{}") });

function correct(uid, item) {
  const corrections = { ...state.corrections };
  if (item) corrections[uid] = item;
  else delete corrections[uid];
  sessionStorage.setItem(drawer(), JSON.stringify(corrections));
  update({ corrections, said: item ? `Saved: ${item.label}` : "Forgotten." });
}

async function saveCorrections(task) {
  const corrections = Object.entries(state.corrections).filter(([, item]) => item.task === task).map(([uid, item]) => ({ uid, label: item.label }));
  try {
    await api.download(await api.postJson(`/v1/files/${state.file.id}/corrections`, { task, corrections }), `corrections-${task}.zip`);
    say("Corrections saved.");
  } catch (error) {
    fail(error);
  }
}

/** What is shown of one flow beside its verdict: `detail` first, then `near`, each in its own time. */
async function loadPart(row, part, path) {
  const wrong = `${part}Error`;
  update({ [part]: null, [wrong]: null });
  try {
    const value = await api.getJson(`/v1/files/${state.file.id}/flows/${encodeURIComponent(row.uid)}${path}?task=${encodeURIComponent(row.task)}`);
    if (shownRow() === row) update({ [part]: value });
  } catch (error) {
    if (!(error instanceof api.Failure)) throw error;
    if (shownRow() === row) update({ [wrong]: error });
  }
}

const loadNearest = (row) => loadPart(row, "near", "/nearest");

async function loadDetail(row) {
  update({ near: null, nearError: null });
  await loadPart(row, "detail", "");
  if (shownRow() === row && state.detail) await loadNearest(row);
}

const actions = {
  once, fail, say, correct, saveCorrections, loadDetail, loadNearest, update,
  refilter: (change) => update({ filter: { ...state.filter, ...change }, place: { top: 0, active: 0 } }),
  resort: (by) => update({ sort: { by, down: state.sort.by === by && !state.sort.down } }),
  open: (row) => address(`/capture/${state.file.id}/flow/${row.n}`),
  showAllHosts: () => update({ allHosts: !state.allHosts }),
  fileId: () => state.file.id,
};

function shownRow() {
  const parts = state.route.split("/");
  return parts[3] === "flow" ? state.rows[Number(parts[4])] : null;
}

async function loadTasks() {
  try {
    const [tasks, limits] = await Promise.all([api.getJson("/v1/tasks"), api.getJson("/v1/limits")]);
    update({ tasks: tasks.tasks, limits, needsKey: false });
  } catch (error) {
    fail(error);
  }
}

function KeyForm() {
  const send = (event) => {
    event.preventDefault();
    api.setKey(new FormData(event.currentTarget).get("key").trim());
    update({ needsKey: false, error: null, tabError: null });
    loadTasks();
    go();
  };
  return html`<form class="problem" onSubmit=${send}><label>This server needs its API key <input name="key" type="password" required autocomplete="off"/></label> <button>Use it</button>
    <p class="note">It stays in this tab and is forgotten when you close it.</p></form>`;
}

function Working() {
  const uploading = state.phase === "uploading";
  const text = uploading ? `Uploading: ${Math.round(100 * state.progress)} %` : state.fresh
    ? `${state.judged.toLocaleString("en")} of ${count(state.begin.capture.flows * state.begin.tasks.length, "verdict")}` : "Reading the capture";
  const value = uploading ? state.progress : state.fresh && state.begin.capture.flows ? Math.min(1, state.judged / (state.begin.capture.flows * state.begin.tasks.length)) : undefined;
  return html`<${Heading}>${uploading ? "Sending the capture" : "Judging the capture"}</${Heading}>
    <p><progress max="1" value=${value} aria-label=${uploading ? "Upload" : "Analysis"}></progress> ${text}</p><button type="button" onClick=${cancel}>Cancel</button>`;
}

function Start() {
  const take = (files) => files.length && send(files[0]);
  const drop = (event) => {
    event.preventDefault();
    update({ over: false });
    take(event.dataTransfer.files);
  };
  const over = (on) => (event) => {
    event.preventDefault();
    if (state.over !== on) update({ over: on });
  };
  const judging = (state.tasks || []).filter((task) => task.kind === "detection" && task.live);
  return html`<${Heading}>What is in this capture?</${Heading}>
    <div class=${`drop${state.over ? " over" : ""}`} onDrop=${drop} onDragOver=${over(true)} onDragLeave=${over(false)}>
      <p><label class="file">Choose a capture <input type="file" accept=".pcap,.pcapng,.cap,.gz,.zst,.lz4" onChange=${(event) => take(event.currentTarget.files)}/></label> or drop it here.</p>
      <p class="note">pcap or pcapng, also as gz, zst or lz4${state.limits ? `, up to ${size(state.limits.max_body)}` : ""}. It stays on this server's machine and is forgotten with it.</p></div>
    <div class="asked"><label>Question (optional) <input value=${state.question} maxlength="2000" placeholder="Is there malware in here?" onInput=${(event) => update({ question: event.currentTarget.value })}/></label>
      <label>or task <select value=${state.task} onChange=${(event) => update({ task: event.currentTarget.value })}><option value="">as the question says</option>
        ${judging.map((task) => html`<option value=${task.id} key=${task.id}>${task.id}: ${task.title}</option>`)}</select></label></div>
    ${state.tasks && !judging.length && html`<p class="problem">No adapter that judges captures is live. <code>trafficllm quickstart</code> makes two.</p>`}`;
}

function Ask() {
  const judging = (state.tasks || []).filter((task) => task.kind === "detection" && task.live);
  const again = (event) => {
    event.preventDefault();
    address(`/capture/${state.file.id}`);
    analyze();
  };
  return html`<form class="asked no-print" onSubmit=${again}><label>Question <input value=${state.question} maxlength="2000" onInput=${(event) => update({ question: event.currentTarget.value })}/></label>
    <label>or task <select value=${state.task} onChange=${(event) => update({ task: event.currentTarget.value })}><option value="">as the question says</option>
      ${judging.map((task) => html`<option value=${task.id} key=${task.id}>${task.id}: ${task.title}</option>`)}</select></label> <button>Ask</button></form>`;
}

/** From a fact back to what the flows are. */
function showVerdicts() {
  update({ fact: null, question: "" });
  if (!state.end) analyze();
}

function View() {
  const [, tab] = state.route.split("/");
  if (tab === "models") return html`<${Models} state=${state} actions=${actions}/>`;
  if (tab === "generate") return html`<${Generate} state=${state} actions=${actions}/>`;
  if (state.phase === "uploading" || state.phase === "judging") return html`<${Working}/>`;
  if (tab !== "capture" || !(state.end || state.fact)) return html`<${Start}/>`;
  if (state.route.includes("/flow/")) return html`<${Flow} state=${state} actions=${actions} row=${shownRow()}/>`;
  if (state.fact) return html`<${Ask}/><${Fact} fact=${state.fact} verdicts=${showVerdicts}/>`;
  return html`<${Ask}/><${Results} state=${state} actions=${actions}/>`;
}

function App() {
  const tab = state.route.split("/")[1];
  const capture = state.file && (state.end || state.fact) ? `#/capture/${state.file.id}` : "#/";
  const link = (to, name, on) => html`<a href=${to} aria-current=${on ? "page" : undefined}>${name}</a>`;
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("heading")?.focus(); }}>Skip to the content</a>
    <header><strong>TrafficLLM</strong><nav aria-label="Main">${link(capture, "Capture", !tab || tab === "capture")}${link("#/models", "Models", tab === "models")}${link("#/generate", "Generate", tab === "generate")}
      ${(state.end || state.fact) && link("#/", "New capture", false)}</nav></header>
    <main id="main">${state.needsKey && html`<${KeyForm}/>`}
      ${state.error && html`<${Problem} text=${kindly(state.error)} retry=${state.again && (() => { update({ error: null }); state.again(); })}/>`}<${View}/></main>
    <div class="hidden" role="status" aria-live="polite">${state.said}</div>`;
}

/** What the address names is shown: also for the back button, and after a reload. */
function go() {
  const route = location.hash.slice(1);
  const [, tab, id] = route.split("/");
  const before = state.route;
  update({ route, tabError: null, error: before === route ? state.error : null });
  if (tab === "capture" && id && state.file?.id !== id && /^file-[0-9a-f]+$/.test(id)) {
    update({ file: { id, name: "capture", bytes: 0 } });
    state.again = analyze;
    api.getJson(`/v1/files/${id}`).then((stored) => { update({ file: { id, name: stored.filename, bytes: stored.bytes } }); return analyze(); }).catch(fail);
  } else if (shownRow()) loadDetail(shownRow());
  if (tab === "models") actions.loadAdapters?.();
  if (before !== route) document.getElementById("heading")?.focus({ preventScroll: Boolean(state.place.top) && route === `/capture/${id}` });
}

const root = document.getElementById("root");
root.replaceChildren();
addEventListener("hashchange", go);
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => event.preventDefault());
loadTasks();
go();
