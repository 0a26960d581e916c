// How values are written for people. Text from captures is only ever put into text nodes and attributes.

export const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
export const share = (p) => (p === null || p === undefined ? "" : Math.min(Math.max(p, 0), 1).toFixed(2));

/** How sure the answer of a flow is: of the first step's negative answer its own probability; null where there is no answer. */
export function certainty(row) {
  if (row.label === "unknown" || row.label === "not covered") return null;
  return row.label === row.umbrella && row.umbrella_probability !== null ? 1 - row.umbrella_probability : row.confidence;
}

/** Seconds since the epoch as UTC: "2024-02-28 17:04:05.123". */
export function utc(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds) || Math.abs(seconds) > 8e12) return "";
  return new Date(seconds * 1000).toISOString().replace("T", " ").replace("Z", "");
}

/** The time of day, or of the capture's first day onwards. */
export const clock = (seconds) => utc(seconds).slice(11);

export function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${seconds.toFixed(1)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) [bytes, at] = [bytes / 1024, at + 1];
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

/** An address and a port; an IPv6 address in brackets. */
export const place = (host, port) => (port ? `${host.includes(":") ? `[${host}]` : host}:${port}` : host);

/** A display filter that shows one flow in Wireshark. */
export function wireshark(row) {
  const ip = row.orig_h.includes(":") ? "ipv6" : "ip";
  const parts = [`${ip}.addr == ${row.orig_h}`, `${ip}.addr == ${row.resp_h}`];
  if ((row.proto === "tcp" || row.proto === "udp" || row.proto === "sctp") && row.orig_p) {
    parts.push(`${row.proto}.port == ${row.orig_p}`, `${row.proto}.port == ${row.resp_p}`);
  }
  return parts.join(" && ");
}

/** What went wrong and what to do, in words for the status of an answer. */
export function kindly(failure) {
  const hint = failure.hint ? ` ${failure.hint[0].toUpperCase()}${failure.hint.slice(1)}.` : "";
  const wait = failure.retry ? ` Try again in ${count(failure.retry, "second")}.` : " Try again in a moment.";
  switch (failure.status) {
    case 0: return "The server does not answer. Is it still running?";
    case 401: return "This server needs its API key.";
    case 404: return failure.code === "request.file" ? "The server no longer holds this capture. Choose the file again." : `${failure.message}.${hint}`;
    case 408: return "The upload took too long. Send a smaller part, or a compressed capture (.gz, .zst).";
    case 413: return "This file is larger than the server takes. Cut it into parts, compress it, or run `trafficllm analyze` on it.";
    case 429: return `The server is busy with other captures.${wait} Your file is fine.`;
    case 503: return `The server is not ready yet.${wait}`;
    case 504: return "The capture takes longer than one request may. Send a smaller part of it, or run `trafficllm analyze` on it.";
    case 507: return `The server has no disk left for uploads.${wait}`;
    default: return `${failure.message}.${hint}`;
  }
}

/** What a part of a record is called for people; names as the evidence has them. */
export const PARTS = {
  packet: "packet", payload: "first payload bytes", facts: "fields of TLS, DNS or HTTP", service: "the protocol spoken",
  iats: "times between packets", flags: "TCP flags", window: "TCP window", ttl: "TTL", proto: "transport protocol",
  orig_port_class: "the client's kind of port", resp_port_class: "the server's kind of port",
};
