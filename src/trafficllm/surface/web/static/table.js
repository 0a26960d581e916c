// The table of flows: only the rows in view are in the page, so that 100,000 of them scroll like 100.
import { Component } from "/page/preact.module.js";
import { html } from "/page/view.js";
import { certainty, clock, place, share } from "/page/words.js";

const SPARE = 8;
const COLUMNS = [
  ["ts", "Time (UTC)"], ["orig", "From"], ["resp", "To"], ["proto", "Protocol"], ["packets", "Packets"], ["label", "Verdict"], ["confidence", "Probability"],
];
const VALUE = {
  ts: (row) => row.ts, orig: (row) => row.orig_h, resp: (row) => row.resp_h, proto: (row) => row.proto, packets: (row) => row.packets,
  label: (row) => row.label, confidence: (row) => certainty(row) ?? -1,
};

/** Rows that pass a filter, sorted: `words` must all be in a row, `label` and `host` be its own. */
export function chosenRows(rows, filter, sort) {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const rest = rows.filter((row) =>
    (!filter.label || row.label === filter.label || row.umbrella === filter.label) && (!filter.task || row.task === filter.task)
    && (!filter.host || row.orig_h === filter.host || row.resp_h === filter.host) && words.every((word) => row.search.includes(word)));
  const value = VALUE[sort.by];
  const order = sort.down ? -1 : 1;
  return rest.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x < y ? -order : x > y ? order : a.n - b.n;
  });
}

export class FlowTable extends Component {
  constructor(props) {
    super(props);
    this.narrow = matchMedia("(max-width: 48rem)");
    this.state = { top: props.place.top, height: 480, narrow: this.narrow.matches };
    this.turned = () => this.setState({ narrow: this.narrow.matches });
    this.sized = new ResizeObserver(() => this.box && this.setState({ height: this.box.clientHeight }));
  }

  componentDidMount() {
    this.narrow.addEventListener("change", this.turned);
    this.sized.observe(this.box);
    this.box.scrollTop = this.props.place.top;
  }

  componentWillUnmount() {
    this.narrow.removeEventListener("change", this.turned);
    this.sized.disconnect();
  }

  componentDidUpdate(before) {
    if (before.rows !== this.props.rows) this.move(0);
  }

  get rowHeight() {
    return this.state.narrow ? 58 : 34;
  }

  /** Make a row the active one and bring it into view. */
  move(to) {
    const { rows, place: at } = this.props;
    at.active = Math.max(0, Math.min(rows.length - 1, to));
    const top = at.active * this.rowHeight;
    const seen = this.box.clientHeight - this.rowHeight;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top > this.box.scrollTop + seen) this.box.scrollTop = top - seen;
    this.setState({ top: this.box.scrollTop });
  }

  onKey(event) {
    const { rows, place: at, open } = this.props;
    const page = Math.max(1, Math.floor(this.state.height / this.rowHeight) - 1);
    const to = { ArrowDown: at.active + 1, ArrowUp: at.active - 1, PageDown: at.active + page, PageUp: at.active - page, Home: 0, End: rows.length - 1 }[event.key];
    if (event.key === "Enter" && event.target === this.box && rows[at.active]) open(rows[at.active]);
    else if (to !== undefined) this.move(to);
    else return;
    event.preventDefault();
  }

  render({ rows, sort, resort, open, place: at, tasks, severity }, { top, height }) {
    const tall = this.rowHeight;
    const first = Math.max(0, Math.floor(top / tall) - SPARE);
    const shown = rows.slice(first, Math.ceil((top + height) / tall) + SPARE);
    const scrolled = (event) => {
      at.top = event.currentTarget.scrollTop;
      this.setState({ top: at.top });
    };
    const header = ([by, name], column) => html`<div role="columnheader" class=${`c${column}`} aria-sort=${sort.by === by ? (sort.down ? "descending" : "ascending") : "none"}>
      <button type="button" onClick=${() => resort(by)}>${name}${sort.by === by ? (sort.down ? " ▾" : " ▴") : ""}</button></div>`;
    const line = (row, k) => html`<div role="row" id=${`row-${first + k}`} key=${row.n} aria-rowindex=${first + k + 2}
        class=${`row s${severity(row)}${first + k === at.active ? " active" : ""}`} aria-selected=${first + k === at.active}
        style=${{ transform: `translateY(${(first + k) * tall}px)` }} onClick=${() => { at.active = first + k; open(row); }}>
      <span role="gridcell" class="c0">${clock(row.ts)}</span><span role="gridcell" class="c1">${place(row.orig_h, row.orig_p)}</span>
      <span role="gridcell" class="c2">${place(row.resp_h, row.resp_p)}</span><span role="gridcell" class="c3">${row.proto}</span>
      <span role="gridcell" class="c4">${row.packets.toLocaleString("en")}</span>
      <span role="gridcell" class="c5">${severity(row) === 1 ? "⚠ " : ""}${row.label}${tasks > 1 ? ` (${row.task})` : ""}</span>
      <span role="gridcell" class="c6">${share(certainty(row))}</span></div>`;
    return html`<div class="grid" role="grid" aria-label="Flows" aria-rowcount=${rows.length + 1} tabindex="0" ref=${(box) => { this.box = box; }}
        aria-activedescendant=${rows.length ? `row-${at.active}` : undefined} onScroll=${scrolled} onKeyDown=${(event) => this.onKey(event)}>
      <div role="row" class="row head" aria-rowindex="1">${COLUMNS.map(header)}</div>
      <div role="rowgroup" class="rows" style=${{ height: `${rows.length * tall}px` }}>${shown.map(line)}</div>
    </div>`;
  }
}
