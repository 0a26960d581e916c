// The server's paths. Every failure is a Failure with a status, which `kindly` puts into words.

export class Failure extends Error {
  constructor(status, body, retry) {
    super(body.message || `status ${status}`);
    Object.assign(this, { status, code: body.code || "", hint: body.hint || "", retry: retry || 0 });
  }
}

let key = sessionStorage.getItem("trafficllm.key") || "";

/** Keep the API key for this tab only. */
export function setKey(value) {
  key = value;
  sessionStorage.setItem("trafficllm.key", value);
}

const headers = () => (key ? { authorization: `Bearer ${key}` } : {});
const seconds = (text) => Number.parseInt(text || "0", 10) || 0;

async function failed(answer) {
  let body = {};
  try {
    body = (await answer.json()).error || {};
  } catch { /* not ours: a proxy's page */ }
  return new Failure(answer.status, body, seconds(answer.headers.get("retry-after")));
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, {});
  }
  if (!answer.ok) throw await failed(answer);
  return answer;
}

export const getJson = async (path, signal) => (await ask(path, { signal })).json();

export async function postJson(path, body) {
  return ask(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
}

export const remove = (path) => ask(path, { method: "DELETE" });

/** Upload a file; `progress(share)` while it goes. `signal` cancels it. */
export function upload(file, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file, file.name);
    request.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      let body = {};
      try {
        body = JSON.parse(request.responseText);
      } catch { /* not ours */ }
      if (request.status === 200) resolve(body);
      else reject(new Failure(request.status, body.error || {}, seconds(request.getResponseHeader("retry-after"))));
    };
    request.onerror = () => reject(new Failure(0, {}));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Call `each(object)` for every line of a streamed answer. A last line that is an error is thrown as a Failure. */
export async function lines(path, each, signal) {
  const answer = await ask(path, { method: "POST", signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const parts = (rest + (value || "")).split("\n");
    rest = parts.pop();
    for (const part of parts) {
      const line = JSON.parse(part);
      if (line.schema === "trafficllm.error/1") throw new Failure(line.error.code === "request.deadline" ? 504 : 422, line.error);
      each(line);
    }
    if (done) return;
  }
}

/** Fetch a file and hand it to the browser's downloads. */
export async function download(answerOrPath, name) {
  const answer = typeof answerOrPath === "string" ? await ask(answerOrPath) : answerOrPath;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
