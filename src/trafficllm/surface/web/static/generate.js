// Synthetic captures: valid packets, documentation addresses only.
import { html, Heading, Problem } from "/page/view.js";
import * as api from "/page/api.js";
import { count, kindly } from "/page/words.js";

/** The tab of generators. */
export function Generate({ state, actions }) {
  const tasks = (state.tasks || []).filter((task) => task.kind === "generation" && task.live);
  const chosen = tasks.find((task) => task.id === state.generator) || tasks[0];
  const make = async (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const body = { task: chosen.id, label: form.get("label"), flows: Number(form.get("flows")), seed: Number(form.get("seed")) };
    actions.update({ making: true, made: null, tabError: null, said: "The capture is being generated." });
    try {
      const answer = await api.postJson("/v1/generate", body);
      const fact = (name) => answer.headers.get(`x-trafficllm-${name}`);
      const made = { ...body, packets: Number(fact("packets")), flows: Number(fact("flows")), sha256: fact("sha256"), version: fact("version") };
      await api.download(answer, `${body.task}-${body.label.replace(/[^\w.-]+/g, "_")}.pcap`);
      actions.update({ made, said: "The capture is saved." });
    } catch (tabError) {
      actions.update({ tabError });
    }
    actions.update({ making: false });
  };
  return html`<${Heading}>Generate a capture</${Heading}>
    ${state.tabError && html`<${Problem} text=${kindly(state.tabError)}/>`}
    ${state.tasks && !tasks.length && html`<p>No generator is live. <code>trafficllm quickstart</code> makes one; <code>trafficllm adapter register DIR --task MTG</code> makes yours.</p>`}
    ${chosen && html`<form class="fields" onSubmit=${make}>
      <label>Generator <select value=${chosen.id} onChange=${(event) => actions.update({ generator: event.currentTarget.value })}>${tasks.map((task) => html`<option value=${task.id} key=${task.id}>${task.id}: ${task.title}</option>`)}</select></label>
      <label>Label <select name="label">${chosen.labels.map((label) => html`<option value=${label} key=${label}>${label}</option>`)}</select></label>
      <label>Flows <input name="flows" type="number" min="1" max="200" defaultValue="5" required/></label>
      <label>Seed <input name="seed" type="number" min="0" max="4294967295" defaultValue="0" required/></label>
      <button disabled=${state.making}>${state.making ? "Generating…" : "Generate and save"}</button></form>`}
    ${state.made && html`<p role="status">${state.made.label}: ${count(state.made.flows, "flow")}, ${count(state.made.packets, "packet")}, by ${state.made.task} ${state.made.version}. SHA-256 <code>${state.made.sha256}</code></p>`}
    <p class="note">Synthetic packets: valid for Wireshark, with documentation addresses only. The same seed gives the same file. How close a generator comes to real traffic is measured by <code>trafficllm evaluate generation</code>.</p>`;
}
